//! `lowrank merge`.

use super::workshop::Workshop;

#[test]
fn a_merged_folder_is_a_model_like_any_other() {
    let workshop = Workshop::new();
    let trained = workshop.succeed(&["train", "run.toml", "--json", "--dtype", "f32"]).json();
    let merge = ["merge", "--model", "model", "--adapter", "out", "--out", "merged"];
    let ran = workshop.succeed(&[&merge[..], &["--json"]].concat());
    let report = ran.json();
    assert_eq!((&report["merged"], &report["replaced"]), (&4.into(), &2.into()), "{report}");
    assert!(report["largest_difference"].as_f64() < report["tolerance"].as_f64(), "{report}");
    let eval =
        ["eval", "--model", "merged", "--task", "sst2", "--data", "dev.tsv", "--json", "--dtype", "f32"];
    let (merged, trained) = (workshop.succeed(&eval).json(), &trained["eval"]);
    assert_eq!(merged["accuracy"], trained["accuracy"]);
    let off = merged["loss"].as_f64().unwrap() - trained["loss"].as_f64().unwrap();
    assert!(off.abs() < 1e-5, "{merged} and {trained}");
    let config = String::from_utf8(workshop.read("merged/config.json")).unwrap();
    assert!(config.contains("\"negative\"") && config.contains("BertForSequenceClassification"), "{config}");

    let ran = workshop.run(&merge);
    assert!(ran.code == 1 && ran.stderr.contains("merged: this folder is not empty"), "{}", ran.stderr);
    let ran = workshop.run(&["merge", "--model", "model", "--out", "other"]);
    assert!(ran.code == 2 && ran.stderr.contains("--adapter"), "{}", ran.stderr);
    let ran = workshop.run(&["merge", "--model", "model", "--adapter", "nothing", "--out", "other"]);
    assert!(ran.code != 0 && ran.stderr.contains("nothing"), "{}", ran.stderr);
    assert!(!workshop.path("other").exists());
}
