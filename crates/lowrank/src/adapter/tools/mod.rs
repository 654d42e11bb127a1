//! Tools on adapter folders, which need no model: looking at them, comparing, combining and resizing.
//!
//! Products are computed in f64 from their factors, and written as f32. What is made has a scaling of 1 in every layer, so
//! that its factors are all there is to it.

mod combine;
mod diff;
mod factors;
mod folder;
mod inspect;
mod made;
mod merging;
mod method;
mod report;
mod resize;
mod saved;
mod validate;

pub use combine::{CombineOptions, combine};
pub use diff::{AdapterDiff, ChangedSetting, ChangedTensor, LayerDiff, diff};
pub(crate) use factors::filled_up;
pub use folder::{AdapterFolder, AdapterLayer};
pub use inspect::{InspectedLayer, InspectedTensor, Inspection, inspect};
pub use method::{MajoritySign, Merging, Method};
pub use report::{MadeLayer, MadeReport};
pub use resize::{RankChoice, resize};
pub use validate::{Validation, validate};
