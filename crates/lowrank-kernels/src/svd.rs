//! Singular values, singular vectors and triangular factors of f64 matrices.
//!
//! The work is faer's. Large matrices are cut into a number of parts that does not depend on the number of threads, and
//! so the results do not either. f64 because faer's f32 is 1e-5 of the largest singular value off at 512 x 512, which
//! is no better than the weights that are looked at.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::svd::{ComputeSvdVectors, svd_scratch};
use faer::{Col, Mat, MatMut, MatRef, Par};

/// The parts that a large matrix is cut into.
const PARTS: usize = 8;
/// Elements of a matrix that is not worth a second thread.
const SERIAL_ELEMENTS: usize = 1 << 18;

/// A thin singular value decomposition of a matrix `[M, N]`, of `K = min(M, N)` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// The left directions `[K, M]`, each a row.
    pub left: Vec<f64>,
    /// The singular values `[K]`, the largest first.
    pub values: Vec<f64>,
    /// The right directions `[K, N]`, each a row.
    pub right: Vec<f64>,
}

/// Whether the decomposition of a matrix of this size occupies several threads by itself.
pub fn is_parallel(rows: usize, columns: usize) -> bool {
    rows.saturating_mul(columns) > SERIAL_ELEMENTS
}

/// The singular values of a row-major matrix `[rows, columns]`, the largest first; none if they do not converge, which
/// takes values that are not finite.
///
/// # Panics
/// If there are more or fewer values than the shape has elements.
pub fn singular_values(values: &[f64], rows: usize, columns: usize) -> Option<Vec<f64>> {
    let transposed = transposed(values, rows, columns);
    let mut diagonal = Col::<f64>::zeros(rows.min(columns));
    decompose(transposed, &mut diagonal, None)?;
    Some(diagonal.iter().copied().collect())
}

/// The thin singular value decomposition of a row-major matrix `[rows, columns]`; none if it does not converge, which
/// takes values that are not finite.
///
/// # Panics
/// If there are more or fewer values than the shape has elements.
pub fn svd(values: &[f64], rows: usize, columns: usize) -> Option<Svd> {
    let transposed = transposed(values, rows, columns);
    let size = rows.min(columns);
    let mut diagonal = Col::<f64>::zeros(size);
    let (mut left, mut right) = (Mat::<f64>::zeros(rows, size), Mat::<f64>::zeros(columns, size));
    decompose(transposed, &mut diagonal, Some((right.as_mut(), left.as_mut())))?;
    Some(Svd {
        left: columns_of(left.as_ref()),
        values: diagonal.iter().copied().collect(),
        right: columns_of(right.as_ref()),
    })
}

/// The triangular factor `R`, `[columns, columns]` and row-major, of a row-major matrix `[rows, columns]` with at least
/// as many rows as columns: it has the matrix's singular values and right directions.
///
/// # Panics
/// If there are more or fewer values than the shape has elements, or fewer rows than columns.
pub fn triangle(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    assert!(rows >= columns, "a triangle of {rows} rows and {columns} columns");
    let mut matrix = transposed(values, rows, columns).transpose().to_owned();
    let parallel = parts(rows, columns);
    let block = recommended_block_size::<f64>(rows, columns);
    let mut coefficients = Mat::<f64>::zeros(block, columns);
    let scratch = qr_in_place_scratch::<f64>(rows, columns, block, parallel, Default::default());
    qr_in_place(
        matrix.as_mut(),
        coefficients.as_mut(),
        parallel,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    );
    let above = |row: usize, column: usize| if column < row { 0.0 } else { matrix[(row, column)] };
    (0..columns).flat_map(|row| (0..columns).map(move |column| above(row, column))).collect()
}

/// The same memory as a column-major matrix `[columns, rows]`, which is how faer works best.
fn transposed(values: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    assert_eq!(Some(values.len()), rows.checked_mul(columns), "values for the shape [{rows}, {columns}]");
    MatRef::from_column_major_slice(values, columns, rows)
}

fn parts(rows: usize, columns: usize) -> Par {
    if is_parallel(rows, columns) { Par::rayon(PARTS) } else { Par::Seq }
}

fn decompose(
    matrix: MatRef<'_, f64>,
    diagonal: &mut Col<f64>,
    vectors: Option<(MatMut<'_, f64>, MatMut<'_, f64>)>,
) -> Option<()> {
    let (rows, columns) = matrix.shape();
    if rows == 0 || columns == 0 {
        return Some(());
    }
    let parallel = parts(rows, columns);
    let wanted = if vectors.is_some() { ComputeSvdVectors::Thin } else { ComputeSvdVectors::No };
    let scratch = svd_scratch::<f64>(rows, columns, wanted, wanted, parallel, Default::default());
    let (left, right) = vectors.unzip();
    faer::linalg::svd::svd(
        matrix,
        diagonal.as_mut().as_diagonal_mut(),
        left,
        right,
        parallel,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .ok()
}

/// The columns, one after the other.
fn columns_of(matrix: MatRef<'_, f64>) -> Vec<f64> {
    matrix.col_iter().flat_map(|column| column.iter().copied()).collect()
}
