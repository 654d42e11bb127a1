//! The best approximations of a file's matrices, as factors in another file.

use std::path::Path;

use super::file::{MatrixFile, Subject};
use crate::Result;
use crate::hub::{Tensors, write_tensors};
use crate::tensor::Tensor;

/// Writes, for each of the named matrices of a file or all, the factors of its best approximation of rank at most `k`, as
/// f32: `NAME.left` `[M, K]`, which is `U·Σ`, and `NAME.right` `[K, N]`, which is `Vᵀ`. Gives the number of tensors.
///
/// # Errors
/// If a name is unknown, a value is not finite, or a file cannot be read or written.
pub fn write_approximations(file: &Path, names: &[String], k: usize, out: &Path) -> Result<usize> {
    let file = MatrixFile::open(file)?;
    let names: Vec<&str> =
        if names.is_empty() { file.names().collect() } else { file.meant(names.iter().map(String::as_str)) };
    let mut tensors = Tensors::new();
    for name in names {
        let (made, rows, columns) = match file.get(name)? {
            Subject::Matrix(matrix) => (matrix.low_rank_approximation(k)?, matrix.rows(), matrix.columns()),
            Subject::Product(product) => {
                (product.low_rank_approximation(k)?, product.rows(), product.columns())
            }
        };
        let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<_>>();
        tensors.insert(format!("{name}.left"), Tensor::from_slice([rows, made.k], &narrow(&made.left)));
        tensors.insert(format!("{name}.right"), Tensor::from_slice([made.k, columns], &narrow(&made.right)));
    }
    write_tensors(out, &tensors)?;
    Ok(tensors.len())
}
