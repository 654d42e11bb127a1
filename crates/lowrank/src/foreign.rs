//! Libraries that read what others wrote, and panic at some of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a library makes of bytes; nothing where it panics.
///
/// Only for calls whose values are lost with the panic.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}
