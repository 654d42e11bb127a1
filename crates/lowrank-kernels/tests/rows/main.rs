//! Every row kernel against a plain f64 version, its gradient against finite differences, in f32 and bf16, with
//! sizes that are not multiples of anything, and its bits against another number of threads.
#![allow(clippy::unwrap_used)]

mod activation;
mod attention;
mod dropout;
mod embedding;
mod gated;
mod loss;
mod low_rank;
mod magnitude;
mod memory;
mod mixture;
mod norm;
mod optimizer;
mod parallel;
mod patches;
mod random;
mod rms_norm;
mod rotary;
mod row_ops;
mod support;
mod views;
