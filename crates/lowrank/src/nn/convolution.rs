//! Convolutions, with room for adapters.

use super::linear::Linear;
use super::module::{Module, Visitor, VisitorMut};
use crate::tape::ops::{self, Window};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// A convolution along sequences, with zeros around them, and what the attached adapters add to it.
///
/// ```
/// use lowrank::nn::Conv1d;
/// use lowrank::tape::ops::Window;
///
/// struct Net {
///     conv: Conv1d,
/// }
///
/// lowrank::module!(Net { "conv" => conv });
///
/// let window = Window::new(3).with_padding(2).with_dilation(2);
/// let net = Net { conv: Conv1d::new(8, 16, window, 2, true)? };
/// assert_eq!(net.conv.positions(10), Some(10));
/// # Ok::<(), lowrank::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv1d {
    /// The product with the windows: its weight is `[outputs, channels/groups·kernel]`, and in files
    /// `[outputs, channels/groups, kernel]`.
    pub linear: Linear,
    window: Window,
}

impl Conv1d {
    /// A layer from `channels` to `outputs`, each of which reads the channels of its group.
    ///
    /// # Errors
    /// If a number of the window's but its padding is 0, or the groups divide neither channels nor outputs.
    pub fn new(channels: usize, outputs: usize, window: Window, groups: usize, bias: bool) -> Result<Self> {
        let of_group = channels_of_group(channels, outputs, &[window], groups)?;
        let linear = Linear::convolution([outputs, of_group, window.kernel], groups, bias);
        Ok(Self { linear, window })
    }

    /// How many positions a sequence of this length has afterwards: `(L + 2·padding − dilation·(kernel − 1) − 1)/stride +
    /// 1`. None where it has not room for one window.
    pub fn positions(&self, length: usize) -> Option<usize> {
        self.window.outputs(length)
    }

    /// The layer's output, that of each sequence's adapter included. Sequences do not see each other.
    ///
    /// # Shapes
    /// `x`: `[tokens, channels]`. The result: `[positions, outputs]`, those of [`Conv1d::positions`] for each sequence.
    ///
    /// # Errors
    /// If a sequence has not room for one window, or as [`ops::linear`].
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let sizes: Vec<[usize; 2]> =
            x.layout().offsets().windows(2).map(|pair| [1, pair[1] - pair[0]]).collect();
        ops::convolution(tape, x, self.linear.branch(), [Window::new(1), self.window], &sizes)
    }
}

/// A convolution over images, with zeros around them, and what the attached adapters add to it.
#[derive(Debug)]
pub struct Conv2d {
    /// The product with the windows: its weight is `[outputs, channels/groups·kernel]`, and in files
    /// `[outputs, channels/groups, height, width]` of the kernel.
    pub linear: Linear,
    windows: [Window; 2],
}

impl Conv2d {
    /// A layer from `channels` to `outputs`, each of which reads the channels of its group, with windows along the height
    /// and the width.
    ///
    /// # Errors
    /// As [`Conv1d::new`].
    pub fn new(
        channels: usize,
        outputs: usize,
        windows: [Window; 2],
        groups: usize,
        bias: bool,
    ) -> Result<Self> {
        let of_group = channels_of_group(channels, outputs, &windows, groups)?;
        let [height, width] = windows;
        let linear = Linear::convolution([outputs, of_group, height.kernel, width.kernel], groups, bias);
        Ok(Self { linear, windows })
    }

    /// The height and width that an image of this size has afterwards. None where it has not room for one window.
    pub fn size(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let [height, width] = self.windows;
        Some([height.outputs(size[0])?, width.outputs(size[1])?])
    }

    /// The layer's output, that of each image's adapter included.
    ///
    /// # Shapes
    /// `x`: `[Σ height·width, channels]`, a sequence for each image, line after line; `sizes`: the height and width of
    /// each. The result: `[Σ height'·width', outputs]`, where the sizes are those of [`Conv2d::size`].
    ///
    /// # Errors
    /// If a sequence is not as long as its image, an image has not room for one window, or as [`ops::linear`].
    pub fn forward(&self, tape: &mut Tape, x: &Var, sizes: &[[usize; 2]]) -> Result<Var> {
        ops::convolution(tape, x, self.linear.branch(), self.windows, sizes)
    }
}

fn channels_of_group(channels: usize, outputs: usize, windows: &[Window], groups: usize) -> Result<usize> {
    if let Some(window) = windows.iter().find(|w| [w.kernel, w.stride, w.dilation].contains(&0)) {
        return Err(Error::Usage(format!(
            "{window:?} is no window: kernel, stride and dilation are at least 1"
        )));
    }
    if groups == 0 || !channels.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
        return Err(Error::Usage(format!(
            "{channels} channels and {outputs} outputs are not {groups} groups each"
        )));
    }
    Ok(channels / groups)
}

impl Module for Conv1d {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.linear(path, &self.linear);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.linear(path, &mut self.linear);
    }
}

impl Module for Conv2d {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.linear(path, &self.linear);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.linear(path, &mut self.linear);
    }
}
