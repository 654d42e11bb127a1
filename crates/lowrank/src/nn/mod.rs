//! Layers: structs of parameters, each with its forward pass.

mod convolution;
mod embedding;
mod experts;
mod layer_norm;
mod linear;
mod module;
mod rms_norm;

pub use convolution::{Conv1d, Conv2d};
pub use embedding::Embedding;
pub use experts::ExpertStack;
pub use layer_norm::LayerNorm;
pub use linear::{Expert, Linear, Role};
pub(crate) use module::rows_name;
pub use module::{
    Module, ModuleKind, Visitor, VisitorMut, assign_names, for_each_active, for_each_embedding,
    for_each_embedding_mut, for_each_leaf_mut, for_each_linear, for_each_linear_mut, for_each_module,
    for_each_parameter, for_each_parameter_mut, for_each_trained_mut, join,
};
pub use rms_norm::RmsNorm;
