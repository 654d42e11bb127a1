use std::fs;
use std::path::PathBuf;

use lowrank::Result;
use lowrank::data::Columns;
use lowrank::data::language::{Completion, Document, Rows};
use lowrank::data::tasks::language::{
    LanguageOptions, completions, conversations, documents, source_targets,
};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn plain() -> LanguageOptions {
    LanguageOptions::default()
}

fn with(columns: Columns) -> LanguageOptions {
    LanguageOptions { columns, ..plain() }
}

fn named(name: &str) -> Option<String> {
    Some(name.to_owned())
}

fn refused<T: std::fmt::Debug>(read: Result<T>) -> String {
    read.unwrap_err().to_string()
}

fn prompts(rows: &Rows<Completion>) -> Vec<(&str, Option<&str>, usize)> {
    rows.rows.iter().map(|row| (row.prompt.as_str(), row.completion.as_deref(), row.line)).collect()
}

#[test]
fn a_text_file_is_one_document_and_a_table_holds_one_in_each_row() {
    let folder = Folder::new();
    let texts = |name: &str, content: &str, options: &LanguageOptions| {
        let rows = documents(&folder.write(name, content), options, 2).unwrap().rows;
        rows.into_iter().map(|Document { text, line }| (text, line)).collect::<Vec<_>>()
    };
    let one = |text: &str, line: usize| (text.to_owned(), line);
    assert_eq!(texts("a.txt", "\u{feff}a\n\nb\r\n", &plain()), [one("a\n\nb\r\n", 1)]);
    let lines = "{\"text\": \"a\\nb\"}\n\n{\"text\": \"\", \"n\": 1}\n{\"text\": 3}\n";
    assert_eq!(texts("a.jsonl", lines, &plain()), [one("a\nb", 1), one("", 3)]);
    assert_eq!(texts("a.csv", "n,text\n1,\"a\nb\"\n2,c\n", &plain()), [one("a\nb", 2), one("c", 4)]);
    let chosen = with(Columns { text: named("n"), ..Default::default() });
    assert_eq!(texts("a.tsv", "n\ttext\nx\ty\n", &chosen), [one("x", 2)]);
    assert_eq!(texts("a.json", "\n[ {\"text\":\n \"a]},\\\"\"}\n,\n{\"text\": \"b\"}]", &plain()).len(), 2);
}

#[test]
fn lists_in_json_files_have_lines() {
    let folder = Folder::new();
    let read = |content: &str| documents(&folder.write("a.json", content), &plain(), 0);
    let rows = read(" [\n{\"text\": \"a\"},\n\n {\"text\":\n\"[{,\\\\\"}\n ]\n").unwrap().rows;
    assert_eq!((rows[0].line, rows[1].line, rows[1].text.as_str()), (2, 4, "[{,\\"));
    for (content, reason) in [
        ("[{\"text\": \"a\"}", "a.json:1: the list is opened and never closed"),
        ("[\n{\"text\": \"a\"\n", "a.json:2: an object begins here and never ends"),
        (
            "[\n{\"text\": \"a\"}\n{\"text\": \"b\"}]",
            "a.json:3: not JSON, of which the list holds objects: trailing",
        ),
        ("[{\"text\": \"a\"},\n\n3]", "a.json:3: the list must hold JSON objects, not a number"),
        ("[{\"text\": \"a\"},]", "a.json:1: not JSON"),
        ("[{\"text\": \"a\"},\n", "a.json:2: the list is opened and never closed"),
        ("[,]", "a.json:1: not JSON"),
        ("[{\"text\": \"a\"}]\n]", "a.json:2: more comes after the end of the list"),
        ("[{\"text\":\n \"\u{0}\"}]", "a.json:2: not JSON"),
        ("[]", "it holds no rows"),
        (
            "[{\"texts\": \"a\"}]",
            "a.json:1: no column text or content for the text; there is \"texts\"; did you mean",
        ),
    ] {
        let text = refused(read(content));
        assert!(text.contains(reason), "{content:?}: {text}");
    }
    let bytes = folder.write("b.json", b"[{\"text\": \"\xff\"}]");
    assert!(refused(documents(&bytes, &plain(), 0)).contains("b.json:1: not JSON"));
    // Lines in a `.json` file still are rows, and a list is none in `.jsonl`.
    assert_eq!(read("{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap().rows.len(), 2);
    let lines = folder.write("a.jsonl", "[{\"text\": \"a\"}]");
    assert!(refused(documents(&lines, &plain(), 0)).contains("a line must be a JSON object, not a list"));
}

#[test]
fn prompts_and_completions_come_from_columns_or_bars() {
    let folder = Folder::new();
    let path = folder.write("a.jsonl", "{\"prompt\": \"2+2=\", \"completion\": \"4\", \"x\": null}\n");
    let rows = completions(&path, &plain(), 0).unwrap();
    assert_eq!(prompts(&rows), [("2+2=", Some("4"), 1)]);
    let spaced = LanguageOptions { separator: named(" "), ..plain() };
    assert_eq!(prompts(&completions(&path, &spaced, 0).unwrap()), [("2+2= ", Some("4"), 1)]);

    let path = folder.write("a.csv", "instruction,input,output\nAdd,\"1, 2\",3\nSay,,hi\n");
    let rows = completions(&path, &plain(), 0).unwrap();
    assert_eq!(prompts(&rows), [("Add\n1, 2\n", Some("3"), 2), ("Say\n", Some("hi"), 3)]);
    let bare = with(Columns { input: named(""), ..Default::default() });
    assert_eq!(prompts(&completions(&path, &bare, 1).unwrap()), [("Add\n", Some("3"), 2)]);
    let glued = LanguageOptions { separator: named(""), ..bare };
    assert_eq!(prompts(&completions(&path, &glued, 1).unwrap()), [("Add", Some("3"), 2)]);
    let path =
        folder.write("c.jsonl", "{\"ask\": \"a\", \"say\": \"b\"}\n{\"ask\": \"a: \", \"say\": \"b\"}\n");
    let columns = Columns { prompt: named("ask"), completion: named("say"), ..Default::default() };
    let rows = completions(&path, &with(columns), 0).unwrap();
    assert_eq!(prompts(&rows), [("a\n", Some("b"), 1), ("a: ", Some("b"), 2)]);

    let path = folder.write("a.txt", "name : A || x\r\n\nb||c||d\n");
    let rows = completions(&path, &plain(), 0).unwrap();
    assert_eq!(prompts(&rows), [("name : A\n", Some("x"), 1), ("b\n", Some("c||d"), 3)]);
    let path = folder.write("b.txt", "a||b\nno bars\n");
    assert!(refused(completions(&path, &plain(), 0)).contains("b.txt:2: a line must be PROMPT||COMPLETION"));
    let open = LanguageOptions { unlabelled: true, ..plain() };
    assert_eq!(prompts(&completions(&path, &open, 0).unwrap())[1], ("no bars\n", None, 2));
    let path = folder.write("b.jsonl", "{\"prompt\": \"a\"}");
    assert_eq!(prompts(&completions(&path, &open, 0).unwrap()), [("a", None, 1)]);
}

#[test]
fn a_column_that_is_missing_or_of_another_kind_is_named_with_its_line() {
    let folder = Folder::new();
    let read = |name: &str, content: &str| refused(completions(&folder.write(name, content), &plain(), 0));
    for (name, content, reason) in [
        (
            "a.jsonl",
            "{\"prompt\": \"a\", \"completions\": \"b\"}",
            "a.jsonl:1: no column completion or output",
        ),
        (
            "a.jsonl",
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 3}",
            "a.jsonl:2: \"prompt\" must be a text",
        ),
        ("a.jsonl", "{\"prompt\": \"a\", \"completion\": null}", "a.jsonl:1: no column completion"),
        ("a.csv", "prompt,b\n1,2\n", "a.csv:1: no column completion"),
        ("a.csv", "prompt,completion\n1,2\n1\n", "a.csv:3: 1 column where 2 belong"),
        ("a.csv", "prompt,completion\n1,\"2\n", "a.csv:2: a quote is opened and never closed"),
        ("a.csv", "prompt,completion\n", "it holds no rows"),
        ("a.csv", "", "it is empty"),
        ("a.txt", "", "it is empty"),
        ("a.bin", "x", "its name does not tell what it holds"),
    ] {
        let text = read(name, content);
        assert!(text.contains(reason), "{content:?}: {text}");
    }
    let chosen = with(Columns { prompt: named("questoin"), ..Default::default() });
    let path = folder.write("q.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}");
    let text = refused(completions(&path, &chosen, 0));
    assert!(
        text.contains("no column questoin for the prompt") && text.contains("did you mean \"question\"?"),
        "{text}"
    );
    assert_eq!(prompts(&completions(&path, &plain(), 0).unwrap()), [("a\n", Some("b"), 1)]);
}

#[test]
fn messages_come_as_lists_or_are_made_of_instructions() {
    let folder = Folder::new();
    let say = |rows: &Rows<lowrank::data::language::Conversation>, index: usize| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
        rows.rows[index].messages.iter().map(|m| (text(&m["role"]), text(&m["content"]))).collect()
    };
    let pair = |role: &str, content: &str| (role.to_owned(), content.to_owned());
    let path = folder.write(
        "a.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": null, \
         \"tool_calls\": [1]}], \"tools\": [{\"name\": \"t\"}]}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"b\"}]}], \"tools\": []}\n",
    );
    let rows = conversations(&path, &plain(), 0).unwrap();
    assert_eq!(say(&rows, 0)[0], pair("user", "a"));
    assert!(rows.rows[0].tools.is_some() && rows.rows[1].tools.is_none());

    let path = folder.write(
        "a.json",
        "[{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\", \"system\": \"Be brief\"},\n\
         {\"instruction\": \"Hi\", \"input\": \"\", \"output\": \"Hello\", \"system\": \"\"}]",
    );
    let rows = conversations(&path, &plain(), 0).unwrap();
    assert_eq!(say(&rows, 0), [pair("system", "Be brief"), pair("user", "Add\n1 2"), pair("assistant", "3")]);
    assert_eq!(say(&rows, 1), [pair("user", "Hi"), pair("assistant", "Hello")]);
    assert_eq!(rows.rows[1].line, 2);

    let path =
        folder.write("a.csv", "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"x\"\"}]\"\n");
    assert_eq!(say(&conversations(&path, &plain(), 0).unwrap(), 0), [pair("user", "x")]);
}

#[test]
fn messages_that_are_none_are_named_with_their_line_and_place() {
    let folder = Folder::new();
    for (messages, reason) in [
        ("3", "\"messages\" must be a list of messages"),
        ("[]", "\"messages\" is an empty list"),
        ("[{\"role\": \"user\", \"content\": \"a\"}, 3]", "messages[1] must be an object"),
        ("[{\"content\": \"a\"}]", "messages[0] has no role"),
        ("[{\"role\": 1, \"content\": \"a\"}]", "messages[0] has a role that is not a text"),
        ("[{\"role\": \"user\"}]", "messages[0] has no content"),
        ("[{\"role\": \"user\", \"content\": 1}]", "messages[0] has a content that is neither"),
        ("null", "no column messages"),
    ] {
        let path = folder.write("a.jsonl", format!("\n{{\"messages\": {messages}}}\n"));
        let text = refused(conversations(&path, &plain(), 0));
        assert!(text.contains("a.jsonl:2: ") && text.contains(reason), "{messages}: {text}");
    }
    let path = folder.write("a.csv", "messages\nhello\n");
    assert!(refused(conversations(&path, &plain(), 0)).contains("a.csv:2: the messages must be JSON"));
}

#[test]
fn sources_and_targets_have_usual_names_a_prefix_and_languages() {
    let folder = Folder::new();
    let read = |content: &str, options: &LanguageOptions| {
        source_targets(&folder.write("a.jsonl", content), options, 0)
    };
    let texts = |content: &str, options: &LanguageOptions| {
        let row = read(content, options).unwrap().rows.remove(0);
        (row.source, row.target.unwrap_or_else(|| "none".to_owned()))
    };
    let pair = |source: &str, target: &str| (source.to_owned(), target.to_owned());
    for (source, target) in [
        ("source", "target"),
        ("document", "summary"),
        ("text", "summary"),
        ("article", "highlights"),
        ("input", "output"),
    ] {
        let content = format!("{{\"{source}\": \"a\", \"{target}\": \"b\"}}");
        assert_eq!(texts(&content, &plain()), pair("a", "b"));
    }
    let prefixed = LanguageOptions { source_prefix: "summarize: ".to_owned(), unlabelled: true, ..plain() };
    assert_eq!(texts("{\"text\": \"a\"}", &prefixed), pair("summarize: a", "none"));

    let content = "{\"translation\": {\"en\": \"yes\", \"de\": \"ja\"}}";
    let columns = Columns { source: named("en"), target: named("de"), ..Default::default() };
    assert_eq!(texts(content, &with(columns.clone())), pair("yes", "ja"));
    assert_eq!(texts("{\"en\": \"yes\", \"de\": \"ja\"}", &with(columns.clone())), pair("yes", "ja"));
    let text = refused(read(content, &plain()));
    assert!(text.contains("a.jsonl:1: data.columns must say which language is the source: en, de"), "{text}");
    let wrong = Columns { target: named("fr"), ..columns };
    let text = refused(read(content, &with(wrong.clone())));
    assert!(text.contains("no \"fr\" for the target; there is en, de"), "{text}");
    let open = LanguageOptions { unlabelled: true, ..with(wrong) };
    assert_eq!(texts(content, &open), pair("yes", "none"));
    assert!(refused(read("{\"translation\": 3}", &open)).contains("must be an object"));
    assert!(refused(read("{\"translation\": {\"en\": 3}}", &open)).contains("not a text"));
}

#[test]
fn the_public_files_read_as_published() {
    let Some(text) = crate::shared("data/text") else { return };
    let rows = completions(&text.join("e2e/valid.txt"), &plain(), 3).unwrap();
    assert!(
        rows.rows
            .iter()
            .all(|row| row.prompt.starts_with("name : Alimentum") && row.prompt.ends_with("no\n"))
    );
    assert!(rows.rows[0].completion.as_deref().unwrap().ends_with('.'));
    let gsm = completions(&text.join("gsm8k/test.jsonl"), &plain(), 0).unwrap();
    assert_eq!((gsm.rows.len(), gsm.rows[1].completion.as_deref().unwrap().lines().count()), (1319, 3));
    let alpaca = conversations(&text.join("alpaca_en_demo.json"), &plain(), 0).unwrap();
    assert_eq!((alpaca.rows.len(), alpaca.rows[0].line, alpaca.rows[1].line), (999, 2, 7));
    assert_eq!(alpaca.rows[0].messages.len(), 2);
    assert_eq!(documents(&text.join("tinyshakespeare.txt"), &plain(), 0).unwrap().rows.len(), 1);
}

#[test]
fn lines_of_a_text_file_are_prompts_with_completions_or_sources_with_targets() {
    let folder = Folder::new();
    let path = folder.write("e2e.txt", "name : Alimentum || It is there. \nname : Cotto||\n");
    let pairs = source_targets(&path, &plain(), 0).unwrap().rows;
    assert_eq!(
        (pairs[0].source.as_str(), pairs[0].target.as_deref()),
        ("name : Alimentum", Some("It is there."))
    );
    assert_eq!((pairs[1].target.as_deref(), pairs[1].line), (Some(""), 2));
    let text = refused(source_targets(&folder.write("a.txt", "a||b\nc\n"), &plain(), 0));
    assert!(text.contains("a.txt:2: ") && text.contains("has no ||"), "{text}");
    let unlabelled = LanguageOptions { unlabelled: true, ..plain() };
    assert_eq!(source_targets(&path, &unlabelled, 1).unwrap().rows.len(), 1);
}
