//! Activation functions and their derivatives, by PyTorch's formulas.

use crate::element::Element;
use crate::math;
use crate::parallel::{PerRow, for_each_row_block};
use crate::simd::Level;

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

/// A function and its derivative at a point.
trait Function {
    fn value<L: Level>(x: f32) -> f32;
    fn derivative<L: Level>(x: f32) -> f32;
}

struct Gelu;
struct GeluTanh;
struct Relu;
struct Silu;
struct Tanh;

impl Function for Gelu {
    #[inline(always)]
    fn value<L: Level>(x: f32) -> f32 {
        x * math::normal_cdf::<L>(x)
    }

    #[inline(always)]
    fn derivative<L: Level>(x: f32) -> f32 {
        const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
        let density = INVERSE_SQRT_TAU * math::exp::<L>(-0.5 * x * x);
        L::madd(x, density, math::normal_cdf::<L>(x))
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl Function for GeluTanh {
    #[inline(always)]
    fn value<L: Level>(x: f32) -> f32 {
        let inner = SQRT_2_OVER_PI * L::madd(CUBIC * x * x, x, x);
        0.5 * x * (1.0 + math::tanh::<L>(inner))
    }

    #[inline(always)]
    fn derivative<L: Level>(x: f32) -> f32 {
        let inner = SQRT_2_OVER_PI * L::madd(CUBIC * x * x, x, x);
        let tanh = math::tanh::<L>(inner);
        let inner_derivative = SQRT_2_OVER_PI * L::madd(3.0 * CUBIC * x, x, 1.0);
        0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner_derivative
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value<L: Level>(x: f32) -> f32 {
        // NaN stays NaN, as in PyTorch.
        if x < 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn derivative<L: Level>(x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { 0.0 }
    }
}

impl Function for Silu {
    #[inline(always)]
    fn value<L: Level>(x: f32) -> f32 {
        x * math::sigmoid::<L>(x)
    }

    #[inline(always)]
    fn derivative<L: Level>(x: f32) -> f32 {
        let sigmoid = math::sigmoid::<L>(x);
        sigmoid * L::madd(x, 1.0 - sigmoid, 1.0)
    }
}

impl Function for Tanh {
    #[inline(always)]
    fn value<L: Level>(x: f32) -> f32 {
        math::tanh::<L>(x)
    }

    #[inline(always)]
    fn derivative<L: Level>(x: f32) -> f32 {
        let tanh = math::tanh::<L>(x);
        1.0 - tanh * tanh
    }
}

multiversion! {
    fn map[L, T: Element, F: Function](x: &[T], y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = T::round(F::value::<L>(x.widen()));
        }
    }
}

multiversion! {
    fn map_backward[L, T: Element, F: Function](x: &[T], dy: &[T], dx: &mut [T]) {
        for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
            *dx = T::round(dy.widen() * F::derivative::<L>(x.widen()));
        }
    }
}

/// Cost of an element, in element operations.
const COST: usize = 8;

/// `y = f(x)`.
///
/// # Shapes
/// `x` and `y`: equal lengths.
pub fn forward<T: Element>(function: Activation, x: &[T], y: &mut [T]) {
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
