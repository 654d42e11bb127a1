//! Data sets of the Hub by their ids, and Parquet, on loopback.

use std::fs;

use super::server::{Manners, Server};
use super::workshop::{Ran, Workshop, golden};

fn parquet(name: &str) -> Vec<u8> {
    fs::read(golden("parquet").join(name)).unwrap()
}

fn glue() -> Server {
    let (snappy, plain, zstd) =
        (parquet("snappy.parquet"), parquet("plain.parquet"), parquet("zstd.parquet"));
    let files: [(&str, &[u8]); 4] = [
        ("sst2/train-00000-of-00002.parquet", &snappy),
        ("sst2/train-00001-of-00002.parquet", &plain),
        ("sst2/validation-00000-of-00001.parquet", &zstd),
        ("cola/train-00000-of-00001.parquet", b"not wanted"),
    ];
    Server::start("datasets/nyu-mll/glue", &files, Manners::default())
}

fn ask(workshop: &Workshop, server: &Server, line: &str) -> Ran {
    let arguments: Vec<&str> = line.split(' ').collect();
    Ran::from(workshop.online(&server.endpoint, &arguments).output().unwrap())
}

fn succeed(workshop: &Workshop, server: &Server, line: &str) -> Ran {
    let ran = ask(workshop, server, line);
    assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
    ran
}

#[test]
fn a_data_set_is_trained_on_and_asked_about_by_its_id() {
    let (workshop, server) = (Workshop::new(), glue());
    let run = "train run.toml --set data.train=glue/sst2 --set data.validation= --json --dtype f32";
    let summary = succeed(&workshop, &server, run).json();
    // Both files of the training split, and the validation split by itself.
    assert_eq!(summary["examples"], 36);
    assert!(summary["eval"]["accuracy"].is_number(), "{summary}");
    let eval = "eval --model model --adapter out --task sst2 --data glue/sst2 --json --dtype f32";
    let scores = succeed(&workshop, &server, eval).json();
    assert_eq!(scores["accuracy"], summary["eval"]["accuracy"]);
    assert!((scores["loss"].as_f64().unwrap() - summary["eval"]["loss"].as_f64().unwrap()).abs() < 1e-9);
    let predict = "predict --model model --adapter out --task sst2 --data glue/sst2 --out a.jsonl";
    succeed(&workshop, &server, predict);
    assert_eq!(String::from_utf8(workshop.read("a.jsonl")).unwrap().lines().count(), 18);
    let copy = String::from_utf8(workshop.read("out/run.toml")).unwrap();
    assert!(copy.contains("train = \"glue/sst2\""), "{copy}");
    // What was fetched is enough without the Hub; a limit ends within the second file.
    let offline = "train out/run.toml --output again --set data.limit=20 --json";
    let summary = workshop.succeed(&offline.split(' ').collect::<Vec<_>>()).json();
    assert_eq!(summary["examples"], 20);
}

#[test]
fn class_numbers_have_the_names_that_the_file_tells() {
    let (workshop, server) = (Workshop::new(), glue());
    let run = "train run.toml --set task=text-classification --set data.train=glue/sst2 --set data.validation= \
               --set data.columns.text=sentence --json";
    let summary = succeed(&workshop, &server, run).json();
    assert_eq!(summary["labels"], serde_json::json!(["negative", "positive"]));
    fs::write(workshop.path("one.parquet"), parquet("plain.parquet")).unwrap();
    let local = "train run.toml --overwrite --set task=text-classification --set data.train=one.parquet \
                 --set data.validation=one.parquet --json";
    let summary = succeed(&workshop, &server, local).json();
    assert_eq!((&summary["examples"], &summary["labels"][1]), (&18.into(), &"positive".into()));
    let sst2 = "train run.toml --overwrite --set data.train=one.parquet --json";
    assert_eq!(succeed(&workshop, &server, sst2).json()["examples"], 18);
}

#[test]
fn images_of_the_hub_have_their_classes() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("vit")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("models/vit").join(name), workshop.path("vit").join(name)).unwrap();
    }
    let images = parquet("images.parquet");
    let files: [(&str, &[u8]); 2] =
        [("data/train-00000-of-00001.parquet", &images), ("data/test-00000-of-00001.parquet", &images)];
    let server = Server::start("datasets/owner/insects", &files, Manners::default());
    let run = "train --model vit --task image-folder --train owner/insects --output out --epochs 1 --json";
    let summary = succeed(&workshop, &server, run).json();
    assert_eq!(summary["labels"], serde_json::json!(["ant", "bee", "cow"]));
    assert_eq!((&summary["examples"], &summary["eval"]), (&4.into(), &serde_json::json!({})));
    let asked = "--model vit --adapter out --task image-folder --data owner/insects";
    succeed(&workshop, &server, &format!("eval {asked}"));
    succeed(&workshop, &server, &format!("predict {asked} --out a.jsonl"));
    let text = String::from_utf8(workshop.read("a.jsonl")).unwrap();
    assert!(text.contains("test-00000-of-00001.parquet, image 4"), "{text}");
    let wrong = "train --model vit --task cifar10 --train owner/insects --output out --overwrite";
    let ran = ask(&workshop, &server, wrong);
    assert!(
        ran.code == 1 && ran.stderr.contains("train-00000-of-00001.parquet:1: unknown label"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_is_neither_here_nor_on_the_hub_is_said() {
    let (workshop, server) = (Workshop::new(), glue());
    for (train, code, expected) in [
        ("trian.tsv", 1, "trian.tsv: No such file"),
        ("trian", 1, "trian: No such file"),
        ("data/trian", 1, "data/trian"),
        ("nowhere/trian.parquet", 1, "trian.parquet: No such file"),
        ("glue/sst", 1, "no configuration \"sst\"; it has cola, sst2"),
    ] {
        let ran = ask(&workshop, &server, &format!("train run.toml --set data.train={train}"));
        assert!(ran.code == code && ran.stderr.contains(expected), "{train}: {} {}", ran.code, ran.stderr);
    }
}
