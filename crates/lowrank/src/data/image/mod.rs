//! Image data sets: decoding, and making pictures ready for a model.

mod augment;
mod cifar;
mod dataset;
mod decode;
mod examples;
mod folder;
mod idx;
mod parquet;
mod picture;
mod processor;
mod resize;

pub use augment::Augmentation;
pub use cifar::{CIFAR10_LABELS, Part};
pub use dataset::ImageDataset;
pub use decode::{decode, read_picture};
pub use examples::ImageExamples;
pub use parquet::ImageColumns;
pub use picture::Picture;
pub use processor::{ImageProcessor, PREPROCESSOR_CONFIG, Size};
pub use resize::{Filter, resize};
