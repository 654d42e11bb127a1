//! T5's relative position bias.

use std::sync::Arc;

use lowrank_kernels::Rows;
use lowrank_kernels::attention::{AttentionMask, DistanceBias};

use super::operands::Part;
use super::{Attention, longest};
use crate::tape::{Gradients, Layout, Leaf, Parameter};
use crate::{Error, Result};

/// A bias of the scores that is learnt for ranges of distances between key and query.
///
/// # Source
/// Raffel et al., T5 (arXiv 1910.10683), section 2.1; the ranges are those of Transformers'
/// `T5Attention._relative_position_bucket`.
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// A bias for each range and head, `[buckets, H]`: T5's `relative_attention_bias.weight`.
    pub table: &'a Parameter,
    /// Whether keys after the query have ranges of their own, as in encoders.
    pub bidirectional: bool,
    /// The distance from which on all are in the last range.
    pub max_distance: usize,
}

impl RelativeBias<'_> {
    fn check(&self, attention: &Attention) -> Result<()> {
        let (name, shape) = (self.table.name(), self.table.shape());
        if shape.dims().len() != 2 || shape.width() != attention.heads {
            return Err(Error::Usage(format!(
                "{name} has the shape {shape}: relative biases of {} heads have as many columns",
                attention.heads
            )));
        }
        let exact = self.side(shape.rows()) / 2;
        if exact == 0 || self.max_distance <= exact {
            return Err(Error::Usage(format!(
                "{name}: {} ranges with a longest distance of {}, which must be more than {exact}, and that more than 0",
                shape.rows(),
                self.max_distance
            )));
        }
        Ok(())
    }

    /// The ranges on one side of the query.
    fn side(&self, buckets: usize) -> usize {
        if self.bidirectional { buckets / 2 } else { buckets }
    }

    /// The range of a key's position less the query's.
    fn bucket(&self, buckets: usize, distance: isize) -> usize {
        let side = self.side(buckets);
        let (first, far) = match (self.bidirectional, distance > 0) {
            (true, true) => (side, distance.unsigned_abs()),
            (false, true) => (0, 0),
            _ => (0, distance.unsigned_abs()),
        };
        let exact = side / 2;
        if far < exact {
            return first + far;
        }
        // In f32, as PyTorch computes it: at the edges of ranges the rounding decides.
        let octaves = (far as f32 / exact as f32).ln();
        let all = (self.max_distance as f64 / exact as f64).ln() as f32;
        first + (exact + (octaves / all * (side - exact) as f32) as usize).min(side - 1)
    }

    /// The biases of each distance from `-before` to `after`.
    fn expand(&self, leaf: &Leaf, heads: usize, [before, after]: [usize; 2], trained: bool) -> Biases {
        let buckets = self.table.shape().rows();
        let ranges: Vec<usize> = (0..before + after + 1)
            .map(|column| self.bucket(buckets, column as isize - before as isize))
            .collect();
        let table = leaf.vector();
        let table = table.as_slice::<f32>();
        let row = |head: usize| ranges.iter().map(move |range| table[range * heads + head]);
        let values = (0..heads).flat_map(row).collect();
        Biases { leaf: trained.then(|| leaf.clone()), heads, ranges, values, zero: before }
    }
}

/// The biases of all distances that occur.
pub(super) struct Biases {
    /// The table, where it is trained.
    leaf: Option<Leaf>,
    heads: usize,
    /// The range of each distance.
    ranges: Vec<usize>,
    /// `[heads, distances]`.
    values: Vec<f32>,
    /// The column of distance 0.
    zero: usize,
}

impl Biases {
    pub(super) fn is_trained(&self) -> bool {
        self.leaf.is_some()
    }

    /// The kernels' view.
    pub(super) fn view(&self) -> DistanceBias<'_> {
        DistanceBias { values: Rows::dense(&self.values, self.heads, self.ranges.len()), zero: self.zero }
    }

    /// Room for the gradients of all distances.
    pub(super) fn zeros(&self) -> Vec<f32> {
        vec![0.0; self.values.len()]
    }

    /// Adds the gradients of all distances to that of the table.
    pub(super) fn add(&self, sums: &[f32], gradients: &mut Gradients) {
        let Some(leaf) = &self.leaf else { return };
        let gradient = gradients.accumulator(leaf);
        for (head, sums) in sums.chunks_exact(self.ranges.len()).enumerate() {
            for (range, sum) in self.ranges.iter().zip(sums) {
                gradient[range * self.heads + head] += sum;
            }
        }
    }
}

/// The biases of one table for sequences of so many queries and keys at most.
pub(super) fn biases(
    attention: &Attention,
    bias: &RelativeBias<'_>,
    leaf: &Leaf,
    [queries, keys]: [usize; 2],
    trained: bool,
) -> Result<Biases> {
    bias.check(attention)?;
    let before = keys.max(1) - 1;
    let reach = match attention.mask {
        AttentionMask::Full => [before, queries.max(1) - 1],
        AttentionMask::Causal => [before, 0],
        AttentionMask::Window(most) => [before.min(most.max(1) - 1), 0],
    };
    Ok(bias.expand(leaf, attention.heads, reach, trained))
}

/// The sequences of `layout`, divided where another adapter brings other biases.
pub(super) fn parts(
    attention: &Attention,
    bias: Option<&RelativeBias<'_>>,
    layout: &Arc<Layout>,
    recording: bool,
) -> Result<Vec<Part>> {
    let offsets = layout.offsets();
    let Some(bias) = bias else {
        return Ok(vec![Part { sequences: 0..layout.sequences(), biases: None }]);
    };
    let mut parts = Vec::new();
    for (rows, adapter) in layout.segments() {
        if rows.is_empty() {
            continue;
        }
        // Sequences without rows may be on either side.
        let first = offsets.partition_point(|offset| *offset <= rows.start) - 1;
        let end = offsets.partition_point(|offset| *offset < rows.end);
        let leaf = bias.table.active(adapter)?;
        let longest = longest(&offsets[first..=end]);
        let trained = recording && leaf.is_trainable();
        let biases = biases(attention, bias, leaf, [longest; 2], trained)?;
        parts.push(Part { sequences: first..end, biases: Some(biases) });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The range of every distance from -400 to 400.
    fn ranges(bidirectional: bool, buckets: usize, max_distance: usize) -> Vec<(isize, usize)> {
        let table = Parameter::new([buckets, 1]);
        let bias = RelativeBias { table: &table, bidirectional, max_distance };
        (-400..=400).map(|distance| (distance, bias.bucket(buckets, distance))).collect()
    }

    /// `(distance, range)` where a range begins, as Transformers 5 gives them.
    #[track_caller]
    fn assert_begin(ranges: Vec<(isize, usize)>, expected: &[(isize, usize)]) {
        let mut begins = vec![ranges[0]];
        begins.extend(ranges.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1]));
        assert_eq!(begins, expected);
    }

    #[test]
    fn the_ranges_of_an_encoder_are_those_of_transformers() {
        let mut expected =
            vec![(-400, 15), (-90, 14), (-63, 13), (-45, 12), (-31, 11), (-22, 10), (-15, 9), (-11, 8)];
        expected.extend((0..8).map(|far| (far - 7, (7 - far) as usize)));
        expected.extend((1..9).map(|far| (far, far as usize + 16)));
        expected.extend([(12, 25), (16, 26), (23, 27), (32, 28), (46, 29), (64, 30), (91, 31)]);
        assert_begin(ranges(true, 32, 128), &expected);
        let expected = [
            [(-400, 7), (-31, 6), (-15, 5), (-7, 4), (-3, 3), (-2, 2), (-1, 1), (0, 0)],
            [(1, 9), (2, 10), (3, 11), (4, 12), (8, 13), (16, 14), (32, 15), (0, 0)],
        ];
        assert_begin(ranges(true, 16, 64), &expected.concat()[..15]);
    }

    #[test]
    fn the_ranges_of_a_decoder_are_those_of_transformers() {
        let mut expected =
            vec![(-400, 31), (-112, 30), (-98, 29), (-86, 28), (-76, 27), (-66, 26), (-58, 25)];
        expected.extend([
            (-51, 24),
            (-45, 23),
            (-39, 22),
            (-34, 21),
            (-30, 20),
            (-26, 19),
            (-23, 18),
            (-20, 17),
        ]);
        expected.push((-18, 16));
        expected.extend((0..16).map(|far| (far - 15, (15 - far) as usize)));
        assert_begin(ranges(false, 32, 128), &expected);
        let expected =
            [(-400, 9), (-24, 8), (-16, 7), (-11, 6), (-7, 5), (-4, 4), (-3, 3), (-2, 2), (-1, 1), (0, 0)];
        assert_begin(ranges(false, 10, 37), &expected);
    }

    #[test]
    fn a_table_that_leaves_no_ranges_is_refused() {
        let attention = Attention::encoder(2, 4, 0.0);
        for (shape, bidirectional, max_distance) in
            [([32, 3], true, 128), ([3, 2], true, 128), ([1, 2], false, 128), ([32, 2], false, 16)]
        {
            let table = Parameter::new(shape);
            assert!(RelativeBias { table: &table, bidirectional, max_distance }.check(&attention).is_err());
        }
        let table = Parameter::new([32, 2]);
        RelativeBias { table: &table, bidirectional: false, max_distance: 17 }.check(&attention).unwrap();
    }
}
