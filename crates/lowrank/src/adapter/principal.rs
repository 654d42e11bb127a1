//! Pairs that begin as a part of the weight: PiSSA and OLoRA.

use lowrank_kernels::gemm::{Matrix as Operand, MatrixMut, matmul};
use lowrank_kernels::random::Philox;
use lowrank_kernels::svd::{Svd, svd};

use crate::tape::{Leaf, is_finite};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// `B` `[outputs, r]` and `A` `[r, inputs]`, row-major.
pub(super) struct Factors {
    b: Vec<f64>,
    a: Vec<f64>,
    r: usize,
}

impl Factors {
    /// The factors of `B·A/scaling`, `A` first.
    pub fn tensors(&self, scaling: f32) -> [Tensor; 2] {
        let (r, root) = (self.r, f64::from(scaling).sqrt());
        let tensor = |values: &[f64], shape: [usize; 2]| {
            let values: Vec<f32> = values.iter().map(|value| (value / root) as f32).collect();
            Tensor::from_slice(shape, &values)
        };
        [tensor(&self.a, [r, self.a.len() / r]), tensor(&self.b, [self.b.len() / r, r])]
    }

    /// `U·√Σ` and `√Σ·Vᵀ` of the `r` largest singular values.
    fn of(svd: &Svd, [outputs, inputs]: [usize; 2], r: usize) -> Self {
        let (mut b, mut a) = (vec![0.0; outputs * r], Vec::with_capacity(r * inputs));
        for (k, value) in svd.values[..r].iter().enumerate() {
            let root = value.sqrt();
            for (row, left) in svd.left[k * outputs..(k + 1) * outputs].iter().enumerate() {
                b[row * r + k] = root * left;
            }
            a.extend(svd.right[k * inputs..(k + 1) * inputs].iter().map(|right| root * right));
        }
        Self { b, a, r }
    }
}

/// The part of a weight along its `r` largest singular values.
///
/// # Errors
/// If the weight holds a value that is not finite.
///
/// # Source
/// Meng et al., PiSSA (arXiv 2404.02948), section 3.
pub(super) fn principal(path: &str, weight: &Leaf, r: usize) -> Result<Factors> {
    let value = weight.float();
    let (outputs, inputs) = value.rows_and_width();
    let values: Vec<f64> = value.to_f32_vec().into_iter().map(f64::from).collect();
    Ok(Factors::of(&decomposed(path, &values, outputs, inputs)?, [outputs, inputs], r))
}

fn decomposed(path: &str, values: &[f64], rows: usize, columns: usize) -> Result<Svd> {
    let found = svd(values, rows, columns).filter(|found| found.values.iter().all(|value| value.is_finite()));
    found.ok_or_else(|| {
        Error::Usage(format!("{path}: its singular values cannot be computed: a value is not finite"))
    })
}

/// As [`principal`], nearly: the directions are those of a random sketch after `iterations` rounds of power iteration.
///
/// # Errors
/// As [`principal`].
///
/// # Source
/// Halko, Martinsson and Tropp (arXiv 0909.4061), algorithm 4.4 and 5.1, with the sizes of `torch.svd_lowrank`.
pub(super) fn nearly_principal(
    path: &str,
    weight: &Leaf,
    r: usize,
    iterations: usize,
    generator: &mut Philox,
) -> Result<Factors> {
    let value = weight.float().to_dtype(DType::F32);
    let (outputs, inputs) = value.rows_and_width();
    let weight = Operand::dense(value.as_slice::<f32>(), outputs, inputs);
    let product = |left: Operand<'_>, right: Operand<'_>, [rows, columns]: [usize; 2]| {
        let mut product = vec![0.0; rows * columns];
        matmul(1.0, left, right, 0.0, MatrixMut::dense(&mut product, rows, columns), true);
        product
    };
    let mut sketch: Vec<f32> = (0..inputs * r).map(|_| generator.normal_f32()).collect();
    let mut basis = Vec::new();
    for round in 0..=iterations {
        if round > 0 {
            let basis = Operand::dense(&basis, outputs, r);
            sketch = orthonormal(&product(weight.transposed(), basis, [inputs, r]), r);
        }
        basis = orthonormal(&product(weight, Operand::dense(&sketch, inputs, r), [outputs, r]), r);
    }
    let inner = product(Operand::dense(&basis, outputs, r).transposed(), weight, [r, inputs]);
    let inner: Vec<f64> = inner.into_iter().map(f64::from).collect();
    let found = decomposed(path, &inner, r, inputs)?;
    // What the sketch's left directions are in the whole space.
    let mut left = vec![0.0; r * outputs];
    for (left, inner) in left.chunks_exact_mut(outputs).zip(found.left.chunks_exact(r)) {
        for (left, basis) in left.iter_mut().zip(basis.chunks_exact(r)) {
            *left = basis.iter().zip(inner).map(|(basis, inner)| f64::from(*basis) * inner).sum();
        }
    }
    Ok(Factors::of(&Svd { left, ..found }, [outputs, inputs], r))
}

/// The first `r` columns of `Q` and rows of `R` of the weight's QR decomposition.
///
/// # Source
/// Büyükakyüz, OLoRA (arXiv 2406.01775), section 3; PEFT's `olora_init`, which does so with the transpose of GPT-2's
/// weights.
///
/// # Errors
/// If the weight holds a value that is not finite.
pub(super) fn leading(path: &str, weight: &Leaf, r: usize) -> Result<Factors> {
    let value = weight.float().to_dtype(DType::F32);
    if !is_finite(&value) {
        return Err(Error::Usage(format!(
            "{path} holds a value that is not finite: it has no QR decomposition"
        )));
    }
    let (outputs, inputs) = value.rows_and_width();
    let values = value.as_slice::<f32>();
    let columns: Vec<f32> = values.chunks_exact(inputs).flat_map(|row| &row[..r]).copied().collect();
    let q = orthonormal(&columns, r);
    let mut rows = vec![0.0; r * inputs];
    let (left, right) = (Operand::dense(&q, outputs, r), Operand::dense(values, outputs, inputs));
    matmul(1.0, left.transposed(), right, 0.0, MatrixMut::dense(&mut rows, r, inputs), true);
    let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
    Ok(Factors { b: wide(&q), a: wide(&rows), r })
}

/// Orthonormal columns with the spans of the first of a matrix `[rows, r]`, row-major, as is the result. A column that
/// depends on those before it is replaced by another.
///
/// # Source
/// Gram-Schmidt, each column twice against all before it: Giraud et al. (2005), "twice is enough".
fn orthonormal(values: &[f32], r: usize) -> Vec<f32> {
    let rows = values.len() / r;
    let mut columns: Vec<Vec<f64>> = Vec::with_capacity(r);
    let mut spare = 0..rows;
    for k in 0..r {
        let mut column: Vec<f64> = values.iter().skip(k).step_by(r).map(|value| f64::from(*value)).collect();
        loop {
            let before = norm(&column);
            for other in columns.iter().chain(&columns) {
                let along: f64 = column.iter().zip(other).map(|(x, y)| x * y).sum();
                column.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
            let after = norm(&column);
            if after > 1e-6 * before && after.is_normal() {
                column.iter_mut().for_each(|x| *x /= after);
                break;
            }
            let Some(next) = spare.next() else { break };
            column = (0..rows).map(|row| f64::from(u8::from(row == next))).collect();
        }
        columns.push(column);
    }
    (0..rows).flat_map(|row| columns.iter().map(move |column| column[row] as f32)).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(outputs: usize, inputs: usize) -> Leaf {
        let mut generator = Philox::new(3, 1);
        let mut value = Tensor::zeros([outputs, inputs], DType::F32);
        value.make_mut::<f32>().fill_with(|| generator.normal_f32());
        // Of full rank, with a few directions that stand out.
        for (index, value) in value.make_mut::<f32>().iter_mut().enumerate() {
            let (row, column) = (index / inputs, index % inputs);
            *value += 3.0 * (row as f32).sin() * (column as f32).cos();
            *value += 2.0 * (3.0 * row as f32).cos() * (2.0 * column as f32).sin();
        }
        Leaf::frozen(value)
    }

    fn product(factors: &Factors, scaling: f32) -> Vec<f64> {
        let [a, b] = factors.tensors(scaling);
        let (a, b, r) = (a.to_f32_vec(), b.to_f32_vec(), factors.r);
        let inputs = a.len() / r;
        let at = |row: usize, column: usize| -> f64 {
            (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[k * inputs + column])).sum()
        };
        (0..b.len() / r)
            .flat_map(|row| (0..inputs).map(move |column| (row, column)))
            .map(|(i, j)| at(i, j))
            .collect()
    }

    fn off(x: &[f64], y: &[f64]) -> f64 {
        norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>())
    }

    #[test]
    fn the_principal_part_is_the_best_approximation() {
        for [outputs, inputs] in [[17, 11], [9, 23]] {
            let leaf = weight(outputs, inputs);
            let whole: Vec<f64> = leaf.value().to_f32_vec().into_iter().map(f64::from).collect();
            let spectrum = svd(&whole, outputs, inputs).unwrap().values;
            for scaling in [1.0, 2.5] {
                let factors = principal("w", &leaf, 3).unwrap();
                let product: Vec<f64> =
                    product(&factors, scaling).into_iter().map(|value| value * f64::from(scaling)).collect();
                assert!((off(&product, &whole) - norm(&spectrum[3..])).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_sketch_comes_near_it_with_more_iterations() {
        let leaf = weight(40, 60);
        let best = product(&principal("w", &leaf, 2).unwrap(), 1.0);
        let near = |iterations| {
            let factors = nearly_principal("w", &leaf, 2, iterations, &mut Philox::new(7, 0)).unwrap();
            off(&product(&factors, 1.0), &best) / norm(&best)
        };
        let (first, last) = (near(0), near(16));
        assert!(first > 1e-2 && last < 1e-3, "{first} and {last}");
    }

    /// The product of a QR decomposition's leading parts does not depend on its signs.
    #[test]
    fn the_leading_part_has_the_first_columns_whole() {
        for [outputs, inputs] in [[17, 11], [9, 23]] {
            let leaf = weight(outputs, inputs);
            let whole = leaf.value().to_f32_vec();
            let product = product(&leading("w", &leaf, 4).unwrap(), 1.0);
            for row in 0..outputs {
                for column in 0..4 {
                    let at = row * inputs + column;
                    assert!((product[at] - f64::from(whole[at])).abs() < 1e-5);
                }
            }
            assert!(off(&product, &whole.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()) > 0.1);
        }
    }

    #[test]
    fn dependent_columns_are_replaced() {
        let values = [1.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 1.0, 1.0, 2.0, 1.0];
        let made = orthonormal(&values, 3);
        for (i, j) in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)] {
            let dot: f32 = made.chunks(3).map(|row| row[i] * row[j]).sum();
            assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-6, "{i} {j}: {dot}");
        }
    }
}
