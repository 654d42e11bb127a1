//! Views refuse what their elements do not hold, also where the number of them is beyond a `usize`.

use lowrank_kernels::{Rows, RowsMut};

const HUGE: usize = 1 << (usize::BITS - 2);

#[test]
#[should_panic(expected = "do not fit 4 elements")]
fn rows_whose_end_is_beyond_any_number_are_refused() {
    // The last row would start at 4 * HUGE, which is 0.
    Rows::new(&[0.0_f32; 4], HUGE + 1, 4, 4);
}

#[test]
#[should_panic(expected = "do not fit 4 elements")]
fn rows_for_writing_too() {
    RowsMut::new(&mut [0.0_f32; 4], 2, 4, usize::MAX - 1);
}

#[test]
#[should_panic(expected = "columns from")]
fn columns_that_begin_beyond_any_number_are_refused() {
    Rows::columns(&[0.0_f32; 4], 1, 4, usize::MAX, 2);
}

#[test]
fn what_fits_exactly_is_accepted() {
    let data = [1.0_f32, 2.0, 3.0, 4.0, 5.0];
    assert_eq!(Rows::new(&data, 2, 2, 3).row(1), [4.0, 5.0]);
    assert_eq!(Rows::columns(&data[..4], 2, 2, 1, 1).row(1), [4.0]);
    assert_eq!(Rows::<f32>::new(&[], 0, 7, usize::MAX).rows(), 0);
}
