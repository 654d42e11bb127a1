//! Training pictures, each time a little different.

use lowrank_kernels::random::Philox;

use super::picture::Picture;

/// What is done at random to a training picture, before it is resized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// The pixels of black that are put around a picture, of which then a part of its own size is taken; 0: none.
    /// Recipes for CIFAR-10 have 4.
    pub crop_padding: usize,
    /// Whether half of the pictures are mirrored.
    pub flip: bool,
}

/// The streams of a seed that change pictures: far from those that order epochs and initialise models.
const STREAMS: u64 = 1 << 63;

impl Augmentation {
    /// The picture as it is in this epoch. It depends on the seed, the epoch and the example's number only: not on who
    /// makes it ready, nor in which order.
    ///
    /// # Source
    /// `RandomCrop(size, padding)` and `RandomHorizontalFlip` of torchvision.
    #[must_use]
    pub fn apply(&self, picture: Picture, seed: u64, epoch: u64, example: u32) -> Picture {
        let stream = STREAMS | (epoch << 32 & !STREAMS) | u64::from(example);
        let random = &mut Philox::new(seed, stream);
        let mut picture = picture;
        if self.crop_padding > 0 {
            let padding = self.crop_padding as isize;
            let mut place = || random.below(2 * self.crop_padding as u64 + 1) as isize - padding;
            let (left, top) = (place(), place());
            picture = picture.window(left, top, picture.width(), picture.height());
        }
        if self.flip && random.below(2) == 1 {
            picture = picture.mirrored();
        }
        picture
    }
}
