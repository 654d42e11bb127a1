use lowrank_kernels::rotary::{HeadNorms, RotaryShape, Rotations, backward, forward};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::rms_norm;
use crate::support::{
    assert_close, assert_same_bits, derivative, dot, elements, numbers, on_threads, tolerance, wide,
};

const EPS: f32 = 1e-3;
const FACTOR: f32 = 1.3;

#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    shape: RotaryShape,
    half: usize,
    normed: bool,
}

impl Case {
    fn frequencies(&self) -> Vec<f32> {
        (0..self.half).map(|i| 0.7_f32.powi(i as i32)).collect()
    }

    /// Positions that come again, and are not in order.
    fn positions(&self) -> Vec<u32> {
        (0..self.rows).map(|row| (row * 5 % 7 * 9) as u32).collect()
    }

    fn rotations(&self) -> Rotations {
        Rotations::new(&self.positions(), &self.frequencies(), FACTOR)
    }

    fn x<T: Element>(&self) -> Vec<T> {
        elements(1, self.rows * self.shape.width())
    }

    fn weights(&self) -> Vec<f32> {
        numbers(2, 2 * self.shape.head_dim)
    }

    fn forward<T: Element>(&self) -> Vec<T> {
        let (x, weights) = (self.x::<T>(), self.weights());
        let (query, key) = weights.split_at(self.shape.head_dim);
        let norms = self.normed.then_some(HeadNorms { query, key, eps: EPS });
        let (rows, width, mut y) = (self.rows, self.shape.width(), elements::<T>(3, x.len()));
        let out = RowsMut::dense(&mut y, rows, width);
        forward(Rows::dense(&x, rows, width), &self.rotations(), self.shape, norms, out);
        y
    }

    fn backward<T: Element>(&self, dweights: Option<&mut [f32]>) -> Vec<T> {
        let (x, weights) = (self.x::<T>(), self.weights());
        let (query, key) = weights.split_at(self.shape.head_dim);
        let (rows, width) = (self.rows, self.shape.width());
        let normed = (HeadNorms { query, key, eps: EPS }, Rows::dense(&x, rows, width));
        let mut gradient = elements::<T>(4, x.len());
        let out = RowsMut::dense(&mut gradient, rows, width);
        backward(self.normed.then_some(normed), &self.rotations(), self.shape, out, dweights);
        gradient
    }

    /// By complex numbers: each pair of elements turned in the plane.
    fn reference(&self, x: &[f64], weights: &[f64]) -> Vec<f64> {
        let RotaryShape { heads, kv_heads, head_dim } = self.shape;
        let mut y = x.to_vec();
        for (row, position) in y.chunks_exact_mut(self.shape.width()).zip(self.positions()) {
            for (head, x) in row.chunks_exact_mut(head_dim).enumerate().take(heads + kv_heads) {
                if self.normed {
                    let weight = &weights[if head < heads { 0 } else { head_dim }..][..head_dim];
                    x.copy_from_slice(&rms_norm::reference(x, weight, EPS));
                }
                for (i, frequency) in self.frequencies().into_iter().enumerate() {
                    // The angle is rounded to f32, as in PyTorch.
                    let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
                    let (a, b) = (x[i], x[self.half + i]);
                    x[i] = f64::from(FACTOR) * (a * cosine - b * sine);
                    x[self.half + i] = f64::from(FACTOR) * (a * sine + b * cosine);
                }
            }
        }
        y
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let sizes = [(5, 3, 1, 34, 17), (4, 4, 2, 13, 5), (9, 2, 2, 16, 8), (1, 1, 1, 2, 1), (3, 2, 1, 7, 0)];
    sizes.into_iter().flat_map(|(rows, heads, kv_heads, head_dim, half)| {
        let shape = RotaryShape { heads, kv_heads, head_dim };
        [false, true].map(|normed| Case { rows, shape, half, normed })
    })
}

for_both!(forward_turns_queries_and_keys, check_forward);
fn check_forward<T: Element>() {
    for case in cases() {
        let expected = case.reference(&wide(&case.x::<T>()), &wide(&case.weights()));
        assert_close(&case.forward::<T>(), &expected, 2.0 * tolerance::<T>());
    }
}

for_both!(backward_is_the_derivative, check_backward);
fn check_backward<T: Element>() {
    for case in cases() {
        let (x, weights) = (wide(&case.x::<T>()), wide(&case.weights()));
        let dy = wide(&elements::<T>(4, x.len()));
        let mut dweights = vec![1.0; weights.len()];
        let dx = case.backward::<T>(case.normed.then_some(&mut dweights[..]));
        assert_same_bits(&dx, &case.backward::<T>(None));
        // Normalised, a head of two elements may be near the origin, where its gradient is large.
        let expected = derivative(&x, |x| dot(&case.reference(x, &weights), &dy));
        assert_close(&dx, &expected, 8.0 * tolerance::<T>());
        if case.normed {
            let expected = derivative(&weights, |weights| dot(&case.reference(&x, weights), &dy));
            assert_close(&dweights, &expected.iter().map(|x| x + 1.0).collect::<Vec<_>>(), 2e-5);
        }
    }
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let shape = RotaryShape { heads: 5, kv_heads: 2, head_dim: 22 };
    let case = Case { rows: 391, shape, half: 9, normed: true };
    let run = |threads| {
        on_threads(threads, || {
            let mut dweights = vec![0.0; 2 * shape.head_dim];
            (case.forward::<T>(), case.backward::<T>(Some(&mut dweights)), dweights)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
    assert_same_bits(&one.2, &three.2);
}
