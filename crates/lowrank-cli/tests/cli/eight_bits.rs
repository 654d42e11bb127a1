//! `lowrank quantize`, `--load-in int8`, and what is chosen where memory is short.

use super::workshop::{Ran, Workshop};

const EVAL: [&str; 8] = ["eval", "--model", "model", "--adapter", "out", "--task", "sst2", "--data"];

fn with_memory(workshop: &Workshop, bytes: &str, arguments: &[&str]) -> Ran {
    Ran::from(workshop.command(arguments).env("LOWRANK_MEMORY", bytes).output().unwrap())
}

#[test]
fn what_memory_there_is_decides_where_weights_are_kept() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    let eval = [&EVAL[..], &["dev.tsv", "--json", "--dtype", "f32"]].concat();
    let loss = |ran: &Ran| {
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.json()["loss"].as_f64().unwrap()
    };
    let usual = workshop.succeed(&eval);
    assert!(!usual.stderr.contains("of memory"), "{}", usual.stderr);
    let (much, none) = (with_memory(&workshop, "1000000000", &eval), with_memory(&workshop, "1000", &eval));
    assert!(!much.stderr.contains("of memory"), "{}", much.stderr);
    assert!(none.stderr.contains("they are read from their file in every pass"), "{}", none.stderr);
    assert_eq!(loss(&much), loss(&usual));
    assert!((loss(&none) - loss(&usual)).abs() < 1e-6, "{} and {}", loss(&none), loss(&usual));
    let eight = workshop.succeed(&[&eval[..], &["--load-in", "int8"]].concat());
    let off = (loss(&eight) - loss(&usual)).abs();
    assert!(off > 0.0 && off < 0.05, "{off}");
    // Somewhere between too little for 8 bits and enough for all lies what 8 bits just fit.
    let fallen = (10..40).map(|tenth| (4096.0 * 1.25_f64.powi(tenth)) as u64).find_map(|bytes| {
        let ran = with_memory(&workshop, &bytes.to_string(), &eval);
        ran.stderr.contains("they are loaded in 8 bits").then_some(ran)
    });
    assert_eq!(loss(&fallen.expect("8 bits are chosen")), loss(&eight));
    let wrong = with_memory(&workshop, "8 GB", &eval);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("LOWRANK_MEMORY: it is \"8 GB\"; it must be a number of bytes"));
}

#[test]
fn a_run_in_whole_numbers_is_the_same_where_memory_is_short_for_transposes() {
    let workshop = Workshop::new();
    let train = ["train", "run.toml", "--overwrite", "--dtype", "f32", "--set", "train.compute=int8"];
    let run = |bytes: u64| {
        let ran = with_memory(&workshop, &bytes.to_string(), &train);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr
    };
    let turned = "there is no memory to keep the transposes";
    assert!(!run(1_000_000_000).contains(turned));
    let kept = workshop.read("out/adapter_model.safetensors");
    // Where the weights just fit, their transposes do not.
    let (mut falls, mut fits) = (0, 1_000_000_000);
    while fits - falls > 500 {
        let middle = (falls + fits) / 2;
        let side = if run(middle).contains("the weights would take") { &mut falls } else { &mut fits };
        *side = middle;
    }
    assert!(run(fits).contains(turned));
    assert!(workshop.read("out/adapter_model.safetensors") == kept);
}

#[test]
fn a_run_in_8_bits_trains_and_is_resumed_in_8_bits_alone() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml", "--load-in", "int8"]);
    assert!(String::from_utf8(workshop.read("out/run.toml")).unwrap().contains("load_in = \"int8\""));
    std::fs::remove_file(workshop.path("out/summary.json")).unwrap();
    let ran = workshop.run(&["train", "run.toml", "--resume"]);
    assert!(ran.code != 0 && ran.stderr.contains("load_in was int8 and is as stored"), "{}", ran.stderr);
    workshop.succeed(&["train", "run.toml", "--resume", "--set", "load_in=int8"]);
    let full = workshop.run(&["train", "run.toml", "--overwrite", "--method", "full", "--load-in", "int8"]);
    assert_eq!(full.code, 2);
    assert!(full.stderr.contains("weights in 8 bits cannot be trained"), "{}", full.stderr);
}

#[test]
fn a_quantized_folder_serves_wherever_a_model_does() {
    let workshop = Workshop::new();
    let quantize = ["quantize", "--model", "model", "--out", "eight", "--check"];
    let ran = workshop.run(&[&quantize[..], &["--load-in", "auto"]].concat());
    assert_eq!(ran.code, 2, "there is no other type");
    let ran = workshop.succeed(&quantize);
    let also = ["quantize", "--model", "model", "--out", "also", "--load-in", "int8"];
    workshop.succeed(&also);
    assert_eq!(workshop.read("eight/model.safetensors"), workshop.read("also/model.safetensors"));
    assert!(
        ran.stdout.contains("query.weight") && ran.stdout.contains("logits of random inputs"),
        "{}",
        ran.stdout
    );
    workshop.succeed(&["train", "run.toml", "--set", "model=eight"]);
    let scores = |model: &str| {
        let ran = workshop.succeed(&[
            "eval",
            "--model",
            model,
            "--adapter",
            "out",
            "--task",
            "sst2",
            "--data",
            "dev.tsv",
            "--json",
            "--load-in",
            "int8",
        ]);
        ran.json()
    };
    assert_eq!(scores("eight")["accuracy"], scores("model")["accuracy"]);
    let full =
        workshop.run(&["train", "run.toml", "--overwrite", "--method", "full", "--set", "model=eight"]);
    assert!(
        full.code != 0 && full.stderr.contains("is in 8 bits, which cannot be trained"),
        "{}",
        full.stderr
    );
}

#[test]
fn a_check_measures_against_the_weights_as_they_were_however_little_memory_there_is() {
    for tenth in (10..40).step_by(3) {
        let workshop = Workshop::new();
        let bytes = ((4096.0 * 1.25_f64.powi(tenth)) as u64).to_string();
        let quantize = "quantize --model model --out eight --check --load-in int8 --json";
        let ran = with_memory(&workshop, &bytes, &quantize.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let off = ran.json()["largest_logit_difference"].as_f64().unwrap();
        assert!(off > 0.0, "{off} with {bytes} bytes");
    }
}
