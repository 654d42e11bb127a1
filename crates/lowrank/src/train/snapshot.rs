//! The values of everything that is trained, by name.

use std::collections::BTreeMap;

use crate::nn::{Module, for_each_trained_mut};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Tensors by the names that [`for_each_trained_mut`] gives them.
pub type Snapshot = BTreeMap<String, Tensor>;

/// Takes the values as they are now. They share storage with the model until it is trained on.
pub fn take(module: &mut dyn Module) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for_each_trained_mut(module, |name, leaf| {
        snapshot.insert(name.to_owned(), leaf.value().clone());
    });
    snapshot
}

/// Puts values back.
///
/// # Errors
/// If something that is trained has no value there, or one of another shape.
pub fn restore(module: &mut dyn Module, snapshot: &Snapshot) -> Result<()> {
    let mut wrong = None;
    for_each_trained_mut(module, |name, leaf| match snapshot.get(name) {
        Some(value) if value.shape() == leaf.value().shape() && value.dtype() == DType::F32 => {
            leaf.value_mut().copy_from_slice(value.as_slice::<f32>());
        }
        _ => wrong = Some(name.to_owned()),
    });
    match wrong {
        None => Ok(()),
        Some(name) => Err(Error::Usage(format!("the snapshot has no value that fits {name}"))),
    }
}
