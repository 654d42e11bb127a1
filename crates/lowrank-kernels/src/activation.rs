//! Activation functions and their derivatives, by PyTorch's formulas.

use crate::element::Element;
use crate::math;
use crate::parallel::{PerRow, for_each_row_block};
use crate::simd::{Vector, each};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x·Φ(x)`.
    Gelu,
    /// GELU with `tanh(√(2/π)·(x + 0.044715·x³))` in place of the error function.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x·sigmoid(x)`.
    Silu,
    /// `tanh(x)`.
    Tanh,
    /// `x·sigmoid(1.702·x)`.
    QuickGelu,
}

impl Activation {
    /// Every name in a Hugging Face `config.json`, with what it means.
    pub const NAMES: [(&'static str, Self); 12] = [
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("gelu_python_tanh", Self::GeluTanh),
        ("gelu_fast", Self::GeluTanh),
        ("gelu_accurate", Self::GeluTanh),
        ("quick_gelu", Self::QuickGelu),
        ("relu", Self::Relu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("tanh", Self::Tanh),
    ];

    /// The function that a Hugging Face `config.json` names so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
    }
}

/// A function and its derivative at points.
pub(crate) trait Function {
    fn value<V: Vector>(x: V) -> V;
    fn derivative<V: Vector>(x: V) -> V;
}

pub(crate) struct Gelu;
pub(crate) struct GeluTanh;
pub(crate) struct Relu;
pub(crate) struct Silu;
pub(crate) struct Tanh;
pub(crate) struct QuickGelu;

/// `$body` with the type `$f` of an activation.
macro_rules! with_function {
    ($function:expr, $f:ident => $body:expr) => {{
        use $crate::activation as functions;
        match $function {
            functions::Activation::Gelu => {
                type $f = functions::Gelu;
                $body
            }
            functions::Activation::GeluTanh => {
                type $f = functions::GeluTanh;
                $body
            }
            functions::Activation::Relu => {
                type $f = functions::Relu;
                $body
            }
            functions::Activation::Silu => {
                type $f = functions::Silu;
                $body
            }
            functions::Activation::Tanh => {
                type $f = functions::Tanh;
                $body
            }
            functions::Activation::QuickGelu => {
                type $f = functions::QuickGelu;
                $body
            }
        }
    }};
}
pub(crate) use with_function;

impl Function for Gelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(math::normal_cdf(x).0)
    }

    #[inline(always)]
    fn derivative<V: Vector>(x: V) -> V {
        const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
        let (cdf, bell) = math::normal_cdf(x);
        x.mul(V::splat(INVERSE_SQRT_TAU)).madd(bell, cdf)
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `(1 + tanh z) / 2 = sigmoid(2z)` at `z = √(2/π)·(x + 0.044715·x³)`.
#[inline(always)]
fn gate<V: Vector>(x: V) -> V {
    let slope = x.mul(x).madd(V::splat(2.0 * SQRT_2_OVER_PI * CUBIC), V::splat(2.0 * SQRT_2_OVER_PI));
    math::sigmoid(x.mul(slope))
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(gate(x))
    }

    #[inline(always)]
    fn derivative<V: Vector>(x: V) -> V {
        let gate = gate(x);
        let inner = x.mul(x).madd(V::splat(6.0 * SQRT_2_OVER_PI * CUBIC), V::splat(2.0 * SQRT_2_OVER_PI));
        let slope = gate.sub(gate.mul(gate)).mul(inner);
        x.madd(slope, gate)
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        // In this order of operands NaN stays NaN, as in PyTorch.
        V::splat(0.0).max(x)
    }

    #[inline(always)]
    fn derivative<V: Vector>(x: V) -> V {
        V::splat(0.0).select_below(x, V::splat(1.0), V::splat(0.0))
    }
}

impl Function for Silu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(math::sigmoid(x))
    }

    #[inline(always)]
    fn derivative<V: Vector>(x: V) -> V {
        let sigmoid = math::sigmoid(x);
        sigmoid.mul(x.madd(V::splat(1.0).sub(sigmoid), V::splat(1.0)))
    }
}

const STEEPNESS: f32 = 1.702;

impl Function for QuickGelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(math::sigmoid(x.mul(V::splat(STEEPNESS))))
    }

    #[inline(always)]
    fn derivative<V: Vector>(x: V) -> V {
        let steep = x.mul(V::splat(STEEPNESS));
        let sigmoid = math::sigmoid(steep);
        sigmoid.mul(steep.madd(V::splat(1.0).sub(sigmoid), V::splat(1.0)))
    }
}

impl Function for Tanh {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        math::tanh(x)
    }

    #[inline(always)]
    fn derivative<V: Vector>(x: V) -> V {
        let tanh = math::tanh(x);
        V::splat(1.0).sub(tanh.mul(tanh))
    }
}

multiversion! {
    fn map[V, T: Element, F: Function](x: &[T], y: &mut [T]) {
        each::<V>(x.len(), #[inline(always)] |at, n| {
            F::value(V::load_some(x, at, n)).store_some(y, at, n);
        });
    }
}

multiversion! {
    fn map_backward[V, T: Element, F: Function](x: &[T], dy: &[T], dx: &mut [T]) {
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let slope = F::derivative(V::load_some(x, at, n));
            V::load_some(dy, at, n).mul(slope).store_some(dx, at, n);
        });
    }
}

/// Cost of an element, in element operations.
const COST: usize = 8;

/// `y = f(x)`.
///
/// # Shapes
/// `x` and `y`: equal lengths.
pub fn forward<T: Element>(function: Activation, x: &[T], y: &mut [T]) {
    (T::COMPILED.activation_forward)(function, x, y);
}

pub(crate) fn forward_kernel<T: Element>(function: Activation, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    let map = with_function!(function, F => map::<T, F>);
    for_each_row_block(x.len(), COST, PerRow::one(y), |range, y| map(&x[range], y.data));
}

/// `dx = dy·f'(x)`.
///
/// # Shapes
/// `x`, `dy` and `dx`: equal lengths.
pub fn backward<T: Element>(function: Activation, x: &[T], dy: &[T], dx: &mut [T]) {
    (T::COMPILED.activation_backward)(function, x, dy, dx);
}

pub(crate) fn backward_kernel<T: Element>(function: Activation, x: &[T], dy: &[T], dx: &mut [T]) {
    assert_eq!((x.len(), x.len()), (dy.len(), dx.len()));
    let map = with_function!(function, F => map_backward::<T, F>);
    for_each_row_block(x.len(), COST, PerRow::one(dx), |range, dx| {
        map(&x[range.clone()], &dy[range], dx.data);
    });
}
