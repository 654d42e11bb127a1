//! Images as a model reads them.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::augment::Augmentation;
use super::examples::ImageExamples;
use super::processor::{ImageProcessor, PREPROCESSOR_CONFIG};
use crate::data::batch::{Batch, Pixels};
use crate::data::batches::Pass;
use crate::data::collector::{Collector, Outputs, Prediction, Scores};
use crate::data::dataset::{Dataset, no_such_row};
use crate::data::example::{Label, Labels};
use crate::data::{Classification, TaskInfo};
use crate::fnv::Fnv;
use crate::models::ImageShape;
use crate::{Error, Result};

/// Labelled images, and how they are made ready for a model. They are decoded each time that they are asked for.
#[derive(Debug)]
pub struct ImageDataset {
    examples: ImageExamples,
    /// How a picture becomes values.
    pub processor: ImageProcessor,
    /// How the pictures of a training pass are changed.
    pub augmentation: Augmentation,
    shape: ImageShape,
    left_out: Vec<Error>,
}

/// A picture's values.
struct Ready {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl ImageDataset {
    /// These images for a model of this shape. Each is decoded once, to know what can be used.
    ///
    /// # Errors
    /// The model reads another number of colours than one or three; no image decodes; or one does not, if `strict`.
    pub fn new(
        mut examples: ImageExamples,
        processor: ImageProcessor,
        shape: ImageShape,
        strict: bool,
    ) -> Result<Self> {
        if !matches!(shape.channels, 1 | 3) {
            let reason = format!("the model reads images of {} colours; it must be 1 or 3", shape.channels);
            return Err(Error::Usage(reason));
        }
        let mut left_out = examples.drop_undecodable(strict)?;
        if examples.is_empty() {
            let none = || Error::Usage("there are no images".to_owned());
            return Err(left_out.drain(..).next().unwrap_or_else(none));
        }
        Ok(Self { examples, processor, augmentation: Augmentation::default(), shape, left_out })
    }

    /// The images.
    pub fn examples(&self) -> &ImageExamples {
        &self.examples
    }

    fn ready(&self, row: u32, pass: Option<Pass>) -> Result<Ready> {
        let index = row as usize;
        let mut picture = self.examples.picture(index)?;
        if let Some(Pass { seed, epoch }) = pass {
            picture = self.augmentation.apply(picture, seed, epoch as u64, row);
        }
        let shaped = self.processor.shape(&picture);
        let picture = shaped.map_err(|reason| Error::file(self.examples.name(index), reason))?;
        let mut values = Vec::with_capacity(self.shape.channels * picture.height() * picture.width());
        match self.shape.channels {
            1 => self.processor.write_grey(&picture, &mut values),
            _ => self.processor.write_values(&picture, &mut values),
        }
        Ok(Ready { height: picture.height(), width: picture.width(), values })
    }

    /// The tokens of an image: its patches and the class token.
    fn tokens_of_one(&self) -> usize {
        let (height, width) = self.processor.output_size().unwrap_or((self.shape.size, self.shape.size));
        self.shape.tokens(height, width)
    }
}

impl Dataset for ImageDataset {
    fn len(&self) -> usize {
        self.examples.len()
    }

    fn gather(&self, rows: &[u32], first: usize, pass: Option<Pass>) -> Result<Batch> {
        if let Some(&row) = rows.iter().find(|row| **row as usize >= self.len()) {
            return Err(no_such_row(row, self.len()));
        }
        // All of them before the first error is looked for, which is then the same one each time.
        let ready: Vec<Result<Ready>> = rows.par_iter().map(|&row| self.ready(row, pass)).collect();
        let mut pixels = Pixels { values: Vec::new(), channels: self.shape.channels, height: 0, width: 0 };
        for (&row, ready) in rows.iter().zip(ready) {
            let ready = ready?;
            if pixels.values.is_empty() {
                (pixels.height, pixels.width) = (ready.height, ready.width);
                pixels.values.reserve(rows.len() * ready.values.len());
            } else if (ready.height, ready.width) != (pixels.height, pixels.width) {
                let reason = format!(
                    "it comes out as {} × {}, others of its batch as {} × {}: the model's {PREPROCESSOR_CONFIG} must \
                     give one height and width for all, or a crop_size",
                    ready.width, ready.height, pixels.width, pixels.height,
                );
                return Err(Error::file(self.examples.name(row as usize), reason));
            }
            pixels.values.extend_from_slice(&ready.values);
        }
        let label = |row: &u32| self.examples.label(*row as usize).map(Label::Class);
        Batch::of_images(pixels, rows.len(), Labels::gather(rows.iter().map(label)), first)
    }

    /// FNV-1a over the images' bytes, their labels, and how they are made ready.
    fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.add(self.processor.to_json().to_string().as_bytes());
        hash.add_word(self.shape.channels as u64);
        let images: Vec<u64> =
            (0..self.len()).into_par_iter().map(|row| self.examples.fingerprint(row)).collect();
        images.into_iter().for_each(|image| hash.add_word(image));
        hash.0
    }

    fn tokens(&self) -> usize {
        self.len() * self.tokens_of_one()
    }

    fn lengths(&self) -> Vec<usize> {
        vec![self.tokens_of_one(); self.len()]
    }

    fn collector<'a>(&'a self, task: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        let inner = Classification::new(task, (1..=self.len()).collect());
        Box::new(ImageClassification { inner, examples: &self.examples })
    }

    fn label_counts(&self, task: &TaskInfo) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> = task.labels.iter().map(|name| (name.clone(), 0)).collect();
        for label in (0..self.len()).filter_map(|row| self.examples.label(row)) {
            *counts.entry(task.name_of(Some(Label::Class(label)))).or_default() += 1;
        }
        counts
    }

    fn skipped(&self) -> usize {
        self.left_out.len()
    }

    fn skipped_because(&self) -> Option<String> {
        self.left_out.first().map(ToString::to_string)
    }

    fn reads_ahead(&self) -> bool {
        true
    }
}

/// As the collector of texts, with the images' names in the answers.
struct ImageClassification<'a> {
    inner: Classification<'a>,
    examples: &'a ImageExamples,
}

impl Collector for ImageClassification<'_> {
    fn add(&mut self, rows: &[u32], batch: &Batch, outputs: Outputs<'_>) -> Result<()> {
        self.inner.add(rows, batch, outputs)
    }

    fn scores(&self, loss: f64) -> Result<Scores> {
        self.inner.scores(loss)
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        let named = self.inner.predictions()?.into_iter().enumerate().map(|(row, answer)| match answer {
            Prediction::Class { label, probability, logits, .. } => {
                Prediction::Image { image: self.examples.name(row), label, probability, logits }
            }
            other => other,
        });
        Ok(named.collect())
    }
}
