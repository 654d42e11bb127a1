use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowrank::data::image::{ImageColumns, ImageExamples, read_picture};
use lowrank::data::{Columns, Examples, Label, Reader, TaskOptions, tasks};
use lowrank::models::ModelInfo;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
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

/// A file of one row group, with a note of Hugging Face's.
fn write(
    path: &Path,
    schema: &str,
    note: &str,
    fill: &mut dyn FnMut(usize, &mut SerializedColumnWriter<'_>),
) {
    let note = KeyValue::new("huggingface".to_owned(), Some(note.to_owned()));
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![note])).build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut place = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        fill(place, &mut column);
        column.close().unwrap();
        place += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_text_that_is_not_marked_as_one_is_read_as_it_is_written() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("bytes.parquet");
    let write = |text: &[u8]| {
        let schema = "message rows { required binary sentence; required int32 label; }";
        write(&path, schema, "{}", &mut |place, column| match place {
            0 => {
                let values = [ByteArray::from(text.to_vec())];
                column.typed::<ByteArrayType>().write_batch(&values, None, None).map(drop).unwrap();
            }
            _ => column.typed::<Int32Type>().write_batch(&[1], None, None).map(drop).unwrap(),
        });
    };
    write("Zürich".as_bytes());
    assert_eq!(read("sst2", &path).unwrap().rows[0].text, "Zürich");
    write(b"Z\xfcrich");
    let error = read("sst2", &path).unwrap_err().to_string();
    assert!(error.contains("bytes.parquet:1: \"sentence\" must be a text"), "{error}");
}

#[test]
fn the_classes_of_tags_are_those_of_the_column_that_is_read() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("tags.parquet");
    let list = |name: &str, element: &str| {
        format!("required group {name} (LIST) {{ repeated group list {{ required {element}; }} }} ")
    };
    let columns = [
        list("tokens", "binary element (UTF8)"),
        list("ner_tags", "binary element (UTF8)"),
        list("pos_tags", "int32 element"),
    ];
    let note = r#"{"info": {"features": {"pos_tags": {"feature": {"names": ["NOUN", "VERB"]}}}}}"#;
    let levels = (Some(&[1i16, 1][..]), Some(&[0i16, 1][..]));
    write(
        &path,
        &format!("message rows {{ {} }}", columns.concat()),
        note,
        &mut |place, column| match place {
            2 => column.typed::<Int32Type>().write_batch(&[0, 1], levels.0, levels.1).map(drop).unwrap(),
            _ => {
                let texts = [["film", "was"], ["THING", "O"]][place].map(ByteArray::from);
                column.typed::<ByteArrayType>().write_batch(&texts, levels.0, levels.1).map(drop).unwrap();
            }
        },
    );
    let labels = |columns: Columns| {
        let options = TaskOptions { training_file: Some(&path), columns, ..TaskOptions::default() };
        tasks::open("token-classification", &options).unwrap().info().labels.clone()
    };
    assert_eq!(labels(Columns::default()), ["O", "THING"]);
    let chosen = Columns { label: Some("pos_tags".to_owned()), ..Columns::default() };
    assert_eq!(labels(chosen), ["NOUN", "VERB"]);
}

#[test]
fn the_column_of_images_may_be_named() {
    let Some(folder) = fixtures("parquet") else { return };
    let path = folder.join("images.parquet");
    let columns = Columns { image: Some("picture".to_owned()), ..Columns::default() };
    let labels = Some(["ant", "bee", "cow"].map(str::to_owned).to_vec());
    let task =
        tasks::open("image-folder", &TaskOptions { columns, labels, ..TaskOptions::default() }).unwrap();
    let error =
        task.preview(&path, 1, &Reader::new(&folder, &ModelInfo::without_head(), 8)).unwrap_err().to_string();
    assert!(error.contains("no column picture for the images"), "{error}");
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
