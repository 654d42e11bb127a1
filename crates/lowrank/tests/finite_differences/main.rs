//! Every operation's backward against finite differences, on this process's CPU tier.
#![allow(clippy::unwrap_used, missing_docs)]

mod attention;
mod check;
#[path = "../common/mod.rs"]
mod common;
mod convolutions;
mod embeddings;
mod images;
mod linear;
mod losses;
mod magnitude;
mod mixture;
mod models;
mod norms;
mod reference;
mod rotary;
mod rows;
