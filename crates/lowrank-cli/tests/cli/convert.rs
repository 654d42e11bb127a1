//! `lowrank adapter convert`.

use super::workshop::{Workshop, golden};

fn form(name: &str) -> String {
    golden("forms").join(name).to_string_lossy().into_owned()
}

#[test]
fn an_old_adapter_is_converted_and_answers_where_adapters_do() {
    let workshop = Workshop::new();
    let convert = ["adapter", "convert", &form("peft"), "--model", "model", "--out", "new"];
    let ran = workshop.succeed(&convert);
    assert!(ran.stdout.contains("PEFT to PEFT: 4 low-rank pairs"), "{}", ran.stdout);
    let old = workshop.read("new/adapter_model.safetensors");
    let again = ["adapter", "convert", "new", "--out", "newer", "--json"];
    let json = workshop.succeed(&again).json();
    assert_eq!((&json["from"], &json["to"], &json["pairs"]), (&"peft".into(), &"peft".into(), &4.into()));
    assert_eq!(workshop.read("newer/adapter_model.safetensors"), old);
}

#[test]
fn what_is_wrong_is_told_with_the_code_for_it() {
    let workshop = Workshop::new();
    let (kohya, loralib, harmful) = (form("kohya_t5.safetensors"), form("loralib.bin"), form("harmful.bin"));
    for (arguments, code, expected) in [
        (&[&*kohya][..], 2, "--model"),
        (&[&loralib], 2, "--lora-alpha"),
        (&[&loralib, "--lora-alpha", "6"], 1, "--enable-lora"),
        (&[&kohya, "--model", "model"], 1, "lora_te3_encoder_block_0"),
        (&[&harmful], 1, "posix.system"),
        (&["model"], 1, "no adapter in this folder"),
        (&[&kohya, "--to", "gguf", "--model", "model"], 1, "has no layer"),
    ] {
        let ran = workshop.run(&[&["adapter", "convert", "--out", "out"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
        assert!(!workshop.path("out").exists(), "{arguments:?}");
    }
}
