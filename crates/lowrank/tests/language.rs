//! Runs of language models: what the loss is on, how steps are divided, how runs go on, what is measured.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/runs.rs"]
mod runs;
#[path = "common/words.rs"]
mod words;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use common::fixtures;
use lowrank::data::{
    Batch, Collector, Dataset, IGNORED, Labels, Outputs, Prediction, Reader, Scores, Task, TaskOptions,
    Tokenizer, tasks,
};
use lowrank::models::Head;
use lowrank::tape::Tape;
use lowrank::train::{
    AdaptedModel, LoadOptions, RunFile, RunFileBuilder, RunOptions, Silent, Summary, collect, evaluate, run,
};
use lowrank_kernels::Compute;
use serde_json::Value;
use tempfile::TempDir;
use words::{language_rows, write_language_model};

const FRESH: RunOptions = RunOptions { resume: false, overwrite: false };
const RESUME: RunOptions = RunOptions { resume: true, overwrite: false };

/// A model folder `base` of a golden model, and the rows of a task.
struct Room {
    folder: TempDir,
    task: &'static str,
}

impl Room {
    fn new(model: &str, task: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_language_model(&fixtures().join("models").join(model), &folder.path().join("base"));
        fs::write(folder.path().join("train.jsonl"), language_rows(task, 23)).unwrap();
        fs::write(folder.path().join("dev.jsonl"), language_rows(task, 7)).unwrap();
        Self { folder, task }
    }

    fn run_file(&self, output: &str, settings: &[&str]) -> RunFile {
        let text = format!(
            "model = 'base'\ntask = '{}'\noutput = '{output}'\n\
             [data]\ntrain = 'train.jsonl'\nvalidation = 'dev.jsonl'\nmax_length = 24\n\
             [lora]\nr = 3\nlora_dropout = 0.2\ntarget_modules = 'all-linear'\n\
             [train]\nepochs = 2\nbatch_size = 6\nlearning_rate = 2e-2\ndtype = 'f32'\n",
            self.task
        );
        let mut builder = RunFileBuilder::from_toml(&text, self.folder.path()).unwrap();
        settings.iter().for_each(|setting| {
            builder.set(setting).unwrap();
        });
        builder.build().unwrap()
    }

    fn run(&self, output: &str, settings: &[&str], options: RunOptions) -> Summary {
        run(&self.run_file(output, settings), options, &mut Silent, &AtomicBool::new(false)).unwrap()
    }

    fn adapter(&self, output: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(output).join("adapter_model.safetensors")).unwrap()
    }

    fn losses(&self, output: &str) -> Vec<(f64, f64)> {
        let text = fs::read_to_string(self.folder.path().join(output).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_step = |line: Value| Some((line["loss"].as_f64()?, line["grad_norm"].as_f64()?));
        lines.filter_map(of_step).collect()
    }

    fn adapted(&self, head: Head) -> AdaptedModel {
        let options = LoadOptions { compute: Some(Compute::F32), head: Some(head), ..LoadOptions::default() };
        AdaptedModel::load(&self.folder.path().join("base").to_string_lossy(), None, options).unwrap()
    }

    fn task(&self) -> Box<dyn Task> {
        tasks::open(self.task, &TaskOptions::default()).unwrap()
    }

    fn dataset(&self, adapted: &AdaptedModel, name: &str, labelled: bool) -> Box<dyn Dataset> {
        let reader = Reader::new(adapted.folder(), adapted.model().info(), 24);
        self.task().dataset(&[self.folder.path().join(name)], 0, labelled, &reader).unwrap()
    }
}

fn all(dataset: &dyn Dataset) -> Batch {
    dataset.gather(&(0..dataset.len() as u32).collect::<Vec<_>>(), 0, None).unwrap()
}

fn loss(adapted: &AdaptedModel, batch: &Batch) -> f32 {
    let mut tape = Tape::inference(Compute::F32);
    adapted.loss(&mut tape, batch, None, batch.labels.len() as f32).unwrap().value().as_slice::<f32>()[0]
}

#[test]
fn the_loss_is_on_the_completion_and_its_end_alone() {
    for (model, task) in [("llama", "prompt-completion"), ("gpt2", "messages")] {
        let room = Room::new(model, task);
        let adapted = room.adapted(Head::CausalLm);
        let batch = all(&*room.dataset(&adapted, "train.jsonl", true));
        let tokenizer = Tokenizer::from_folder(adapted.folder()).unwrap();
        let (text, Labels::Tokens(labels)) = (batch.text().unwrap(), &batch.labels) else { panic!() };
        let logits = adapted.logits(&batch, None).unwrap();
        let width = adapted.model().info().vocab_size;
        let (mut sum, mut count) = (0.0f64, 0);
        for pair in text.offsets.windows(2) {
            let ids = &text.ids[pair[0]..pair[1]];
            // The question mark ends what is given; of a conversation the assistant's name follows, too.
            let mark = ids.iter().rposition(|id| tokenizer.id("?") == Some(*id)).unwrap();
            let first = if task == "messages" { mark + 3 } else { mark + 1 };
            assert_eq!(ids.last().copied(), tokenizer.eos_id());
            for place in 0..ids.len() {
                let label = labels[pair[0] + place];
                if place + 1 < first || place + 1 == ids.len() {
                    assert_eq!(label, IGNORED, "{task}: {place} of {ids:?}");
                    continue;
                }
                assert_eq!(label, i64::from(ids[place + 1]));
                let row = &logits[(pair[0] + place) * width..][..width];
                let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
                sum += total.ln() - f64::from(row[label as usize]);
                count += 1;
            }
        }
        assert_eq!(count, batch.labels.len());
        assert!((f64::from(loss(&adapted, &batch)) - sum / f64::from(count as u32)).abs() < 1e-5);

        // Each label that is one counts.
        let first = labels.iter().position(|label| *label != IGNORED).unwrap();
        let mut changed = labels.clone();
        changed[first] = (changed[first] + 1) % width as i64;
        let changed = Batch { labels: Labels::Tokens(changed), ..batch.clone() };
        assert_ne!(loss(&adapted, &changed), loss(&adapted, &batch));
    }
}

#[test]
fn accumulation_equals_the_big_batch_whatever_the_number_of_targets_in_each_part() {
    for (model, task) in [("llama", "prompt-completion"), ("gpt2", "text"), ("t5", "translation")] {
        let room = Room::new(model, task);
        let settings = ["data.validation=''", "train.max_steps=4"];
        room.run("whole", &settings, FRESH);
        let parts = ["train.batch_size=2", "train.gradient_accumulation=3"];
        room.run("parts", &[&settings[..], &parts].concat(), FRESH);
        let (whole, parts) = (room.losses("whole"), room.losses("parts"));
        assert_eq!(whole.len(), 4);
        for ((loss, norm), (of_parts, norm_of_parts)) in whole.into_iter().zip(parts) {
            assert!((loss - of_parts).abs() < 1e-4 * loss, "{task}: {loss} and {of_parts}");
            assert!((norm - norm_of_parts).abs() < 1e-3 * norm, "{task}: {norm} and {norm_of_parts}");
        }
    }
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    for (model, task) in [("llama", "messages"), ("flan-t5", "summarization")] {
        let room = Room::new(model, task);
        room.run("whole", &[], FRESH);
        let stop = AtomicBool::new(false);
        let mut observer = runs::At { step: 3, then: |_: usize| stop.store(true, Ordering::Relaxed) };
        run(&room.run_file("broken", &[]), FRESH, &mut observer, &stop).unwrap_err();
        let summary = room.run("broken", &[], RESUME);
        assert_eq!(room.adapter("broken"), room.adapter("whole"), "{task}");
        let metric = if task == "messages" { "perplexity" } else { "rougeL" };
        assert!(summary.eval.contains_key(metric), "{:?}", summary.eval);
    }
}

#[test]
fn a_run_of_more_epochs_than_can_be_counted_is_one_that_the_user_ends() {
    let room = Room::new("llama", "text");
    let stop = AtomicBool::new(false);
    let mut observer = runs::At { step: 2, then: |_: usize| stop.store(true, Ordering::Relaxed) };
    let endless = room.run_file("endless", &["train.epochs=9223372036854775807"]);
    let error = run(&endless, FRESH, &mut observer, &stop).unwrap_err();
    assert!(matches!(error, lowrank::Error::Interrupted { step: 2 }), "{error}");
}

#[test]
fn training_lowers_the_perplexity_and_the_lowest_is_kept() {
    let room = Room::new("llama", "prompt-completion");
    let adapted = room.adapted(Head::CausalLm);
    let dataset = room.dataset(&adapted, "dev.jsonl", true);
    let task = room.task();
    let before = evaluate(&adapted, None, &*dataset, task.info(), &mut |_| Ok(())).unwrap();
    assert!((before["perplexity"] - before["loss"].exp()).abs() < 1e-9);
    let summary = room.run("out", &["train.epochs=6"], FRESH);
    assert!(summary.eval["perplexity"] < 0.7 * before["perplexity"], "{before:?}, {:?}", summary.eval);
    let text = fs::read_to_string(room.folder.path().join("out/metrics.jsonl")).unwrap();
    let evaluations = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["eval"]["perplexity"].as_f64());
    let lowest = evaluations.fold(f64::INFINITY, f64::min);
    assert_eq!(summary.eval["perplexity"], lowest);
}

#[test]
fn a_text_that_is_written_once_is_measured_against_all_references_of_its_source() {
    let room = Room::new("t5", "text2text");
    let rows = "{\"source\": \"red w1\", \"target\": \"w1 w2 w3 w4 w5\"}\n\
                {\"source\": \"red w1\", \"target\": \"w6 w7 w8 w9 sky\"}\n\
                {\"source\": \"blue w1\", \"target\": \"sky w2 w3 w4 w5\"}\n";
    fs::write(room.folder.path().join("three.jsonl"), rows).unwrap();
    let adapted = room.adapted(Head::Seq2SeqLm);
    let dataset = room.dataset(&adapted, "three.jsonl", true);
    let task = room.task();
    let tokenizer = Tokenizer::from_folder(adapted.folder()).unwrap();
    let ids = |text: &str| tokenizer.encode(text, None, 99).unwrap().ids;
    let second = ids("w6 w7 w8 w9 sky");
    let written = [second.clone(), second, ids("sky w2 w3 w4 w5")];
    let mut collector = dataset.collector(task.info());
    let batch = all(&*dataset);
    collector.add(&[0, 1, 2], &batch, Outputs { written: &written, ..Outputs::default() }).unwrap();
    let scores = collector.scores(0.5).unwrap();
    assert!((scores["bleu"] - 100.0).abs() < 1e-9 && scores["rougeL"] == 1.0, "{scores:?}");
    assert_eq!((scores.len(), scores["loss"]), (5, 0.5));
    let Prediction::Text { line, text } = &collector.predictions().unwrap()[2] else { panic!("a text") };
    assert_eq!((*line, text.as_str()), (3, "sky w2 w3 w4 w5"));
}

#[test]
fn a_reference_that_has_the_tokens_of_another_is_another_all_the_same() {
    let room = Room::new("t5", "translation");
    let adapted = room.adapted(Head::Seq2SeqLm);
    let fingerprint = |target: &str| {
        let row = format!("{{\"source\": \"red w1\", \"target\": \"{target}\"}}\n");
        fs::write(room.folder.path().join("one.jsonl"), row).unwrap();
        room.dataset(&adapted, "one.jsonl", true).fingerprint()
    };
    assert_ne!(fingerprint("w1 unheard"), fingerprint("w1 unknown"));
}

/// Takes what is written up to these tokens.
struct Ended {
    ends: Vec<u32>,
    written: Vec<Vec<u32>>,
}

impl Collector for Ended {
    fn add(&mut self, _: &[u32], _: &Batch, outputs: Outputs<'_>) -> lowrank::Result<()> {
        self.written.extend_from_slice(outputs.written);
        Ok(())
    }

    fn scores(&self, _: f64) -> lowrank::Result<Scores> {
        Ok(Scores::new())
    }

    fn predictions(&self) -> lowrank::Result<Vec<Prediction>> {
        Ok(Vec::new())
    }

    fn writes(&self) -> Option<usize> {
        Some(4)
    }

    fn ends(&self) -> &[u32] {
        &self.ends
    }
}

#[test]
fn an_answer_to_a_conversation_ends_where_its_template_ends_a_turn() {
    let room = Room::new("qwen2", "messages");
    let template = words::CHAT_TEMPLATE.replace("</s>", "<pad>");
    fs::write(room.folder.path().join("base/chat_template.jinja"), template).unwrap();
    let adapted = room.adapted(Head::CausalLm);
    let prompts = room.dataset(&adapted, "dev.jsonl", false);
    let tokenizer = Tokenizer::from_folder(adapted.folder()).unwrap();
    let task = room.task();
    assert_eq!(prompts.collector(task.info()).ends(), tokenizer.id("<pad>").as_slice());

    let written = |ends: Vec<u32>| {
        let mut collector = Ended { ends, written: Vec::new() };
        collect(&adapted, None, &*prompts, &mut collector, &mut |_| Ok(())).unwrap();
        collector.written
    };
    let whole = written(Vec::new());
    let first = whole[0][0];
    for (ended, whole) in written(vec![first]).iter().zip(&whole) {
        let upto = whole.iter().position(|token| *token == first).unwrap_or(whole.len());
        assert_eq!(ended, &whole[..upto]);
    }
}

#[test]
fn a_target_is_read_from_its_start_token_and_labelled_with_itself() {
    let room = Room::new("t5", "translation");
    let adapted = room.adapted(Head::Seq2SeqLm);
    let dataset = room.dataset(&adapted, "train.jsonl", true);
    let batch = all(&*dataset);
    let (target, Labels::Tokens(labels)) = (batch.target.as_ref().unwrap(), &batch.labels) else { panic!() };
    assert_eq!(target.ids.len(), labels.len());
    for pair in target.offsets.windows(2) {
        let (read, labels) = (&target.ids[pair[0]..pair[1]], &labels[pair[0]..pair[1]]);
        assert_eq!((read[0], labels.last()), (0, Some(&1)), "from <pad> to </s>");
        assert!(read[1..].iter().zip(labels).all(|(id, label)| i64::from(*id) == *label));
    }
    assert_eq!(dataset.tokens(), batch.tokens());
    let unlabelled = all(&*room.dataset(&adapted, "train.jsonl", false));
    assert!(unlabelled.target.is_none() && unlabelled.labels.is_empty(), "targets are not looked at");
    assert_eq!(unlabelled.text(), batch.text());
}
