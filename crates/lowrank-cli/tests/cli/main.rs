//! The binary, as a user runs it.
#![allow(missing_docs)]

mod ask;
mod measure;
mod refuse;
mod train;
mod workshop;
