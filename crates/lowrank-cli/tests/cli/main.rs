//! The binary, as a user runs it.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

mod ask;
mod compare;
mod download;
mod hub_data;
mod images;
mod measure;
mod refuse;
#[allow(dead_code)]
#[path = "../../../lowrank/tests/hub/server.rs"]
mod server;
mod spans;
mod tags;
mod train;
mod workshop;
mod write_up;
