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
