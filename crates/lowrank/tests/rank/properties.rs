//! What holds of every matrix.

use lowrank::analysis::{LowRank, Matrix, Product, Tolerance, product_spectrum};
use lowrank_kernels::random::Philox;

fn random(seed: u64, elements: usize) -> Vec<f32> {
    let mut generator = Philox::new(seed, 0);
    (0..elements).map(|_| generator.normal_f32()).collect()
}

fn product(left: &[f64], right: &[f64], k: usize, columns: usize) -> Vec<f64> {
    let rows = left.chunks_exact(k).map(|row| {
        (0..columns)
            .map(|column| (0..k).map(|i| row[i] * right[i * columns + column]).sum())
            .collect::<Vec<f64>>()
    });
    rows.flatten().collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn same_values(actual: &[f64], wanted: &[f64]) {
    assert_eq!(actual.len(), wanted.len());
    for (actual, wanted) in actual.iter().zip(wanted) {
        assert!((actual - wanted).abs() <= 1e-12 * wanted.max(1.0), "{actual} for {wanted}");
    }
}

#[test]
fn a_products_spectrum_from_its_factors_is_that_of_the_product() {
    // Also where the inner side is the longest, or a factor is a row or a column.
    for (case, (m, r, n)) in
        [(13, 4, 9), (5, 11, 7), (1, 3, 8), (6, 1, 1), (17, 17, 3)].into_iter().enumerate()
    {
        let (b, a) = (random(case as u64, m * r), random(99 + case as u64, r * n));
        let formed = product(&wide(&b), &wide(&a), r, n);
        let wanted = Matrix::from_f64("B·A", &formed, m, n).unwrap().spectrum().unwrap();
        let (b, a) = (Matrix::from_f32("B", &b, m, r).unwrap(), Matrix::from_f32("A", &a, r, n).unwrap());
        let actual = product_spectrum(b.clone(), a.clone()).unwrap();
        same_values(actual.values(), wanted.values());
        assert_eq!(actual.rank(Tolerance::Usual), m.min(r).min(n));
        let scaled = Product::new(b, a, -3.0).unwrap();
        let thrice: Vec<f64> = wanted.values().iter().map(|value| 3.0 * value).collect();
        same_values(scaled.spectrum().unwrap().values(), &thrice);
        same_values(scaled.transposed().spectrum().unwrap().values(), &thrice);
    }
}

#[test]
fn a_product_of_zeros_has_rank_zero() {
    let (b, a) = ([0.0; 12], random(5, 20));
    let product = Product::new(
        Matrix::from_f32("B", &b, 6, 2).unwrap(),
        Matrix::from_f32("A", &a, 2, 10).unwrap(),
        2.0,
    );
    let spectrum = product.unwrap().spectrum().unwrap();
    assert_eq!((spectrum.rank(Tolerance::Usual), spectrum.values().len()), (0, 6));
}

fn check_approximation(made: &LowRank, whole: &[f64], columns: usize, k: usize) {
    assert_eq!(made.k, k);
    let formed = product(&made.left, &made.right, k, columns);
    let off = norm(formed.iter().zip(whole).map(|(x, y)| x - y));
    assert!((off - made.error.frobenius).abs() < 1e-9, "{off} and {}", made.error.frobenius);
    let differences: Vec<f64> = formed.iter().zip(whole).map(|(x, y)| x - y).collect();
    let left_over = Matrix::from_f64("rest", &differences, whole.len() / columns, columns).unwrap();
    let spectral = left_over.spectrum().unwrap().spectral_norm();
    assert!((spectral - made.error.spectral).abs() < 1e-9, "{spectral} and {}", made.error.spectral);
}

#[test]
fn an_approximation_is_off_by_what_its_error_says_in_both_norms() {
    for (m, n) in [(12, 19), (19, 12)] {
        let values = random(7, m * n);
        let matrix = Matrix::from_f32("W", &values, m, n).unwrap();
        for k in [1, 5, 12] {
            check_approximation(&matrix.low_rank_approximation(k).unwrap(), &wide(&values), n, k);
        }
        assert_eq!(matrix.low_rank_approximation(99).unwrap().k, 12);
    }
    let (b, a) = (random(1, 12 * 4), random(2, 4 * 9));
    let whole: Vec<f64> = product(&wide(&b), &wide(&a), 4, 9).iter().map(|value| 0.5 * value).collect();
    let of = |transposed: bool| {
        let (b, a) = (Matrix::from_f32("B", &b, 12, 4).unwrap(), Matrix::from_f32("A", &a, 4, 9).unwrap());
        let product = Product::new(b, a, 0.5).unwrap();
        if transposed { product.transposed() } else { product }
    };
    check_approximation(&of(false).low_rank_approximation(3).unwrap(), &whole, 9, 3);
    let turned: Vec<f64> =
        (0..9).flat_map(|j| (0..12).map(move |i| (i, j))).map(|(i, j)| whole[i * 9 + j]).collect();
    check_approximation(&of(true).low_rank_approximation(3).unwrap(), &turned, 12, 3);
}

/// Large enough for several threads, and for the triangle of blocks.
#[test]
fn a_long_matrix_read_in_blocks_has_the_spectrum_of_the_whole() {
    let (m, n) = (5003, 61);
    let mut values = random(3, m * n);
    // A column that is a sum of others, so that the rank is not full.
    values.chunks_exact_mut(n).for_each(|row| row[60] = row[0] + row[1]);
    let turned: Vec<f32> =
        (0..n).flat_map(|j| (0..m).map(move |i| (i, j))).map(|(i, j)| values[i * n + j]).collect();
    let long = Matrix::from_f32("long", &values, m, n).unwrap();
    let whole = long.svd().unwrap().values;
    for matrix in [long, Matrix::from_f32("wide", &turned, n, m).unwrap()] {
        let spectrum = matrix.spectrum().unwrap();
        for (actual, wanted) in spectrum.values().iter().zip(&whole) {
            assert!((actual - wanted).abs() <= 1e-12 * whole[0], "{actual} for {wanted}");
        }
        assert_eq!(spectrum.rank(Tolerance::Usual), 60);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let values = random(11, 530 * 520);
    let matrix = Matrix::from_f32("W", &values, 530, 520).unwrap();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| matrix.spectrum().unwrap())
    };
    let one = with(1);
    assert!(with(2) == one && with(5) == one);
}

#[test]
fn what_is_not_finite_is_named_with_its_place_and_what_is_empty_has_rank_zero() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = random(4, 12);
        values[7] = bad;
        let matrix = Matrix::from_f32("W", &values, 3, 4).unwrap();
        for error in [matrix.spectrum().unwrap_err(), matrix.svd().unwrap_err()] {
            let wanted = format!("W: it holds {bad} at [1, 3]; every value must be finite");
            assert_eq!(error.to_string(), wanted);
        }
    }
    for (m, n) in [(0, 0), (0, 5), (5, 0)] {
        let spectrum = Matrix::from_f32("nothing", &[], m, n).unwrap().spectrum().unwrap();
        assert_eq!((spectrum.rank(Tolerance::Usual), spectrum.values().len()), (0, 0));
    }
    assert!(Matrix::from_f32("W", &[1.0], 1, 2).is_err(), "a length that is not the shape's");
}

/// Of several runs the fastest: others may be using the machine.
#[test]
fn the_spectrum_of_a_product_of_rank_16_takes_less_than_50_ms_at_4096() {
    let (side, r) = (4096, 16);
    let (b, a) = (random(1, side * r), random(2, r * side));
    let (b, a) = (Matrix::from_f32("B", &b, side, r).unwrap(), Matrix::from_f32("A", &a, r, side).unwrap());
    let run = |_| {
        let start = std::time::Instant::now();
        let spectrum = product_spectrum(b.clone(), a.clone()).unwrap();
        let taken = start.elapsed();
        assert_eq!((spectrum.rank(Tolerance::Usual), spectrum.values().len()), (r, side));
        taken
    };
    let fastest = (0..9).map(run).min().unwrap();
    assert!(fastest.as_millis() < 50, "{fastest:?}");
}
