//! Image data sets as the Hub keeps them: files of Parquet with the images in a column.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::record::Field;

use super::examples::{Container, ImageExamples, Item, Place};
use crate::data::parquet::ParquetFile;
use crate::{Error, Result};

/// The usual names of the columns.
const IMAGE: [&str; 2] = ["img", "image"];
const LABEL: [&str; 3] = ["label", "labels", "fine_label"];

/// Which columns hold the images and the labels, where they are not called as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageColumns {
    /// The images; `img` or `image` otherwise.
    pub image: Option<String>,
    /// The labels; `label`, `labels` or `fine_label` otherwise.
    pub label: Option<String>,
}

/// A label as it is written.
enum Written {
    Number(i64),
    Name(String),
}

impl ImageExamples {
    /// The images of some files, one after the other: a column of bytes, or of structures with `bytes`, and a column of
    /// labels.
    ///
    /// `labels`, if given, are the label set, in whose order the ids are. Else it is what the files tell of their
    /// classes, or the names or numbers that occur.
    ///
    /// # Errors
    /// A file is torn, lacks a column, or has a row without image or label.
    pub fn parquet(files: &[PathBuf], columns: &ImageColumns, labels: Option<&[String]>) -> Result<Self> {
        let (mut items, mut written, mut classes) = (Vec::new(), Vec::new(), None);
        for path in files {
            let named = read(path, columns, &mut items, Some(&mut written))?;
            classes = classes.or(named);
        }
        let names = match (&classes, labels) {
            (Some(classes), _) => classes.clone(),
            (None, Some(labels)) => labels.to_vec(),
            (None, None) => found(&written),
        };
        let labels = labels.map_or_else(|| names.clone(), <[String]>::to_vec);
        for (item, written) in items.iter_mut().zip(&written) {
            let name = match written {
                Written::Name(name) => Some(name),
                Written::Number(number) => usize::try_from(*number).ok().and_then(|number| names.get(number)),
            };
            let label = name.and_then(|name| labels.iter().position(|label| label == name));
            item.label = label.and_then(|label| u32::try_from(label).ok());
            if item.label.is_none() {
                let written = match written {
                    Written::Name(name) => format!("{name:?}"),
                    Written::Number(number) => number.to_string(),
                };
                let (path, row) = match &item.place {
                    Place::Encoded { file, row, .. } => (file.path.as_path(), *row),
                    _ => (Path::new(""), 0),
                };
                let reason = format!("unknown label {written}; there are {} labels", labels.len());
                return Err(Error::row(path, row, reason));
            }
        }
        Ok(Self::new(labels, items))
    }
}

impl ImageExamples {
    /// As [`parquet`](Self::parquet), without looking for labels.
    ///
    /// # Errors
    /// A file is torn, lacks the column of images, or has a row without one.
    pub fn parquet_unlabelled(files: &[PathBuf], columns: &ImageColumns) -> Result<Self> {
        let mut items = Vec::new();
        for path in files {
            read(path, columns, &mut items, None)?;
        }
        Ok(Self::new(Vec::new(), items))
    }

    /// The label set that [`parquet`](Self::parquet) finds in some files.
    ///
    /// # Errors
    /// A file is torn, lacks the column of labels, or has a row without one.
    pub fn parquet_labels(files: &[PathBuf], columns: &ImageColumns) -> Result<Vec<String>> {
        let mut written = Vec::new();
        for path in files {
            let file = ParquetFile::open(path)?;
            let label = find(&file, path, &columns.label, &LABEL, "labels")?;
            if let Some(names) = file.class_names(&label) {
                return Ok(names);
            }
            file.rows(&[label.as_str()], &mut |row, columns| {
                for (_, field) in columns {
                    written.push(label_of(field).ok_or_else(|| no_label(path, row, &label))?);
                }
                Ok(true)
            })?;
        }
        Ok(found(&written))
    }
}

/// The label set of labels of which no file says what they are.
fn found(written: &[Written]) -> Vec<String> {
    /// More classes than any data set has.
    const MOST: i64 = 1 << 20;
    let names: BTreeSet<&String> = written
        .iter()
        .filter_map(|label| match label {
            Written::Name(name) => Some(name),
            Written::Number(_) => None,
        })
        .collect();
    let largest = written.iter().filter_map(|label| match label {
        Written::Number(number) => Some(*number),
        Written::Name(_) => None,
    });
    match largest.max() {
        Some(largest) if names.is_empty() && largest < MOST => {
            (0..=largest).map(|number| number.to_string()).collect()
        }
        _ => names.into_iter().cloned().collect(),
    }
}

fn read(
    path: &Path,
    columns: &ImageColumns,
    items: &mut Vec<Item>,
    mut written: Option<&mut Vec<Written>>,
) -> Result<Option<Vec<String>>> {
    let file = ParquetFile::open(path)?;
    let image = find(&file, path, &columns.image, &IMAGE, "images")?;
    let label = match written {
        Some(_) => find(&file, path, &columns.label, &LABEL, "labels")?,
        None => String::new(),
    };
    let mut bytes = Vec::new();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    file.rows(&[image.as_str(), label.as_str()], &mut |row, columns| {
        for (name, field) in columns {
            if let Some(written) = written.as_deref_mut().filter(|_| name == label) {
                written.push(label_of(field).ok_or_else(|| no_label(path, row, &label))?);
            } else {
                let start = bytes.len();
                let image = image_bytes(&field);
                bytes.extend_from_slice(image.ok_or_else(|| {
                    Error::row(path, row, format!("its {name} holds no bytes of an image"))
                })?);
                ranges.push(start..bytes.len());
            }
        }
        Ok(true)
    })?;
    let holder = Arc::new(Container { path: path.to_path_buf(), bytes });
    items.extend(ranges.into_iter().enumerate().map(|(row, bytes)| Item {
        label: None,
        place: Place::Encoded { file: Arc::clone(&holder), bytes, row: row + 1 },
    }));
    Ok(file.class_names(&label))
}

/// The name of a column.
fn find(
    file: &ParquetFile<'_>,
    path: &Path,
    chosen: &Option<String>,
    usual: &[&str],
    what: &str,
) -> Result<String> {
    let there = file.columns();
    let wanted: Vec<&str> = match chosen {
        Some(name) if !name.is_empty() => vec![name.as_str()],
        _ => usual.to_vec(),
    };
    let found = wanted.iter().find(|name| there.contains(name));
    found.map(|name| (*name).to_owned()).ok_or_else(|| {
        let (wanted, there) = (wanted.join(" or "), there.join(", "));
        Error::file(path, format!("no column {wanted} for the {what}; there is {there}"))
    })
}

fn no_label(path: &Path, row: usize, column: &str) -> Error {
    Error::row(path, row, format!("its {column} is neither a whole number nor a text"))
}

fn image_bytes(field: &Field) -> Option<&[u8]> {
    match field {
        Field::Bytes(bytes) => Some(bytes.data()),
        Field::Group(row) => row.get_column_iter().find_map(|(name, field)| match field {
            Field::Bytes(bytes) if name == "bytes" => Some(bytes.data()),
            _ => None,
        }),
        _ => None,
    }
}

fn label_of(field: Field) -> Option<Written> {
    Some(Written::Number(match field {
        Field::Str(name) => return Some(Written::Name(name)),
        Field::Bytes(name) => return name.as_utf8().ok().map(|name| Written::Name(name.to_owned())),
        Field::Bool(value) => i64::from(value),
        Field::Byte(value) => i64::from(value),
        Field::Short(value) => i64::from(value),
        Field::Int(value) => i64::from(value),
        Field::Long(value) => value,
        Field::UByte(value) => i64::from(value),
        Field::UShort(value) => i64::from(value),
        Field::UInt(value) => i64::from(value),
        _ => return None,
    }))
}
