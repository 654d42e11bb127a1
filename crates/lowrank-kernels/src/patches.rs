//! The rows of images: a class token and patches with their positions, and positions made for another grid.

use crate::element::Element;
use crate::parallel::{PerRow, for_each_row_block};
use crate::row_ops::add_row;
use crate::rows::{Rows, RowsMut};

multiversion! {
    fn sum_row[V, T: Element](x: &[T], table: &[f32], y: &mut [T]) {
        for ((x, table), y) in x.iter().zip(table).zip(y) {
            *y = T::round(x.widen() + table);
        }
    }
}

multiversion! {
    fn round_row[V, T: Element](x: &[f32], y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = T::round(*x);
        }
    }
}

/// For each image the first row of `table`, then the image's patches plus the other rows of it.
///
/// # Shapes
/// `patches`: `[images·P, width]`; `table`: `[1 + P, width]`; `y`: `[images·(1 + P), width]`.
pub fn forward<T: Element>(patches: Rows<T>, table: &[f32], y: RowsMut<T>) {
    (T::COMPILED.patches_forward)(patches, table, y);
}

/// The rows of one image.
fn rows_of_an_image(table: usize, width: usize, rows: usize) -> usize {
    let of_an_image = table / width.max(1);
    assert_eq!(of_an_image * width, table, "a table of rows of {width}");
    assert!(of_an_image > 0 && rows.is_multiple_of(of_an_image), "{rows} rows of images of {of_an_image}");
    of_an_image
}

pub(crate) fn forward_kernel<T: Element>(patches: Rows<T>, table: &[f32], y: RowsMut<T>) {
    let (rows, width) = (y.rows(), y.cols());
    let of_an_image = rows_of_an_image(table.len(), width, rows);
    assert_eq!((patches.rows(), patches.cols()), (rows - rows / of_an_image, width));
    for_each_row_block(rows, width, y, |range, mut y| {
        for (i, row) in range.enumerate() {
            let (image, place) = (row / of_an_image, row % of_an_image);
            let table = &table[place * width..][..width];
            match place {
                0 => round_row(table, y.row(i)),
                // There are as many class tokens before it as images have begun.
                _ => sum_row(patches.row(row - image - 1), table, y.row(i)),
            }
        }
    });
}

/// The gradient of the table of [`forward`], which is added to `dtable`: sums over the images, in their order.
///
/// # Shapes
/// `dy`: `[images·(1 + P), width]`; `dtable`: `[1 + P, width]`.
pub fn backward<T: Element>(dy: Rows<T>, dtable: &mut [f32]) {
    (T::COMPILED.patches_backward)(dy, dtable);
}

pub(crate) fn backward_kernel<T: Element>(dy: Rows<T>, dtable: &mut [f32]) {
    let (rows, width) = (dy.rows(), dy.cols());
    let of_an_image = rows_of_an_image(dtable.len(), width, rows);
    let cost = rows / of_an_image * width;
    for_each_row_block(of_an_image, cost, RowsMut::dense(dtable, of_an_image, width), |range, mut dtable| {
        for (i, place) in range.enumerate() {
            for row in (place..rows).step_by(of_an_image) {
                add_row(dy.row(row), dtable.row(i));
            }
        }
    });
}

/// The four neighbours of each place along a line, and their weights.
type Taps = Vec<[(usize, f32); 4]>;

/// Cubic convolution from `from` places to `to`, edges repeated.
fn taps(from: usize, to: usize) -> Taps {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let ratio = from as f32 / to as f32;
    let taps = (0..to).map(|place| {
        let centre = ratio * (place as f32 + 0.5) - 0.5;
        let (start, t) = (centre.floor(), centre - centre.floor());
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        std::array::from_fn(|i| {
            let neighbour = (start as isize + i as isize - 1).clamp(0, from as isize - 1);
            (neighbour as usize, weights[i])
        })
    });
    taps.collect()
}

multiversion! {
    fn add_scaled_row[V](x: &[f32], factor: f32, sum: &mut [f32]) {
        for (x, sum) in x.iter().zip(sum) {
            *sum += factor * x;
        }
    }
}

/// Bicubic interpolation of rows that lie on a grid.
///
/// # Source
/// PyTorch's `interpolate(mode="bicubic", align_corners=False)` to a given size.
#[derive(Clone, Debug)]
pub struct Bicubic {
    from: (usize, usize),
    rows: Taps,
    columns: Taps,
}

impl Bicubic {
    /// From a grid of (rows, columns) to another. Neither may be empty.
    pub fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        Self { from, rows: taps(from.0, to.0), columns: taps(from.1, to.1) }
    }

    fn check(&self, old: usize, new: usize, width: usize) {
        assert_eq!(old, self.from.0 * self.from.1 * width);
        assert_eq!(new, self.rows.len() * self.columns.len() * width);
    }

    /// Calls `f` with the old place and the weight of the sixteen neighbours of a new place.
    fn for_each_neighbour(&self, place: usize, mut f: impl FnMut(usize, f32)) {
        let (row, column) = (place / self.columns.len(), place % self.columns.len());
        for (row, row_weight) in self.rows[row] {
            for (column, weight) in self.columns[column] {
                f(row * self.from.1 + column, row_weight * weight);
            }
        }
    }

    /// The rows of the new grid.
    ///
    /// # Shapes
    /// `x`: `[old places, width]`; `y`: `[new places, width]`.
    pub fn forward(&self, x: &[f32], width: usize, y: &mut [f32]) {
        self.check(x.len(), y.len(), width);
        let y = PerRow { data: y, per_row: width };
        for_each_row_block(self.rows.len() * self.columns.len(), 16 * width, y, |range, y| {
            for (place, y) in range.zip(y.data.chunks_exact_mut(width.max(1))) {
                y.fill(0.0);
                self.for_each_neighbour(place, |old, weight| {
                    add_scaled_row(&x[old * width..][..width], weight, y);
                });
            }
        });
    }

    /// Adds the gradient of the old grid's rows to `dx`.
    ///
    /// # Shapes
    /// As [`Bicubic::forward`].
    pub fn backward(&self, dy: &[f32], width: usize, dx: &mut [f32]) {
        self.check(dx.len(), dy.len(), width);
        for (place, dy) in dy.chunks_exact(width.max(1)).enumerate() {
            self.for_each_neighbour(place, |old, weight| {
                add_scaled_row(dy, weight, &mut dx[old * width..][..width]);
            });
        }
    }
}
