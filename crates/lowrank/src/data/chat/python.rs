//! What templates expect of Python: JSON as `json.dumps` writes it, the time, and a way to refuse.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, StringInput, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value as Jinja};
use serde_json::Value;

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        if method == "format" {
            check_format(value)?;
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
    environment.add_filter("format", |state: &mut State, text: &Jinja, arguments: Rest<ValueOrKwargs>| {
        check_format(text)?;
        minijinja::filters::format(state, text, arguments)
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter("indent", indent);
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        strftime(&format, now)
    });
}

/// The widest indentation of a line, and the longest text that JSON becomes: more than any honest template asks for.
const WIDEST: usize = 1000;
const LONGEST: usize = 1 << 26;

fn check_width(width: usize) -> Result<(), Error> {
    if width <= WIDEST {
        return Ok(());
    }
    let reason = format!("a width of {width} is too wide; {WIDEST} is the most");
    Err(Error::new(ErrorKind::InvalidOperation, reason))
}

/// Refuses a text whose formats have a width or precision of more digits than [`WIDEST`] has: they would be filled up.
fn check_format(text: &Jinja) -> Result<(), Error> {
    let numbers = text.as_str().unwrap_or_default().split(|letter: char| !letter.is_ascii_digit());
    numbers.filter(|digits| digits.len() > 4).try_for_each(|_| check_width(usize::MAX))
}

/// The engine's own filter, which would take any width.
fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<Jinja, Error> {
    let named: Option<usize> = if width.is_none() { options.get("width")? } else { None };
    check_width(width.or(named).unwrap_or_default())?;
    minijinja::filters::indent(text, width.or(named), first, blank, options)
}

/// How JSON is laid out.
struct Layout {
    ascii: bool,
    sorted: bool,
    indent: Option<usize>,
    item: String,
    key: String,
}

fn to_json(value: &Jinja, options: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "an undefined value cannot be written as JSON"));
    }
    let indent: Option<usize> = options.get("indent")?;
    check_width(indent.unwrap_or_default())?;
    let usual = if indent.is_some() { "," } else { ", " };
    let (item, key) = match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two texts")),
        None => (usual.to_owned(), ": ".to_owned()),
    };
    let layout = Layout {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = Text(String::new());
    layout.write(&mut out, &value, 1);
    if out.0.len() > LONGEST {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is too long as JSON"));
    }
    Ok(out.0)
}

/// A text that grows little beyond what is too long.
struct Text(String);

impl Text {
    fn push_str(&mut self, more: &str) {
        if self.0.len() <= LONGEST {
            self.0.push_str(more);
        }
    }
}

impl Layout {
    fn write(&self, out: &mut Text, value: &Value, depth: usize) {
        match value {
            Value::Array(items) => {
                self.block(out, ["[", "]"], items.iter(), depth, |out, item| {
                    self.write(out, item, depth + 1);
                });
            }
            Value::Object(items) => {
                let mut items: Vec<_> = items.iter().collect();
                if self.sorted {
                    items.sort_by_key(|(key, _)| *key);
                }
                self.block(out, ["{", "}"], items.into_iter(), depth, |out, (key, item)| {
                    self.text(out, key);
                    out.push_str(&self.key);
                    self.write(out, item, depth + 1);
                });
            }
            Value::String(text) => self.text(out, text),
            Value::Number(number) => out.push_str(&float(number)),
            Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        }
    }

    fn block<T>(
        &self,
        out: &mut Text,
        ends: [&str; 2],
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Text, T),
    ) {
        let line = |out: &mut Text, depth: usize| {
            if let Some(indent) = self.indent {
                out.push_str("\n");
                (0..depth).for_each(|_| out.push_str(&" ".repeat(indent)));
            }
        };
        out.push_str(ends[0]);
        let some = items.len() > 0;
        for (place, item) in items.enumerate() {
            if place > 0 {
                out.push_str(&self.item);
            }
            line(out, depth);
            write(out, item);
        }
        if some {
            line(out, depth - 1);
        }
        out.push_str(ends[1]);
    }

    fn text(&self, out: &mut Text, text: &str) {
        let quoted = Value::from(text).to_string();
        if !self.ascii {
            return out.push_str(&quoted);
        }
        for letter in quoted.chars() {
            if letter.is_ascii() {
                out.push_str(letter.encode_utf8(&mut [0; 4]));
            } else {
                letter
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
        }
    }
}

/// A number as Python writes it: an exponent has a sign and two digits, from 1e16 up and below 1e-4.
fn float(number: &serde_json::Number) -> String {
    let Some(value) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A time of seconds since 1970, in UTC, as C's `strftime` writes it in English; unknown directives stay.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = day + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (number, day) = (month + 1, day + 1);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month]);
    let hour_of_half = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let text = match letters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{number:02}"),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('j') => format!("{day_of_year:03}"),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour_of_half:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => half.to_owned(),
            Some('F') => format!("{year}-{number:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
        out.push_str(&text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn a_time_is_written_as_c_writes_it() {
        let format = "%d %b %Y|%A %a %B|%y-%m-%e %j|%H:%M:%S %I %p|%F %T %%%q%";
        assert_eq!(
            strftime(format, 1_709_210_096),
            "29 Feb 2024|Thursday Thu February|24-02-29 060|12:34:56 12 PM|2024-02-29 12:34:56 %%q%"
        );
        assert_eq!(strftime("%F %T %I%p", 0), "1970-01-01 00:00:00 12AM");
        assert_eq!(strftime("%F %a %j", 4_102_444_799), "2099-12-31 Thu 365");
    }
}
