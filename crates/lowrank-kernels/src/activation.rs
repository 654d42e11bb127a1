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
}

impl Activation {
    /// The function that a Hugging Face `config.json` names so.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            _ => return None,
        })
    }
}

/// A function and its derivative at points.
trait Function {
    fn value<V: Vector>(x: V) -> V;
    fn derivative<V: Vector>(x: V) -> V;
}

struct Gelu;
struct GeluTanh;
struct Relu;
struct Silu;
struct Tanh;

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
    let map = match function {
        Activation::Gelu => map::<T, Gelu>,
        Activation::GeluTanh => map::<T, GeluTanh>,
        Activation::Relu => map::<T, Relu>,
        Activation::Silu => map::<T, Silu>,
        Activation::Tanh => map::<T, Tanh>,
    };
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
    let map = match function {
        Activation::Gelu => map_backward::<T, Gelu>,
        Activation::GeluTanh => map_backward::<T, GeluTanh>,
        Activation::Relu => map_backward::<T, Relu>,
        Activation::Silu => map_backward::<T, Silu>,
        Activation::Tanh => map_backward::<T, Tanh>,
    };
    for_each_row_block(x.len(), COST, PerRow::one(dx), |range, dx| {
        map(&x[range.clone()], &dy[range], dx.data);
    });
}
