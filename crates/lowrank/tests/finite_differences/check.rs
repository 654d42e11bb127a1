//! The comparison itself.

use lowrank::Result;
use lowrank::nn::{Module, for_each_parameter_mut, for_each_trained_mut};
use lowrank::tape::{AdapterId, Gradients, Leaf, Lora, Parameter, Tape, Var, ops};
use lowrank::tensor::Tensor;
use lowrank_kernels::random::Philox;
use lowrank_kernels::{Compute, Tier};

/// The step of the stencil: its truncation (fourth order) and the rounding of f32 both stay below 1e-4 of a gradient.
const STEP: f32 = 0.02;
/// Of the largest derivative that was probed in the same tensor.
const TOLERANCE: f64 = 1e-3;
/// Elements probed one by one in a tensor; beyond these, whole directions.
const ELEMENTS: usize = 40;
const DIRECTIONS: usize = 4;

/// A forward pass over trained tensors.
pub trait Subject {
    fn module(&mut self) -> &mut dyn Module;
    fn output<'m>(&'m self, tape: &mut Tape<'m>) -> Result<Var>;
}

/// A module and its forward pass.
pub struct Pass<M, F>(pub M, pub F);

impl<M: Module, F: Fn(&M, &mut Tape) -> Result<Var>> Subject for Pass<M, F> {
    fn module(&mut self) -> &mut dyn Module {
        &mut self.0
    }

    fn output<'m>(&'m self, tape: &mut Tape<'m>) -> Result<Var> {
        (self.1)(&self.0, tape)
    }
}

/// The gradient of every trained tensor must be that of the squared distance between the output and random targets.
pub fn check(what: &str, mut subject: impl Subject) {
    let what = format!("{what} on {}", Tier::active());
    let mut random = Philox::new(77, 1);
    let mut tape = tape();
    let output = subject.output(&mut tape).unwrap();
    let targets: Vec<f32> = (0..output.value().elements()).map(|_| random.normal_f32()).collect();
    let loss = ops::squared_error(&mut tape, &output, &targets, 1.0).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();

    let mut analytic = Vec::new();
    for_each_trained_mut(subject.module(), |name, leaf| {
        let gradient = gradients.get(leaf).unwrap_or_else(|| panic!("{what}: {name} has no gradient"));
        analytic.push((name.to_owned(), gradient.to_vec()));
    });
    assert!(!analytic.is_empty(), "{what}: something is trained");
    for (place, (name, gradient)) in analytic.iter().enumerate() {
        let directions = directions(gradient.len(), &mut random);
        let pairs: Vec<(f64, f64)> = directions
            .iter()
            .map(|direction| {
                let expected = difference(&mut subject, place, direction, &targets);
                let along = gradient.iter().zip(direction).map(|(g, d)| f64::from(*g) * f64::from(*d));
                (expected, along.sum())
            })
            .collect();
        let largest = pairs.iter().fold(0.0, |max: f64, (expected, _)| max.max(expected.abs()));
        if name.ends_with("key.bias") {
            // It adds the same to all scores of a query, which softmax does not see.
            assert!(pairs.iter().all(|(e, a)| e.abs() < 1e-3 && a.abs() < 1e-3), "{what}: {name} is not 0");
            continue;
        }
        assert!(largest > 1e-2, "{what}: {name} has a gradient to compare, not {largest:e}");
        for (expected, actual) in pairs {
            let off = (expected - actual).abs();
            assert!(off <= TOLERANCE * largest, "{what}: {name}: {actual} where differences give {expected}");
        }
    }
}

/// Dropout, where an operation has any, draws the same masks in each pass.
pub fn tape<'m>() -> Tape<'m> {
    Tape::training(Compute::F32, 5, 3)
}

/// Single elements of a small tensor, else random signs, as long as a single element's step.
fn directions(elements: usize, random: &mut Philox) -> Vec<Vec<f32>> {
    if elements <= ELEMENTS {
        return (0..elements)
            .map(|one| (0..elements).map(|i| f32::from(u8::from(i == one))).collect())
            .collect();
    }
    let length = 1.0 / (elements as f32).sqrt();
    let mut sign = || if random.uniform_f32() < 0.5 { -length } else { length };
    (0..DIRECTIONS).map(|_| (0..elements).map(|_| 2.0 * sign()).collect()).collect()
}

/// The derivative along `direction`, by the central stencil of five points, in f64.
fn difference(subject: &mut impl Subject, place: usize, direction: &[f32], targets: &[f32]) -> f64 {
    let mut at = |steps: f32| {
        let mut original = Vec::new();
        with_leaf(subject.module(), place, |values| {
            original = values.to_vec();
            values.iter_mut().zip(direction).for_each(|(value, d)| *value += steps * STEP * d);
        });
        let output = subject.output(&mut tape()).unwrap().value().to_f32_vec();
        with_leaf(subject.module(), place, |values| values.copy_from_slice(&original));
        let squares = output.iter().zip(targets).map(|(y, t)| (f64::from(*y) - f64::from(*t)).powi(2));
        squares.sum::<f64>()
    };
    let (near, far) = (at(1.0) - at(-1.0), at(2.0) - at(-2.0));
    (8.0 * near - far) / (12.0 * f64::from(STEP))
}

fn with_leaf(module: &mut dyn Module, place: usize, mut f: impl FnMut(&mut [f32])) {
    let mut seen = 0;
    for_each_trained_mut(module, |_, leaf| {
        if seen == place {
            f(leaf.value_mut());
        }
        seen += 1;
    });
}

/// Normal values with this deviation.
pub fn normal(shape: &[usize], deviation: f32, random: &mut Philox) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| deviation * random.normal_f32()).collect();
    match *shape {
        [width] => Tensor::from_slice([width], &values),
        [rows, width] => Tensor::from_slice([rows, width], &values),
        [one, rows, width] => Tensor::from_slice([one, rows, width], &values),
        _ => unreachable!("at most three dimensions"),
    }
}

/// Gives every parameter random values, all of them trained.
pub fn fill(module: &mut dyn Module, random: &mut Philox) {
    for_each_parameter_mut(module, |path, parameter| {
        parameter.set_name(path);
        let value = normal(parameter.shape().dims(), 0.7, random);
        parameter.set_base(Leaf::trained(value)).unwrap();
    });
}

/// Freezes a parameter.
pub fn freeze(parameter: &mut Parameter) {
    parameter.base_mut().unwrap().set_trainable(false);
}

/// A trained pair of rank `r` for a layer of this size.
pub fn lora(
    adapter: u16,
    [outputs, inputs]: [usize; 2],
    r: usize,
    dropout: f32,
    random: &mut Philox,
) -> Lora {
    let a = Leaf::trained(normal(&[r, inputs], 0.5, random));
    let b = Leaf::trained(normal(&[outputs, r], 0.5, random));
    Lora { dropout, ..Lora::new(AdapterId(adapter), a, b, 1.7) }
}
