use lowrank_kernels::mixture::{Choice, choose, weigh, weigh_backward, weights_backward, weights_of};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    assert_close, assert_same_bits, derivative, dot, elements, numbers, on_threads, tolerance, wide, zeros,
};

const CHOICES: [Choice; 5] = [
    Choice { experts: 8, chosen: 2, normalised: true },
    Choice { experts: 5, chosen: 3, normalised: false },
    Choice { experts: 4, chosen: 4, normalised: true },
    Choice { experts: 3, chosen: 1, normalised: false },
    Choice { experts: 1, chosen: 1, normalised: true },
];

fn chosen(choice: Choice, logits: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let count = logits.len() / choice.experts * choice.chosen;
    let (mut chosen, mut weights) = (vec![usize::MAX; count], vec![f32::NAN; count]);
    choose(choice, logits, &mut chosen);
    weights_of(choice, logits, &chosen, &mut weights);
    (chosen, weights)
}

/// The weights of a row's experts, which are known.
fn weights(choice: Choice, logits: &[f64], chosen: &[usize]) -> Vec<f64> {
    let all: f64 = logits.iter().map(|logit| logit.exp()).sum();
    let own: Vec<f64> = chosen.iter().map(|expert| logits[*expert].exp() / all).collect();
    let sum: f64 = if choice.normalised { own.iter().sum() } else { 1.0 };
    own.into_iter().map(|weight| weight / sum).collect()
}

#[test]
fn the_largest_logits_are_chosen_and_weighted_by_their_softmax() {
    for choice in CHOICES {
        let logits = numbers(3, 40 * choice.experts);
        let (chosen, found) = chosen(choice, &logits);
        let rows = logits.chunks_exact(choice.experts).zip(chosen.chunks_exact(choice.chosen));
        for ((logits, chosen), found) in rows.zip(found.chunks_exact(choice.chosen)) {
            let mut order: Vec<usize> = (0..choice.experts).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            assert_eq!(chosen, &order[..choice.chosen]);
            assert_close(found, &weights(choice, &wide(logits), chosen), 1e-6);
        }
    }
}

#[test]
fn of_equal_logits_the_first_is_chosen_and_huge_ones_do_not_overflow() {
    let choice = Choice { experts: 4, chosen: 2, normalised: true };
    let (chosen, weights) = chosen(choice, &[1.0, 2.0, 2.0, 2.0, 3e38, -3e38, 3e38, 0.0]);
    assert_eq!(chosen, [1, 2, 0, 2]);
    assert_eq!(weights, [0.5; 4]);
}

#[test]
fn the_backward_of_the_weights_is_their_derivative() {
    for choice in CHOICES {
        let logits = numbers(4, 9 * choice.experts);
        let (chosen, found) = chosen(choice, &logits);
        let upstream = numbers(5, found.len());
        let mut dlogits = vec![f32::NAN; logits.len()];
        weights_backward(choice, &logits, &chosen, &found, &upstream, &mut dlogits);
        for (row, dlogits) in dlogits.chunks_exact(choice.experts).enumerate() {
            let own = row * choice.chosen..(row + 1) * choice.chosen;
            let (chosen, upstream) = (&chosen[own.clone()], wide(&upstream[own]));
            let logits = wide(&logits[row * choice.experts..(row + 1) * choice.experts]);
            let expected = derivative(&logits, |logits| dot(&weights(choice, logits, chosen), &upstream));
            assert_close(dlogits, &expected, 2e-6);
        }
    }
}

/// Rows that went to two experts each, and the places where these left them.
struct Collected<T> {
    cols: usize,
    x: Vec<T>,
    places: Vec<usize>,
    weights: Vec<f32>,
}

/// Enough for several threads to have some, at the widest rows.
const ROWS: usize = 499;
const CHOSEN: usize = 2;

impl<T: Element> Collected<T> {
    fn new(cols: usize) -> Self {
        let all = ROWS * CHOSEN;
        // 17 has no factor in common with their number: each place once.
        let places = (0..all).map(|at| at * 17 % all).collect();
        Self { cols, x: elements(6, all * cols), places, weights: numbers(7, all) }
    }

    fn rows(&self) -> Rows<'_, T> {
        Rows::dense(&self.x, ROWS * CHOSEN, self.cols)
    }

    fn sum(&self) -> Vec<T> {
        let mut y = elements(8, ROWS * self.cols);
        weigh(self.rows(), &self.places, &self.weights, RowsMut::dense(&mut y, ROWS, self.cols));
        y
    }

    /// `Σ weights·x` of every row, of values that are no element of `self`.
    fn reference(&self, x: &[f64], weights: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; ROWS * self.cols];
        for (at, (place, weight)) in self.places.iter().zip(weights).enumerate() {
            let row = &x[place * self.cols..(place + 1) * self.cols];
            let y = y[at / CHOSEN * self.cols..].iter_mut();
            y.zip(row).for_each(|(y, x)| *y += weight * x);
        }
        y
    }

    /// The gradients of `x` and of the weight of each of its rows.
    fn backward(&self, dy: &[T]) -> (Vec<T>, Vec<f32>) {
        let (mut sources, mut weights) = (vec![0; self.places.len()], vec![0.0; self.places.len()]);
        for (at, place) in self.places.iter().enumerate() {
            (sources[*place], weights[*place]) = (at / CHOSEN, self.weights[at]);
        }
        let (mut dx, mut dweights) = (elements(9, self.x.len()), vec![f32::NAN; weights.len()]);
        let out = RowsMut::dense(&mut dx, weights.len(), self.cols);
        let dy = Rows::dense(dy, ROWS, self.cols);
        weigh_backward(dy, self.rows(), &sources, &weights, out, &mut dweights);
        (dx, dweights)
    }
}

for_both!(what_experts_make_is_summed_by_weight, check_sum);
fn check_sum<T: Element>() {
    for cols in [1, 16, 37] {
        let collected = Collected::<T>::new(cols);
        let expected = collected.reference(&wide(&collected.x), &wide(&collected.weights));
        assert_close(&collected.sum(), &expected, tolerance::<T>());
    }
}

for_both!(the_backward_of_the_sum_is_its_derivative, check_backward_of_sum);
fn check_backward_of_sum<T: Element>() {
    let collected = Collected::<T>::new(1);
    let dy = elements::<T>(10, ROWS);
    let (dx, dweights) = collected.backward(&dy);
    let (x, weights, dy) = (wide(&collected.x), wide(&collected.weights), wide(&dy));
    let expected = derivative(&x, |x| dot(&collected.reference(x, &weights), &dy));
    assert_close(&dx, &expected, tolerance::<T>());
    let expected = derivative(&weights, |weights| dot(&collected.reference(&x, weights), &dy));
    let at_places: Vec<f32> = collected.places.iter().map(|place| dweights[*place]).collect();
    assert_close(&at_places, &expected, 1e-5);
}

for_both!(threads_do_not_change_a_bit, check_threads);
fn check_threads<T: Element>() {
    let collected = Collected::<T>::new(301);
    let dy = elements::<T>(10, ROWS * 301);
    let once = on_threads(1, || (collected.sum(), collected.backward(&dy)));
    let again = on_threads(3, || (collected.sum(), collected.backward(&dy)));
    assert_same_bits(&once.0, &again.0);
    assert_same_bits(&once.1.0, &again.1.0);
    assert_same_bits(&once.1.1, &again.1.1);
}

#[test]
fn no_rows_are_no_work() {
    let choice = CHOICES[0];
    assert!(chosen(choice, &[]).0.is_empty());
    weigh::<f32>(Rows::dense(&[], 0, 3), &[], &[], RowsMut::dense(&mut zeros(0), 0, 3));
}
