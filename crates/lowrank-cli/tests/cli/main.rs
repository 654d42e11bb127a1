//! The binary, as a user runs it.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

mod ask;
mod download;
mod eight_bits;
mod measure;
mod refuse;
#[allow(dead_code)]
#[path = "../../../lowrank/tests/hub/server.rs"]
mod server;
mod train;
mod workshop;
