//! A drawing as SVG.

use std::fmt::Write;

use super::drawing::{Anchor, Color, Drawing, Mark};
use super::font;

/// The text of an SVG file; the same drawing gives the same bytes.
pub fn to_svg(drawing: &Drawing) -> String {
    let Drawing { width, height, marks } = drawing;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"monospace\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for mark in marks {
        // Writing into a string cannot fail.
        let _ = match mark {
            Mark::Rectangle { at: [x, y], size: [width, height], color } => writeln!(
                svg,
                "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{}\"/>",
                hex(*color)
            ),
            Mark::Line { points, width, color } => {
                let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.2},{y:.2}")).collect();
                writeln!(
                    svg,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
                     stroke-linecap=\"round\" stroke-linejoin=\"round\"/>",
                    points.join(" "),
                    hex(*color)
                )
            }
            Mark::Text { at: [x, y], anchor, size, text, color } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                // The width that the layout goes by, whatever the viewer's font.
                let length = font::width(text, *size);
                writeln!(
                    svg,
                    "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
                     textLength=\"{length:.2}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\">{}</text>",
                    hex(*color),
                    escape(text)
                )
            }
        };
    }
    svg + "</svg>\n"
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Names of tensors come from files, and may hold anything; what XML has no place for is left out.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => {}
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::drawing::INK;
    use super::*;

    #[test]
    fn a_name_from_a_file_cannot_become_markup() {
        let mut drawing = Drawing::new(10, 10);
        drawing.text([1.0, 2.0], Anchor::End, 8.0, "<script>\"&\u{0}\u{ffff}", INK);
        assert!(to_svg(&drawing).contains(">&lt;script&gt;&quot;&amp;</text>"), "{}", to_svg(&drawing));
    }
}
