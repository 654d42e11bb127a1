//! `lowrank rank`.

use std::fs;

use super::workshop::{Workshop, golden};

fn with_matrices() -> Workshop {
    let workshop = Workshop::new();
    fs::copy(golden("rank/write_up.safetensors"), workshop.path("four.safetensors")).unwrap();
    workshop
}

#[test]
fn the_write_ups_matrices_have_ranks_2_3_1_and_0() {
    let workshop = with_matrices();
    let json = workshop.succeed(&["rank", "four.safetensors", "--json"]);
    assert_eq!(json.stdout.lines().count(), 1);
    let json = json.json();
    for (index, rank) in [0, 1, 2, 3].into_iter().enumerate() {
        let tensor = &json["tensors"][index];
        assert_eq!((&tensor["name"], &tensor["rank"]), (&format!("rank{rank}").into(), &rank.into()));
        assert_eq!(tensor["singular_values"].as_array().unwrap().len(), 3);
    }
    let one = workshop.succeed(&["rank", "four.safetensors", "--tensor", "rank2", "--approximate", "1"]);
    assert!(one.stdout.contains("singular values: 16.8481 1.0684 ") && one.stdout.contains("kept by 1"));
    assert!(!one.stdout.contains("rank3") && one.stdout.ends_with("1 matrix\n"), "{}", one.stdout);
}

#[test]
fn of_a_stack_of_experts_all_or_one_are_shown() {
    let workshop = Workshop::new();
    let model = golden("models/qwen3-moe-joined").to_string_lossy().into_owned();
    let names = |tensor: &str| -> Vec<String> {
        let json = workshop.succeed(&["rank", &model, "--tensor", tensor, "--json"]).json();
        let tensors = json["tensors"].as_array().unwrap().iter();
        tensors.map(|tensor| tensor["name"].as_str().unwrap().to_owned()).collect()
    };
    let stack = "model.layers.2.mlp.experts.gate_up_proj";
    let experts: Vec<String> = (0..5).map(|number| format!("{stack}[{number}]")).collect();
    assert_eq!(names(stack), experts);
    assert_eq!(names(&experts[3]), experts[3..4]);
    let ran = workshop.run(&["rank", &model, "--tensor", &format!("{stack}[5]")]);
    assert!(ran.code == 2 && ran.stderr.contains(&experts[0]), "{}", ran.stderr);
}

#[test]
fn files_are_written_where_they_are_wanted() {
    let workshop = with_matrices();
    workshop.succeed(&[
        "rank",
        "four.safetensors",
        "--csv",
        "t.csv",
        "--values",
        "v.csv",
        "--plot",
        "p.png",
        "--kind",
        "energy",
        "--approximate",
        "1",
        "--out",
        "f.safetensors",
    ]);
    for (name, begins) in [("t.csv", "name,rows"), ("v.csv", "name,k"), ("p.png", "\u{fffd}PNG")] {
        let bytes = workshop.read(name);
        assert!(String::from_utf8_lossy(&bytes).starts_with(begins), "{name}");
    }
    assert!(workshop.path("f.safetensors").is_file());
}

#[test]
fn an_adapter_is_compared_with_another_and_placed_in_its_base() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml", "--dtype", "f32"]);
    workshop.succeed(&[
        "train",
        "run.toml",
        "--dtype",
        "f32",
        "--set",
        "output=other",
        "--set",
        "train.seed=7",
    ]);
    let rank = ["rank", "out", "--with", "other", "--base", "model", "--json"];
    let json = workshop.succeed(&rank).json();
    let tensors = json["tensors"].as_array().unwrap();
    assert!(!tensors.is_empty());
    for tensor in tensors {
        assert_eq!((&tensor["r"], &tensor["rank"]), (&2.into(), &2.into()), "{tensor}");
        assert_eq!(tensor["overlap"]["shape"], serde_json::json!([2, 2]));
        assert!(tensor["base"]["amplification"].as_f64().unwrap() > 0.0);
    }
    let text = workshop.succeed(&rank[..6]).stdout;
    assert!(text.contains("overlap (all)") && text.contains("amplified"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn what_is_wrong_is_told_with_the_code_for_it() {
    let workshop = with_matrices();
    for (arguments, code, expected) in [
        (&["rank", "none.safetensors"][..], 1, "no such file or folder"),
        (&["rank", "four.safetensors", "--tensor", "rank9"], 2, "did you mean rank"),
        (&["rank", "four.safetensors", "--energy", "2"], 2, "energy"),
        (&["rank", "four.safetensors", "--plot", "p.pdf"], 2, ".svg or .png"),
        (&["rank", "four.safetensors", "--csv", "four.safetensors"], 2, "it is the file that is read"),
        (&["rank", "four.safetensors", "--out", "f.safetensors"], 2, "--approximate"),
        (
            &["rank", "four.safetensors", "--csv", "t.csv", "--values", "./t.csv"],
            2,
            "--csv and --values: both",
        ),
        (&["rank", "four.safetensors", "--csv", "model"], 1, "it is a folder"),
        (&["rank", "run.toml"], 1, "not a"),
    ] {
        let ran = workshop.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
}
