//! Buffers that a thread keeps between calls, since touching fresh memory costs more than filling it.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers longer than this many floats are given back after use.
const KEEP_BELOW: usize = 16 << 20;

/// Calls `work` with `len` floats of unspecified value, the first of which starts a cache line. Calls may nest,
/// and rayon may run another task inside.
pub(super) fn with_floats<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    const LINE: usize = 64;
    if len == 0 {
        return work(&mut []);
    }
    let mut buffer = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len + LINE / size_of::<f32>() {
        buffer.clear();
        buffer.resize(len + LINE / size_of::<f32>(), 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE);
    let result = work(&mut buffer[start..start + len]);
    if buffer.len() < KEEP_BELOW {
        KEPT.with_borrow_mut(|kept| kept.push(buffer));
    }
    result
}
