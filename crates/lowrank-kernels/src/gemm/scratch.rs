//! Buffers that a thread keeps between calls, since touching fresh memory costs more than filling it.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers longer than this many floats are given back after use.
const KEEP_BELOW: usize = 16 << 20;

/// Calls `work` with `len` floats of unspecified value. Calls may nest, and rayon may run another task inside.
pub(super) fn with_floats<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = work(&mut buffer[..len]);
    if buffer.len() < KEEP_BELOW {
        KEPT.with_borrow_mut(|kept| kept.push(buffer));
    }
    result
}
