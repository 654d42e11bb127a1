//! Vision models on images.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::workshop::{Ran, Workshop, golden};

/// Adds a tiny vision model `vit/`, and CIFAR-10's files `cifar/` with pictures whose colour tells their class.
fn with_pictures() -> Workshop {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("vit")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("models/vit").join(name), workshop.path("vit").join(name)).unwrap();
    }
    fs::create_dir(workshop.path("cifar")).unwrap();
    fs::write(workshop.path("cifar/data_batch_1.bin"), records(24)).unwrap();
    fs::write(workshop.path("cifar/data_batch_2.bin"), records(16)).unwrap();
    fs::write(workshop.path("cifar/test_batch.bin"), records(12)).unwrap();
    workshop.write("pictures.toml", RUN);
    workshop
}

const RUN: &str = "\
model = \"vit\"
task = \"cifar10\"
output = \"out\"

[data]
train = \"cifar\"

[lora]
r = 4

[train]
epochs = 3
batch_size = 8
learning_rate = 1e-2
dtype = \"f32\"
save_every = 3
save_total_limit = 0
";

/// Records of CIFAR-10: cars are red, horses green, trucks blue, each a little different.
fn records(count: usize) -> Vec<u8> {
    let record = |row: usize| {
        let class = row % 3;
        let pixel = move |at: usize| {
            let (colour, place) = (at / 1024, at % 1024);
            if colour == class { 200 + (row * 5 % 50) as u8 } else { ((place * (row + 3)) % 61) as u8 }
        };
        std::iter::once([1u8, 7, 9][class]).chain((0..3072).map(pixel))
    };
    (0..count).flat_map(record).collect()
}

/// Runs a line of arguments without blanks in them.
fn run(workshop: &Workshop, line: &str) -> Ran {
    workshop.run(&line.split(' ').collect::<Vec<_>>())
}

fn succeed(workshop: &Workshop, line: &str) -> Ran {
    let ran = run(workshop, line);
    assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
    ran
}

fn refused(workshop: &Workshop, line: &str, code: i32, expected: &str) {
    let ran = run(workshop, line);
    assert!(ran.code == code && ran.stderr.contains(expected), "{line}: {} {}", ran.code, ran.stderr);
}

fn answers(workshop: &Workshop, name: &str) -> Vec<Value> {
    let text = String::from_utf8(workshop.read(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_vision_model_learns_colours_and_answers_by_name() {
    let workshop = with_pictures();
    let summary = succeed(&workshop, "train pictures.toml --json").json();
    assert_eq!((&summary["examples"], &summary["labels"][9]), (&40.into(), &"truck".into()));
    // Nine patches and the class of each picture in each epoch.
    assert_eq!(summary["tokens"], 3 * 40 * 10);
    assert_eq!(summary["eval"]["accuracy"], 1.0, "{summary}");
    assert_eq!(summary["examples"], 40);

    let asked = "--model vit --adapter out --task cifar10 --dtype f32";
    let scores = succeed(&workshop, &format!("eval {asked} --data cifar --json")).json();
    assert_eq!(scores["accuracy"], summary["eval"]["accuracy"]);
    assert!((scores["loss"].as_f64().unwrap() - summary["eval"]["loss"].as_f64().unwrap()).abs() < 1e-9);
    succeed(&workshop, &format!("predict {asked} --data cifar/test_batch.bin --limit 5 --out a.jsonl"));
    let answers = answers(&workshop, "a.jsonl");
    let labels: Vec<&str> = answers.iter().map(|answer| answer["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["automobile", "horse", "truck", "automobile", "horse"]);
    assert_eq!(answers[2]["image"], "cifar/test_batch.bin, image 3");
    assert!((0.1..=1.0).contains(&answers[0]["probability"].as_f64().unwrap()));
    assert_eq!(answers[0]["logits"].as_array().unwrap().len(), 10);
}

#[test]
fn a_run_with_crops_and_flips_goes_on_to_the_bytes_of_the_unbroken_run() {
    let workshop = with_pictures();
    let train = "train pictures.toml --set data.random_crop=4 --set data.random_flip=true";
    succeed(&workshop, &format!("{train} --threads 1"));
    let (file, metrics) = ("out/adapter_model.safetensors", "out/metrics.jsonl");
    let (whole, losses) = (workshop.read(file), answers(&workshop, metrics));
    // What a run leaves that died after its third step.
    for name in [file, "out/adapter_config.json", "out/summary.json"] {
        fs::remove_file(workshop.path(name)).unwrap();
    }
    for entry in fs::read_dir(workshop.path("out/checkpoints")).unwrap().map(Result::unwrap) {
        if !entry.file_name().to_string_lossy().ends_with("0003") {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    let ran = succeed(&workshop, &format!("{train} --resume --threads 2"));
    assert!(ran.stderr.contains("going on after step 3"), "{}", ran.stderr);
    assert_eq!(workshop.read(file), whole);
    let without_times = |lines: Vec<Value>| {
        let times = |mut line: Value| {
            line.as_object_mut().unwrap().remove("seconds");
            line
        };
        lines.into_iter().map(times).collect::<Vec<_>>()
    };
    assert_eq!(without_times(answers(&workshop, metrics)), without_times(losses));
    succeed(&workshop, "train pictures.toml --overwrite");
    assert_ne!(workshop.read(file), whole, "pictures are changed");
    refused(
        &workshop,
        "train run.toml --set data.random_flip=true",
        2,
        "data.random_flip: sst2 reads no images",
    );
    succeed(&workshop, "train pictures.toml --overwrite --set train.max_steps=1");
    let resumed = format!("{train} --resume --set train.max_steps=1");
    refused(&workshop, &resumed, 1, "data.random_crop was 0 and is 4");
}

/// Classes `ant` and `bee`, to train on and to validate on.
fn class_folders(workshop: &Workshop) {
    for (place, source) in [
        ("train/ant/0.png", "rgb_tall.png"),
        ("train/ant/1.png", "grey.png"),
        ("train/bee/0.jpg", "photo.jpg"),
        ("train/bee/1.webp", "lossless.webp"),
        ("val/bee/0.png", "rgba.png"),
    ] {
        let path = workshop.path("mine").join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(golden("images").join(source), path).unwrap();
    }
}

const FOLDER: &str = "train pictures.toml --overwrite --set task=image-folder --set data.train=mine";

#[test]
fn folders_are_classes_and_need_none_to_be_asked_about() {
    let workshop = with_pictures();
    class_folders(&workshop);
    let summary = succeed(&workshop, &format!("{FOLDER} --json")).json();
    assert_eq!(summary["labels"], serde_json::json!(["ant", "bee"]));
    assert!(summary["eval"]["accuracy"].is_number(), "the folder's own validation part");
    succeed(&workshop, "eval --model vit --adapter out --task image-folder --data mine");
    // Pictures of no class.
    let predict = "predict --model vit --adapter out --task image-folder";
    succeed(&workshop, &format!("{predict} --data mine/train/ant --out a.jsonl"));
    let found = answers(&workshop, "a.jsonl");
    assert_eq!(found.len(), 2);
    assert!(["ant", "bee"].contains(&found[0]["label"].as_str().unwrap()));
    assert_eq!(found[0]["image"], "mine/train/ant/0.png");
    succeed(&workshop, &format!("{predict} --data mine/train/bee/0.jpg --out a.jsonl"));
    assert_eq!(answers(&workshop, "a.jsonl").len(), 1);

    fs::create_dir_all(workshop.path("mine/val/cow")).unwrap();
    fs::copy(golden("images/grey.png"), workshop.path("mine/val/cow/0.png")).unwrap();
    refused(&workshop, FOLDER, 1, "mine/val/cow: its class \"cow\" is none of the labels ant, bee");
}

#[test]
fn an_image_that_does_not_decode_is_left_out_by_name_or_an_error() {
    let workshop = with_pictures();
    class_folders(&workshop);
    let torn = workshop.path("mine/train/bee/0.jpg");
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..40]).unwrap();
    let ran = succeed(&workshop, &format!("{FOLDER} --json"));
    assert_eq!(ran.json()["skipped_examples"], 1);
    assert!(
        ran.stderr.contains("1 examples of the training data") && ran.stderr.contains("bee/0.jpg"),
        "{}",
        ran.stderr
    );
    let strict = format!("{FOLDER} --set data.strict=true");
    refused(&workshop, &strict, 1, "mine/train/bee/0.jpg: ");
    fs::write(&torn, "").unwrap();
    refused(&workshop, &strict, 1, "0.jpg: it is empty");
    let asked = "eval --model vit --adapter out --task image-folder --data mine/train";
    let ran = succeed(&workshop, asked);
    assert!(ran.stderr.contains("bee/0.jpg") && !ran.stdout.contains("4 examples"), "{}", ran.stderr);
}

#[test]
fn torn_and_absent_files_are_named() {
    let workshop = with_pictures();
    fs::write(workshop.path("cifar/test_batch.bin"), &records(3)[..9000]).unwrap();
    refused(&workshop, "train pictures.toml", 1, "test_batch.bin: 9000 bytes are not whole records of 3073");
    fs::remove_file(workshop.path("cifar/test_batch.bin")).unwrap();
    let summary = succeed(&workshop, "train pictures.toml --json --overwrite").json();
    assert_eq!(summary["eval"], serde_json::json!({}), "there is nothing to validate on");
    refused(&workshop, "eval --model vit --adapter out --task cifar10 --data model", 1, "data_batch_1.bin");
    refused(&workshop, "train pictures.toml --overwrite --set task=mnist", 1, "train-images-idx3-ubyte");
    refused(&workshop, "train pictures.toml --overwrite --set model=model", 1, "no head for image");
}

#[test]
fn a_preview_shows_labels_sizes_and_files() {
    let workshop = with_pictures();
    let ran = succeed(&workshop, "data preview pictures.toml");
    assert!(ran.stdout.contains("cifar/data_batch_1.bin, image 2: 32 × 32, label horse"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("ids") && ran.stdout.contains("40 examples"), "{}", ran.stdout);
    assert!(ran.stdout.contains("automobile 14"), "{}", ran.stdout);
    let preview = succeed(&workshop, "data preview pictures.toml --json").json();
    let image = &preview["examples"][1]["image"];
    assert_eq!((&image["width"], &image["height"]), (&32.into(), &32.into()));
}

/// Names of Transformers 4 are understood; PEFT looks for those of 5.
#[test]
fn an_adapter_has_the_names_of_the_newest_transformers() {
    let workshop = with_pictures();
    let targets = |set: &str| {
        let set = format!("lora.{set}");
        workshop.succeed(&[
            "train",
            "pictures.toml",
            "--overwrite",
            "--set",
            "train.max_steps=1",
            "--set",
            &set,
        ]);
        let config: Value = serde_json::from_slice(&workshop.read("out/adapter_config.json")).unwrap();
        config["target_modules"].clone()
    };
    let names = serde_json::json!(["q_proj", "v_proj"]);
    assert_eq!(targets("target_modules=[\"query\",\"value\"]"), names);
    assert_eq!(targets("target_modules=[\"q_proj\",\"v_proj\"]"), names);
    // `dense` is three layers of each block in one version, and of other names in the other.
    let dense = targets("target_modules=[\"dense\"]");
    assert_eq!(dense, serde_json::json!(["fc1", "fc2", "o_proj"]));
    // The patches' projection is a convolution, which PEFT does not count among the linear layers.
    let all = targets("target_modules=all-linear");
    assert_eq!(all.as_array().unwrap().len(), 2 * 6, "{all}");
    assert_eq!(targets("target_modules=[\"projection\"]"), serde_json::json!(["projection"]));
    let first = targets("target_modules=[\"layer.0.attention.attention.query\"]");
    assert_eq!(first, serde_json::json!(["vit.layers.0.attention.q_proj"]));
    let adapter = lowrank::hub::Checkpoint::open_adapter(workshop.path("out")).unwrap();
    let keys: Vec<&str> = adapter.names().filter(|name| name.contains("lora_A")).collect();
    assert_eq!(keys, ["base_model.model.vit.layers.0.attention.q_proj.lora_A.weight"]);
}

#[test]
fn a_vision_model_trained_whole_can_be_trained_further() {
    let workshop = with_pictures();
    let summary = succeed(&workshop, "train pictures.toml --json --set method=full --output whole").json();
    assert_eq!(summary["method"], "full");
    let processor: Value = serde_json::from_slice(&workshop.read("whole/preprocessor_config.json")).unwrap();
    assert_eq!(processor["size"], serde_json::json!({"height": 12, "width": 12}));
    let scores =
        succeed(&workshop, "eval --model whole --task cifar10 --data cifar --dtype f32 --json").json();
    assert_eq!(scores["accuracy"], summary["eval"]["accuracy"]);
    succeed(&workshop, "train pictures.toml --set model=whole --set train.max_steps=2");
    assert!(Path::new(&workshop.path("out/adapter_config.json")).is_file());
}

#[test]
fn other_sizes_than_the_models_are_made_by_its_processor() {
    let workshop = with_pictures();
    workshop.write(
        "vit/preprocessor_config.json",
        "{\"size\": {\"height\": 16, \"width\": 20}, \"resample\": 3}",
    );
    let summary = succeed(&workshop, "train pictures.toml --json --epochs 1").json();
    assert_eq!(summary["tokens"], 40 * (4 * 5 + 1));
    workshop.write("vit/preprocessor_config.json", "{\"size\": {\"height\": 0, \"width\": 20}}");
    refused(&workshop, "train pictures.toml --overwrite", 1, "preprocessor_config.json: size has the side 0");
}
