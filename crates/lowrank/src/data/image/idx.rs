//! MNIST's IDX files.

use std::cmp::Ordering;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::cifar::Part;
use super::examples::{Container, ImageExamples, Item, Place};
use crate::{Error, Result};

/// The first four bytes of a file of images, and of one of labels: bytes, in three dimensions and in one.
const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;
/// More than the largest published set unpacks to.
const LARGEST: u64 = 4 << 30;
const CLASSES: usize = 10;

impl ImageExamples {
    /// The digits of MNIST, or of a set of the same form: an images file or its labels file, plain or gzipped (the
    /// other one is found beside it), or a folder with this part of the set.
    ///
    /// # Errors
    /// One of the files is missing, torn or of another form; they differ in length; a label is not a digit.
    pub fn mnist(path: impl AsRef<Path>, part: Part) -> Result<Self> {
        let (images, labels) = locate(path.as_ref(), part)?;
        let (labels_of, labels_start, labels_bytes) = read(&labels, LABELS, 1)?;
        let (sizes, start, bytes) = read(&images, IMAGES, 3)?;
        let (count, height, width) = (sizes[0], sizes[1], sizes[2]);
        if labels_of[0] != count {
            let reason =
                format!("it has {} labels for the {count} images of {}", labels_of[0], images.display());
            return Err(Error::file(&labels, reason));
        }
        if count == 0 || height == 0 || width == 0 {
            return Err(Error::file(&images, "it holds no images"));
        }
        let values = &labels_bytes[labels_start..];
        if let Some(at) = values.iter().position(|&label| usize::from(label) >= CLASSES) {
            return Err(Error::file(&labels, format!("label {} is {}, not 0 to 9", at + 1, values[at])));
        }
        let area = height * width;
        let file = Arc::new(Container { path: images, bytes });
        let items = values.iter().enumerate().map(|(row, &label)| Item {
            label: Some(u32::from(label)),
            place: Place::Planes {
                file: Arc::clone(&file),
                bytes: start + row * area..start + (row + 1) * area,
                row: row + 1,
                width,
                height,
            },
        });
        Ok(Self::new((0..CLASSES).map(|digit| digit.to_string()).collect(), items.collect()))
    }
}

/// The files of images and of labels.
fn locate(path: &Path, part: Part) -> Result<(PathBuf, PathBuf)> {
    if path.is_dir() {
        let stem = if part == Part::Train { "train" } else { "t10k" };
        let find = |name: &str| {
            let forms = ["", ".gz"].map(|end| path.join(format!("{stem}-{name}-ubyte{end}")));
            forms.into_iter().find(|path| path.is_file())
        };
        return match (find("images-idx3"), find("labels-idx1")) {
            (Some(images), Some(labels)) => Ok((images, labels)),
            (None, _) => Err(Error::file(path, format!("no {stem}-images-idx3-ubyte or .gz in this folder"))),
            (_, None) => Err(Error::file(path, format!("no {stem}-labels-idx1-ubyte or .gz in this folder"))),
        };
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside = |name: String| {
        let plain = name.strip_suffix(".gz").unwrap_or(&name).to_owned();
        let forms = [path.with_file_name(&plain), path.with_file_name(format!("{plain}.gz"))];
        let first = path.with_file_name(&name);
        forms.into_iter().find(|path| path.is_file()).unwrap_or(first)
    };
    if name.contains("images-idx3") {
        Ok((path.to_path_buf(), beside(name.replace("images-idx3", "labels-idx1"))))
    } else if name.contains("labels-idx1") {
        Ok((beside(name.replace("labels-idx1", "images-idx3")), path.to_path_buf()))
    } else {
        Err(Error::file(
            path,
            "its name has neither images-idx3 nor labels-idx1, by which the other file is found",
        ))
    }
}

/// The sizes of a file's dimensions, where its values begin, and all its bytes.
fn read(path: &Path, magic: u32, dimensions: usize) -> Result<(Vec<usize>, usize, Vec<u8>)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let mut reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut bytes = Vec::new();
    let mut more = |bytes: &mut Vec<u8>, count: u64| {
        reader.by_ref().take(count).read_to_end(bytes).map_err(|error| match zipped {
            true => Error::file(path, format!("not a whole gzip file: {error}")),
            false => Error::io(path)(error),
        })
    };
    let start = 4 * (1 + dimensions);
    more(&mut bytes, start as u64)?;
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| word.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
        .collect();
    if words.first() != Some(&magic) {
        let holds = if dimensions == 3 { "images" } else { "labels" };
        return Err(Error::file(
            path,
            format!("not an IDX file of {holds}: it must begin with {magic:#010x}"),
        ));
    }
    let sizes: Vec<usize> = words[1..].iter().map(|&size| size as usize).collect();
    let values = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64));
    let length =
        values.and_then(|values| values.checked_add(start as u64)).filter(|&length| length <= LARGEST);
    let Some(length) = length.filter(|_| sizes.len() == dimensions) else {
        return Err(Error::file(
            path,
            format!("its header says {sizes:?}, which is not the size of a data set"),
        ));
    };
    // What is zipped may be longer than its header says and than there is memory: one byte more tells.
    more(&mut bytes, length - start as u64 + 1)?;
    match (bytes.len() as u64).cmp(&length) {
        Ordering::Equal => Ok((sizes, start, bytes)),
        Ordering::Less => {
            Err(Error::file(path, format!("its header says {sizes:?}, but it has {} bytes", bytes.len())))
        }
        Ordering::Greater => {
            Err(Error::file(path, format!("its header says {sizes:?}, but it has more than {length} bytes")))
        }
    }
}
