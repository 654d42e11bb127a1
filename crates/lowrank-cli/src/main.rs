//! The command line of lowrank.
fn main() {}
