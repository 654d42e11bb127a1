//! Where low-rank pairs begin.

use lowrank_kernels::random::Philox;
use lowrank_kernels::svd::svd;

use super::config::{Distribution, Init};
use super::layers::Adapted;
use super::principal::{leading, nearly_principal, principal};
use crate::nn::{Embedding, Linear};
use crate::tape::{AdapterId, Initial, Leaf, Lora, Magnitude, Parameter};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A trained pair for a linear layer, without dropout; the weight is that of the base model.
pub(super) fn of_linear(
    layer: &Adapted,
    linear: &Linear,
    weight: impl Fn() -> Result<Leaf>,
    init: &Init,
    adapter: AdapterId,
    seed: u64,
) -> Result<Lora> {
    let sizes = [linear.inputs(), linear.outputs()];
    let r_of_group = layer.r / linear.groups();
    let pair = match init.distributions(layer.r, linear.inputs(), r_of_group) {
        Some(distributions) => drawn(layer, [sizes[0], r_of_group, sizes[1]], distributions, adapter, seed),
        None if init.takes_from_the_weight() => {
            let [a, b] = part_of_weight(layer, &weight()?, init, seed)?;
            let initial = Initial { a: Leaf::frozen(a.clone()), b: Leaf::frozen(b.clone()) };
            Lora { initial: Some(initial), ..pair(layer, a, b, adapter) }
        }
        None if matches!(init, Init::Loftq) => {
            match lost_in_eight_bits(&linear.weight, &weight()?)? {
                Some(lost) => {
                    let [a, b] = principal(&layer.path, &Leaf::frozen(lost), layer.r)?.tensors(layer.scaling);
                    pair(layer, a, b, adapter)
                }
                // A weight that is too small for 8 bits has lost nothing.
                None => {
                    let begun = (Distribution::kaiming(linear.inputs()), Distribution::Constant(0.0));
                    drawn(layer, [sizes[0], r_of_group, sizes[1]], begun, adapter, seed)
                }
            }
        }
        None => orthogonal(layer, sizes, adapter, seed),
    };
    let bias = layer.lora_bias.then(|| Leaf::trained(Tensor::zeros([linear.outputs()], DType::F32)));
    with_magnitude(Lora { bias, ..pair }, layer, weight, Lora::norms)
}

/// A trained pair for an embedding; the table is that of the base model.
pub(super) fn of_embedding(
    layer: &Adapted,
    embedding: &Embedding,
    table: impl FnOnce() -> Result<Leaf>,
    init: &Init,
    adapter: AdapterId,
    seed: u64,
) -> Result<Lora> {
    let sizes = [embedding.entries(), layer.r, embedding.width()];
    let pair = drawn(layer, sizes, init.of_embedding(), adapter, seed);
    with_magnitude(pair, layer, table, Lora::table_norms)
}

/// The pair with the magnitude that the weight has with it, if it is to have one: the outputs stay what they are.
fn with_magnitude(
    pair: Lora,
    layer: &Adapted,
    weight: impl FnOnce() -> Result<Leaf>,
    norms: impl FnOnce(&Lora, &Leaf) -> Vec<f32>,
) -> Result<Lora> {
    if !layer.use_dora {
        return Ok(pair);
    }
    let norms = norms(&pair, &weight()?);
    let vector = Tensor::from_slice([norms.len()], &norms);
    Ok(Lora { magnitude: Some(Magnitude::new(Leaf::trained(vector))), ..pair })
}

/// What a weight lost in 8 bits, `[outputs, inputs]`; none if it is in another type.
///
/// # Errors
/// If it was in 8 bits in its file already.
///
/// # Source
/// Li et al., LoftQ (arXiv 2310.08659), algorithm 1 with one step, as PEFT's `replace_lora_weights_loftq` has it.
fn lost_in_eight_bits(parameter: &Parameter, weight: &Leaf) -> Result<Option<Tensor>> {
    let Some(quantized) = weight.as_quantized() else { return Ok(None) };
    let Some(stored) = weight.unquantized() else {
        let reason = "\"loftq\" needs the weights as they were before they were in 8 bits: name the model that they were \
                      made of, with load_in = \"int8\"";
        return Err(Error::setting("init_lora_weights", reason));
    };
    let mut lost = parameter.from_file(stored.clone()).to_dtype(DType::F32);
    let kept = quantized.to_f32();
    let lost_values = lost.make_mut::<f32>().iter_mut();
    lost_values.zip(kept.as_slice::<f32>()).for_each(|(lost, kept)| *lost -= kept);
    stored.release_pages();
    Ok(Some(lost))
}

/// `A` and `B` that are a part of a weight.
///
/// # Errors
/// If the weight holds a value that is not finite.
pub(super) fn part_of_weight(layer: &Adapted, weight: &Leaf, init: &Init, seed: u64) -> Result<[Tensor; 2]> {
    let Adapted { path, r, scaling, .. } = layer;
    Ok(match init {
        Init::Pissa { iterations: Some(iterations) } => {
            let generator = &mut Philox::new(seed, stream_of(path));
            nearly_principal(path, weight, *r, *iterations, generator)?.tensors(*scaling)
        }
        Init::Olora => leading(path, weight, *r)?.tensors(1.0),
        _ => principal(path, weight, *r)?.tensors(*scaling),
    })
}

/// `A` and `B` drawn from these distributions; `B` reads as much of the rank as belongs to a group.
fn drawn(
    layer: &Adapted,
    [inputs, r_of_group, outputs]: [usize; 3],
    (a, b): (Distribution, Distribution),
    adapter: AdapterId,
    seed: u64,
) -> Lora {
    let r = layer.r;
    let mut generator = Philox::new(seed, stream_of(&layer.path));
    let mut draw = |shape: [usize; 2], distribution: &Distribution| {
        let mut value = Tensor::zeros(shape, DType::F32);
        distribution.fill(value.make_mut::<f32>(), &mut generator);
        value
    };
    let (a, b) = (draw([r, inputs], &a), draw([outputs, r_of_group], &b));
    pair(layer, a, b, adapter)
}

/// `A` from the odd rows of a random orthogonal matrix and `B` from the even ones, so that `B·A` is zero and neither is.
///
/// # Source
/// PEFT's `orthogonal_init`, with the orthogonal factor of a singular value decomposition for that of a QR: both are
/// uniform over the orthogonal matrices.
fn orthogonal(layer: &Adapted, [inputs, outputs]: [usize; 2], adapter: AdapterId, seed: u64) -> Lora {
    let (r, half) = (layer.r, layer.r / 2);
    let mut generator = Philox::new(seed, stream_of(&layer.path));
    let mut normal =
        |count: usize| -> Vec<f64> { (0..count).map(|_| f64::from(generator.normal_f32())).collect() };
    let (square, of_a, of_b) = (normal(r * r), normal(inputs * half), normal(half * outputs));
    let mut q = vec![0.0; r * r];
    // What is drawn is finite, and then it converges.
    if let Some(factors) = svd(&square, r, r) {
        for (left, right) in factors.left.chunks_exact(r).zip(factors.right.chunks_exact(r)) {
            for (q, left) in q.chunks_exact_mut(r).zip(left) {
                q.iter_mut().zip(right).for_each(|(q, right)| *q += left * right);
            }
        }
    }
    let mut a = Tensor::zeros([r, inputs], DType::F32);
    let mut b = Tensor::zeros([outputs, r], DType::F32);
    for (index, a) in a.make_mut::<f32>().iter_mut().enumerate() {
        let (row, input) = (index / inputs, index % inputs);
        let sum: f64 = (0..half).map(|k| of_a[input * half + k] * q[2 * k * r + row]).sum();
        *a = (sum / 10.0) as f32;
    }
    for (index, b) in b.make_mut::<f32>().iter_mut().enumerate() {
        let (output, column) = (index / r, index % r);
        let sum: f64 = (0..half).map(|k| of_b[k * outputs + output] * q[(2 * k + 1) * r + column]).sum();
        *b = (sum / 10.0) as f32;
    }
    pair(layer, a, b, adapter)
}

fn pair(layer: &Adapted, a: Tensor, b: Tensor, adapter: AdapterId) -> Lora {
    let (a, b) = (Leaf::trained(a), Leaf::trained(b));
    Lora::new(adapter, a, b, layer.scaling)
}

/// FNV-1a of a layer's name: the number of its random stream.
pub(super) fn stream_of(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
