//! Files of weights, and the repositories they come from.

mod atomic;
mod checkpoint;
