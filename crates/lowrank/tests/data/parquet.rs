use std::fs;
use std::path::{Path, PathBuf};

use lowrank::data::image::{ImageColumns, ImageExamples, read_picture};
use lowrank::data::{Columns, Examples, Label, TaskOptions, tasks};
use serde_json::Value;

use crate::fixtures;

fn rows(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("rows.json")).unwrap()).unwrap()
}

fn read(task: &str, path: &Path) -> lowrank::Result<Examples> {
    let options = TaskOptions { training_file: Some(path), ..TaskOptions::default() };
    tasks::open_tabular(task, &options)?.read(path, 0)
}

#[test]
fn rows_of_parquet_are_those_that_were_written() {
    let Some(folder) = fixtures("parquet") else { return };
    let expected = rows(&folder);
    for file in ["snappy.parquet", "plain.parquet", "pages.parquet"] {
        let examples = read("sst2", &folder.join(file)).unwrap();
        assert_eq!(examples.rows.len(), 18, "{file}");
        for (index, row) in examples.rows.iter().enumerate() {
            assert_eq!(row.text, expected["sentences"][index], "{file}");
            let label = expected["labels"][index].as_u64().unwrap() as u32;
            assert_eq!((row.label, row.line), (Some(Label::Class(label)), index + 1), "{file}");
        }
    }
    let examples = read("stsb", &folder.join("scores.parquet")).unwrap();
    for (index, row) in examples.rows.iter().enumerate() {
        let score = expected["scores"][index].as_f64().unwrap() as f32;
        assert_eq!(row.label, Some(Label::Score(score)));
        assert_eq!(row.text_pair.as_deref(), expected["sentences"][17 - index].as_str());
    }
    let task = tasks::open_tabular("sst2", &TaskOptions::default()).unwrap();
    assert_eq!(
        task.read(&folder.join("pages.parquet"), 9).unwrap().rows.len(),
        9,
        "a limit within a row group"
    );
    assert!(task.read_unlabelled(&folder.join("pages.parquet"), 0).unwrap().rows[0].label.is_none());
}

#[test]
fn a_folder_of_parquet_files_is_a_data_set() {
    let Some(folder) = fixtures("parquet") else { return };
    let room = tempfile::tempdir().unwrap();
    for name in ["train", "validation"] {
        fs::copy(folder.join("snappy.parquet"), room.path().join(format!("{name}.parquet"))).unwrap();
    }
    let files = lowrank::data::DataFiles::locate(room.path(), None).unwrap();
    assert_eq!(files.validation, Some(vec![room.path().join("validation.parquet")]));
}

#[test]
fn what_a_table_lacks_is_said() {
    let Some(folder) = fixtures("parquet") else { return };
    let wrong = |task: &str, file: &str| {
        let error = read(task, &folder.join(file)).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        error
    };
    let error = wrong("rte", "snappy.parquet");
    assert!(error.contains("sentence1") && error.contains("did you mean \"sentence\""), "{error}");
    assert!(wrong("text-classification", "nulls.parquet").contains("nulls.parquet:2:"));
    let error = wrong("sst2", "brotli.parquet");
    assert!(error.to_lowercase().contains("brotli"), "{error}");
    let path = folder.join("snappy.parquet");
    let columns = Columns { text: Some("idx".to_owned()), ..Columns::default() };
    let options = TaskOptions { columns, ..TaskOptions::default() };
    let error = tasks::open_tabular("sst2", &options).unwrap().read(&path, 0).unwrap_err().to_string();
    assert!(error.contains("\"idx\" must be a text, not a number"), "{error}");
}

#[test]
fn torn_files_are_errors() {
    let Some(folder) = fixtures("parquet") else { return };
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("torn.parquet");
    let random = &mut lowrank_kernels::random::Philox::new(4, 0);
    for file in ["snappy.parquet", "plain.parquet", "pages.parquet", "images.parquet"] {
        let bytes = fs::read(folder.join(file)).unwrap();
        for part in [0, 3, 4, 11, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
            fs::write(&path, &bytes[..part]).unwrap();
            let error = read("sst2", &path).map(|examples| examples.rows.len()).unwrap_err().to_string();
            assert!(error.contains("torn.parquet"), "{error}");
        }
        for _ in 0..400 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            fs::write(&path, &bytes).unwrap();
            let _ = read("sst2", &path);
            let _ = images(&path, None);
        }
    }
}

fn images(path: &Path, labels: Option<&[String]>) -> lowrank::Result<ImageExamples> {
    ImageExamples::parquet(&[path.to_path_buf()], &ImageColumns::default(), labels)
}

#[test]
fn images_come_out_of_a_column() {
    let (Some(folder), Some(files)) = (fixtures("parquet"), fixtures("images")) else { return };
    let path: PathBuf = folder.join("images.parquet");
    let examples = images(&path, None).unwrap();
    assert_eq!(examples.labels, ["ant", "bee", "cow"]);
    let names = ["rgb_small.png", "grey.png", "photo.jpg", "rgba.png"];
    for (index, (name, label)) in names.iter().zip([2, 0, 1, 2]).enumerate() {
        assert_eq!(examples.picture(index).unwrap(), read_picture(files.join(name)).unwrap());
        assert_eq!(examples.label(index), Some(label));
    }
    assert!(examples.name(1).ends_with("images.parquet, image 2"));
    let turned = ["cow", "bee", "ant"].map(str::to_owned);
    let both = ImageExamples::parquet(&[path.clone(), path.clone()], &ImageColumns::default(), Some(&turned));
    let both = both.unwrap();
    assert_eq!((both.len(), both.label(0), both.label(5)), (8, Some(0), Some(2)));
    let error = images(&path, Some(&turned[..2])).err().unwrap().to_string();
    assert!(error.contains("images.parquet:2: unknown label 0"), "{error}");
    let error = images(&folder.join("snappy.parquet"), None).err().unwrap().to_string();
    assert!(error.contains("no column img or image"), "{error}");
    let columns = ImageColumns { image: Some("sentence".to_owned()), label: None };
    let error = ImageExamples::parquet(&[folder.join("snappy.parquet")], &columns, None).err().unwrap();
    assert!(error.to_string().contains("sentence holds no bytes"), "{error}");
}
