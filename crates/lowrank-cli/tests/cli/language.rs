//! The tasks of language models, from the run file to the answers.

use std::fs;

use serde_json::Value;

use super::words::{language_rows, write_language_model};
use super::workshop::{Workshop, golden};

/// A workshop with a golden model `writer` and rows of a task.
pub fn workshop(model: &str, task: &str) -> Workshop {
    let workshop = Workshop::new();
    write_language_model(&golden("models").join(model), &workshop.path("writer"));
    workshop.write("rows.jsonl", &language_rows(task, 18));
    workshop.write("few.jsonl", &language_rows(task, 5));
    workshop.write(
        "language.toml",
        &format!(
            "model = \"writer\"\ntask = \"{task}\"\noutput = \"told\"\n\
             [data]\ntrain = \"rows.jsonl\"\nvalidation = \"few.jsonl\"\nmax_length = 20\n\
             [lora]\nr = 2\n[train]\nepochs = 2\nbatch_size = 6\nlearning_rate = 1e-2\n"
        ),
    );
    workshop
}

/// The parameters of a mixture are chosen as modules are, in training and when an adapter is extracted.
#[test]
fn experts_are_chosen_by_an_option() {
    let workshop = workshop("mixtral", "text");
    let both = "mlp.experts.gate_up_proj,mlp.experts.down_proj";
    let train = ["train", "language.toml", "--max-steps", "3", "--dtype", "f32"];
    workshop.succeed(&[&train[..], &["--target-parameters", both]].concat());
    let config: Value = serde_json::from_slice(&workshop.read("told/adapter_config.json")).unwrap();
    let named = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"];
    assert_eq!(config["target_parameters"], serde_json::json!(named));
    let again = [&train[..], &["--overwrite", "--target-parameters", "mlp.experts.down"]].concat();
    let ran = workshop.run(&again);
    assert!(ran.code == 2 && ran.stderr.contains("did you mean mlp.experts.down_proj"), "{}", ran.stderr);

    workshop.succeed(&["merge", "--model", "writer", "--adapter", "told", "--out", "merged"]);
    let extract = ["adapter", "extract", "--model", "writer", "--tuned", "merged", "--rank", "2", "--json"];
    let options = ["--target-parameters", "mlp.experts.down_proj", "--out", "part"];
    let report = workshop.succeed(&[&extract[..], &options].concat()).json();
    let layers: Vec<&str> =
        report["layers"].as_array().unwrap().iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert!(layers.len() == 8 && layers.iter().all(|name| name.contains("experts.down_proj.")), "{layers:?}");
    assert!(report["notes"][0].as_str().unwrap().contains("gate_up_proj"), "{report}");
}

#[test]
fn every_task_trains_is_evaluated_and_answers() {
    for (model, task, metrics) in [
        ("llama", "text", &["perplexity"][..]),
        ("gpt2", "prompt-completion", &["perplexity"]),
        ("qwen2", "messages", &["perplexity"]),
        ("t5", "text2text", &["rougeL", "rouge1", "rouge2", "bleu"]),
        ("flan-t5", "summarization", &["rougeL", "rouge1", "rouge2"]),
        ("t5", "translation", &["bleu"]),
    ] {
        let workshop = workshop(model, task);
        let summary = workshop.succeed(&["train", "language.toml", "--json"]).json();
        let asked = ["--model", "writer", "--adapter", "told", "--task", task, "--data", "few.jsonl"];
        let limits = ["--max-length", "20", "--json"];
        let scores = workshop.succeed(&[&["eval"], &asked[..], &limits].concat()).json();
        for metric in metrics.iter().chain(&["loss"]) {
            assert!(scores[metric].is_number(), "{task}: {scores}");
            assert_eq!(scores[metric], summary["eval"][metric], "{task}: {metric}");
        }
        assert_eq!(scores.as_object().unwrap().len(), metrics.len() + 1, "{task}: {scores}");

        let predict = [&["predict"], &asked[..], &["--max-length", "6", "--out", "told.jsonl"]].concat();
        if task == "text" {
            let ran = workshop.run(&predict);
            assert!(ran.code == 2 && ran.stderr.contains("no prompts to answer"), "{}", ran.stderr);
            continue;
        }
        workshop.succeed(&predict);
        let answers = String::from_utf8(workshop.read("told.jsonl")).unwrap();
        let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), 5);
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer["line"], number + 1);
            assert!(answer["text"].as_str().unwrap().split_whitespace().count() <= 6, "{task}: {answer}");
        }
    }
}

#[test]
fn a_preview_marks_what_is_trained() {
    let messages = workshop("llama", "messages");
    let ran = messages.succeed(&["data", "preview", "language.toml", "--examples", "2"]);
    assert!(ran.stdout.contains("assistant [["), "{}", ran.stdout);
    assert!(ran.stdout.contains("</s>]]") && ran.stdout.contains(" trained"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("label"), "{}", ran.stdout);
    let pairs = workshop("t5", "translation");
    let ran = pairs.succeed(&["data", "preview", "language.toml"]);
    assert!(ran.stdout.contains("? </s> [["), "{}", ran.stdout);
    let ran = pairs.succeed(&["data", "preview", "language.toml", "--json"]);
    assert_eq!(ran.json()["examples"][0]["trained"][0], false);
}

#[test]
fn columns_of_other_names_are_found_where_the_run_says() {
    let workshop = workshop("llama", "prompt-completion");
    let rows = "{\"ask\": \"red ?\", \"say\": \"w1 w2\"}\n{\"ask\": \"blue ?\", \"say\": \"w3\"}\n";
    workshop.write("rows.jsonl", rows);
    workshop.write("few.jsonl", rows);
    let ran = workshop.run(&["train", "language.toml"]);
    assert!(ran.code == 1 && ran.stderr.contains("rows.jsonl:1: "), "{}", ran.stderr);
    let columns = ["--set", "data.columns.prompt=ask", "--set", "data.columns.completion=say"];
    workshop.succeed(&[&["train", "language.toml", "--overwrite"], &columns[..]].concat());
    let eval = "eval --model writer --task prompt-completion --data few.jsonl";
    let columns = ["--columns", "prompt=ask,completion=say"];
    workshop.succeed(&[&eval.split(' ').collect::<Vec<_>>()[..], &columns].concat());
    let ran = workshop.run(&["train", "language.toml", "--set", "data.columns.completions=say"]);
    assert!(ran.code == 2 && ran.stderr.contains("did you mean data.columns.completion?"), "{}", ran.stderr);
}

#[test]
fn a_result_is_asked_as_its_examples_were_read() {
    let eval = |workshop: &Workshop, more: &[&str]| {
        let asked = ["eval", "--model", "writer", "--adapter", "told", "--data", "few.jsonl", "--json"];
        workshop.succeed(&[&asked[..], more].concat()).json()
    };
    let sources = workshop("t5", "text2text");
    let prefix = ["train", "language.toml", "--json", "--set", "data.source_prefix=\"w5 w6 \""];
    let trained = sources.succeed(&prefix).json();
    assert_eq!(trained["data"]["source_prefix"], "w5 w6 ");
    let task = ["--task", "text2text"];
    assert_eq!(eval(&sources, &task)["loss"], trained["eval"]["loss"]);
    let bare = eval(&sources, &[&task[..], &["--source-prefix", ""]].concat());
    assert_ne!(bare["loss"], trained["eval"]["loss"]);
    // Of another task it says nothing.
    assert_eq!(eval(&sources, &["--task", "summarization", "--max-length", "20"])["loss"], bare["loss"]);

    let documents = workshop("llama", "text");
    let each = ["train", "language.toml", "--json", "--set", "data.packing=false"];
    let trained = documents.succeed(&each).json();
    let task = ["--task", "text"];
    assert_eq!(eval(&documents, &task)["loss"], trained["eval"]["loss"]);
    let packed = eval(&documents, &[&task[..], &["--packing", "true"]].concat());
    assert_ne!(packed["loss"], trained["eval"]["loss"]);
}

#[test]
fn what_a_task_does_not_read_is_refused() {
    let workshop = workshop("llama", "prompt-completion");
    for (key, value, reason) in [
        ("stride", "4", "cuts no windows"),
        ("source_prefix", "\"tell: \"", "has no sources"),
        ("packing", "false", "packs no documents"),
    ] {
        let set = format!("data.{key}={value}");
        let ran = workshop.run(&["train", "language.toml", "--set", &set]);
        let expected = format!("data.{key}: prompt-completion {reason}");
        assert!(ran.code == 2 && ran.stderr.contains(&expected), "{}", ran.stderr);
        let flag = format!("--{}={}", key.replace('_', "-"), value.trim_matches('"'));
        let eval = ["eval", "--model", "writer", "--task", "prompt-completion", "--data", "few.jsonl", &flag];
        let ran = workshop.run(&eval);
        assert!(ran.code == 2 && ran.stderr.contains(reason), "{}", ran.stderr);
    }
    // What is the usual value all the same is still of no effect.
    for (given, reason) in [("--packing=true", "packs no documents"), ("--stride=0", "cuts no windows")] {
        let eval = ["eval", "--model", "writer", "--task", "prompt-completion", "--data", "few.jsonl", given];
        let ran = workshop.run(&eval);
        assert!(ran.code == 2 && ran.stderr.contains(reason), "{}", ran.stderr);
    }
}

/// Runs what must fail, and gives its sentence.
fn refused(workshop: &Workshop, arguments: &[&str]) -> String {
    let ran = workshop.run(arguments);
    assert_ne!(ran.code, 0, "{arguments:?}");
    let last = ran.stderr.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("error: "), "{}", ran.stderr);
    last
}

#[test]
fn what_cannot_be_learnt_is_refused_in_a_sentence() {
    let train = ["train", "language.toml", "--overwrite"];
    let messages = workshop("llama", "messages");
    messages.write("writer/chat_template.jinja", "{{ bos_token }}\n{{ raise_exception('no system turns') }}");
    let text = refused(&messages, &train);
    assert!(text.contains("rows.jsonl:1: ") && text.contains("chat_template.jinja:2: "), "{text}");
    assert!(text.contains("no system turns"), "{text}");
    fs::remove_file(messages.path("writer/chat_template.jinja")).unwrap();
    assert!(refused(&messages, &train).contains("no chat template"));

    let completions = workshop("llama", "prompt-completion");
    let long = format!("{{\"prompt\": \"{}\", \"completion\": \"w1\"}}\n", "w1 ".repeat(50));
    completions.write("rows.jsonl", &long);
    let text = refused(&completions, &train);
    assert!(text.contains("rows.jsonl: ") && text.contains("data.max_length"), "{text}");
    let text = refused(&completions, &[&train[..], &["--set", "data.strict=true"]].concat());
    assert!(text.contains("rows.jsonl:1: ") && text.contains("its prompt leaves no room"), "{text}");
    // A table of positions ends; a rotary model answers.
    completions.write("few.jsonl", &long);
    let table = workshop("gpt2", "prompt-completion");
    table.write("few.jsonl", &long);
    let predict = "predict --model writer --task prompt-completion --data few.jsonl --out a.jsonl";
    let predict: Vec<&str> = predict.split(' ').collect();
    completions.succeed(&predict);
    let text = refused(&table, &predict);
    assert!(text.contains("few.jsonl:1: ") && text.contains("the model's 48 positions"), "{text}");

    // The head belongs to the architecture.
    let text = refused(&completions, &[&train[..], &["--set", "task=summarization"]].concat());
    assert!(text.contains("\"llama\" has no head for sequence-to-sequence"), "{text}");
    let text = refused(&completions, &[&train[..], &["--set", "model=model"]].concat());
    assert!(text.contains("\"bert\" has no head for causal language modelling"), "{text}");
}

#[test]
fn what_is_left_out_or_cut_is_told_with_the_first_row_of_it() {
    let tells = |ran: &super::workshop::Ran, what: &str| assert!(ran.stderr.contains(what), "{}", ran.stderr);
    let texts = workshop("llama", "text");
    let rows = "text,label\nred w1 w2 w3 w4,a\n,a\nblue w2,b\ngreen w3,a\n";
    texts.write("rows.csv", rows);
    let classify = "train language.toml --set task=text-classification --train rows.csv --set data.validation=rows.csv \
         --set data.max_length=3";
    let classify: Vec<&str> = classify.split_whitespace().collect();
    let left_out = "rows.csv:3: its text has no tokens";
    let ran = texts.succeed(&classify);
    tells(&ran, "1 examples of the training data cannot be used and are left out: ");
    tells(&ran, left_out);
    tells(&ran, "1 examples of the validation data are cut to 3 tokens");
    let preview = ["data", "preview", "language.toml", "--set", "task=text-classification"];
    let data = ["--set", "data.train=rows.csv", "--set", "data.validation=rows.csv"];
    tells(&texts.succeed(&[&preview[..], &data].concat()), left_out);
    let strict = texts.run(&[&classify[..], &["--overwrite", "--set", "data.strict=true"]].concat());
    assert!(strict.code == 1 && strict.stderr.contains(left_out), "{}", strict.stderr);

    let completions = workshop("llama", "prompt-completion");
    let long = format!("{{\"prompt\": \"{}\", \"completion\": \"w1\"}}\n", "w1 ".repeat(50));
    completions.write("rows.jsonl", &(language_rows("prompt-completion", 6) + &long));
    tells(&completions.succeed(&["train", "language.toml"]), "rows.jsonl:7: its prompt leaves no room");
}
