//! `lowrank generate`.

use std::io::{ErrorKind, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use lowrank::data::chat::{Message, message};
use lowrank::generate::GenerationSettings;
use lowrank::train::{Generated, TextGenerator};
use serde_json::json;

use crate::arguments::{Global, ModelArguments};
use crate::downloads::Downloads;
use crate::failure::{Failure, Result};
use crate::interrupt::stop_flag;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank generate --model stories260K --prompt \"Once upon a time\"
  lowrank generate --model gpt2 --adapter runs/poems --prompt - \\
      --temperature 0.8 --top-p 0.95 --stop END < prompt.txt
  lowrank generate --model Qwen/Qwen2-0.5B-Instruct --chat";

/// The prompt that means standard input.
const STDIN: &str = "-";

/// Write on from a prompt, or talk
///
/// Shows the text as it grows. Ctrl-C ends an answer; a second one ends the program.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lowrank generate --model M (--prompt TEXT | --chat) [OPTIONS]")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    start: Start,
    /// Most tokens to write in an answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// What the logits are divided by before sampling; 0: the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Sample among the K likeliest tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample among the likeliest tokens that have this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Beams of a beam search, which shows its text at its end
    #[arg(long, value_name = "N", default_value_t = 1)]
    beams: usize,
    /// What sampling comes from
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// End before this text; may be repeated
    #[arg(long, value_name = "WORD")]
    stop: Vec<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Start {
    /// Text to go on from, or of an encoder-decoder to answer; -: what
    /// standard input holds, without the end of its last line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Talk: each line of standard input is a turn, written with the model's
    /// own chat template
    #[arg(long)]
    chat: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let settings = settings(&arguments)?;
    let stop = stop_flag()?;
    let downloads = Downloads::show(Some(Arc::clone(&stop)));
    let ModelArguments { model, adapter } = &arguments.model;
    let generator = TextGenerator::load(model, adapter.as_deref(), global.compute(), global.load_in())?;
    drop(downloads);
    let mut notes = generator.notes();
    if arguments.temperature == 0.0 && arguments.beams == 1 {
        notes.extend(generator.sampling_note()?);
    }
    notes.iter().for_each(|note| drop(writeln!(stderr(), "{note}")));
    let writer = Writer { generator, settings, words: arguments.stop, json: global.json, stop };
    match arguments.start.prompt {
        Some(text) => writer.answer(&text),
        None => writer.talk(),
    }
}

fn settings(arguments: &Arguments) -> Result<GenerationSettings> {
    if arguments.temperature == 0.0 && (arguments.top_k > 0 || arguments.top_p != 1.0) {
        let reason = "--top-k and --top-p choose what is sampled: give a --temperature above 0 too";
        return Err(Failure::usage(reason));
    }
    let settings = GenerationSettings {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        num_beams: arguments.beams,
        seed: arguments.seed,
        ..GenerationSettings::default()
    };
    settings.check()?;
    Ok(settings)
}

struct Writer {
    generator: TextGenerator,
    settings: GenerationSettings,
    words: Vec<String>,
    json: bool,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Answers one prompt.
    fn answer(&self, text: &str) -> Result {
        let text = if text == STDIN { self.waiting(standard_input)? } else { text.to_owned() };
        let generated = self.write(&self.generator.prompt(&text)?, &self.settings)?;
        self.result(&generated)?;
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::interrupted("interrupted; the text ends there"));
        }
        Ok(())
    }

    /// Answers turn after turn until there are no more.
    fn talk(&self) -> Result {
        let template = self.generator.chat_template()?;
        let eos_token_ids = self.generator.turn_ends(&template);
        let settings = GenerationSettings { eos_token_ids, ..self.settings.clone() };
        let mut messages: Vec<Message> = Vec::new();
        let (mut tokens, mut seconds) = (0, 0.0);
        while let Some(turn) = self.turn()? {
            messages.push(message("user", &turn));
            let prompt = self.generator.conversation(&template, &messages)?;
            let generated = self.write(&prompt, &settings)?;
            messages.push(message("assistant", generated.text.trim()));
            tokens += generated.tokens;
            seconds += generated.seconds;
        }
        if !self.json {
            return Ok(());
        }
        let text = messages.last().and_then(|last| last.get("content")).cloned().unwrap_or_default();
        let speed = tokens as f64 / f64::max(seconds, 1e-9);
        let value = json!({ "text": text, "messages": messages, "tokens": tokens, "seconds": seconds,
                            "tokens_per_second": speed });
        Output::new(true).result("", &value)
    }

    /// Waits for the user: while nothing is written one Ctrl-C is enough to end the program.
    fn waiting<T>(&self, read: impl FnOnce() -> T) -> T {
        self.stop.store(true, Ordering::Relaxed);
        let value = read();
        self.stop.store(false, Ordering::Relaxed);
        value
    }

    /// The next line of standard input that has letters.
    fn turn(&self) -> Result<Option<String>> {
        let asked = stdin().is_terminal();
        loop {
            if asked {
                // What is only for people may be lost.
                let _ = write!(stderr(), "> ");
            }
            let mut line = String::new();
            let read = self.waiting(|| stdin().read_line(&mut line));
            if read.map_err(|error| Failure::failed(format!("standard input: {error}")))? == 0 {
                return Ok(None);
            }
            let line = line.trim();
            if !line.is_empty() {
                return Ok(Some(line.to_owned()));
            }
        }
    }

    /// Writes after a prompt, and shows the text as it grows: on standard error where standard output is for a machine.
    fn write(&self, prompt: &[u32], settings: &GenerationSettings) -> Result<Generated> {
        let mut failure = None;
        let mut show = |piece: &str| {
            let shown = if self.json {
                // What is only for people may be lost.
                let _ = write!(stderr(), "{piece}");
                Ok(())
            } else {
                put(piece)
            };
            if let Err(error) = shown {
                // A reader that has gone away is no failure, but nobody wants more.
                failure = (error.kind() != ErrorKind::BrokenPipe).then_some(error);
                return false;
            }
            !self.stop.load(Ordering::Relaxed)
        };
        let generated = self.generator.generate(prompt, settings, &self.words, &mut show)?;
        show("\n");
        if generated.cut {
            let _ = writeln!(stderr(), "the text is cut: the model has no more positions");
        }
        match failure {
            Some(error) => Err(Failure::failed(format!("standard output: {error}"))),
            None => Ok(generated),
        }
    }

    fn result(&self, generated: &Generated) -> Result {
        if self.json {
            return Output::new(true).result("", generated);
        }
        if stderr().is_terminal() {
            let Generated { tokens, tokens_per_second, .. } = generated;
            // What is only for people may be lost.
            let _ = writeln!(stderr(), "{tokens} tokens, {tokens_per_second:.1} tokens/s");
        }
        Ok(())
    }
}

fn put(piece: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(piece.as_bytes())?;
    out.flush()
}

/// What standard input holds, without the end of its last line.
fn standard_input() -> Result<String> {
    let mut text = String::new();
    let read = stdin().read_to_string(&mut text);
    read.map_err(|error| Failure::failed(format!("standard input: {error}")))?;
    let without = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
    Ok(without.unwrap_or(&text).to_owned())
}
