//! Matrix products.
pub mod amx;
