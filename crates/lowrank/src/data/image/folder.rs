//! A folder of images, one folder within for each class.

use std::path::{Path, PathBuf};

use super::examples::{ImageExamples, Item, Place};
use crate::{Error, Result};

/// The ends of names that mean an image.
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

impl ImageExamples {
    /// The images below the folders of `path`, whose names are the labels.
    ///
    /// `labels`, if given, are the label set, in whose order the ids are; else it is the sorted names.
    ///
    /// # Source
    /// `torchvision.datasets.ImageFolder`: classes and files in the order of their names, folders within a class's
    /// folder as well. Names that begin with a dot are left alone; other files that are not called as images are left out,
    /// and stand in [`ImageExamples::strays`].
    ///
    /// # Errors
    /// A folder cannot be read, there are no classes, or a class has no images or is not in `labels`.
    pub fn folder(path: impl AsRef<Path>, labels: Option<&[String]>) -> Result<Self> {
        let path = path.as_ref();
        let (classes, names) = classes(path)?;
        let labels = labels.map_or_else(|| names.clone(), <[String]>::to_vec);
        let (mut items, mut strays) = (Vec::new(), Vec::new());
        for (class, name) in classes.iter().zip(&names) {
            let Some(label) = labels.iter().position(|label| label == name) else {
                let reason = format!("its class {name:?} is none of the labels {}", labels.join(", "));
                return Err(Error::file(class, reason));
            };
            let before = items.len();
            gather(class, Some(label as u32), &mut items, &mut strays)?;
            if items.len() == before {
                return Err(Error::file(class, "this class has no images"));
            }
        }
        Ok(Self::with_strays(labels, items, strays))
    }

    /// The names of the classes of a folder.
    ///
    /// # Errors
    /// The folder cannot be read, or there are no classes.
    pub fn folder_labels(path: impl AsRef<Path>) -> Result<Vec<String>> {
        Ok(classes(path.as_ref())?.1)
    }

    /// An image file, or all images below a folder, without labels.
    ///
    /// # Errors
    /// A folder cannot be read, there are no images, or the file is not called as an image that can be read.
    pub fn unlabelled(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut items, mut strays) = (Vec::new(), Vec::new());
        match path.is_dir() {
            true => gather(path, None, &mut items, &mut strays)?,
            false => items.push(item(path.to_path_buf(), None)?),
        }
        if items.is_empty() {
            return Err(Error::file(path, "it has no images"));
        }
        Ok(Self::with_strays(Vec::new(), items, strays))
    }
}

/// The folders of the classes, and their names.
fn classes(path: &Path) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let classes: Vec<PathBuf> = entries(path)?.into_iter().filter(|path| path.is_dir()).collect();
    if classes.is_empty() {
        return Err(Error::file(path, "it has no folders, of which each holds the images of a class"));
    }
    let names = classes.iter().map(|class| name_of(class)).collect();
    Ok((classes, names))
}

/// The images below a folder, and the errors of what else is there.
fn gather(folder: &Path, label: Option<u32>, items: &mut Vec<Item>, strays: &mut Vec<Error>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            gather(&path, label, items, strays)?;
            continue;
        }
        match item(path, label) {
            Ok(item) => items.push(item),
            Err(error) => strays.push(error),
        }
    }
    Ok(())
}

fn item(path: PathBuf, label: Option<u32>) -> Result<Item> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        return Ok(Item { label, place: Place::File(path) });
    }
    let reason = format!("not an image that can be read: .{} is needed", EXTENSIONS.join(", ."));
    Err(Error::file(&path, reason))
}

/// What is in a folder and not hidden, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if !name_of(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
