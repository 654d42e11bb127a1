use std::fs;
use std::path::PathBuf;

use lowrank::data::{Reader, TaskOptions, tasks};
use lowrank::models::ModelInfo;
use tempfile::TempDir;

/// A tokeniser of whole words, and files.
fn room(files: &[(&str, &str)]) -> (TempDir, Vec<PathBuf>) {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n").unwrap();
    let write = |(name, text): &(&str, &str)| {
        let path = room.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let paths = files.iter().map(write).collect();
    (room, paths)
}

#[test]
fn examples_and_labels_of_several_files_are_those_of_one() {
    let tags = [("1.conll", "a X\nb O\n\na O\n"), ("2.conll", "b Y\n\na a O\n")];
    let texts =
        [("1.csv", "text,text_pair,label\na,b,x\nb,,y\n"), ("2.csv", "text,text_pair,label\na b,a,z\n")];
    for (task, parts, whole, labels) in [
        ("token-classification", tags, "a X\nb O\n\na O\n\nb Y\n\na a O\n", &["O", "X", "Y"][..]),
        ("text-classification", texts, "text,text_pair,label\na,b,x\nb,,y\na b,a,z\n", &[]),
    ] {
        let extension = parts[0].0.rsplit('.').next().unwrap();
        let one = format!("whole.{extension}");
        let (room, paths) = room(&[parts[0], parts[1], (&one, whole)]);
        let info = ModelInfo { vocab_size: 7, ..ModelInfo::without_head() };
        let reader = Reader::new(room.path(), &info, 9);
        let read = |files: &[PathBuf], limit: usize| {
            let options = TaskOptions {
                training_file: Some(&files[0]),
                further_files: &files[1..],
                labels: labels.is_empty().then(|| ["x", "y", "z"].map(str::to_owned).to_vec()),
                ..TaskOptions::default()
            };
            let task = tasks::open(task, &options).unwrap();
            assert!(labels.is_empty() || task.info().labels == labels, "{:?}", task.info().labels);
            let data = task.dataset(files, limit, true, &reader).unwrap();
            (data.len(), data.fingerprint())
        };
        assert_eq!(read(&paths[..2], 0), read(&paths[2..], 0), "{task}");
        assert_eq!(read(&paths[..2], 3).0, 3, "{task}");
    }
}
