//! `lowrank train`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::workshop::{Ran, Workshop};

#[test]
fn a_run_leaves_what_the_documentation_says() {
    let workshop = Workshop::new();
    let ran = workshop.succeed(&["train", "run.toml", "--json"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    assert_eq!(ran.json()["steps"], 10);
    assert!(ran.stderr.contains("trainable params: "), "{}", ran.stderr);
    for name in
        ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "summary.json", "checkpoints"]
    {
        assert!(workshop.path("out").join(name).exists(), "{name}");
    }
    assert_eq!(workshop.read("out/run.toml"), workshop.read("run.toml"));
    let config = String::from_utf8(workshop.read("out/adapter_config.json")).unwrap();
    assert!(config.contains("\"base_model_name_or_path\": \"model\""), "{config}");
}

#[test]
fn without_a_terminal_there_are_plain_lines() {
    let ran = Workshop::new().succeed(&["train", "run.toml", "--set", "train.log_every=5"]);
    let steps: Vec<_> = ran.stderr.lines().filter(|line| line.contains(" loss ")).collect();
    assert_eq!(steps.len(), 2, "{}", ran.stderr);
    assert!(steps[1].starts_with("step 10/10  loss ") && steps[1].contains("tokens/s"), "{}", steps[1]);
    assert!(ran.stdout.starts_with("step 5  accuracy "), "{}", ran.stdout);
}

#[test]
fn options_stand_for_a_run_file() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    let options = "train --model model --task sst2 --train train.tsv --validation dev.tsv --output other \
                   --rank 2 --lora-dropout 0.1 --epochs 2 --batch-size 8 --learning-rate 1e-2";
    workshop.succeed(&options.split_whitespace().collect::<Vec<_>>());
    let file = "adapter_model.safetensors";
    assert_eq!(workshop.read(&format!("out/{file}")), workshop.read(&format!("other/{file}")));
}

#[test]
fn a_finished_run_is_kept_unless_the_user_says_otherwise() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    let ran = workshop.run(&["train", "run.toml"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("--overwrite"), "{}", ran.stderr);
    let ran = workshop.succeed(&["train", "run.toml", "--resume"]);
    assert!(ran.stderr.contains("finished already"), "{}", ran.stderr);
    workshop.succeed(&["train", "run.toml", "--overwrite"]);
}

#[test]
fn a_second_run_gives_the_same_bytes_on_any_number_of_threads() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml", "--threads", "1"]);
    let first = workshop.read("out/adapter_model.safetensors");
    workshop.succeed(&["train", "run.toml", "--threads", "2", "--overwrite"]);
    assert_eq!(workshop.read("out/adapter_model.safetensors"), first);
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint_that_leads_to_the_bytes_of_the_unbroken_run() {
    let workshop = Workshop::new();
    let steps = ["--set", "train.max_steps=400"];
    workshop.succeed(&[&["train", "run.toml", "--output", "whole"], &steps[..]].concat());

    let arguments = [&["train", "run.toml"], &steps[..]].concat();
    let child = workshop.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = workshop.path("out/metrics.jsonl");
    let begun = Instant::now();
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 7) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step was taken");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("train run.toml --set train.max_steps=400 --resume"), "{}", ran.stderr);

    workshop.succeed(&[&arguments[..], &["--resume"]].concat());
    let file = "adapter_model.safetensors";
    assert_eq!(workshop.read(&format!("out/{file}")), workshop.read(&format!("whole/{file}")));
}

/// Makes the workshop's model so many layers deep, by copies of its last one.
#[cfg(target_os = "linux")]
fn deepen(workshop: &Workshop, layers: usize) {
    let mut config: Value = serde_json::from_slice(&workshop.read("model/config.json")).unwrap();
    let last = config["num_hidden_layers"].as_u64().unwrap() - 1;
    config["num_hidden_layers"] = layers.into();
    workshop.write("model/config.json", &config.to_string());
    let file = workshop.read("model/model.safetensors");
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let (mut deep, mut data) = (header.clone(), data.to_vec());
    for (name, tensor) in &header {
        let Some((model, part)) = name.split_once(&format!(".layer.{last}.")) else { continue };
        let [start, end] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap() as usize);
        for layer in last as usize + 1..layers {
            let mut copy = tensor.clone();
            copy["data_offsets"] = [data.len(), data.len() + end - start].as_slice().into();
            deep.insert(format!("{model}.layer.{layer}.{part}"), copy);
            data.extend_from_within(start..end);
        }
    }
    let header = Value::from(deep).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(workshop.path("model/model.safetensors"), file).unwrap();
}

// The peak is read from /proc.
#[cfg(target_os = "linux")]
#[test]
fn a_run_whose_layers_are_run_again_takes_less_memory() {
    let workshop = Workshop::new();
    deepen(&workshop, 12);
    let row = |i: usize| format!("{}\t{}\n", "the film was very good ".repeat(5).trim(), i % 2);
    workshop.write("train.tsv", &("sentence\tlabel\n".to_owned() + &(0..512).map(row).collect::<String>()));
    let peak = |checkpointing: bool| {
        let set = format!("train.gradient_checkpointing={checkpointing}");
        // Two steps, of which the first learns, too.
        let run = ["train", "run.toml", "--json", "--overwrite", "--batch-size", "512", "--threads", "2"];
        let ran = workshop.succeed(&[&run[..], &["--set", "train.warmup_ratio=0", "--set", &set]].concat());
        (ran.json()["peak_rss_bytes"].as_f64().unwrap(), workshop.read("out/adapter_model.safetensors"))
    };
    let (kept, again) = (peak(false), peak(true));
    // 0.36 of it in f32.
    assert!(again.0 < 0.7 * kept.0, "{} bytes, where keeping all takes {}", again.0, kept.0);
    assert!(again.1 == kept.1, "the adapters differ");
}
