//! Batches of images, made ready by other threads ahead of the step.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::augment::Augmentation;
use super::examples::ImageExamples;
use super::picture::Picture;
use super::processor::ImageProcessor;
use crate::{Error, Result};

/// Which images make a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// The numbers of the examples.
    pub rows: Vec<u32>,
    /// The epoch, which changes how they are augmented.
    pub epoch: u64,
}

/// Images ready for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageBatch {
    /// The values `[B, 3, height, width]`.
    pub pixels: Vec<f32>,
    /// How many rows a picture has.
    pub height: usize,
    /// How many pixels a row has.
    pub width: usize,
    /// The labels `[B]`.
    pub labels: Vec<Option<u32>>,
    /// The numbers of the examples `[B]`.
    pub rows: Vec<u32>,
}

/// How images are read.
#[derive(Debug, Clone)]
pub struct ImageLoading {
    /// How a picture becomes values.
    pub processor: ImageProcessor,
    /// How training pictures are changed; none for evaluation.
    pub augmentation: Option<Augmentation>,
    /// What the changes come from.
    pub seed: u64,
    /// The threads that read.
    pub workers: usize,
    /// The batches that are made ready before they are asked for.
    pub ahead: usize,
}

impl ImageLoading {
    /// Makes a batch here and now. The values depend on the request alone.
    ///
    /// # Errors
    /// An image does not decode (named), or the pictures come out in different sizes.
    pub fn batch(&self, examples: &ImageExamples, request: &ImageRequest) -> Result<ImageBatch> {
        self.batch_until(examples, request, &AtomicBool::new(false))
    }

    fn batch_until(
        &self,
        examples: &ImageExamples,
        request: &ImageRequest,
        stop: &AtomicBool,
    ) -> Result<ImageBatch> {
        let mut batch = ImageBatch {
            pixels: Vec::new(),
            height: 0,
            width: 0,
            labels: request.rows.iter().map(|&row| examples.label(row as usize)).collect(),
            rows: request.rows.clone(),
        };
        for &row in &request.rows {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut picture = examples.picture(row as usize)?;
            if let Some(augmentation) = &self.augmentation {
                picture = augmentation.apply(picture, self.seed, request.epoch, row);
            }
            let picture = self
                .processor
                .shape(&picture)
                .map_err(|reason| Error::file(examples.name(row as usize), reason))?;
            let size = (picture.height(), picture.width());
            if batch.pixels.is_empty() {
                (batch.height, batch.width) = size;
                batch.pixels.reserve(request.rows.len() * Picture::CHANNELS * size.0 * size.1);
            } else if size != (batch.height, batch.width) {
                let reason = format!(
                    "it comes out as {} × {}, others of its batch as {} × {}: the model's {} must give one height and \
                     width for all, or a crop_size",
                    size.1,
                    size.0,
                    batch.width,
                    batch.height,
                    super::processor::PREPROCESSOR_CONFIG
                );
                return Err(Error::file(examples.name(row as usize), reason));
            }
            self.processor.write_values(&picture, &mut batch.pixels);
        }
        Ok(batch)
    }
}

/// The batches of some requests, in their order, some of them made ready ahead.
///
/// Dropped, it stops its threads after the picture that each is at.
#[derive(Debug)]
pub struct ImageLoader<R> {
    requests: R,
    workers: Vec<Worker>,
    ahead: usize,
    /// How many batches were asked for, and how many were taken: each worker has its turn at both.
    asked: usize,
    taken: usize,
    stop: Arc<AtomicBool>,
}

impl<R: Iterator<Item = ImageRequest>> ImageLoader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`Error::Usage`] if the system gives no threads.
    pub fn new(examples: Arc<ImageExamples>, loading: ImageLoading, requests: R) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let ahead = loading.ahead.max(1);
        let loading = Arc::new(loading);
        let workers = (0..loading.workers.clamp(1, ahead))
            .map(|_| Worker::start(Arc::clone(&examples), Arc::clone(&loading), Arc::clone(&stop)))
            .collect::<Result<_>>()?;
        let mut loader = Self { requests, workers, ahead, asked: 0, taken: 0, stop };
        loader.ask();
        Ok(loader)
    }

    /// Gives the workers what they may do ahead.
    fn ask(&mut self) {
        while self.asked - self.taken < self.ahead {
            let Some(request) = self.requests.next() else { break };
            let place = self.asked % self.workers.len();
            // A worker that is gone has panicked, which shows when its batch is taken.
            let _ = self.workers[place].requests.as_ref().map(|requests| requests.send(request));
            self.asked += 1;
        }
    }
}

impl<R: Iterator<Item = ImageRequest>> Iterator for ImageLoader<R> {
    type Item = Result<ImageBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.taken == self.asked {
            return None;
        }
        let place = self.taken % self.workers.len();
        let batch = self.workers[place].take();
        self.taken += 1;
        self.ask();
        Some(batch)
    }
}

impl<R> Drop for ImageLoader<R> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A thread that makes batches, one after the other.
#[derive(Debug)]
struct Worker {
    requests: Option<Sender<ImageRequest>>,
    batches: Receiver<Result<ImageBatch>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(
        examples: Arc<ImageExamples>,
        loading: Arc<ImageLoading>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let (requests, asked) = channel::<ImageRequest>();
        let (done, batches) = channel();
        let work = move || {
            for request in asked {
                let batch = loading.batch_until(&examples, &request, &stop);
                if stop.load(Ordering::Relaxed) || done.send(batch).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("images".to_owned()).spawn(work);
        let thread =
            thread.map_err(|error| Error::Usage(format!("no thread to read images with: {error}")))?;
        Ok(Self { requests: Some(requests), batches, thread: Some(thread) })
    }

    /// The next batch, when it is done.
    fn take(&mut self) -> Result<ImageBatch> {
        if let Ok(batch) = self.batches.recv() {
            return batch;
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(cause)) => panic::resume_unwind(cause),
            _ => Err(Error::Usage("the thread that reads images has ended".to_owned())),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without requests to come it ends.
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
