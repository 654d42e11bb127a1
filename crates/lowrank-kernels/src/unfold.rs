//! The windows of a convolution, one below the other, so that it is a matrix product.

use crate::element::Element;
use crate::parallel::for_each_row_block;
use crate::rows::{Rows, RowsMut};
use crate::scratch;

/// How a convolution's window lies on one axis and moves along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many inputs it reads.
    pub kernel: usize,
    /// How far it moves from one output to the next.
    pub stride: usize,
    /// Zeros before the first input, and as many after the last.
    pub padding: usize,
    /// How far the inputs that it reads are apart.
    pub dilation: usize,
}

impl Window {
    /// A window that moves by one, without padding and without gaps.
    pub const fn new(kernel: usize) -> Self {
        Self { kernel, stride: 1, padding: 0, dilation: 1 }
    }

    /// The same window, which moves by `stride`.
    #[must_use]
    pub const fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The same window, with `padding` zeros on either side of the inputs.
    #[must_use]
    pub const fn with_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The same window, whose inputs are `dilation` apart.
    #[must_use]
    pub const fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// How many outputs there are of `inputs`: `(inputs + 2·padding − dilation·(kernel − 1) − 1)/stride + 1`. None where
    /// not one window fits, or the window is none.
    pub fn outputs(&self, inputs: usize) -> Option<usize> {
        let Self { kernel, stride, padding, dilation } = *self;
        let reach = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
        let room = inputs.checked_add(padding.checked_mul(2)?)?.checked_sub(reach)?;
        (dilation > 0).then_some(room.checked_div(stride)? + 1)
    }

    /// The input that the window of an output reads at one of its places; none where that is padding.
    fn input(&self, output: usize, place: usize, inputs: usize) -> Option<usize> {
        let from_padding = output * self.stride + place * self.dilation;
        from_padding.checked_sub(self.padding).filter(|input| *input < inputs)
    }

    /// The output whose window reads an input at one of its places.
    fn output(&self, input: usize, place: usize, outputs: usize) -> Option<usize> {
        let start = (input + self.padding).checked_sub(place * self.dilation)?;
        let output = start / self.stride;
        (start.is_multiple_of(self.stride) && output < outputs).then_some(output)
    }
}

/// The windows over images of several sizes, whose rows follow one another.
#[derive(Clone, Debug)]
pub struct Unfolding {
    windows: [Window; 2],
    images: Vec<Image>,
}

/// Where an image's rows are, and how many there are along its height and width.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    inputs: [usize; 2],
    outputs: [usize; 2],
    first_input: usize,
    first_output: usize,
}

impl Unfolding {
    /// Windows over images of these heights and widths. None where an image has not room for one window, or the sizes
    /// are out of range.
    pub fn new(windows: [Window; 2], sizes: &[[usize; 2]]) -> Option<Self> {
        let (mut images, mut next) = (Vec::with_capacity(sizes.len()), Image::default());
        for &inputs in sizes {
            let [height, width] = windows;
            let outputs = [height.outputs(inputs[0])?, width.outputs(inputs[1])?];
            images.push(Image { inputs, outputs, ..next });
            next.first_input = next.first_input.checked_add(inputs[0].checked_mul(inputs[1])?)?;
            next.first_output = next.first_output.checked_add(outputs[0].checked_mul(outputs[1])?)?;
        }
        Some(Self { windows, images })
    }

    /// How many rows each image has of outputs.
    pub fn outputs(&self) -> impl Iterator<Item = usize> {
        self.images.iter().map(|image| image.outputs[0] * image.outputs[1])
    }

    /// The elements of a window in one channel.
    pub fn places(&self) -> usize {
        self.windows[0].kernel * self.windows[1].kernel
    }

    fn rows(&self) -> [usize; 2] {
        let ends = |image: &Image| {
            [
                image.first_input + image.inputs[0] * image.inputs[1],
                image.first_output + image.outputs[0] * image.outputs[1],
            ]
        };
        self.images.last().map_or([0, 0], ends)
    }

    /// The input row that an output row's window has at each of its places.
    fn inputs_of(&self, row: usize, into: &mut Vec<Option<usize>>) {
        into.clear();
        let image = self.images[self.images.partition_point(|image| image.first_output <= row) - 1];
        let (at, [height, width]) = (row - image.first_output, self.windows);
        let [down, across] = [at / image.outputs[1], at % image.outputs[1]];
        for y in 0..height.kernel {
            let y = height.input(down, y, image.inputs[0]);
            into.extend((0..width.kernel).map(|x| {
                let x = width.input(across, x, image.inputs[1])?;
                Some(image.first_input + y? * image.inputs[1] + x)
            }));
        }
    }

    /// The output row whose window has an input row at each of its places.
    fn outputs_of(&self, row: usize, into: &mut Vec<Option<usize>>) {
        into.clear();
        let image = self.images[self.images.partition_point(|image| image.first_input <= row) - 1];
        let (at, [height, width]) = (row - image.first_input, self.windows);
        let [down, across] = [at / image.inputs[1], at % image.inputs[1]];
        for y in 0..height.kernel {
            let y = height.output(down, y, image.outputs[0]);
            into.extend((0..width.kernel).map(|x| {
                let x = width.output(across, x, image.outputs[1])?;
                Some(image.first_output + y? * image.outputs[1] + x)
            }));
        }
    }
}

/// The window of each output as a row: channel after channel, each line after line; padding is zero.
///
/// # Shapes
/// `x`: `[inputs, C]`, `y`: `[outputs, C·kernel]`, images one after the other, each line after line.
///
/// # Panics
/// If the shapes do not fit.
pub fn unfold<T: Element>(unfolding: &Unfolding, x: Rows<T>, y: RowsMut<T>) {
    (T::COMPILED.unfold)(unfolding, x, y);
}

pub(crate) fn unfold_kernel<T: Element>(unfolding: &Unfolding, x: Rows<T>, y: RowsMut<T>) {
    let places = unfolding.places();
    assert_eq!([x.rows(), y.rows()], unfolding.rows());
    assert_eq!(x.cols() * places, y.cols());
    for_each_row_block(y.rows(), y.cols(), y, |range, mut y| {
        let mut inputs = Vec::with_capacity(places);
        for (i, row) in range.enumerate() {
            unfolding.inputs_of(row, &mut inputs);
            let y = y.row(i);
            for (place, input) in inputs.iter().enumerate() {
                let into = y.iter_mut().skip(place).step_by(places);
                match input {
                    Some(input) => into.zip(x.row(*input)).for_each(|(y, x)| *y = *x),
                    None => into.for_each(|y| *y = T::round(0.0)),
                }
            }
        }
    });
}

/// The backward of [`unfold`]: each input gets the sum of what the windows that read it have for it.
///
/// # Shapes
/// `dy`: `[outputs, C·kernel]`, `dx`: `[inputs, C]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn fold<T: Element>(unfolding: &Unfolding, dy: Rows<T>, dx: RowsMut<T>) {
    (T::COMPILED.fold)(unfolding, dy, dx);
}

pub(crate) fn fold_kernel<T: Element>(unfolding: &Unfolding, dy: Rows<T>, dx: RowsMut<T>) {
    let (places, channels) = (unfolding.places(), dx.cols());
    assert_eq!([dx.rows(), dy.rows()], unfolding.rows());
    assert_eq!(channels * places, dy.cols());
    for_each_row_block(dx.rows(), dy.cols(), dx, |range, mut dx| {
        let mut outputs = Vec::with_capacity(places);
        scratch::with(channels, |sums| {
            for (i, row) in range.enumerate() {
                unfolding.outputs_of(row, &mut outputs);
                sums.fill(0.0);
                for (place, output) in outputs.iter().enumerate() {
                    let Some(output) = *output else { continue };
                    let from = dy.row(output).iter().skip(place).step_by(places);
                    sums.iter_mut().zip(from).for_each(|(sum, dy)| *sum += dy.widen());
                }
                dx.row(i).iter_mut().zip(&*sums).for_each(|(dx, sum)| *dx = T::round(*sum));
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_outputs_as_pytorch_says() {
        let window = Window::new(3).with_stride(2).with_padding(1).with_dilation(2);
        assert_eq!(
            [4, 3, 2, 9, 10].map(|inputs| window.outputs(inputs)),
            [Some(1), Some(1), None, Some(4), Some(4)]
        );
        assert_eq!(Window::new(1).outputs(5), Some(5));
        assert_eq!(Window::new(0).outputs(5), None);
        assert_eq!(Window::new(2).with_stride(0).outputs(5), None);
        assert_eq!(Window::new(2).with_dilation(0).outputs(5), None);
        assert_eq!(Window::new(usize::MAX).with_dilation(usize::MAX).outputs(5), None);
    }

    /// Two images of other sizes, beside each other in memory, against the definition.
    #[test]
    fn a_window_is_channel_after_channel_and_line_after_line() {
        let windows =
            [Window::new(2).with_padding(1), Window::new(3).with_stride(2).with_padding(2).with_dilation(2)];
        let (sizes, channels) = ([[3, 4], [1, 6]], 2);
        let unfolding = Unfolding::new(windows, &sizes).unwrap();
        let x: Vec<f32> = (1..=36).map(|value| value as f32).collect();
        let (mut expected, mut first) = (Vec::new(), 0);
        for [height, width] in sizes {
            let outputs = [windows[0].outputs(height).unwrap(), windows[1].outputs(width).unwrap()];
            for (down, across) in
                (0..outputs[0]).flat_map(|down| (0..outputs[1]).map(move |across| (down, across)))
            {
                for (channel, place) in
                    (0..channels).flat_map(|channel| (0..6).map(move |place| (channel, place)))
                {
                    let y = (down + place / 3) as isize - 1;
                    let x_at = (2 * across + 2 * (place % 3)) as isize - 2;
                    let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x_at);
                    let row = first as isize + y * width as isize + x_at;
                    expected.push(if inside { x[row as usize * channels + channel] } else { 0.0 });
                }
            }
            first += height * width;
        }
        let rows: usize = unfolding.outputs().sum();
        let mut y = vec![9.0; expected.len()];
        unfold(&unfolding, Rows::dense(&x, 18, channels), RowsMut::dense(&mut y, rows, 12));
        assert_eq!(y, expected);
    }

    /// `⟨unfold(x), dy⟩ = ⟨x, fold(dy)⟩`, exactly: the numbers are small and whole.
    #[test]
    fn folding_is_the_adjoint_of_unfolding() {
        let windows =
            [Window::new(3).with_stride(2).with_padding(1), Window::new(2).with_dilation(3).with_padding(2)];
        let unfolding = Unfolding::new(windows, &[[5, 4], [3, 7]]).unwrap();
        let (rows, outputs, channels) = (41, unfolding.outputs().sum(), 3);
        let whole = |count: usize, step: usize| -> Vec<f32> {
            (0..count).map(|i| (i * step % 7) as f32 - 3.0).collect()
        };
        let (x, dy) = (whole(rows * channels, 5), whole(outputs * channels * 6, 3));
        let (mut y, mut dx) = (vec![0.0; dy.len()], vec![9.0; x.len()]);
        unfold(&unfolding, Rows::dense(&x, rows, channels), RowsMut::dense(&mut y, outputs, channels * 6));
        fold(&unfolding, Rows::dense(&dy, outputs, channels * 6), RowsMut::dense(&mut dx, rows, channels));
        let dot = |x: &[f32], y: &[f32]| -> f32 { x.iter().zip(y).map(|(x, y)| x * y).sum() };
        assert_eq!(dot(&y, &dy), dot(&x, &dx));
        assert!(dot(&y, &dy) != 0.0);
    }
}
