use std::fs;
use std::path::PathBuf;

use lowrank::Result;
use lowrank::data::{
    Columns, DataFiles, Dataset, Example, Examples, Label, Labels, Metrics, Task, TaskOptions,
    TokenizedDataset, Tokenizer, tasks, tasks::TabularTask,
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

fn glue(name: &str) -> TabularTask {
    tasks::open_tabular(name, &TaskOptions::default()).unwrap()
}

/// The examples that a task reads from a file of this content.
fn read(task: &str, content: impl AsRef<[u8]>) -> Result<Examples> {
    let folder = Folder::new();
    glue(task).read(&folder.write("data.tsv", content), 0)
}

/// The text, its pair and the label.
type Texts<'a> = (&'a str, Option<&'a str>, Option<Label>);

fn row(examples: &Examples, index: usize) -> Texts<'_> {
    let Example { text, text_pair, label, .. } = &examples.rows[index];
    (text, text_pair.as_deref(), *label)
}

#[test]
fn each_task_of_glue_reads_its_published_columns() {
    let class = |class| Some(Label::Class(class));
    let cases: [(&str, &str, Texts<'_>); 11] = [
        ("sst2", "sentence\tlabel\nit \"works \t1\n", ("it \"works ", None, class(1))),
        ("cola", "gj04\t0\t*\tThem is.\n", ("Them is.", None, class(0))),
        ("cola", "index\tsentence\tlabel\n0\tHe is.\tacceptable\n", ("He is.", None, class(1))),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tnot_entailment\n", ("A", Some("B"), class(1))),
        (
            "mrpc",
            "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tA a\tB b\r\n",
            ("A a", Some("B b"), class(1)),
        ),
        (
            "stsb",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n\
             0\tm\tf\t2\t1\tn\tn\tA\tB\t3.800\n",
            ("A", Some("B"), Some(Label::Score(3.8))),
        ),
        ("qnli", "index\tquestion\tsentence\tlabel\n0\tQ?\tS.\tentailment\n", ("Q?", Some("S."), class(0))),
        (
            "qqp",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA?\tB?\t0\n",
            ("A?", Some("B?"), class(0)),
        ),
        (
            "mnli",
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t\
             sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n\
             0\t1\t2\tg\tp\tp\tp\tp\tA\tB\tneutral\tcontradiction\n",
            ("A", Some("B"), class(2)),
        ),
        (
            "mnli",
            "index\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n\
             0\tA\tB\tx\tx\tx\tx\tx\tneutral\n",
            ("A", Some("B"), class(1)),
        ),
        ("sst2", "label\tsentence\n 0 \t\n", ("", None, class(0))),
    ];
    for (task, content, expected) in cases {
        let examples = read(task, content).unwrap();
        assert_eq!(examples.rows.len(), 1, "{task}");
        assert_eq!(row(&examples, 0), expected, "{task}");
    }
}

#[test]
fn metrics_and_labels_are_glues() {
    let facts = |name: &str| {
        let info = glue(name).info().clone();
        (info.main_metric, info.metrics.len(), info.num_labels, info.regression)
    };
    assert_eq!(facts("sst2"), ("accuracy", 1, 2, false));
    assert_eq!(facts("cola"), ("matthews_correlation", 1, 2, false));
    assert_eq!(facts("mrpc"), ("f1", 2, 2, false));
    assert_eq!(facts("qqp"), ("f1", 2, 2, false));
    assert_eq!(facts("stsb"), ("pearson", 2, 1, true));
    assert_eq!(facts("mnli"), ("accuracy", 1, 3, false));
    assert_eq!(glue("rte").info().labels, ["entailment", "not_entailment"]);
    assert_eq!(glue("mnli").info().labels, ["entailment", "neutral", "contradiction"]);
}

#[test]
fn a_model_that_orders_the_labels_otherwise_keeps_its_order() {
    let labels = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"].map(str::to_owned).to_vec();
    let task =
        tasks::open_tabular("mnli", &TaskOptions { labels: Some(labels), ..Default::default() }).unwrap();
    assert_eq!(task.info().labels, ["contradiction", "neutral", "entailment"]);
    let folder = Folder::new();
    let path =
        folder.write("dev.tsv", "sentence1\tsentence2\tgold_label\na\tb\tentailment\na\tb\t2\na\tb\t1\n");
    let labels: Vec<_> = task.read(&path, 0).unwrap().rows.iter().map(|example| example.label).collect();
    assert_eq!(labels, [Some(Label::Class(2)), Some(Label::Class(0)), Some(Label::Class(1))]);
    let plain = ["LABEL_0", "LABEL_1", "LABEL_2"].map(str::to_owned).to_vec();
    let task =
        tasks::open_tabular("mnli", &TaskOptions { labels: Some(plain), ..Default::default() }).unwrap();
    assert_eq!(task.info().labels, ["entailment", "neutral", "contradiction"]);
}

#[test]
fn f1_is_of_the_published_positive_class_in_any_order() {
    let labels = ["equivalent", "not_equivalent"].map(str::to_owned).to_vec();
    let task =
        tasks::open_tabular("mrpc", &TaskOptions { labels: Some(labels), ..Default::default() }).unwrap();
    assert_eq!((task.info().positive, glue("mrpc").info().positive, glue("qqp").info().positive), (0, 1, 1));
    // Right twice about the positive class, wrong once about the other.
    let mut metrics = Metrics::new(task.info());
    metrics.add(&[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], &Labels::Classes(vec![0, 0, 1])).unwrap();
    assert_eq!(metrics.compute()[0], ("f1", 0.8));
}

#[test]
fn torn_rows_of_qqp_are_left_out_and_counted() {
    let header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
    let content = format!("{header}1\t2\t3\tA?\tB?\t0\n2\t3\t4\tWhat is\nthis?\tC?\t1\n3\t4\t5\tD?\tE?\t1\n");
    let examples = read("qqp", &content).unwrap();
    assert_eq!((examples.rows.len(), examples.skipped), (2, 2));
    assert_eq!(row(&examples, 1), ("D?", Some("E?"), Some(Label::Class(1))));
    let folder = Folder::new();
    let path = folder.write("train.tsv", &content);
    let strict = tasks::open_tabular("qqp", &TaskOptions { strict: true, ..Default::default() }).unwrap();
    let text = strict.read(&path, 0).unwrap_err().to_string();
    assert!(text.contains("train.tsv:3: 4 columns where 6 belong"), "{text}");
}

#[test]
fn a_limit_takes_the_first_rows() {
    let folder = Folder::new();
    let path = folder.write("train.tsv", "sentence\tlabel\na\t0\nb\t1\nc\tnonsense\n");
    let examples = glue("sst2").read(&path, 2).unwrap();
    assert_eq!(examples.rows.iter().map(|example| example.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(glue("sst2").read(&path, 3).is_err());
}

#[test]
fn test_files_without_labels_are_read_for_prediction() {
    let folder = Folder::new();
    let path = folder.write("test.tsv", "index\tsentence\n0\tgood\n1\tbad\n");
    let examples = glue("sst2").read_unlabelled(&path, 0).unwrap();
    assert_eq!(row(&examples, 1), ("bad", None, None));
    let text = glue("sst2").read(&path, 0).unwrap_err().to_string();
    assert!(text.contains("test.tsv:1") && text.contains("no column label"), "{text}");
    let path = folder.write("cola.tsv", "index\tsentence\n0\tgood\n");
    assert_eq!(row(&glue("cola").read_unlabelled(&path, 0).unwrap(), 0).0, "good");
    let path = folder.write("dev.tsv", "gj04\t1\t\tgood\n");
    assert_eq!(row(&glue("cola").read_unlabelled(&path, 0).unwrap(), 0).0, "good");
}

#[test]
fn bad_tables_are_refused_with_their_line() {
    let cases: [(&str, &[u8], &str); 15] = [
        ("sst2", b"", "it is empty"),
        ("sst2", b"\n\n", "it holds no rows"),
        ("sst2", b"sentence\tlabel\n", "it holds no rows"),
        ("sst2", b"\xef\xbb\xbf", "no rows"),
        ("sst2", b"sentence\na\nb\n", ":1: no column label for the label; there is \"sentence\""),
        ("sst2", b"sentence\tlable\na\t1\n", "did you mean \"lable\"?"),
        ("sst2", b"just a text\nand another\n", ":1: no column sentence"),
        ("sst2", b"sentence\tlabel\na\t1\nb\t\xff\xfe\n", ":3: not UTF-8 from byte 3"),
        ("sst2", b"sentence\tlabel\na\t1\nb\n", ":3: 1 column where 2 belong"),
        ("sst2", b"sentence\tlabel\na\t1\tx\n", ":2: 3 columns where 2 belong"),
        (
            "sst2",
            b"sentence\tlabel\na\t1\n\nb\t2\n",
            ":4: unknown label \"2\"; the labels are negative, positive",
        ),
        ("sst2", b"sentence\tlabel\na\t-1\n", "unknown label \"-1\""),
        ("cola", b"only one column\n", ":1: 1 column where 4 belong"),
        (
            "stsb",
            b"sentence1\tsentence2\tscore\na\tb\thigh\n",
            ":2: the label \"high\" is not a finite number",
        ),
        ("stsb", b"sentence1\tsentence2\tscore\na\tb\tNaN\n", ":2: the label \"NaN\" is not a finite number"),
    ];
    for (task, content, expected) in cases {
        let text = read(task, content).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("data.tsv"), "{text} lacks {expected}");
    }
    let text = glue("sst2").read(&PathBuf::from("/nowhere/train.tsv"), 0).unwrap_err().to_string();
    assert!(text.contains("/nowhere/train.tsv"), "{text}");
}

#[test]
fn an_unknown_task_names_the_nearest() {
    let Err(error) = tasks::open_tabular("sst-2", &TaskOptions::default()) else {
        panic!("there is no such task")
    };
    assert!(error.to_string().contains("did you mean sst2"), "{error}");
}

fn classification(path: &std::path::Path, columns: Columns) -> Result<TabularTask> {
    tasks::open_tabular(
        "text-classification",
        &TaskOptions { columns, training_file: Some(path), ..Default::default() },
    )
}

fn columns(text: &str, pair: Option<&str>, label: &str) -> Columns {
    Columns {
        text: Some(text.into()),
        text_pair: pair.map(Into::into),
        label: Some(label.into()),
        ..Columns::default()
    }
}

#[test]
fn the_same_rows_are_read_from_jsonl_csv_and_tsv() {
    let folder = Folder::new();
    let json = "{\"review\":\"a, \\\"b\\\"\\nc\",\"stars\":\"good\",\"more\":[1]}\n\n{\"stars\":\"bad\",\"review\":\"d\"}\n";
    let paths = [
        folder.write("train.jsonl", json),
        folder.write("train.csv", "\u{feff}stars,review\r\ngood,\"a, \"\"b\"\"\nc\"\r\n\r\nbad,d\r\n"),
        folder.write("train.tsv", "id\treview\tstars\n0\ta, \"b\" c\tgood\n1\td\tbad\n"),
    ];
    for path in paths {
        let task = classification(&path, columns("review", None, "stars")).unwrap();
        assert_eq!(task.info().labels, ["bad", "good"]);
        assert_eq!((task.info().main_metric, task.info().num_labels), ("accuracy", 2));
        let examples = task.read(&path, 0).unwrap();
        let text = row(&examples, 0).0.replace('\n', " ");
        assert_eq!((text.as_str(), examples.rows[0].label), ("a, \"b\" c", Some(Label::Class(1))));
        assert_eq!(row(&examples, 1), ("d", None, Some(Label::Class(0))));
        // Labels may also be given by their place.
        let by_place = folder.write("dev.csv", "review,stars\nx,1\n");
        assert_eq!(task.read(&by_place, 0).unwrap().rows[0].label, Some(Label::Class(1)));
    }
}

#[test]
fn whole_numbers_are_classes_in_their_order_and_fractions_are_scores() {
    let folder = Folder::new();
    let path = folder.write("a.csv", "text,label\na,10\nb,9\nc,1.0\nd,-2\n");
    let task = classification(&path, Columns::default()).unwrap();
    assert_eq!(task.info().labels, ["-2", "1", "9", "10"]);
    assert_eq!(task.read(&path, 0).unwrap().rows[2].label, Some(Label::Class(1)));
    // The name 1 is meant, not the place 1; there is no name 0.
    let later = folder.write("later.jsonl", "{\"text\":\"a\",\"label\":9}\n{\"text\":\"a\",\"label\":0}\n");
    let text = task.read(&later, 0).unwrap_err().to_string();
    assert!(text.contains("later.jsonl:2: unknown label \"0\"; the labels are -2, 1, 9, 10"), "{text}");

    let path = folder.write("b.jsonl", "{\"text\":\"a\",\"label\":2}\n{\"text\":\"b\",\"label\":0.25}\n");
    let task = classification(&path, Columns::default()).unwrap();
    assert!(task.info().regression && task.info().labels.is_empty());
    assert_eq!(task.info().num_labels, 1);
    assert_eq!(task.read(&path, 0).unwrap().rows[1].label, Some(Label::Score(0.25)));
}

#[test]
fn pairs_are_found_by_name() {
    let folder = Folder::new();
    let path = folder.write("a.csv", "sentence1,sentence2,label\na,b,x\nc,d,y\n");
    let task = classification(&path, Columns::default()).unwrap();
    assert_eq!(row(&task.read(&path, 0).unwrap(), 1), ("c", Some("d"), Some(Label::Class(1))));
    let single = classification(&path, columns("sentence1", Some(""), "label")).unwrap();
    assert_eq!(row(&single.read(&path, 0).unwrap(), 1).1, None);
    let swapped = classification(&path, columns("sentence2", Some("sentence1"), "label")).unwrap();
    assert_eq!(row(&swapped.read(&path, 0).unwrap(), 1), ("d", Some("c"), Some(Label::Class(1))));
}

#[test]
fn a_given_label_set_is_kept() {
    let folder = Folder::new();
    let path = folder.write("a.csv", "text,label\na,yes\n");
    let labels = Some(vec!["yes".to_owned(), "no".to_owned(), "maybe".to_owned()]);
    let options = TaskOptions { labels, training_file: Some(&path), ..Default::default() };
    let task = tasks::open_tabular("text-classification", &options).unwrap();
    assert_eq!(task.info().num_labels, 3);
    assert_eq!(task.read(&path, 0).unwrap().rows[0].label, Some(Label::Class(0)));
    assert!(tasks::open_tabular("text-classification", &TaskOptions::default()).is_err());
}

#[test]
fn bad_rows_of_ones_own_table_are_refused_with_their_line() {
    let good = "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}\n";
    let after = |line: &str| format!("{good}{line}\n").into_bytes();
    let cases: [(&str, Vec<u8>, &str); 19] = [
        ("a.jsonl", after("{\"text\":3,\"label\":\"x\"}"), ":3: \"text\" must be a text, not a number"),
        ("a.jsonl", after("{\"text\":[\"a\"],\"label\":\"x\"}"), ":3: \"text\" must be a text, not a list"),
        (
            "a.jsonl",
            after("{\"text\":\"a\",\"label\":{}}"),
            ":3: \"label\" must be a text or a number, not an object",
        ),
        ("a.jsonl", after("{\"text\":\"a\",\"label\":null}"), ":3: no column label"),
        ("a.jsonl", after("{\"txt\":\"a\",\"label\":\"x\"}"), "did you mean \"txt\"?"),
        ("a.jsonl", after("[1]"), ":3: a line must be a JSON object, not a list"),
        ("a.jsonl", after("{\"text\":\"a\""), ":3: not JSON"),
        ("a.jsonl", after(&"[".repeat(100_000)), ":3: not JSON"),
        ("a.jsonl", b"{\"text\":\"\xff\"}".to_vec(), ":1: not UTF-8"),
        ("a.jsonl", Vec::new(), "it is empty"),
        ("a.csv", b"text,label\na,x\n\n\nb\n".to_vec(), ":5: 1 column where 2 belong"),
        ("a.csv", b"text,label\r\na,x\r\nb,y,z\r\n".to_vec(), ":3: 3 columns where 2 belong"),
        ("a.csv", b"text,label\n\"a\nb\",x\n\xff,y\n".to_vec(), ":4: a column is not UTF-8"),
        ("a.csv", b"text,label\na,x\n\"b,y\nc,z\n".to_vec(), ":3: a quote is opened and never closed"),
        ("a.csv", b"text,label\na,x\nb,\"y".to_vec(), ":3: a quote is opened and never closed"),
        ("a.csv", b"text,label\na,\n".to_vec(), ":2: its label is empty"),
        ("a.csv", b"text,label\na,x\nb,x\n".to_vec(), "every label is \"x\""),
        ("a.csv", b"text,label\n".to_vec(), "no rows"),
        ("a.xlsx", b"text,label\n".to_vec(), ".jsonl, .csv, .tsv or .parquet is needed"),
    ];
    for (name, content, expected) in cases {
        let folder = Folder::new();
        let path = folder.write(name, content);
        let Err(error) = classification(&path, Columns::default()) else {
            panic!("{expected}: it was accepted")
        };
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(name), "{text} lacks {expected}");
        assert!(text.len() < 500 && !text.contains('\n'), "{text}");
    }
}

#[test]
fn the_files_of_a_folder_are_found() {
    let folder = Folder::new();
    let train = folder.write("train.tsv", "x");
    let dev = folder.write("dev.tsv", "x");
    let files = DataFiles::locate(folder.0.path(), None).unwrap();
    assert_eq!(
        files,
        DataFiles { train: vec![train.clone()], validation: Some(vec![dev.clone()]), test: None }
    );
    let test = folder.write("test.tsv", "x");
    assert_eq!(DataFiles::locate(folder.0.path(), None).unwrap().test, Some(vec![test]));
    assert_eq!(DataFiles::locate(&train, Some(folder.0.path())).unwrap().validation, Some(vec![dev]));
    assert_eq!(DataFiles::locate(&train, None).unwrap().validation, None);
    let empty = Folder::new();
    let text = DataFiles::locate(empty.0.path(), None).unwrap_err().to_string();
    assert!(text.contains("no train"), "{text}");
    let text = DataFiles::locate(&train.with_file_name("trian.tsv"), None).unwrap_err().to_string();
    assert!(text.contains("trian.tsv"), "{text}");
}

#[test]
fn the_published_files_are_read_whole() {
    let sizes = [("sst2", "SST-2", 67_349, 872), ("cola", "CoLA", 8_551, 1_043), ("rte", "RTE", 2_490, 277)];
    for (task, name, train, dev) in sizes.into_iter().chain([("stsb", "STS-B", 5_749, 1_500)]) {
        let Some(folder) = crate::shared(&format!("data/glue/{name}")) else { return };
        let files = DataFiles::locate(&folder, None).unwrap();
        assert_eq!(glue(task).read(&files.train[0], 0).unwrap().rows.len(), train, "{name}");
        assert_eq!(glue(task).read(&files.validation.unwrap()[0], 0).unwrap().rows.len(), dev, "{name}");
    }
}

#[test]
fn tokenising_in_parallel_keeps_the_order_and_counts_what_is_cut() {
    let folder = Folder::new();
    folder.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n");
    let tokenizer = Tokenizer::from_folder(folder.0.path()).unwrap();
    let mut content = "sentence1\tsentence2\tlabel\n".to_owned();
    for index in 0..10_000 {
        content += &format!("{}\tb\tentailment\n", "a ".repeat(index % 7));
    }
    let examples = glue("rte").read(&folder.write("train.tsv", content), 0).unwrap();
    let data = TokenizedDataset::new(&tokenizer, &examples, 8).unwrap();
    assert_eq!((data.len(), data.longest(), data.largest_id()), (10_000, 8, Some(6)));
    assert_eq!(data.truncated, (0..10_000).filter(|index| index % 7 > 4).count());
    for (index, example) in data.iter().enumerate() {
        assert_eq!(example.ids.len(), (index % 7 + 4).min(8));
        assert_eq!(example.type_ids.iter().sum::<u8>(), 2, "the second text and its separator");
        assert_eq!(example.line, index + 2);
    }
    assert_eq!(data.get(3).unwrap().ids, [2, 5, 5, 5, 3, 6, 3]);
    assert!(data.get(10_000).is_none());
}
