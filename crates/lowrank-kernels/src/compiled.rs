//! The kernels over rows, compiled once for each type of element.
//!
//! A generic function is compiled in every crate that calls it, and these are long: micro-kernels for each tier, row
//! operations for each instruction set. Their public faces are generic, and call what is compiled here through a
//! table, so that a crate that uses them builds in seconds.

use half::bf16;

use crate::activation::{self, Activation};
use crate::attention::{self, Attention, AttentionGradients};
use crate::dropout::{self, Dropout};
use crate::element::Element;
use crate::embedding::{self, Lookup};
use crate::gemm::{Int8Weight, Streamed, Weight, gradient};
use crate::rotary::{self, HeadNorms, RotaryShape, Rotations};
use crate::rows::{Rows, RowsMut};
use crate::unfold::{self, Unfolding};
use crate::{elementwise, gated, loss, low_rank, magnitude, mixture, norm, patches, rms_norm, row_ops};

/// The kernels over rows of `T`, with the signatures of their public faces.
#[allow(clippy::type_complexity)]
pub struct Compiled<T: Element> {
    pub(crate) gather_sum: fn(&[Lookup], RowsMut<T>),
    pub(crate) scatter_add: fn(&[u32], Rows<T>, &mut [f32]),
    pub(crate) attention_forward: fn(&Attention<T>, RowsMut<T>, &mut [f32]),
    pub(crate) attention_backward: fn(&Attention<T>, &[f32], Rows<T>, AttentionGradients<T>),
    pub(crate) low_rank_down: fn(Rows<T>, &[f32], Option<&Dropout>, RowsMut<f32>),
    pub(crate) low_rank_up_backward: fn(Rows<T>, &[f32], f32, RowsMut<f32>),
    pub(crate) low_rank_up: fn(Rows<f32>, &[f32], f32, RowsMut<T>),
    pub(crate) low_rank_down_backward: fn(Rows<f32>, &[f32], Option<&Dropout>, RowsMut<T>),
    pub(crate) low_rank_outer: fn(Rows<f32>, Rows<T>, Option<&Dropout>, f32, &mut [f32]),
    pub(crate) low_rank_outer_transposed: fn(Rows<T>, Rows<f32>, f32, &mut [f32]),
    pub(crate) weight_gradient: fn(Rows<T>, Rows<T>, &mut [f32]),
    pub(crate) scale_columns: fn(&[f32], Option<&[f32]>, RowsMut<T>),
    pub(crate) column_dots: fn(Rows<T>, Rows<T>, &mut [f32]),
    pub(crate) dropout: fn(Rows<T>, &Dropout, RowsMut<T>),
    pub(crate) add_assign: fn(&mut [T], &[T]),
    pub(crate) is_finite: fn(&[T]) -> bool,
    pub(crate) column_sums: fn(Rows<T>, &mut [f32]),
    pub(crate) gather_rows: fn(Rows<T>, &[usize], RowsMut<T>),
    pub(crate) scatter_rows: fn(Rows<T>, &[usize], RowsMut<T>),
    pub(crate) weigh: fn(Rows<T>, &[usize], &[f32], RowsMut<T>),
    pub(crate) weigh_backward: fn(Rows<T>, Rows<T>, &[usize], &[f32], RowsMut<T>, &mut [f32]),
    pub(crate) activation_forward: fn(Activation, &[T], &mut [T]),
    pub(crate) activation_backward: fn(Activation, &[T], &[T], &mut [T]),
    pub(crate) layer_norm_forward: fn(
        Rows<T>,
        Option<Rows<T>>,
        Option<&Dropout>,
        &[f32],
        &[f32],
        f32,
        Option<RowsMut<T>>,
        RowsMut<T>,
        &mut [f32],
        &mut [f32],
    ),
    pub(crate) layer_norm_backward: fn(
        Rows<T>,
        Rows<T>,
        &[f32],
        &[f32],
        &[f32],
        RowsMut<T>,
        Option<(RowsMut<T>, &Dropout)>,
        Option<(&mut [f32], &mut [f32])>,
    ),
    pub(crate) rms_norm_forward: fn(Rows<T>, &[f32], f32, RowsMut<T>),
    pub(crate) rms_norm_backward: fn(Rows<T>, Rows<T>, &[f32], f32, RowsMut<T>, Option<&mut [f32]>),
    pub(crate) rotary_forward: fn(Rows<T>, &Rotations, RotaryShape, Option<HeadNorms>, RowsMut<T>),
    pub(crate) rotary_backward:
        fn(Option<(HeadNorms, Rows<T>)>, &Rotations, RotaryShape, RowsMut<T>, Option<&mut [f32]>),
    pub(crate) gated_forward: fn(Activation, Rows<T>, RowsMut<T>),
    pub(crate) gated_backward: fn(Activation, Rows<T>, Rows<T>, RowsMut<T>),
    pub(crate) add_rows: fn(Rows<T>, Option<&Dropout>, Rows<T>, RowsMut<T>),
    pub(crate) scale: fn(&mut [T], f32),
    pub(crate) patches_forward: fn(Rows<T>, &[f32], RowsMut<T>),
    pub(crate) patches_backward: fn(Rows<T>, &mut [f32]),
    pub(crate) unfold: fn(&Unfolding, Rows<T>, RowsMut<T>),
    pub(crate) fold: fn(&Unfolding, Rows<T>, RowsMut<T>),
    pub(crate) cross_entropy: fn(Rows<T>, &[i64], f32, &mut [f32], &mut [f32]) -> f32,
    pub(crate) cross_entropy_backward: fn(RowsMut<T>, &[i64], f32, &[f32], &[f32]),
    pub(crate) span_cross_entropy: fn(Rows<T>, &[usize], [&[i64]; 2], [f32; 2], Option<RowsMut<T>>) -> f32,
    pub(crate) mean_squared_error: fn(&[T], &[f32], f32, Option<&mut [T]>) -> f32,
    pub(crate) weight_forward: fn(&Weight, Rows<T>, Option<&[f32]>, RowsMut<T>),
    pub(crate) weight_backward: fn(&Weight, Rows<T>, RowsMut<T>, bool),
    pub(crate) int8_forward: fn(&Int8Weight, Rows<T>, Option<&[f32]>, RowsMut<T>),
    pub(crate) int8_backward: fn(&Int8Weight, Rows<T>, RowsMut<T>, bool),
    pub(crate) streamed: fn(&Streamed, bool, Rows<T>, Option<&[f32]>, bool, RowsMut<T>),
}

impl<T: Element> Compiled<T> {
    const fn new() -> Self {
        Self {
            gather_sum: embedding::gather_sum_kernel::<T>,
            scatter_add: embedding::scatter_add_kernel::<T>,
            attention_forward: attention::forward::forward_kernel::<T>,
            attention_backward: attention::backward::backward_kernel::<T>,
            low_rank_down: low_rank::down_kernel::<T>,
            low_rank_up_backward: low_rank::up_backward_kernel::<T>,
            low_rank_up: low_rank::up_kernel::<T>,
            low_rank_down_backward: low_rank::down_backward_kernel::<T>,
            low_rank_outer: low_rank::outer_kernel::<T>,
            low_rank_outer_transposed: low_rank::outer_transposed_kernel::<T>,
            weight_gradient: gradient::weight_gradient_kernel::<T>,
            scale_columns: magnitude::scale_columns_kernel::<T>,
            column_dots: magnitude::column_dots_kernel::<T>,
            dropout: dropout::apply_kernel::<T>,
            add_assign: elementwise::add_assign_kernel::<T>,
            is_finite: elementwise::is_finite_kernel::<T>,
            column_sums: row_ops::column_sums_kernel::<T>,
            gather_rows: row_ops::gather_rows_kernel::<T>,
            scatter_rows: row_ops::scatter_rows_kernel::<T>,
            weigh: mixture::weigh_kernel::<T>,
            weigh_backward: mixture::weigh_backward_kernel::<T>,
            activation_forward: activation::forward_kernel::<T>,
            activation_backward: activation::backward_kernel::<T>,
            layer_norm_forward: norm::layer_norm_forward_kernel::<T>,
            layer_norm_backward: norm::layer_norm_backward_kernel::<T>,
            rms_norm_forward: rms_norm::rms_norm_forward_kernel::<T>,
            rms_norm_backward: rms_norm::rms_norm_backward_kernel::<T>,
            rotary_forward: rotary::forward_kernel::<T>,
            rotary_backward: rotary::backward_kernel::<T>,
            gated_forward: gated::forward_kernel::<T>,
            gated_backward: gated::backward_kernel::<T>,
            add_rows: row_ops::add_rows_kernel::<T>,
            scale: elementwise::scale_kernel::<T>,
            patches_forward: patches::forward_kernel::<T>,
            patches_backward: patches::backward_kernel::<T>,
            unfold: unfold::unfold_kernel::<T>,
            fold: unfold::fold_kernel::<T>,
            cross_entropy: loss::cross_entropy_kernel::<T>,
            cross_entropy_backward: loss::cross_entropy_backward_kernel::<T>,
            span_cross_entropy: loss::span_cross_entropy_kernel::<T>,
            mean_squared_error: loss::mean_squared_error_kernel::<T>,
            weight_forward: Weight::forward_kernel::<T>,
            weight_backward: Weight::backward_kernel::<T>,
            int8_forward: Int8Weight::forward_kernel::<T>,
            int8_backward: Int8Weight::backward_kernel::<T>,
            streamed: |weight, forward, left, bias, accumulate, out| {
                weight.kernel(forward, left, bias, accumulate, out);
            },
        }
    }
}

pub(crate) static F32: Compiled<f32> = Compiled::new();
pub(crate) static BF16: Compiled<bf16> = Compiled::new();
