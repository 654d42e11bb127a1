//! Files of weights, and the repositories they come from.

// The helpers of tests too may stop the test.
#![allow(clippy::unwrap_used)]

mod atomic;
mod checkpoint;
mod dataset;
mod direct;
mod options;
mod repository;
mod server;
mod trouble;
