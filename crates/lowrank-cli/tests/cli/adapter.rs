//! `lowrank adapter`.

use super::workshop::{Workshop, golden};

fn fixture(name: &str) -> String {
    golden(&format!("combine/{name}")).to_string_lossy().into_owned()
}

#[test]
fn adapters_are_combined_with_weights_and_the_error_of_each_layer_is_told() {
    let workshop = Workshop::new();
    let (a, b) = (fixture("a"), fixture("b"));
    let weighted = format!("{a}=0.5");
    let combine = ["adapter", "combine", &weighted, &b, "--out", "both", "--method"];
    let json = workshop.succeed(&[&combine[..], &["cat", "--json"]].concat()).json();
    let layers = json["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|layer| layer["r"].as_u64().unwrap()).collect::<Vec<_>>(), [8, 8, 8]);
    assert!(layers.iter().all(|layer| layer["relative_error"].as_f64().unwrap() < 1e-6), "{json}");

    let ran = workshop.run(&[&combine[..], &["svd"]].concat());
    assert!(ran.code == 1 && ran.stderr.contains("not empty"), "{}", ran.stderr);
    for (method, more, expected) in
        [("tiess", None, "did you mean ties"), ("ties", None, "density"), ("cat", Some("--rank"), "rank")]
    {
        let more: Vec<&str> = more.into_iter().flat_map(|option| [option, "4"]).collect();
        let ran = workshop
            .run(&[&["adapter", "combine", &a, &b, "--out", "x", "--method", method], &more[..]].concat());
        assert!(ran.code == 2 && ran.stderr.contains(expected), "{method}: {}", ran.stderr);
    }

    let ran = workshop.succeed(&["adapter", "resize", "both", "--energy", "0.9", "--out", "small"]);
    assert!(ran.stdout.contains("off by") && ran.stdout.contains("query"), "{}", ran.stdout);
    let diff = workshop.succeed(&["adapter", "diff", "both", "small", "--json"]).json();
    assert!(diff["layers"][0]["cosine"].as_f64().unwrap() > 0.9, "{diff}");
    let inspected = workshop.succeed(&["adapter", "inspect", "small"]).stdout;
    assert!(inspected.contains("target_modules: ") && inspected.contains("eff."), "{inspected}");
}

#[test]
fn a_trained_adapter_is_valid_on_its_model_and_what_is_wrong_is_listed() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml", "--dtype", "f32", "--set", "train.epochs=1"]);
    let ran = workshop.succeed(&["adapter", "validate", "out", "--model", "model"]);
    assert!(ran.stdout.starts_with("OK: 4 layers"), "{}", ran.stdout);
    let config = String::from_utf8(workshop.read("out/adapter_config.json")).unwrap();
    let with_another = config.replace("\"target_modules\": [", "\"target_modules\": [ \"kee\",");
    workshop.write("out/adapter_config.json", &with_another);
    let ran = workshop.run(&["adapter", "validate", "out", "--model", "model", "--json"]);
    let findings = ran.json()["findings"].as_array().unwrap().len();
    assert!(ran.code == 1 && findings == 2 && ran.stderr.contains("2 findings"), "{}", ran.stderr);
}

#[test]
fn an_adapter_is_extracted_from_a_merged_model() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml", "--dtype", "f32", "--set", "train.epochs=1"]);
    workshop.succeed(&["merge", "--model", "model", "--adapter", "out", "--out", "merged"]);
    let extract = ["adapter", "extract", "--model", "model", "--tuned", "merged", "--out", "again"];
    let report = workshop.succeed(&[&extract[..], &["--rank", "2", "--json"]].concat()).json();
    assert!(report["relative_error"].as_f64().unwrap() < 1e-3, "{report}");
    assert_eq!(report["layers"].as_array().unwrap().len(), 4);
    let ran = workshop.run(&extract);
    assert!(ran.code == 2 && ran.stderr.contains("--rank"), "{}", ran.stderr);
}
