//! Several adapters as one.

use crate::nn::{
    self, Module, for_each_embedding, for_each_embedding_mut, for_each_linear, for_each_linear_mut,
    for_each_parameter, for_each_parameter_mut,
};
use crate::tape::{AdapterId, Lora};
use crate::{Error, Result};

/// Has the adapter `into` do what `from` does as well: the pairs of both are added to what a layer gives, and `from` is no
/// longer on the model. They keep their ranks, scalings and names in their own files; what [`save`](super::save) writes is
/// an adapter's first pair alone.
///
/// # Errors
/// If both put values of their own in the place of the same parameter, or one has magnitudes; the model is then as it was.
pub fn join(model: &mut dyn Module, from: AdapterId, into: AdapterId) -> Result<()> {
    check_no_magnitudes(model, &[from, into])?;
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
        if result.is_ok() && [from, into].iter().all(|adapter| parameter.rows(*adapter).is_some()) {
            result = Err(Error::Usage(format!("both adapters train single rows of {path}")));
        }
    });
    result?;
    check_rows(model, from, into)?;
    check_rows(model, into, from)?;
    let rename = |lora: &mut Vec<Lora>| {
        lora.iter_mut().filter(|lora| lora.adapter == from).for_each(|lora| lora.adapter = into);
    };
    for_each_linear_mut(model, |_, linear| rename(&mut linear.lora));
    for_each_embedding_mut(model, |_, embedding| rename(&mut embedding.lora));
    let mut result = Ok(());
    for_each_parameter_mut(model, |_, parameter| {
        if let Some(rows) = parameter.rows(from).cloned() {
            parameter.remove_rows(from);
            let set = parameter.set_rows(into, rows);
            result = std::mem::replace(&mut result, Ok(())).and(set);
        }
        if let Some(leaf) = parameter.replacement(from).cloned() {
            parameter.remove_replacement(from);
            let set = parameter.set_replacement(into, leaf);
            result = std::mem::replace(&mut result, Ok(())).and(set);
        }
    });
    result
}

/// Has an adapter's pairs count `weight` times what they did: with [`join`], several adapters at once with weights. What
/// it has put in the place of the base model's values counts whole, whatever the weight. A weight of 0 silences the pairs.
///
/// # Errors
/// If the weight is not a finite number, or the adapter has magnitudes; the model is then as it was.
pub fn scale(model: &mut dyn Module, adapter: AdapterId, weight: f32) -> Result<()> {
    if !weight.is_finite() {
        return Err(Error::Usage(format!("an adapter cannot count {weight} times")));
    }
    check_no_magnitudes(model, &[adapter])?;
    let scale = |lora: &mut Vec<Lora>| {
        lora.iter_mut().filter(|lora| lora.adapter == adapter).for_each(|lora| lora.scaling *= weight);
    };
    for_each_linear_mut(model, |_, linear| scale(&mut linear.lora));
    for_each_embedding_mut(model, |_, embedding| scale(&mut embedding.lora));
    Ok(())
}

/// Rows that one adapter has of a table do not go with what another does to that table, or to what is tied to it.
fn check_rows(model: &dyn Module, rows_of: AdapterId, other: AdapterId) -> Result<()> {
    let (mut tables, mut tied) = (Vec::new(), Vec::new());
    for_each_parameter(model, |path, parameter| {
        if parameter.rows(rows_of).is_some() {
            tables.push(path.to_owned());
        }
    });
    for_each_parameter(model, |path, parameter| {
        let is_tied = parameter.tie().is_some_and(|name| tables.iter().any(|table| table == name));
        if is_tied || tables.iter().any(|table| table == path) {
            tied.push(path.to_owned());
        }
    });
    let mut found = None;
    let is_one = |path: &str| tied.contains(&nn::join(path, "weight"));
    let of_other = |lora: &[Lora]| lora.iter().any(|lora| lora.adapter == other);
    for_each_linear(model, |path, linear| {
        found = found.take().or((is_one(path) && of_other(&linear.lora)).then(|| path.to_owned()));
    });
    for_each_embedding(model, |path, embedding| {
        found = found.take().or((is_one(path) && of_other(&embedding.lora)).then(|| path.to_owned()));
    });
    for_each_parameter(model, |path, parameter| {
        let replaced = tied.iter().any(|name| name == path) && parameter.replacement(other).is_some();
        found = found.take().or(replaced.then(|| path.to_owned()));
    });
    match found {
        None => Ok(()),
        Some(path) => Err(Error::Usage(format!(
            "one adapter trains single rows of a table, and the other adapts or replaces {path}: what both would be together \
             is nowhere said"
        ))),
    }
}

/// A magnitude is that of the base weight with one product, whole: what it would be beside another product, or of a part
/// of its own, is nowhere said.
fn check_no_magnitudes(model: &dyn Module, adapters: &[AdapterId]) -> Result<()> {
    let mut found = None;
    let mut look = |path: &str, lora: &[Lora]| {
        let decomposed = |lora: &&Lora| adapters.contains(&lora.adapter) && lora.magnitude.is_some();
        if found.is_none() && lora.iter().any(|lora| decomposed(&lora)) {
            found = Some(path.to_owned());
        }
    };
    for_each_linear(model, |path, linear| look(path, &linear.lora));
    for_each_embedding(model, |path, embedding| look(path, &embedding.lora));
    let Some(path) = found else { return Ok(()) };
    Err(Error::Usage(format!(
        "an adapter with use_dora sets the magnitude of the weight with its own product, here of {path}: it cannot be \
         added to another adapter, nor count in part; merge it into the base model first"
    )))
}

#[cfg(test)]
mod tests {
    use lowrank_kernels::Compute;
    use lowrank_kernels::random::Philox;

    use super::*;
    use crate::nn::Linear;
    use crate::tape::{Layout, Leaf, Magnitude, Tape, TokenRows, Var};
    use crate::tensor::{DType, Tensor};

    const A: AdapterId = AdapterId(3);
    const B: AdapterId = AdapterId(7);

    fn random(shape: [usize; 2], generator: &mut Philox) -> Leaf {
        let mut value = Tensor::zeros(shape, DType::F32);
        value.make_mut::<f32>().fill_with(|| generator.normal_f32());
        Leaf::frozen(value)
    }

    fn layer() -> Linear {
        let generator = &mut Philox::new(5, 0);
        let mut layer = Linear::new(7, 5, false);
        layer.weight.set_base(random([5, 7], generator)).unwrap();
        for (adapter, r) in [(A, 2), (B, 3)] {
            let (a, b) = (random([r, 7], generator), random([5, r], generator));
            layer.lora.push(Lora::new(adapter, a, b, 0.7));
        }
        layer
    }

    fn outputs(layer: &Linear, adapter: Option<AdapterId>) -> Vec<f32> {
        let x = random([4, 7], &mut Philox::new(6, 0)).value().clone();
        let x = Var::constant(x, Layout::from_lengths(&[4], adapter));
        layer.forward(&mut Tape::inference(Compute::F32), &x).unwrap().value().to_f32_vec()
    }

    #[test]
    fn joined_adapters_add_what_each_adds_as_often_as_its_weight_says() {
        let mut layer = layer();
        let [base, a, b] = [None, Some(A), Some(B)].map(|adapter| outputs(&layer, adapter));
        scale(&mut layer, A, 2.0).unwrap();
        scale(&mut layer, B, -0.5).unwrap();
        join(&mut layer, B, A).unwrap();
        for (index, joined) in outputs(&layer, Some(A)).into_iter().enumerate() {
            let expected = base[index] + 2.0 * (a[index] - base[index]) - 0.5 * (b[index] - base[index]);
            assert!((joined - expected).abs() < 1e-4, "{joined} and {expected}");
        }
        assert_eq!(outputs(&layer, Some(B)), base, "nothing is left under the old name");
        assert!(scale(&mut layer, A, f32::NAN).is_err());
        scale(&mut layer, A, 0.0).unwrap();
        assert_eq!(outputs(&layer, Some(A)), base);
    }

    #[test]
    fn an_adapter_with_magnitudes_is_neither_joined_nor_scaled() {
        let mut layer = layer();
        let norms = layer.lora[1].norms(layer.weight.base().unwrap());
        let vector = Leaf::frozen(Tensor::from_slice([5], &norms));
        layer.lora[1].magnitude = Some(Magnitude::new(vector));
        let before = [A, B].map(|adapter| outputs(&layer, Some(adapter)));
        for error in [join(&mut layer, A, B), join(&mut layer, B, A), scale(&mut layer, B, 0.5)] {
            assert!(error.unwrap_err().to_string().contains("use_dora"));
        }
        scale(&mut layer, A, 1.0).unwrap();
        assert_eq!([A, B].map(|adapter| outputs(&layer, Some(adapter))), before);
    }

    #[test]
    fn single_rows_do_not_go_with_what_another_adapter_does_to_their_table() {
        let rows = || TokenRows { ids: [1, 3].into(), values: random([2, 7], &mut Philox::new(9, 0)) };
        let mut layer = layer();
        layer.lora.retain(|lora| lora.adapter == B);
        crate::nn::assign_names(&mut layer);
        layer.weight.set_rows(A, rows()).unwrap();
        for error in [join(&mut layer, A, B), join(&mut layer, B, A)] {
            assert!(error.unwrap_err().to_string().contains("single rows"));
        }
        layer.lora.clear();
        layer.weight.set_replacement(B, random([5, 7], &mut Philox::new(9, 1))).unwrap();
        assert!(join(&mut layer, A, B).unwrap_err().to_string().contains("single rows"));
        layer.weight.remove_replacement(B);
        join(&mut layer, A, B).unwrap();
        assert!(layer.weight.rows(B).is_some() && layer.weight.rows(A).is_none());
    }

    #[test]
    fn adapters_with_values_of_their_own_for_one_parameter_are_not_joined_unless_these_agree() {
        let mut layer = layer();
        let value = |seed| random([5, 7], &mut Philox::new(seed, 0));
        layer.weight.set_replacement(A, value(1)).unwrap();
        layer.weight.set_replacement(B, value(2)).unwrap();
        let before = outputs(&layer, Some(B));
        assert!(join(&mut layer, B, A).unwrap_err().to_string().contains("one of them would be lost"));
        assert_eq!(outputs(&layer, Some(B)), before);
        layer.weight.set_replacement(B, value(1)).unwrap();
        join(&mut layer, B, A).unwrap();
        assert_ne!(outputs(&layer, Some(A)), outputs(&layer, None));
    }
}
