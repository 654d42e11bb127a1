//! The binary on real data: a pretrained encoder and GLUE's files.
//!
//! Skipped with a message where `LOWRANK_SHARED` (the folder with `data/glue`) and `LOWRANK_MINILM` (the encoder's
//! folder) do not name them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Real {
    glue: PathBuf,
    model: PathBuf,
}

impl Real {
    fn find() -> Option<Self> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_dir());
        let found = folder("LOWRANK_SHARED").zip(folder("LOWRANK_MINILM"));
        if found.is_none() {
            assert!(std::env::var_os("LOWRANK_REQUIRE_REAL").is_none(), "the real data must be here");
            eprintln!("skipped: LOWRANK_SHARED and LOWRANK_MINILM do not name the data and the encoder");
        }
        found.map(|(shared, model)| Self { glue: shared.join("data/glue"), model })
    }

    /// Writes a run file and returns its path.
    fn run_file(&self, folder: &Path, task: &str, data: &str, sections: &str) -> PathBuf {
        let (model, glue) = (self.model.display(), self.glue.join(data));
        let text = format!(
            "model = \"{model}\"\ntask = \"{task}\"\noutput = \"out\"\n\n[data]\ntrain = \"{0}/train.tsv\"\n\
             validation = \"{0}/dev.tsv\"\n{sections}",
            glue.display()
        );
        let path = folder.join("run.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn lowrank(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
    command.args(arguments);
    command
}

fn train(run_file: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["train", run_file.to_str().unwrap()];
    arguments.extend(more);
    let output = lowrank(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = run_file.with_file_name("out").join("summary.json");
    serde_json::from_str(&std::fs::read_to_string(summary).unwrap()).unwrap()
}

const SST2: &str = "limit = 9600\n\n[lora]\nr = 8\nlora_alpha = 16\ntarget_modules = [\"query\", \"value\"]\n\n\
                    [train]\nepochs = 1\nbatch_size = 32\nlearning_rate = 1e-3\n";

#[test]
fn three_seeds_on_sst2_reach_pefts_accuracy() {
    let Some(real) = Real::find() else { return };
    let mut sum = 0.0;
    for seed in ["1", "2", "3"] {
        let folder = tempfile::tempdir().unwrap();
        let run_file = real.run_file(folder.path(), "sst2", "SST-2", SST2);
        let summary = train(&run_file, &["--set", &format!("train.seed={seed}")]);
        let accuracy = summary["eval"]["accuracy"].as_f64().unwrap();
        eprintln!(
            "seed {seed}: accuracy {accuracy:.4}, {:.1} s, {:.0} tokens/s, {:.0} MiB",
            summary["total_seconds"].as_f64().unwrap(),
            summary["tokens_per_second"].as_f64().unwrap(),
            summary["peak_rss_bytes"].as_f64().unwrap() / 1048576.0
        );
        sum += accuracy;
    }
    assert!(sum / 3.0 >= 0.815, "mean accuracy {}", sum / 3.0);
}

/// The labels of a file that are the second of two, and those that an adapter answers with.
fn second_of_two(real: &Real, folder: &Path, task: &str, data: &str) -> Vec<[bool; 2]> {
    let (dev, out) = (real.glue.join(data).join("dev.tsv"), folder.join("answers.jsonl"));
    let (adapter, model) = (folder.join("out"), &real.model);
    let mut command = lowrank(&["predict", "--task", task]);
    command
        .arg("--model")
        .arg(model)
        .arg("--adapter")
        .arg(adapter)
        .arg("--data")
        .arg(&dev)
        .arg("--out")
        .arg(&out);
    assert!(command.output().unwrap().status.success());
    let second = |label: &str| ["1", "acceptable", "not_entailment"].contains(&label);
    let dev = std::fs::read_to_string(dev).unwrap();
    let written = dev.lines().skip(usize::from(task == "rte")).map(|line| {
        second(if task == "rte" { line.rsplit('\t').next() } else { line.split('\t').nth(1) }.unwrap())
    });
    let answers = std::fs::read_to_string(out).unwrap();
    let answered = answers.lines().map(|line| {
        let answer: Value = serde_json::from_str(line).unwrap();
        second(answer["label"].as_str().unwrap())
    });
    let pairs: Vec<[bool; 2]> = written.zip(answered).map(|(written, answer)| [written, answer]).collect();
    assert_eq!(pairs.len(), answers.lines().count());
    pairs
}

#[test]
fn the_metrics_of_cola_and_rte_are_those_of_their_answers() {
    let Some(real) = Real::find() else { return };
    for (task, data) in [("cola", "CoLA"), ("rte", "RTE")] {
        let folder = tempfile::tempdir().unwrap();
        let sections = "limit = 1280\n\n[train]\nepochs = 1\nlearning_rate = 1e-3\n";
        let summary = train(&real.run_file(folder.path(), task, data, sections), &[]);
        eprintln!("{task}: {}", summary["eval"]);
        let pairs = second_of_two(&real, folder.path(), task, data);
        let count = |wanted: [bool; 2]| pairs.iter().filter(|pair| **pair == wanted).count() as f64;
        let (tp, tn) = (count([true, true]), count([false, false]));
        let (fp, fn_) = (count([false, true]), count([true, false]));
        let (metric, expected) = match task {
            "rte" => ("accuracy", (tp + tn) / pairs.len() as f64),
            _ => {
                let square = (tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_);
                (
                    "matthews_correlation",
                    if square > 0.0 { (tp * tn - fp * fn_) / square.sqrt() } else { 0.0 },
                )
            }
        };
        let value = summary["eval"][metric].as_f64().unwrap();
        assert!(
            (value - expected).abs() < 1e-9,
            "{task}: {metric} is {value}, and {expected} by its answers"
        );
    }
}

#[test]
fn stsb_leaves_zero_for_the_scores() {
    let Some(real) = Real::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let sections = "limit = 1280\n\n[train]\nepochs = 1\nlearning_rate = 1e-3\n";
    let summary = train(&real.run_file(folder.path(), "stsb", "STS-B", sections), &[]);
    eprintln!("stsb: {}", summary["eval"]);
    // Forty steps are few, but the answers must have left zero for the scores.
    let dev = std::fs::read_to_string(real.glue.join("STS-B/dev.tsv")).unwrap();
    let scores = dev.lines().skip(1).map(|line| line.rsplit('\t').next().unwrap().parse::<f64>().unwrap());
    let (count, squares) = scores.fold((0.0, 0.0), |(count, sum), score| (count + 1.0, sum + score * score));
    let loss = summary["eval"]["loss"].as_f64().unwrap();
    assert!(loss < 0.8 * squares / count, "{loss} beside {} for no answer", squares / count);
}

#[test]
fn a_run_that_was_killed_resumes_to_the_same_bytes() {
    let Some(real) = Real::find() else { return };
    let sections =
        "limit = 960\n\n[train]\nepochs = 1\nbatch_size = 16\nsave_every = 5\nlearning_rate = 1e-3\n";
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&real.run_file(whole.path(), "sst2", "SST-2", sections), &[]);

    let run_file = real.run_file(killed.path(), "sst2", "SST-2", sections);
    let child =
        lowrank(&["train", run_file.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    kill_after_lines(child.unwrap(), &killed.path().join("out/metrics.jsonl"), 13);
    assert!(!killed.path().join("out/summary.json").exists(), "killed before its end");
    train(&run_file, &["--resume"]);

    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let bytes = |folder: &Path| std::fs::read(folder.join("out").join(file)).unwrap();
        assert!(bytes(whole.path()) == bytes(killed.path()), "{file} differs");
    }
    let steps =
        |folder: &Path| std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap().lines().count();
    assert_eq!(steps(whole.path()), steps(killed.path()));
}

/// SIGKILL, as soon as the file has so many lines.
fn kill_after_lines(mut child: Child, file: &Path, lines: usize) {
    let begun = Instant::now();
    while std::fs::read_to_string(file).map_or(0, |text| text.lines().count()) < lines {
        assert!(begun.elapsed() < Duration::from_secs(300), "the run does not get on");
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
