//! Working memory of a thread, kept between calls: touching fresh memory costs more than filling it.

use std::cell::RefCell;

thread_local! {
    /// A stack, because calls nest, and a thread that waits in a kernel may be given another kernel's task.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Floats of a cache line.
const LINE: usize = 64 / size_of::<f32>();
/// Buffers longer than this many floats are given back after use.
const KEEP: usize = 16 << 20;

/// Calls `work` with `len` numbers of arbitrary content, the first of which starts a cache line.
pub(crate) fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    if len == 0 {
        return work(&mut []);
    }
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = len + LINE;
    if buffer.len() < needed {
        // What is kept has room for the next that is a little larger.
        let room = if needed <= KEEP { needed.next_power_of_two() } else { needed };
        buffer = vec![0.0; room];
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>());
    if cfg!(debug_assertions) {
        // Not a number, nor are its halves, so that tests see what is read before it is written.
        buffer[start..start + len].fill(f32::from_bits(u32::MAX));
    }
    let result = work(&mut buffer[start..start + len]);
    if buffer.len() <= KEEP {
        FREE.with_borrow_mut(|free| free.push(buffer));
    }
    result
}

/// As [`with`], for numbers of another type.
pub(crate) fn with_numbers<N: bytemuck::Pod, R>(len: usize, work: impl FnOnce(&mut [N]) -> R) -> R {
    with((len * size_of::<N>()).div_ceil(size_of::<f32>()), |floats| {
        work(&mut bytemuck::cast_slice_mut(floats)[..len])
    })
}
