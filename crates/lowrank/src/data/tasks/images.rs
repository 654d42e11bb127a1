//! Image classification: CIFAR-10, MNIST, and folders of one's own.

use std::path::{Path, PathBuf};

use super::files::{DataFiles, Parts, TEST, TRAIN, VALIDATION, parts_of_folder};
use super::labels::{LabelSet, several};
use super::table::Format;
use super::{PreviewedExample, PreviewedImage, Task, TaskInfo, TaskOptions};
use crate::data::Label;
use crate::data::dataset::Dataset;
use crate::data::image::{
    CIFAR10_LABELS, ImageColumns, ImageDataset, ImageExamples, ImageProcessor, PREPROCESSOR_CONFIG, Part,
};
use crate::data::reader::Reader;
use crate::models::{Head, ImageShape};
use crate::{Error, Result};

/// The names of the tasks in a run file.
pub(super) const CIFAR10: &str = "cifar10";
pub(super) const MNIST: &str = "mnist";
pub(super) const FOLDER: &str = "image-folder";

/// The form in which a task's data is published. All may be Parquet instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Binary batches.
    Cifar10,
    /// IDX files.
    Mnist,
    /// A folder for each class.
    Folder,
}

impl Form {
    fn of(task: &str) -> Option<Self> {
        match task {
            CIFAR10 => Some(Self::Cifar10),
            MNIST => Some(Self::Mnist),
            FOLDER => Some(Self::Folder),
            _ => None,
        }
    }

    /// The parts of a folder in this form; none if it has none of them.
    fn parts(self, folder: &Path) -> Option<Parts> {
        let files = |names: &[String]| {
            let found: Vec<PathBuf> =
                names.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
            (!found.is_empty()).then_some(found)
        };
        let either = |stem: &str| {
            let found = files(&["", ".gz"].map(|end| format!("{stem}-images-idx3-ubyte{end}")));
            found.map(|files| files.into_iter().take(1).collect())
        };
        let classes = |names: &[&str]| {
            let found = names.iter().map(|name| folder.join(name)).find(|path| has_folders(path));
            found.map(|path| vec![path])
        };
        let parts = match self {
            Self::Cifar10 => Parts {
                train: files(&[1, 2, 3, 4, 5].map(|number| format!("data_batch_{number}.bin"))),
                validation: None,
                test: files(&["test_batch.bin".to_owned()]),
            },
            Self::Mnist => Parts { train: either("train"), validation: None, test: either("t10k") },
            Self::Folder => {
                Parts { train: classes(TRAIN), validation: classes(VALIDATION), test: classes(TEST) }
            }
        };
        let any = parts.train.is_some() || parts.validation.is_some() || parts.test.is_some();
        any.then_some(parts)
    }
}

fn has_folders(path: &Path) -> bool {
    std::fs::read_dir(path)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| e.path().is_dir())))
}

/// The parts of `path` for an image task; none if it stands for itself.
fn parts(form: Form, path: &Path) -> Option<Parts> {
    if !path.is_dir() {
        return None;
    }
    let own = form.parts(path);
    own.or_else(|| {
        Some(parts_of_folder(path)).filter(|parts| parts.train.is_some() || parts.validation.is_some())
    })
}

/// As [`super::locate`], if the task is one of images.
pub(super) fn locate(task: &str, train: &Path, validation: Option<&Path>) -> Option<Result<DataFiles>> {
    let form = Form::of(task)?;
    Some(locate_in(form, train, validation))
}

fn locate_in(form: Form, train: &Path, validation: Option<&Path>) -> Result<DataFiles> {
    let mut files = match parts(form, train) {
        Some(parts) => parts.training(train)?,
        None if train.is_dir() => itself(form, train)?,
        None => DataFiles::locate(train, None)?,
    };
    match validation {
        Some(path) => files.validation = Some(evaluation_in(form, path)?),
        // These were published in two parts.
        None if form != Form::Folder && files.validation.is_none() => files.validation = files.test.take(),
        None => {}
    }
    Ok(files)
}

/// As [`super::evaluation`], if the task is one of images.
pub(super) fn evaluation(task: &str, path: &Path) -> Option<Result<Vec<PathBuf>>> {
    let form = Form::of(task)?;
    Some(evaluation_in(form, path))
}

fn evaluation_in(form: Form, path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return DataFiles::evaluation(path);
    }
    match parts(form, path) {
        Some(Parts { validation: Some(files), .. } | Parts { test: Some(files), .. }) => Ok(files),
        // A folder of classes that are called like parts is one of parts.
        Some(_) if form == Form::Folder => {
            Err(Error::file(path, "no validation or test folder in this folder"))
        }
        _ => itself(form, path).map(|files| files.train),
    }
}

/// A folder that holds the images themselves.
fn itself(form: Form, folder: &Path) -> Result<DataFiles> {
    let wanted = match form {
        Form::Folder => {
            return Ok(DataFiles { train: vec![folder.to_path_buf()], ..DataFiles::default() });
        }
        Form::Cifar10 => "data_batch_1.bin and others, test_batch.bin",
        Form::Mnist => "train-images-idx3-ubyte, t10k-images-idx3-ubyte and their labels (or .gz)",
    };
    Err(Error::file(
        folder,
        format!("what is asked for is not in this folder, neither {wanted} nor .parquet files"),
    ))
}

/// A task over images of classes.
pub struct ImageTask {
    info: TaskInfo,
    form: Form,
    columns: ImageColumns,
}

impl ImageTask {
    /// The task of this name, if it is one of images.
    ///
    /// # Errors
    /// The labels of the training data cannot be read.
    pub(super) fn open(name: &str, options: &TaskOptions<'_>) -> Result<Option<Self>> {
        let Some(form) = Form::of(name) else { return Ok(None) };
        let columns =
            ImageColumns { image: options.columns.image.clone(), label: options.columns.label.clone() };
        let digits: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        let published = |names: &[&str]| LabelSet::published(names, options.labels.as_deref()).names;
        let labels = match (form, &options.labels) {
            (Form::Cifar10, _) => published(&CIFAR10_LABELS),
            (Form::Mnist, _) => published(&digits.iter().map(String::as_str).collect::<Vec<_>>()),
            (Form::Folder, Some(labels)) if !labels.is_empty() => labels.clone(),
            (Form::Folder, _) => discover(options, &columns)?,
        };
        let info = TaskInfo {
            name: name.to_owned(),
            head: Head::ImageClassification,
            num_labels: labels.len(),
            labels,
            positive: 1,
            regression: false,
            main_metric: "accuracy",
            metrics: vec!["accuracy"],
        };
        Ok(Some(Self { info, form, columns }))
    }

    fn read(&self, files: &[PathBuf], labelled: bool) -> Result<ImageExamples> {
        let labels = self.info.labels.as_slice();
        if files.iter().all(|path| is_parquet(path)) {
            return match labelled {
                true => ImageExamples::parquet(files, &self.columns, Some(labels)),
                false => ImageExamples::parquet_unlabelled(files, &self.columns),
            };
        }
        let mut all: Option<ImageExamples> = None;
        for path in files {
            let mut examples = match self.form {
                Form::Cifar10 => ImageExamples::cifar10(path, Part::Train)?,
                Form::Mnist => ImageExamples::mnist(path, Part::Train)?,
                Form::Folder if labelled => ImageExamples::folder(path, Some(labels))?,
                Form::Folder => ImageExamples::unlabelled(path)?,
            };
            if self.form != Form::Folder {
                examples.relabel(labels)?;
            }
            match &mut all {
                Some(all) => all.append(examples)?,
                None => all = Some(examples),
            }
        }
        all.ok_or_else(|| Error::Usage("no files of images were named".to_owned()))
    }
}

impl Task for ImageTask {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn dataset(
        &self,
        files: &[PathBuf],
        limit: usize,
        labelled: bool,
        reader: &Reader,
    ) -> Result<Box<dyn Dataset>> {
        let shape = shape(reader)?;
        let mut examples = self.read(files, labelled)?;
        examples.truncate(limit);
        let mut dataset = ImageDataset::new(examples, processor(reader, shape)?, shape, reader.strict)?;
        dataset.augmentation = reader.augmentation;
        Ok(Box::new(dataset))
    }

    fn preview(&self, path: &Path, count: usize, reader: &Reader) -> Result<Vec<PreviewedExample>> {
        let mut examples = self.read(&[path.to_path_buf()], true)?;
        examples.truncate(count);
        examples.drop_undecodable(reader.strict)?;
        let one = |index: usize| {
            let picture = examples.picture(index)?;
            let (width, height) = (picture.width(), picture.height());
            let image = PreviewedImage { file: examples.name(index), width, height };
            let label = self.info.name_of(examples.label(index).map(Label::Class));
            Ok(PreviewedExample { line: index + 1, label, image: Some(image), ..PreviewedExample::default() })
        };
        (0..examples.len()).map(one).collect()
    }
}

/// The classes of the training data.
fn discover(options: &TaskOptions<'_>, columns: &ImageColumns) -> Result<Vec<String>> {
    let Some(first) = options.training_file else {
        return Err(Error::Usage(format!("{FOLDER} needs a label set or a folder to learn it from")));
    };
    let names = if is_parquet(first) {
        let files: Vec<PathBuf> =
            std::iter::once(first.to_path_buf()).chain(options.further_files.iter().cloned()).collect();
        ImageExamples::parquet_labels(&files, columns)?
    } else {
        ImageExamples::folder_labels(first)?
    };
    several(first, names)
}

fn is_parquet(path: &Path) -> bool {
    Format::of(path) == Some(Format::Parquet)
}

fn shape(reader: &Reader) -> Result<ImageShape> {
    let no_images = || Error::file(&reader.folder, "this model reads no images");
    reader.info.image.ok_or_else(no_images)
}

/// What the model's folder says, else pictures of the model's own size from -1 to 1.
fn processor(reader: &Reader, shape: ImageShape) -> Result<ImageProcessor> {
    match reader.folder.join(PREPROCESSOR_CONFIG).is_file() {
        true => ImageProcessor::read(&reader.folder),
        false => Ok(ImageProcessor::square(shape.size)),
    }
}
