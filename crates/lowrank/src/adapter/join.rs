//! Several adapters as one.

use crate::nn::{
    Module, for_each_embedding_mut, for_each_linear_mut, for_each_parameter, for_each_parameter_mut,
};
use crate::tape::{AdapterId, Lora};
use crate::{Error, Result};

/// Has the adapter `into` do what `from` does as well: the pairs of both are added to what a layer gives, and `from` is no
/// longer on the model. They keep their ranks, scalings and names in their own files; what [`save`](super::save) writes is
/// an adapter's first pair alone.
///
/// # Errors
/// If both put values of their own in the place of the same parameter; the model is then as it was.
pub fn join(model: &mut dyn Module, from: AdapterId, into: AdapterId) -> Result<()> {
    let mut result = Ok(());
    for_each_parameter(&*model, |path, parameter| {
        let both = parameter.replacement(from).zip(parameter.replacement(into));
        if let Some((one, other)) = both.filter(|_| result.is_ok())
            && one.value().to_f32_vec() != other.value().to_f32_vec()
        {
            let reason =
                format!("both adapters have a value of their own for {path}: one of them would be lost");
            result = Err(Error::Usage(reason));
        }
    });
    result?;
    let rename = |lora: &mut Vec<Lora>| {
        lora.iter_mut().filter(|lora| lora.adapter == from).for_each(|lora| lora.adapter = into);
    };
    for_each_linear_mut(model, |_, linear| rename(&mut linear.lora));
    for_each_embedding_mut(model, |_, embedding| rename(&mut embedding.lora));
    let mut result = Ok(());
    for_each_parameter_mut(model, |_, parameter| {
        if let Some(leaf) = parameter.replacement(from).cloned() {
            parameter.remove_replacement(from);
            let set = parameter.set_replacement(into, leaf);
            result = std::mem::replace(&mut result, Ok(())).and(set);
        }
    });
    result
}
