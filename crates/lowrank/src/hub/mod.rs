//! Where models, adapters and data sets come from: folders, the Hugging Face Hub, and the files in them.

mod atomic;
mod attend;
mod checkpoint;
mod dataset;
mod dtype;
mod gguf;
mod new_folder;
mod options;
mod pickle;
mod remote;
mod repository;
mod safetensors_file;
mod snapshot;
mod tensors;
mod watch;
mod weight_file;
mod write;

pub use atomic::{check_is_free, write_atomically};
pub(crate) use checkpoint::adapter_weights;
pub use checkpoint::{ADAPTER_FILE, Checkpoint, INDEX_FILE, MODEL_FILE, PICKLED_ADAPTER_FILE, TensorView};
pub use dataset::{DatasetFolder, DatasetId, resolve_dataset, resolve_dataset_with};
pub use dtype::StoredDtype;
pub use gguf::{GgufValue, write_gguf};
pub use new_folder::NewFolder;
pub use options::HubOptions;
pub use repository::{
    ADAPTER_CONFIG, MODEL_CONFIG, ModelFolder, RepositoryKind, SUMMARY_FILE, resolve, resolve_with,
};
pub(crate) use repository::{CHAT_TEMPLATES, READER_FILES};
pub use tensors::{Tensors, to_tensor, write_tensors};
pub use watch::{Download, OnDownload, watch_downloads};
pub use write::{StreamError, TensorHeader, TensorToWrite, stream_safetensors, write_safetensors};
