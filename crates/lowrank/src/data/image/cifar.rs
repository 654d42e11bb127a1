//! CIFAR-10's binary batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::examples::{Container, ImageExamples, Item, Place};
use crate::{Error, Result};

/// The classes in the order of their numbers.
pub const CIFAR10_LABELS: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const SIDE: usize = 32;
/// A label, then a plane of each colour.
const RECORD: usize = 1 + 3 * SIDE * SIDE;
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: [&str; 1] = ["test_batch.bin"];

/// Which part of a published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is trained on.
    Train,
    /// What is evaluated on.
    Test,
}

impl ImageExamples {
    /// The images of a batch of CIFAR-10's binary version, or of this part of a folder of batches.
    ///
    /// # Errors
    /// There is no such file; it does not hold whole records; a label is not one of ten.
    pub fn cifar10(path: impl AsRef<Path>, part: Part) -> Result<Self> {
        let path = path.as_ref();
        let names: &[&str] = if part == Part::Train { &TRAIN } else { &TEST };
        let files: Vec<PathBuf> = if path.is_dir() {
            names.iter().map(|name| path.join(name)).filter(|path| path.is_file()).collect()
        } else {
            vec![path.to_path_buf()]
        };
        if files.is_empty() {
            return Err(Error::file(path, format!("no {} in this folder", names[0])));
        }
        let mut items = Vec::new();
        for path in files {
            read(path, &mut items)?;
        }
        Ok(Self::new(CIFAR10_LABELS.map(str::to_owned).to_vec(), items))
    }
}

fn read(path: PathBuf, items: &mut Vec<Item>) -> Result<()> {
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    if bytes.is_empty() || bytes.len() % RECORD != 0 {
        let reason =
            format!("{} bytes are not whole records of {RECORD}, as CIFAR-10's batches have", bytes.len());
        return Err(Error::file(&path, reason));
    }
    let labels: Vec<u8> = bytes.iter().step_by(RECORD).copied().collect();
    if let Some(at) = labels.iter().position(|&label| usize::from(label) >= CIFAR10_LABELS.len()) {
        return Err(Error::file(&path, format!("image {}: its label is {}, not 0 to 9", at + 1, labels[at])));
    }
    let file = Arc::new(Container { path, bytes });
    items.extend(labels.into_iter().enumerate().map(|(row, label)| Item {
        label: Some(u32::from(label)),
        place: Place::Planes {
            file: Arc::clone(&file),
            bytes: row * RECORD + 1..(row + 1) * RECORD,
            row: row + 1,
            width: SIDE,
            height: SIDE,
        },
    }));
    Ok(())
}
