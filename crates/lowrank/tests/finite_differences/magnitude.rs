//! Adapters with magnitudes. Lengths count as constants in the backward pass, so that differences show the gradients of
//! the magnitude and of the input alone; those of `A` and `B` are compared with products in f64.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Embedding, Linear};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Lora, Magnitude, Tape, Var, ops};
use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, lora, normal, tape};

const INPUTS: usize = 13;
const OUTPUTS: [usize; 2] = [7, 5];
const LENGTHS: [usize; 4] = [5, 1, 7, 4];

/// Two layers over a table of inputs.
struct Net {
    x: Embedding,
    query: Linear,
    key: Linear,
}

module!(Net { "x" => x, "query" => query, "key" => key });

impl Net {
    /// Weights are frozen: the lengths follow from them, too.
    fn new(random: &mut Philox) -> Self {
        let mut net = Self {
            x: Embedding::new(LENGTHS.iter().sum(), INPUTS),
            query: Linear::new(INPUTS, OUTPUTS[0], true),
            key: Linear::new(INPUTS, OUTPUTS[1], false),
        };
        fill(&mut net, random);
        freeze(&mut net.query.weight);
        freeze(&mut net.key.weight);
        net
    }

    /// Gives the layers pairs with magnitudes off their start; `A` and `B` are not trained.
    fn adapt(&mut self, adapter: u16, dropout: f32, random: &mut Philox) {
        for (layer, outputs) in [&mut self.query, &mut self.key].into_iter().zip(OUTPUTS) {
            let mut pair = lora(adapter, [outputs, INPUTS], 3, dropout, random);
            pair.a.set_trainable(false);
            pair.b.set_trainable(false);
            layer.lora.push(with_magnitude(pair, outputs, random));
        }
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>) -> Result<Var> {
        let ids: Vec<u32> = (0..layout.rows() as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        Linear::forward_together(&[&self.query, &self.key], tape, &x)
    }
}

fn with_magnitude(pair: Lora, outputs: usize, random: &mut Philox) -> Lora {
    let vector = Leaf::trained(normal(&[outputs], 2.0, random));
    Lora { magnitude: Some(Magnitude::new(vector)), ..pair }
}

fn layout(adapters: [Option<u16>; 4]) -> Arc<Layout> {
    let offsets = vec![0, 5, 6, 13, 17];
    Layout::new(offsets, vec![4, 9, 2, 3], adapters.map(|id| id.map(AdapterId)).to_vec()).unwrap()
}

#[test]
fn magnitudes_beside_plain_adapters_and_none_in_one_batch() {
    for dropout in [0.0, 0.4] {
        let random = &mut Philox::new(21, 0);
        let mut net = Net::new(random);
        net.adapt(0, dropout, random);
        net.query.lora.push(lora(1, [OUTPUTS[0], INPUTS], 2, 0.0, random));
        let batch = layout([Some(0), Some(1), None, Some(0)]);
        check("magnitudes", Pass(net, move |net: &Net, tape: &mut Tape| net.forward(tape, &batch)));
    }
}

#[test]
fn a_magnitude_of_a_table_beside_another_table() {
    let random = &mut Philox::new(22, 0);
    let mut net = Net::new(random);
    freeze(&mut net.x.weight);
    let mut pair = lora(0, [INPUTS, LENGTHS.iter().sum()], 3, 0.0, random);
    pair.a.set_trainable(false);
    pair.b.set_trainable(false);
    net.x.lora.push(with_magnitude(pair, INPUTS, random));
    let mut other = Embedding::new(4, INPUTS);
    fill(&mut other, random);
    let batch = layout([Some(0), None, Some(0), Some(0)]);
    let forward = move |net: &Net, tape: &mut Tape| {
        let ids: Vec<u32> = (0..batch.rows() as u32).map(|id| id / 2).collect();
        let others: Vec<u32> = ids.iter().map(|id| id % 4).collect();
        let x = ops::embedding(tape, &[net.x.lookup(&ids), other.lookup(&others)], &batch)?;
        Linear::forward_together(&[&net.query, &net.key], tape, &x)
    };
    check("a table's magnitude", Pass(net, forward));
}

/// One layer under one adapter, in f64.
struct Dense {
    /// `x'`: what is left of the input, `[rows][inputs]`.
    dropped: Vec<Vec<f64>>,
    a: Vec<Vec<f64>>,
    b: Vec<Vec<f64>>,
    factors: Vec<f64>,
    scaling: f64,
    y: Vec<Vec<f64>>,
}

fn rows(values: &[f32], width: usize) -> Vec<Vec<f64>> {
    values.chunks_exact(width).map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

impl Dense {
    fn new(layer: &Linear, x: &Var, dropout: f32) -> Self {
        let inputs = layer.inputs();
        let pair = &layer.lora[0];
        let leaf = |leaf: &Leaf, width: usize| rows(&leaf.value().to_f32_vec(), width);
        let weight = leaf(layer.weight.base().unwrap(), inputs);
        let bias = layer.bias.as_ref().unwrap().base().unwrap().value().to_f32_vec();
        let (a, b) = (leaf(&pair.a, inputs), leaf(&pair.b, pair.rank()));
        let scaling = f64::from(pair.scaling);
        // The first site of a pass is the layer's.
        let dropped = ops::dropout(&mut tape(), x, dropout).unwrap().value().to_f32_vec();
        let (dropped, x) = (rows(&dropped, inputs), rows(&x.value().to_f32_vec(), inputs));
        let summed: Vec<Vec<f64>> = weight
            .iter()
            .zip(&b)
            .map(|(row, b)| {
                let product = |j: usize| -> f64 { b.iter().zip(&a).map(|(b, a)| b * a[j]).sum() };
                row.iter().enumerate().map(|(j, w)| w + scaling * product(j)).collect()
            })
            .collect();
        let vector = pair.magnitude.as_ref().unwrap().vector.value().to_f32_vec();
        let factors: Vec<f64> =
            vector.iter().zip(&summed).map(|(m, row)| f64::from(*m) / dot(row, row).sqrt()).collect();
        let output = |(x, dropped): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            (0..weight.len())
                .map(|o| {
                    let rest = dot(&weight[o], x) - dot(&weight[o], dropped);
                    rest + factors[o] * dot(&summed[o], dropped) + f64::from(bias[o])
                })
                .collect()
        };
        let y = x.iter().zip(&dropped).map(output).collect();
        Self { dropped, a, b, factors, scaling, y }
    }

    /// The gradients of `A` and `B` of the sum of the squares of the outputs.
    fn gradients(&self) -> [Vec<f64>; 2] {
        let (rank, inputs) = (self.a.len(), self.a[0].len());
        let (mut da, mut db) = (vec![0.0; rank * inputs], vec![0.0; self.b.len() * rank]);
        for (y, x) in self.y.iter().zip(&self.dropped) {
            let dp: Vec<f64> = y.iter().zip(&self.factors).map(|(y, g)| 2.0 * self.scaling * g * y).collect();
            for p in 0..rank {
                let u = dot(&self.a[p], x);
                let du: f64 = dp.iter().zip(&self.b).map(|(dp, b)| dp * b[p]).sum();
                (0..inputs).for_each(|j| da[p * inputs + j] += du * x[j]);
                dp.iter().enumerate().for_each(|(o, dp)| db[o * rank + p] += dp * u);
            }
        }
        [da, db]
    }
}

#[test]
fn outputs_and_gradients_of_the_pair_are_those_of_dense_products() {
    for dropout in [0.0, 0.4] {
        let random = &mut Philox::new(23, 0);
        let mut layer = Linear::new(INPUTS, OUTPUTS[0], true);
        fill(&mut layer, random);
        let pair = lora(0, [OUTPUTS[0], INPUTS], 3, dropout, random);
        layer.lora.push(with_magnitude(pair, OUTPUTS[0], random));
        let layout = Layout::from_lengths(&[4, 6], Some(AdapterId(0)));
        let x = Var::constant(normal(&[10, INPUTS], 0.7, random), layout);
        for _ in 0..2 {
            let dense = Dense::new(&layer, &x, dropout);
            let mut tape = tape();
            let y = layer.forward(&mut tape, &x).unwrap();
            let expected: Vec<f64> = dense.y.concat();
            near(&y.value().to_f32_vec(), &expected);
            let loss = ops::squared_error(&mut tape, &y, &vec![0.0; expected.len()], 1.0).unwrap();
            let mut gradients = Gradients::new();
            tape.backward(&loss, &mut gradients).unwrap();
            let [da, db] = dense.gradients();
            near(gradients.get(&layer.lora[0].a).unwrap(), &da);
            near(gradients.get(&layer.lora[0].b).unwrap(), &db);
            // Once more with other values: nothing that was kept of the old ones is used.
            layer.lora[0].b.value_mut().iter_mut().for_each(|value| *value = 0.3 - *value);
        }
    }
}

fn near(actual: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((f64::from(*actual) - expected).abs() <= 1e-5 * largest, "{actual} for {expected}");
    }
}

#[test]
fn an_output_that_nothing_reads_is_zero_and_not_the_quotient_of_nothing() {
    let random = &mut Philox::new(24, 0);
    let mut layer = Linear::new(INPUTS, OUTPUTS[0], false);
    fill(&mut layer, random);
    layer.weight.base_mut().unwrap().value_mut()[..INPUTS].fill(0.0);
    let mut pair = lora(0, [OUTPUTS[0], INPUTS], 3, 0.0, random);
    pair.b.value_mut().fill(0.0);
    let mut norms = pair.norms(layer.weight.base().unwrap());
    assert_eq!(norms[0], 0.0);
    norms[1..].iter().for_each(|norm| assert!(*norm > 0.0));
    norms[0] = 1.0;
    let vector = Leaf::trained(lowrank::tensor::Tensor::from_slice([OUTPUTS[0]], &norms));
    layer.lora.push(Lora { magnitude: Some(Magnitude::new(vector)), ..pair });
    let x = Var::constant(normal(&[3, INPUTS], 0.7, random), Layout::from_lengths(&[3], Some(AdapterId(0))));
    let mut tape = Tape::evaluation(Compute::F32);
    let y = layer.forward(&mut tape, &x).unwrap();
    let loss = ops::squared_error(&mut tape, &y, &[0.5; 3 * OUTPUTS[0]], 1.0).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    assert!(y.value().to_f32_vec().iter().step_by(OUTPUTS[0]).all(|y| *y == 0.0));
    let gradient = gradients.get(&layer.lora[0].magnitude.as_ref().unwrap().vector).unwrap();
    assert!(gradient.iter().all(|value| value.is_finite()) && gradient[0] == 0.0);
}
