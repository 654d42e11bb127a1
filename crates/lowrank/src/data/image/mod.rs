//! Image data sets: decoding, making pictures ready for a model, and reading them ahead of the step.

mod augment;
mod cifar;
mod decode;
mod examples;
mod folder;
mod idx;
mod loader;
mod parquet;
mod picture;
mod processor;
mod resize;

pub use augment::Augmentation;
pub use cifar::{CIFAR10_LABELS, Part};
pub use decode::{decode, read_picture};
pub use examples::ImageExamples;
pub use loader::{ImageBatch, ImageLoader, ImageLoading, ImageRequest};
pub use parquet::ImageColumns;
pub use picture::Picture;
pub use processor::{ImageProcessor, PREPROCESSOR_CONFIG, Size};
pub use resize::{Filter, resize};
