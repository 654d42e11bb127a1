use lowrank_kernels::patches::{Bicubic, backward, forward};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    assert_close, assert_same_bits, dot, elements, numbers, on_threads, tolerance, wide, zeros,
};

for_both!(images_of_a_token_and_patches, check_images);
fn check_images<T: Element>() {
    let (images, patches, width) = (41, 23, 67);
    let x = elements::<T>(1, images * patches * width);
    let (table, dy) = (numbers(2, (1 + patches) * width), elements::<T>(3, images * (1 + patches) * width));
    let rows = images * (1 + patches);
    let run = |threads| {
        on_threads(threads, || {
            let (mut y, mut dtable) = (zeros::<T>(rows * width), vec![1.0; table.len()]);
            let out = RowsMut::dense(&mut y, rows, width);
            forward(Rows::dense(&x, images * patches, width), &table, out);
            backward(Rows::dense(&dy, rows, width), &mut dtable);
            (y, dtable)
        })
    };
    let (y, dtable) = run(1);
    let mut expected = Vec::new();
    for image in x.chunks(patches * width) {
        expected.extend(table[..width].iter().map(|x| f64::from(*x)));
        let sum = |(x, table): (&T, &f32)| f64::from(x.widen()) + f64::from(*table);
        expected.extend(image.iter().zip(&table[width..]).map(sum));
    }
    assert_close(&y, &expected, tolerance::<T>());
    let mut expected = vec![1.0; table.len()];
    for image in dy.chunks(table.len()) {
        expected.iter_mut().zip(image).for_each(|(sum, dy)| *sum += f64::from(dy.widen()));
    }
    assert_close(&dtable, &expected, 1e-5);
    let other = run(3);
    assert_same_bits(&y, &other.0);
    assert_same_bits(&dtable, &other.1);
}

/// What PyTorch 2 gives for this grid, `interpolate(…, mode="bicubic", align_corners=False)`.
#[test]
fn interpolation_is_pytorchs() {
    let x: Vec<f32> = (0..9).map(|i| ((i * 4 + 1) % 11 - 5) as f32 / 8.0).collect();
    let mut wide = [0.0; 8];
    Bicubic::new((3, 3), (2, 4)).forward(&x, 1, &mut wide);
    let expected = [
        -0.511962891,
        -0.216492414,
        0.276452541,
        0.611624002,
        -0.309814453,
        0.107803822,
        0.0779561996,
        -0.377847195,
    ];
    assert_close(&wide, &expected, 3e-7);
    let mut tall = [0.0; 15];
    Bicubic::new((3, 3), (5, 3)).forward(&x, 1, &mut tall);
    let expected = [
        -0.512000084,
        -0.0119999945,
        0.488000065,
        -0.460499913,
        0.0395000577,
        0.638499737,
        -0.375,
        0.125,
        0.625,
        -0.289500058,
        0.210500002,
        -0.131000087,
        -0.23800005,
        0.262000024,
        -0.745000124,
    ];
    assert_close(&tall, &expected, 3e-7);
}

#[test]
fn interpolation_to_the_same_grid_changes_nothing() {
    let x = numbers(1, 4 * 3 * 5);
    let mut y = zeros::<f32>(x.len());
    Bicubic::new((4, 3), (4, 3)).forward(&x, 5, &mut y);
    assert_close(&y, &wide(&x), 1e-6);
}

#[test]
fn the_gradient_of_an_interpolation_is_its_derivative() {
    let (width, x, dy) = (3, numbers(1, 4 * 3 * 3), numbers(2, 7 * 2 * 3));
    let bicubic = Bicubic::new((4, 3), (7, 2));
    let mut dx = vec![1.0; x.len()];
    bicubic.backward(&dy, width, &mut dx);
    // It is linear, so that a difference of f32 results is exact enough.
    let f = |x: &[f64]| {
        let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        let mut y = zeros::<f32>(dy.len());
        bicubic.forward(&x, width, &mut y);
        dot(&wide(&y), &wide(&dy))
    };
    for (i, dx) in dx.iter().enumerate() {
        let mut unit = vec![0.0; x.len()];
        unit[i] = 1.0;
        assert!((f64::from(*dx) - 1.0 - f(&unit)).abs() < 1e-5, "element {i}: {dx}");
    }
}
