//! `lowrank compare`.

use super::workshop::Workshop;

#[test]
fn an_adapter_and_the_whole_model_are_trained_on_the_same_data_and_shown_side_by_side() {
    let workshop = Workshop::new();
    let ran = workshop.succeed(&["compare", "run.toml", "--json"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let runs = &ran.json()["runs"];
    assert_eq!((&runs[0]["method"], &runs[1]["method"]), (&"lora".into(), &"full".into()));
    let number = |run: usize, key: &str| runs[run][key].as_f64().unwrap();
    for key in ["trainable_parameters", "bytes_on_disk"] {
        assert!(number(0, key) < number(1, key), "{key}: {runs}");
    }
    for run in 0..2 {
        assert!(number(run, "step_seconds") > 0.0 && number(run, "peak_rss_bytes") > 0.0, "{runs}");
        assert!(runs[run]["eval"]["accuracy"].is_number(), "{runs}");
    }
    assert!(workshop.path("out/lora/adapter_model.safetensors").exists());
    assert!(workshop.path("out/full/model.safetensors").exists());
    let again = workshop.succeed(&["compare", "run.toml", "--resume"]);
    assert!(again.stdout.contains("trainable parameters"), "{}", again.stdout);
}

#[test]
fn a_mistake_in_the_run_is_told_before_anything_is_trained() {
    let workshop = Workshop::new();
    let ran = workshop.run(&["compare", "run.toml", "--set", "train.epoch=2"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("train.epochs"), "{}", ran.stderr);
    assert!(!workshop.path("out").exists());
}
