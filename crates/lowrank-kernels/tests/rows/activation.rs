use lowrank_kernels::activation::{backward, forward};
use lowrank_kernels::{Activation, Element};

use crate::for_both;
use crate::support::{
    assert_close, assert_same_bits, derivative, elements, on_threads, tolerance, wide, zeros,
};

pub const ALL: [Activation; 6] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
    Activation::QuickGelu,
];

/// `erf x`: the Taylor series where it converges fast, the continued fraction of `erfc` elsewhere.
fn erf(x: f64) -> f64 {
    let square = x * x;
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -square / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = 0.0;
        for n in (1..60).rev() {
            fraction = f64::from(n) / 2.0 / (x.abs() + fraction);
        }
        let erfc = (-square).exp() / ((x.abs() + fraction) * std::f64::consts::PI.sqrt());
        (1.0 - erfc).copysign(x)
    }
}

pub fn value(function: Activation, x: f64) -> f64 {
    match function {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

#[test]
fn values_are_exact_over_a_wide_range() {
    let x: Vec<f32> =
        (-60_000..=60_000).map(|i| i as f32 * 5e-4).chain([-1e4, -100.0, 88.5, 100.0, 1e4]).collect();
    for function in ALL {
        let mut y = vec![0.0; x.len()];
        forward(function, &x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let expected = value(function, f64::from(x));
            let error = (f64::from(y) - expected).abs();
            let allowed = 2e-7 * expected.abs().max(1.0);
            assert!(error <= allowed, "{function:?}({x}) = {y}, not {expected} ({error:e})");
        }
    }
}

#[test]
fn small_arguments_keep_relative_accuracy() {
    let x: Vec<f32> = (1..1000).map(|i| i as f32 * 1e-6).collect();
    for function in ALL {
        let mut y = vec![0.0; x.len()];
        forward(function, &x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let expected = value(function, f64::from(x));
            assert!((f64::from(y) - expected).abs() <= 6e-7 * expected.abs(), "{function:?}({x}) = {y}");
        }
    }
}

#[test]
fn nan_stays_nan_and_infinity_is_finite_where_it_should_be() {
    for function in ALL {
        let (mut y, mut dx) = ([0.0; 20], [0.0; 20]);
        forward(function, &[f32::NAN; 20], &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{function:?}");
        backward(function, &[1e10; 20], &[1.0; 20], &mut dx);
        let expected = if function == Activation::Tanh { 0.0 } else { 1.0 };
        assert!(dx.iter().all(|&dx| dx == expected), "{function:?} {dx:?}");
    }
}

for_both!(backward_is_the_derivative, check_backward);
fn check_backward<T: Element>() {
    let mut x = elements::<T>(1, 203);
    for (i, x) in x.iter_mut().enumerate() {
        *x = T::round(x.widen() * [0.3, 1.0, 3.0, 6.0][i % 4]);
    }
    let dy = elements::<T>(2, 203);
    for function in ALL {
        let mut y = zeros::<T>(x.len());
        forward(function, &x, &mut y);
        let expected: Vec<f64> = wide(&x).iter().map(|&x| value(function, x)).collect();
        assert_close(&y, &expected, tolerance::<T>());
        let mut dx = zeros::<T>(x.len());
        backward(function, &x, &dy, &mut dx);
        let expected: Vec<f64> = wide(&x)
            .iter()
            .zip(wide(&dy))
            .map(|(&x, dy)| dy * derivative(&[x], |x| value(function, x[0]))[0])
            .collect();
        assert_close(&dx, &expected, tolerance::<T>());
    }
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let (x, dy) = (elements::<T>(1, 50_001), elements::<T>(2, 50_001));
    let run = |threads| {
        on_threads(threads, || {
            let (mut y, mut dx) = (zeros::<T>(x.len()), zeros::<T>(x.len()));
            forward(Activation::Gelu, &x, &mut y);
            backward(Activation::Gelu, &x, &dy, &mut dx);
            (y, dx)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
}

#[test]
fn names_are_those_of_configurations() {
    for (name, function) in [
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_python_tanh", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_accurate", Activation::GeluTanh),
        ("quick_gelu", Activation::QuickGelu),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("tanh", Activation::Tanh),
    ] {
        assert_eq!(Activation::from_name(name), Some(function), "{name}");
    }
    assert_eq!(Activation::from_name("geglu"), None);
}
