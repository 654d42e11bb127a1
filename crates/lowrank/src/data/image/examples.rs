//! The images of a data set, decoded when they are asked for.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::decode::{decode, read_picture};
use super::picture::Picture;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// Labelled images.
#[derive(Debug, Default)]
pub struct ImageExamples {
    /// The names of the labels in the order of their ids.
    pub labels: Vec<String>,
    /// What is wrong with the files beside the images that are not called as images.
    pub strays: Vec<Error>,
    items: Vec<Item>,
    kept: Option<Vec<OnceLock<Picture>>>,
}

/// One image, not yet decoded.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub label: Option<u32>,
    pub place: Place,
}

/// Where an image is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A file of its own.
    File(PathBuf),
    /// A file within another one; it is the number `row` there, from 1.
    Encoded { file: Arc<Container>, bytes: Range<usize>, row: usize },
    /// Planes of grey or of three colours within a file; they are the number `row` there, from 1.
    Planes { file: Arc<Container>, bytes: Range<usize>, row: usize, width: usize, height: usize },
}

/// A file that holds many images.
#[derive(Debug)]
pub(super) struct Container {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl ImageExamples {
    pub(super) fn new(labels: Vec<String>, items: Vec<Item>) -> Self {
        Self::with_strays(labels, items, Vec::new())
    }

    pub(super) fn with_strays(labels: Vec<String>, items: Vec<Item>, strays: Vec<Error>) -> Self {
        Self { labels, strays, items, kept: None }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The label of an example, by its place in [`labels`](Self::labels).
    pub fn label(&self, index: usize) -> Option<u32> {
        self.items.get(index)?.label
    }

    /// What an example is called in messages: its file, and its number in a file of many.
    pub fn name(&self, index: usize) -> String {
        let mut name = String::new();
        if let Some(item) = self.items.get(index) {
            let _ = match &item.place {
                Place::File(path) => write!(name, "{}", path.display()),
                Place::Encoded { file, row, .. } | Place::Planes { file, row, .. } => {
                    write!(name, "{}, image {row}", file.path.display())
                }
            };
        }
        name
    }

    /// A number that changes with an image's bytes and with its label.
    pub(super) fn fingerprint(&self, index: usize) -> u64 {
        let Some(item) = self.items.get(index) else { return 0 };
        let mut hash = Fnv::default();
        hash.add_word(item.label.map_or(0, |label| 1 + u64::from(label)));
        match &item.place {
            Place::File(path) => add_words(&mut hash, &std::fs::read(path).unwrap_or_default()),
            Place::Encoded { file, bytes, .. } | Place::Planes { file, bytes, .. } => {
                add_words(&mut hash, file.bytes.get(bytes.clone()).unwrap_or_default());
            }
        }
        hash.0
    }

    /// Puts the examples of another set after these.
    ///
    /// # Errors
    /// [`Error::Usage`] if the two have other labels.
    pub fn append(&mut self, other: Self) -> Result<()> {
        if self.labels != other.labels {
            let (these, those) = (self.labels.join(", "), other.labels.join(", "));
            return Err(Error::Usage(format!(
                "images labelled {these} and images labelled {those} are no one set"
            )));
        }
        self.items.extend(other.items);
        self.strays.extend(other.strays);
        self.kept = None;
        Ok(())
    }

    /// Numbers the labels as this set of the same names does.
    ///
    /// # Errors
    /// [`Error::File`] that names the first image whose label the set lacks.
    pub fn relabel(&mut self, labels: &[String]) -> Result<()> {
        let place = |name: &String| labels.iter().position(|label| label == name);
        let places: Vec<Option<usize>> = self.labels.iter().map(place).collect();
        for index in 0..self.items.len() {
            let Some(old) = self.items[index].label else { continue };
            let new = places.get(old as usize).copied().flatten().and_then(|new| u32::try_from(new).ok());
            if new.is_none() {
                let unknown = self.labels.get(old as usize).map_or("", String::as_str);
                let reason = format!("its label {unknown:?} is none of {}", labels.join(", "));
                return Err(Error::file(self.name(index), reason));
            }
            self.items[index].label = new;
        }
        self.labels = labels.to_vec();
        Ok(())
    }

    /// Keeps the first `limit` examples; 0: all.
    pub fn truncate(&mut self, limit: usize) {
        if limit > 0 {
            self.items.truncate(limit);
            self.kept = None;
        }
    }

    /// Keeps decoded pictures in memory from now on: for small sets that are read more than once.
    pub fn keep_decoded(&mut self) {
        self.kept = Some((0..self.len()).map(|_| OnceLock::new()).collect());
    }

    /// The picture of an example.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Io`] that names it, if it does not decode; [`Error::Usage`] if there is no such
    /// example.
    pub fn picture(&self, index: usize) -> Result<Picture> {
        let kept = self.kept.as_ref().and_then(|kept| kept.get(index));
        if let Some(picture) = kept.and_then(OnceLock::get) {
            return Ok(picture.clone());
        }
        let picture = self.decode(index)?;
        if let Some(kept) = kept {
            let _ = kept.set(picture.clone());
        }
        Ok(picture)
    }

    fn decode(&self, index: usize) -> Result<Picture> {
        let Some(item) = self.items.get(index) else {
            return Err(Error::Usage(format!("there are {} images, no number {index}", self.len())));
        };
        let wrong = |file: &Container, row: usize, reason: String| {
            Error::file(&file.path, format!("image {row}: {reason}"))
        };
        match &item.place {
            Place::File(path) => read_picture(path),
            Place::Encoded { file, bytes, row } => decode(file.bytes.get(bytes.clone()).unwrap_or_default())
                .map_err(|reason| wrong(file, *row, reason)),
            Place::Planes { file, bytes, row, width, height } => {
                let planes = file.bytes.get(bytes.clone()).unwrap_or_default();
                Picture::from_planes(*width, *height, planes)
                    .map_err(|error| wrong(file, *row, error.to_string()))
            }
        }
    }

    /// Decodes every image once, and leaves out those that do not decode. Returns why, one error for each, after those of
    /// [`strays`](Self::strays).
    ///
    /// # Errors
    /// The first of these errors, if `strict`.
    pub fn drop_undecodable(&mut self, strict: bool) -> Result<Vec<Error>> {
        let this = &*self;
        let found: Vec<Option<Error>> = (0..this.len())
            .into_par_iter()
            // What is not a file by itself has been measured already.
            .map(|index| match this.items[index].place {
                Place::Planes { .. } => None,
                _ => this.picture(index).err(),
            })
            .collect();
        let usable: Vec<bool> = found.iter().map(Option::is_none).collect();
        let mut errors = std::mem::take(&mut self.strays).into_iter().chain(found.into_iter().flatten());
        if strict {
            return errors.next().map_or(Ok(Vec::new()), Err);
        }
        retain(&mut self.items, &usable);
        if let Some(kept) = &mut self.kept {
            retain(kept, &usable);
        }
        Ok(errors.collect())
    }
}

/// Adds bytes, eight at a time.
fn add_words(hash: &mut Fnv, bytes: &[u8]) {
    hash.add_word(bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.add_word(u64::from_le_bytes(word));
    }
}

fn retain<T>(items: &mut Vec<T>, usable: &[bool]) {
    let mut usable = usable.iter();
    items.retain(|_| usable.next().is_none_or(|usable| *usable));
}
