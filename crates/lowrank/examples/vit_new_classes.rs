//! A vision transformer trained here from nothing on seven digits, then taught the three that it has not seen, with
//! LoRA and by training all of it: `cargo run --release -p lowrank --example vit_new_classes -- MNIST_FOLDER OUT`.
//!
//! The folder holds `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, or both with `.gz`. Each fifth image of a
//! digit is kept for validation. OUT is left with the images as folders of classes, the models, and the runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use lowrank::data::Scores;
use lowrank::data::image::{ImageExamples, Part, Picture};
use lowrank::models::{Head, HeadSpec};
use lowrank::train::{Observer, RunFileBuilder, RunOptions, Summary, run as train, write_random_weights};
use lowrank_kernels::parallel;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CONFIG: &str = r#"{
  "model_type": "vit", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192,
  "hidden_act": "gelu", "image_size": 28, "patch_size": 7, "num_channels": 1, "layer_norm_eps": 1e-12
}"#;
const SEEN: usize = 7;

/// What all runs have in common; an image moves by up to two pixels each time.
const COMMON: [&str; 5] = [
    "task=image-folder",
    "data.random_crop=2",
    "train.batch_size=64",
    "train.lr_schedule=cosine",
    "train.dtype=f32",
];

struct Print;

impl Observer for Print {
    fn evaluated(&mut self, step: usize, scores: &Scores) {
        println!("  step {step}: accuracy {:.4}", scores.get("accuracy").copied().unwrap_or(f64::NAN));
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let usage = "usage: vit_new_classes MNIST_FOLDER OUT";
    let (mnist, out) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    parallel::init_threads(1)?;
    write_classes(&mnist, &out)?;
    let random = out.join("random");
    fs::create_dir_all(&random)?;
    fs::write(random.join("config.json"), CONFIG)?;
    write_random_weights(&random, HeadSpec::new(Head::ImageClassification, SEEN), 42)?;

    let seen =
        run(&out, "seen", &random, "seen", &["method=full", "train.epochs=12", "train.learning_rate=1e-3"])?;
    let base = out.join("seen-run");
    let new = |name: &str, model: &Path, settings: &[&str]| run(&out, name, model, "new", settings);
    let full = ["method=full", "train.epochs=6", "train.learning_rate=5e-4"];
    let lora = ["lora.target_modules=all-linear", "train.epochs=6", "train.learning_rate=3e-3"];
    let rows = [
        ("0 to 6, all weights, from random ones", seen),
        ("7 to 9, LoRA of rank 8", new("lora", &base, &lora)?),
        ("7 to 9, all weights", new("full", &base, &full)?),
        ("7 to 9, all weights, from random ones", new("scratch", &random, &full)?),
    ];
    println!("\n| trained | images | trainable parameters | bytes on disk | accuracy | seconds |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (what, (summary, bytes)) in rows {
        let accuracy = summary.eval.get("accuracy").copied().unwrap_or(f64::NAN);
        let Summary { examples, trainable_parameters, train_seconds, .. } = summary;
        println!(
            "| {what} | {examples} | {trainable_parameters} | {bytes} | {accuracy:.4} | {train_seconds:.0} |"
        );
    }
    Ok(())
}

/// Trains `model` on the classes of `data` under `OUT`, and tells how large the result is.
fn run(out: &Path, name: &str, model: &Path, data: &str, settings: &[&str]) -> Result<(Summary, u64)> {
    println!("{name}");
    let output = out.join(format!("{name}-run"));
    let mut builder = RunFileBuilder::new();
    let paths = [("model", model), ("output", &output), ("data.train", &out.join(data))];
    for (key, path) in paths {
        builder.set(&format!("{key}={}", path.display()))?;
    }
    for setting in COMMON.iter().chain(settings) {
        builder.set(setting)?;
    }
    let options = RunOptions { overwrite: true, ..RunOptions::default() };
    let summary = train(&builder.build()?, options, &mut Print, &AtomicBool::new(false))?;
    let files = ["adapter_model.safetensors", "model.safetensors"].map(|name| output.join(name));
    let bytes = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum();
    Ok((summary, bytes))
}

/// Writes each image as `seen` or `new`, `train` or `validation`, and its digit.
fn write_classes(mnist: &Path, out: &Path) -> Result<()> {
    let examples = ImageExamples::mnist(mnist, Part::Test)?;
    let mut counts = [0usize; 10];
    for index in 0..examples.len() {
        let digit = examples.label(index).ok_or("an image without a label")? as usize;
        let set = if digit < SEEN { "seen" } else { "new" };
        let part = if counts[digit].is_multiple_of(5) { "validation" } else { "train" };
        counts[digit] += 1;
        let folder = out.join(set).join(part).join(digit.to_string());
        fs::create_dir_all(&folder)?;
        write_png(&folder.join(format!("{index:05}.png")), &examples.picture(index)?)?;
    }
    Ok(())
}

fn write_png(path: &Path, picture: &Picture) -> Result<()> {
    let mut encoder =
        png::Encoder::new(fs::File::create(path)?, picture.width() as u32, picture.height() as u32);
    encoder.set_color(png::ColorType::Grayscale);
    let grey: Vec<u8> = picture.pixels().iter().step_by(Picture::CHANNELS).copied().collect();
    encoder.write_header()?.write_image_data(&grey)?;
    Ok(())
}
