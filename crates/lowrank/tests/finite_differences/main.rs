//! Every operation's backward against finite differences, on this process's CPU tier.
#![allow(clippy::unwrap_used, missing_docs)]

mod attention;
mod check;
#[path = "../common/mod.rs"]
mod common;
mod linear;
mod losses;
mod models;
mod rows;
