//! How a run is going: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lowrank::data::Scores;
use lowrank::text::decimals;
use lowrank::train::{Observer, Start, Step, StepReport};

use crate::output::Output;

/// The share of the newest step in the speeds that are shown.
const NEWEST: f64 = 0.1;

/// Between the lines of an evaluation by itself, where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Shows the steps on standard error and the evaluations on standard output.
pub struct Progress {
    output: Output,
    log_every: usize,
    /// Whether evaluations are parts of a run.
    in_run: bool,
    /// The adapter that is told of, of several, with what separates it from the rest of a line.
    turn: String,
    bar: Option<ProgressBar>,
    speed: Speed,
    last_line: Instant,
}

/// Examples and tokens a second, recent steps counting most.
#[derive(Debug, Default)]
struct Speed {
    /// What the sums below have been weighted with: less than 1 in the first steps.
    weight: f64,
    seconds: f64,
    examples: f64,
    tokens: f64,
}

impl Speed {
    fn add(&mut self, step: &Step) {
        for (mean, new) in [
            (&mut self.weight, 1.0),
            (&mut self.seconds, step.time.as_secs_f64()),
            (&mut self.examples, step.examples as f64),
            (&mut self.tokens, step.tokens as f64),
        ] {
            *mean += NEWEST * (new - *mean);
        }
    }

    fn mean_seconds(&self) -> f64 {
        if self.weight > 0.0 { self.seconds / self.weight } else { 0.0 }
    }

    fn a_second(&self, count: f64) -> f64 {
        if self.seconds > 0.0 { count / self.seconds } else { 0.0 }
    }
}

impl Progress {
    /// Progress that nobody has reported yet.
    pub fn new(output: Output) -> Self {
        let speed = Speed::default();
        let (turn, last_line) = (String::new(), Instant::now());
        Self { output, log_every: 1, in_run: false, turn, bar: None, speed, last_line }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A line on standard error, above the bar.
    fn line(&self, text: &str) {
        let text = &format!("{}{text}", self.turn);
        match &self.bar {
            Some(bar) => bar.println(text),
            // What is only for people may be lost.
            None => drop(writeln!(stderr(), "{text}")),
        }
    }
}

/// Takes the bar away.
impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Observer for Progress {
    fn turn(&mut self, adapter: &str) {
        self.turn = format!("{adapter}: ");
    }

    fn started(&mut self, start: &Start) {
        self.finish();
        self.in_run = true;
        self.speed = Speed::default();
        self.log_every = start.log_every.max(1);
        self.line(&start.parameters.to_string());
        if stderr().is_terminal() {
            let bar = bar("{wide_bar} {pos}/{len}  {msg}  {eta} left", start.total_steps as u64);
            bar.set_position(start.first_step as u64);
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, report: &StepReport) {
        let StepReport { step, total_steps, result } = report;
        let Step { loss, learning_rate, .. } = result;
        self.speed.add(result);
        let examples = self.speed.a_second(self.speed.examples);
        let tokens = self.speed.a_second(self.speed.tokens);
        if let Some(bar) = &self.bar {
            bar.set_position(*step as u64);
            bar.set_length(*total_steps as u64);
            bar.set_message(format!(
                "{}loss {loss:.4}  {examples:.0} examples/s  {tokens:.0} tokens/s",
                self.turn
            ));
        } else if step % self.log_every == 0 || step == total_steps {
            let left = self.speed.mean_seconds() * total_steps.saturating_sub(*step) as f64;
            self.line(&format!(
                "step {step}/{total_steps}  loss {loss:.4}  learning rate {learning_rate:.2e}  \
                 {examples:.1} examples/s  {tokens:.0} tokens/s  {} left",
                clock(left)
            ));
        }
    }

    fn evaluating(&mut self, done: usize, examples: usize) {
        if self.in_run {
            let message = format!("{}evaluating {done}/{examples}", self.turn);
            self.bar.iter().for_each(|bar| bar.set_message(message.clone()));
        } else if stderr().is_terminal() {
            let bar = self
                .bar
                .get_or_insert_with(|| bar("{bar:24} {pos}/{len} examples  {eta} left", examples as u64));
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() > BETWEEN_LINES && done < examples {
            self.last_line = Instant::now();
            self.line(&format!("{done}/{examples} examples"));
        }
    }

    fn evaluated(&mut self, step: usize, scores: &Scores) {
        let text: Vec<String> =
            scores.iter().map(|(name, value)| format!("{name} {}", decimals(*value, 4))).collect();
        let line = format!("{}step {step}  {}", self.turn, text.join("  "));
        let say = || {
            // The run goes on when nobody reads its evaluations; they are in metrics.jsonl too.
            let _ = self.output.say(&line);
        };
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    fn note(&mut self, text: &str) {
        self.line(text);
    }
}

/// A bar of this template and length.
pub fn bar(template: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Seconds as `1:02:03` or `2:03`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_as_a_clock_does() {
        assert_eq!(clock(7.4), "0:07");
        assert_eq!(clock(123.0), "2:03");
        assert_eq!(clock(3723.0), "1:02:03");
    }
}
