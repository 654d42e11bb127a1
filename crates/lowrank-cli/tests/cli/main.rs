//! The binary, as a user runs it.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

mod adapter;
mod ask;
mod compare;
mod convert;
mod download;
mod eight_bits;
mod generate;
mod hub_data;
mod images;
mod language;
mod measure;
mod merge;
mod rank;
mod refuse;
#[allow(dead_code)]
#[path = "../../../lowrank/tests/hub/server.rs"]
mod server;
mod spans;
mod tags;
mod train;
#[path = "../../../lowrank/tests/common/words.rs"]
mod words;
mod workshop;
mod write_up;
