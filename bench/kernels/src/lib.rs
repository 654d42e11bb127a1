//! The kernels at the sizes of a RoBERTa-base step of 16 sequences of 128 tokens, and what the machine could do at most.

pub mod ceiling;
pub mod work;
