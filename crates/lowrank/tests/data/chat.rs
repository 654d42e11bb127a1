use std::fs;
use std::path::Path;

use lowrank::data::chat::{Message, message};
use lowrank::data::language::{CausalDataset, Conversation, Rows};
use lowrank::data::{ChatTemplate, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Message>,
    tools: Option<Value>,
    error: Option<String>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    input_ids: Vec<u32>,
    assistant_masks: Option<Vec<u8>>,
}

const NAMES: [&str; 7] = ["chatml", "generation", "llama3", "mistral", "plain", "tools", "zephyr"];

/// Each template of the fixtures with its tokeniser and cases.
fn golden() -> Vec<(&'static str, ChatTemplate, Tokenizer, Vec<Case>)> {
    let Some(folder) = crate::fixtures("chat") else { return Vec::new() };
    let read = |name: &'static str| {
        let folder = folder.join(name);
        let cases = serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
        let template = ChatTemplate::from_folder(&folder).unwrap().unwrap();
        (name, template, Tokenizer::from_folder(&folder).unwrap(), cases)
    };
    NAMES.map(read).into()
}

#[test]
fn conversations_are_rendered_as_transformers_renders_them() {
    let mut checked = 0;
    for (style, template, tokenizer, cases) in golden() {
        for case in cases {
            let label = format!("{style}, {}", case.name);
            let render = |answer| template.render(&case.messages, case.tools.as_ref(), answer);
            if let Some(error) = case.error {
                let text = render(false).unwrap_err().to_string();
                assert!(text.contains(&error), "{label}: {text} without {error}");
                continue;
            }
            assert_eq!(render(false).unwrap(), case.text, "{label}");
            assert_eq!(render(true).unwrap(), case.prompt, "{label}");
            let ids = tokenizer.encode_with_offsets(&case.text, false).unwrap().ids;
            assert_eq!(ids, case.input_ids, "{label}");
            checked += 1;
        }
    }
    assert!(checked > 80 || crate::fixtures("chat").is_none(), "{checked}");
}

/// The learnt text of each answer: consecutive target tokens, decoded.
fn learnt(tokenizer: &Tokenizer, ids: &[u32], targets: &[bool]) -> Vec<String> {
    let mut spans: Vec<Vec<u32>> = Vec::new();
    let mut open = false;
    for (&id, &target) in ids.iter().zip(targets) {
        if target && !open {
            spans.push(Vec::new());
        }
        if target {
            spans.last_mut().unwrap().push(id);
        }
        open = target;
    }
    spans.iter().map(|ids| tokenizer.decode(ids, false).unwrap()).collect()
}

fn rows(messages: Vec<Message>) -> Rows<Conversation> {
    Rows { path: "chats.jsonl".into(), rows: vec![Conversation { messages, tools: None, line: 7 }] }
}

#[test]
fn generation_blocks_are_learnt_as_transformers_masks_them() {
    for (style, template, tokenizer, cases) in golden() {
        for case in cases {
            let Some(expected) = case.assistant_masks else { continue };
            let expected: Vec<bool> = expected.iter().map(|&mask| mask == 1).collect();
            let data =
                CausalDataset::from_conversations(&tokenizer, &template, &rows(case.messages), 999, false)
                    .unwrap();
            match data.get(0) {
                Some(example) => assert_eq!(example.targets, expected, "{style}, {}", case.name),
                None => assert!(!expected.contains(&true), "{style}, {}", case.name),
            }
        }
    }
}

#[test]
fn every_answer_is_learnt_with_its_end_token_and_nothing_else_is() {
    let end = |style: &str| match style {
        "llama3" => "<|eot_id|>",
        "mistral" | "zephyr" => "</s>",
        "plain" => "\n",
        _ => "<|im_end|>",
    };
    // What stands between the text that asks for an answer and the answer.
    let before = |style: &str| match style {
        "mistral" | "plain" => " ",
        _ => "",
    };
    for (style, template, tokenizer, cases) in golden() {
        for case in cases.into_iter().filter(|case| case.error.is_none() && case.tools.is_none()) {
            let label = format!("{style}, {}", case.name);
            let trimmed = matches!(style, "llama3" | "mistral" | "plain" | "tools");
            let answers: Vec<&Message> = case.messages.iter().filter(|m| m["role"] == "assistant").collect();
            if case.messages.iter().any(|m| !m["content"].is_string()) {
                continue;
            }
            let expected: Vec<String> = (answers.iter().enumerate())
                .map(|(number, answer)| {
                    let content = answer["content"].as_str().unwrap();
                    let content = if trimmed { content.trim() } else { content };
                    let dropped = style == "tools" && number + 1 < answers.len();
                    let content = if dropped {
                        content.rsplit("</think>").next().unwrap().trim_start_matches('\n')
                    } else {
                        content
                    };
                    format!("{}{content}{}", before(style), end(style))
                })
                .collect();
            let data = CausalDataset::from_conversations(
                &tokenizer,
                &template,
                &rows(case.messages.clone()),
                999,
                false,
            )
            .unwrap();
            let Some(example) = data.get(0) else {
                assert!(expected.is_empty(), "{label}");
                continue;
            };
            assert_eq!(learnt(&tokenizer, example.ids, example.targets), expected, "{label}");
            assert_eq!((example.line, data.skipped, data.truncated), (7, 0, 0));
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

/// What a template in `chat_template.jinja` says to a question.
fn ask(template: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "chat_template.jinja", template);
    let template = ChatTemplate::from_folder(folder.path()).map_err(|error| error.to_string())?.unwrap();
    template.render(&[message("user", "Hi <&>")], None, true).map_err(|error| error.to_string())
}

#[test]
fn a_template_that_fails_names_its_file_and_line() {
    let text = ask("a\n{% if messages %}\n{{ raise_exception('not ' ~ 'so') }}{% endif %}").unwrap_err();
    assert!(text.contains("chat_template.jinja:3: ") && text.contains("not so"), "{text}");
    let text = ask("a\n{% if messages %}\n\n{% endfor %}").unwrap_err();
    assert!(text.contains("chat_template.jinja:4: "), "{text}");
    let text = ask("\n{{ messages[0].nothing.more }}").unwrap_err();
    assert!(text.contains("chat_template.jinja:2: "), "{text}");
    let text = ask("{{ messages | no_such_filter }}").unwrap_err();
    assert!(text.contains("chat_template.jinja:1: ") && text.contains("no_such_filter"), "{text}");
    let text = ask("{% include '/etc/passwd' %}").unwrap_err();
    assert!(text.contains("chat_template.jinja:1: "), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let refuse = |config: &str| {
        write(folder.path(), "tokenizer_config.json", config);
        match ChatTemplate::from_folder(folder.path()) {
            Ok(template) => template.unwrap().render(&[], None, false).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    let text = refuse(r#"{"chat_template": "a\n{{ raise_exception('no') }}"}"#);
    assert!(text.contains("tokenizer_config.json: line 2 of the chat template \"default\""), "{text}");
    let text = refuse(r#"{"chat_template": [{"name": "rag", "template": "a"}]}"#);
    assert!(text.contains("no chat template called default; there is rag"), "{text}");
    for config in [r#"{"chat_template": 3}"#, r#"{"chat_template": [{"name": "default"}]}"#] {
        assert!(refuse(config).contains("chat_template must be a text, or a list"), "{}", refuse(config));
    }
    assert!(refuse("[]").contains("not a JSON object"));
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}\
                   {% endfor %}{% endfor %}{% endfor %}";
    assert!(ask(endless).unwrap_err().contains("chat_template.jinja"));
    assert!(ask("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").is_err());
}

#[test]
fn a_template_that_asks_for_all_memory_is_refused() {
    for template in [
        "{{ [1] | tojson(indent=1000000000000) }}",
        "{{ [range(1000), range(1000)] | tojson(separators=['a' * 1000000, ':']) }}",
        "{{ 'a\nb' | indent(1000000000000) }}",
        "{{ 'a\nb' | indent(width=1000000000000) }}",
        "{{ '%1000000000000d' | format(1) }}",
        "{{ '{:1000000000000}'.format(1) }}",
    ] {
        let text = ask(template).unwrap_err();
        assert!(text.contains("too wide") || text.contains("too long"), "{template}: {text}");
    }
    assert_eq!(ask("{{ [1] | tojson(indent=2) }}{{ 'a\nb' | indent }}").unwrap(), "[\n  1\n]a\n    b");
    assert_eq!(ask("{{ '%3d' | format(1) }}{{ '{:3}'.format(1) }}").unwrap(), "  1  1");
}

#[test]
fn what_templates_expect_of_python_is_there() {
    let cases = [
        ("{{ messages | tojson }}", r#"[{"role": "user", "content": "Hi <&>"}]"#),
        ("{{ {'b': 1.0, 'a': 1e22} | tojson(sort_keys=true) }}", r#"{"a": 1e+22, "b": 1.0}"#),
        ("{{ ['é😀'] | tojson(ensure_ascii=true, separators=[',', ':']) }}", r#"["\u00e9\ud83d\ude00"]"#),
        ("{{ strftime_now('%Y') | int > 2020 }} {{ none }} {{ nothing }}.", "True None ."),
        ("{{ bos_token }}{{ tools }}{{ tools is none }}{{ documents is none }}", "NoneTrueTrue"),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        ("{% generation %}a{% endgeneration %}{%- generation -%} b {%- endgeneration -%} c", "abc"),
        ("{{ messages[0]['content'].split(' ')[-1].strip('<>') }}", "&"),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("{{ ('a' in nothing) or 'x' in 'xyz' and messages[1:] | length == 0 }}", "True"),
    ];
    for (template, expected) in cases {
        assert_eq!(ask(template).unwrap(), expected, "{template}");
    }
    assert!(ask("{{ nothing | tojson }}").unwrap_err().contains("undefined"));
}

#[test]
fn a_template_of_ones_own_file_comes_first_and_tools_have_theirs() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::from_folder(folder.path()).unwrap().is_none());
    let both = r#"{"chat_template": [{"name": "default", "template": "plain{{ eos_token }}{{ image_token }}"},
        {"name": "tool_use", "template": "tools{{ pad_token }}"}],
        "eos_token": {"content": "<e>"}, "image_token": "<i>", "pad_token": null}"#;
    write(folder.path(), "tokenizer_config.json", both);
    let render = |tools: Option<&Value>| {
        ChatTemplate::from_folder(folder.path()).unwrap().unwrap().render(&[], tools, false).unwrap()
    };
    let tools = serde_json::json!([{}]);
    assert_eq!((render(None), render(Some(&tools))), ("plain<e><i>".into(), "tools".into()));
    write(folder.path(), "special_tokens_map.json", r#"{"pad_token": {"content": "<p>"}}"#);
    assert_eq!(render(Some(&tools)), "tools<p>");
    write(folder.path(), "chat_template.jinja", "own{{ eos_token }}");
    assert_eq!((render(None), render(Some(&tools))), ("own<e>".into(), "own<e>".into()));
    fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write(folder.path(), "additional_chat_templates/tool_use.jinja", "with tools");
    assert_eq!((render(None), render(Some(&tools))), ("own<e>".into(), "with tools".into()));
}

#[test]
fn a_conversation_that_the_template_refuses_names_the_data_line_too() {
    let Some((_, template, tokenizer, _)) = golden().into_iter().find(|(style, ..)| *style == "mistral")
    else {
        return;
    };
    let twice = rows(vec![message("user", "a"), message("user", "b")]);
    let text = CausalDataset::from_conversations(&tokenizer, &template, &twice, 99, false);
    let text = text.unwrap_err().to_string();
    assert!(text.starts_with("chats.jsonl:7: ") && text.contains("Roles must alternate"), "{text}");
    assert!(text.contains("tokenizer_config.json: line "), "{text}");
}

#[test]
fn conversations_without_anything_to_learn_are_counted_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "chat_template.jinja",
        "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content | length }}{% endfor %}{% if add_generation_prompt %}<x>{% endif %}",
    );
    let counting = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
    let Some((_, chatml, tokenizer, _)) = golden().into_iter().next() else { return };
    let answered = rows(vec![message("user", "a"), message("assistant", "a b")]);
    let asked = rows(vec![message("user", "a")]);
    let make = |template, rows, length, strict| {
        CausalDataset::from_conversations(&tokenizer, template, rows, length, strict)
    };
    for (template, rows, length, reason) in [
        (&counting, &answered, 99, "{% generation %} blocks"),
        (&chatml, &asked, 99, "no answer to learn from"),
        (&chatml, &answered, 12, "leaves no room for an answer in the 12 tokens"),
    ] {
        let data = make(template, rows, length, false).unwrap();
        assert_eq!((data.len(), data.skipped, data.truncated), (0, 1, 0), "{reason}");
        let text = make(template, rows, length, true).unwrap_err().to_string();
        assert!(text.starts_with("chats.jsonl:7: ") && text.contains(reason), "{text}");
    }
    let whole = make(&chatml, &answered, 99, true).unwrap();
    let cut = make(&chatml, &answered, whole.tokens() - 2, true).unwrap();
    assert_eq!((cut.len(), cut.truncated, cut.targets()), (1, 1, whole.targets() - 1));
}
