//! Rows over threads: every kernel's loop is one of these.
//!
//! Row kernels (each output row depends on its own inputs) may be cut anywhere; sums over rows are cut into blocks
//! of [`ROW_BLOCK`] whose sums are added in index order. Neither result depends on the number of threads. Work
//! that costs less than waking a thread stays on the caller's.
//!
//! # Denormal numbers
//! Vanishing gradients and softmax tails become denormal numbers, on which x86 arithmetic is up to a hundred times
//! slower. Every kernel therefore runs with flush-to-zero and denormals-are-zero set (`MXCSR` bits 15 and 6): on the
//! thread that calls it, and on each that takes a part of its work. The bits stay set on these threads. Numbers below
//! 1.2e-38 then count as zero there, as they do on most accelerators.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::memory::Buffer;
use crate::rows::RowsMut;

/// Rows in a block of a sum over rows.
pub const ROW_BLOCK: usize = 64;

/// Element operations (about a quarter of a nanosecond each) that are not worth a second thread.
const SERIAL_COST: usize = 1 << 17;
/// Element operations in the smallest task given to a thread.
const TASK_COST: usize = 1 << 15;

/// Why the threads could not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadsAlreadyStarted;

impl std::fmt::Display for ThreadsAlreadyStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "the worker threads are already running; their number is set once, before the first kernel",
        )
    }
}

impl std::error::Error for ThreadsAlreadyStarted {}

/// Starts `n` worker threads for this process; 0 is one per processor.
///
/// # Errors
/// If they are running already.
pub fn init_threads(n: usize) -> Result<(), ThreadsAlreadyStarted> {
    flush_denormals();
    rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .thread_name(|index| format!("lowrank-{index}"))
        .start_handler(|_| flush_denormals())
        .build_global()
        .map_err(|_| ThreadsAlreadyStarted)
}

/// Number of worker threads.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Makes arithmetic of this thread treat denormal numbers as zero; see the module's text.
///
/// This is a deliberate step outside of what the language promises. Rust documents that compiled code may assume the
/// default floating-point environment, and `_mm_setcsr`, which does the same, as undefined behaviour; the rules of
/// inline assembly name only the exception flags, and are no permission. It is believed to be harmless because of what
/// the assumption is used for: rounding and the exception masks stay as they are, so the compiler may at worst compute
/// a constant, or move an operation before this call, with the denormal result that the processor would have flushed.
/// The kernels are right with either, and no index, length or branch that memory safety rests on is computed in
/// floating point. PyTorch's `set_flush_denormal`, and C programs linked with `-ffast-math`, do the same to code that
/// was compiled under the same assumption.
#[inline]
pub fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    {
        const FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO: u32 = 1 << 15 | 1 << 6;
        let mut control = 0_u32;
        // SAFETY: `stmxcsr` stores four bytes at the given address, which is a live u32.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags));
        }
        if control & FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO != FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO {
            control |= FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO;
            // SAFETY: four bytes are loaded from a live u32, and are a valid value: the register's own with two
            // bits more. That these bits differ from the environment that compiled code may assume is the deviation
            // that the function's text states.
            unsafe {
                std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, preserves_flags));
            }
        }
    }
}

/// [`flush_denormals`] on this thread and on the others of its pool, for a library that spreads work over the pool by
/// itself. They do it before they take anything of what this thread offers them from now on.
pub(crate) fn flush_denormals_of_pool() {
    thread_local! {
        /// A thread stays in its pool, and one of no pool hands its work to the same one, so that once is enough.
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    flush_denormals();
    if cfg!(target_arch = "x86_64") && !DONE.replace(true) {
        // Not waited for: a thread looks for broadcasts before it looks at the work of others.
        rayon::spawn_broadcast(|_| flush_denormals());
    }
}

/// Runs `work` within the pool, whose other threads meanwhile look for its parts and do not fall asleep between them,
/// unless for some milliseconds there are none.
///
/// A step is hundreds of kernels of a millisecond and less, and to wake a thread takes a tenth of one on a virtual
/// machine. A thread that finds nothing for some time gives its processor to whoever wants it.
pub fn awake<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let done = &AtomicBool::new(false);
    rayon::scope(|scope| {
        // This thread may come by its own share while it waits for another.
        let _engaged = Engaged::new();
        scope.spawn_broadcast(move |_, _| {
            if let Some(_engaged) = Engaged::new() {
                attend(done);
            }
        });
        // Also when the work panics.
        let _done = Done(done);
        work()
    })
}

/// The mark of a thread that runs the work of [`awake`], or looks for its parts.
///
/// A thread that waits for one part may take any other job of the pool, so also the one that asks it to look for parts
/// of other work. It must not: what it was doing, and others wait for, would wait for the end of that work.
struct Engaged;

thread_local! {
    static ENGAGED: Cell<bool> = const { Cell::new(false) };
}

impl Engaged {
    /// Nothing if this thread has the mark.
    fn new() -> Option<Self> {
        // Not `then_some`, which would make one for the refusal as well, and drop it: the mark would be gone.
        (!ENGAGED.replace(true)).then(|| Self)
    }
}

impl Drop for Engaged {
    fn drop(&mut self) {
        ENGAGED.set(false);
    }
}

/// Runs parts of the work until it is done, or until there have been none for some milliseconds.
///
/// The end of this wait must not depend on `done` alone. This thread may have taken a part, and have come here while it
/// waits within that part for another; the work then waits for the part, and the part for this function's return.
fn attend(done: &AtomicBool) {
    const SPINS: u32 = 32;
    /// Some tenths of a millisecond.
    const PATIENCE: u32 = 512;
    const LONGEST_IDLE: Duration = Duration::from_millis(5);
    let mut looks = 0;
    let mut idle_since = None;
    while !done.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            (looks, idle_since) = (0, None);
        } else if looks < PATIENCE {
            looks += 1;
            (0..SPINS).for_each(|_| std::hint::spin_loop());
        } else if idle_since.get_or_insert_with(Instant::now).elapsed() < LONGEST_IDLE {
            std::thread::yield_now();
        } else {
            return;
        }
    }
}

/// Outputs that can be cut between two rows and given to two threads.
pub trait SplitRows: Sized + Send {
    /// The outputs of the rows before `row`, and of the others.
    fn split_rows(self, row: usize) -> (Self, Self);
}

/// A slice that holds `per_row` elements for each row.
#[derive(Debug)]
pub struct PerRow<'a, T> {
    /// The elements, row by row.
    pub data: &'a mut [T],
    /// How many belong to a row.
    pub per_row: usize,
}

impl<'a, T> PerRow<'a, T> {
    /// One element for each row.
    pub fn one(data: &'a mut [T]) -> Self {
        Self { data, per_row: 1 }
    }
}

impl<T: Send> SplitRows for PerRow<'_, T> {
    fn split_rows(self, row: usize) -> (Self, Self) {
        let (head, tail) = self.data.split_at_mut(row * self.per_row);
        (Self { data: head, per_row: self.per_row }, Self { data: tail, per_row: self.per_row })
    }
}

impl<T: Send> SplitRows for RowsMut<'_, T> {
    fn split_rows(self, row: usize) -> (Self, Self) {
        self.split_at(row)
    }
}

impl SplitRows for () {
    fn split_rows(self, _: usize) -> (Self, Self) {
        ((), ())
    }
}

impl<S: SplitRows> SplitRows for Option<S> {
    fn split_rows(self, row: usize) -> (Self, Self) {
        self.map_or((None, None), |outputs| {
            let (head, tail) = outputs.split_rows(row);
            (Some(head), Some(tail))
        })
    }
}

macro_rules! split_tuple {
    ($($name:ident $index:tt),*) => {
        impl<$($name: SplitRows),*> SplitRows for ($($name,)*) {
            fn split_rows(self, row: usize) -> (Self, Self) {
                let parts = ($(self.$index.split_rows(row),)*);
                (($(parts.$index.0,)*), ($(parts.$index.1,)*))
            }
        }
    };
}
split_tuple!(A 0, B 1);
split_tuple!(A 0, B 1, C 2);
split_tuple!(A 0, B 1, C 2, D 3);

/// Calls `work` on ranges that cover `0..rows`, with the part of `outputs` that belongs to each.
///
/// `cost_per_row` is in element operations; it decides how finely the rows are cut, never the result, as long as
/// `work` treats each row by itself.
pub fn for_each_row_block<S: SplitRows>(
    rows: usize,
    cost_per_row: usize,
    outputs: S,
    work: impl Fn(Range<usize>, S) + Sync,
) {
    if rows == 0 {
        return;
    }
    flush_denormals();
    let cost_per_row = cost_per_row.max(1);
    if rows.saturating_mul(cost_per_row) <= SERIAL_COST || threads() == 1 {
        return work(0..rows, outputs);
    }
    let smallest = (TASK_COST / cost_per_row).max(1);
    divide(0..rows, outputs, smallest.max(rows.div_ceil(8 * threads())), &work);
}

fn divide<S: SplitRows>(
    rows: Range<usize>,
    outputs: S,
    most: usize,
    work: &(impl Fn(Range<usize>, S) + Sync),
) {
    if rows.len() <= most {
        flush_denormals();
        return work(rows, outputs);
    }
    let mut half = rows.len() / 2;
    if half > ROW_BLOCK {
        half = half.next_multiple_of(ROW_BLOCK);
    }
    let (head, tail) = outputs.split_rows(half);
    let middle = rows.start + half;
    rayon::join(
        || divide(rows.start..middle, head, most, work),
        || divide(middle..rows.end, tail, most, work),
    );
}

/// Adds to `total` the sums over rows that `work` puts into a zeroed slice for each block of [`ROW_BLOCK`] rows,
/// in index order. `outputs` are the row outputs that `work` writes on its way.
pub fn sum_row_blocks<S: SplitRows>(
    rows: usize,
    cost_per_row: usize,
    total: &mut [f32],
    outputs: S,
    work: impl Fn(Range<usize>, S, &mut [f32]) + Sync,
) {
    let width = total.len();
    let blocks = rows.div_ceil(ROW_BLOCK);
    if blocks == 0 || width == 0 {
        if blocks > 0 {
            for_each_row_block(rows, cost_per_row, outputs, |range, outputs| work(range, outputs, &mut []));
        }
        return;
    }
    let mut sums = Buffer::uninit(blocks * width * size_of::<f32>());
    let sums = sums.as_mut_slice::<f32>();
    let grouped = Blocks { rows, outputs };
    let partial = PerRow { data: &mut *sums, per_row: width };
    for_each_row_block(
        blocks,
        cost_per_row.saturating_mul(ROW_BLOCK),
        (grouped, partial),
        |range, (mut grouped, partial)| {
            for (block, sum) in range.zip(partial.data.chunks_exact_mut(width)) {
                let start = block * ROW_BLOCK;
                let len = ROW_BLOCK.min(grouped.rows);
                let (outputs, rest) = grouped.outputs.split_rows(len);
                grouped = Blocks { rows: grouped.rows - len, outputs: rest };
                sum.fill(0.0);
                work(start..start + len, outputs, sum);
            }
        },
    );
    let sums = &*sums;
    for_each_row_block(width, blocks, PerRow::one(total), |columns, total| {
        for sum in sums.chunks_exact(width) {
            for (total, sum) in total.data.iter_mut().zip(&sum[columns.clone()]) {
                *total += sum;
            }
        }
    });
}

/// Row outputs that are cut by blocks of rows.
struct Blocks<S> {
    rows: usize,
    outputs: S,
}

impl<S: SplitRows> SplitRows for Blocks<S> {
    fn split_rows(self, block: usize) -> (Self, Self) {
        let at = (block * ROW_BLOCK).min(self.rows);
        let (head, tail) = self.outputs.split_rows(at);
        (Self { rows: at, outputs: head }, Self { rows: self.rows - at, outputs: tail })
    }
}

#[cfg(test)]
mod tests {
    use super::Engaged;

    #[test]
    fn a_refusal_leaves_the_mark_on_the_thread() {
        let mark = Engaged::new();
        assert!(mark.is_some());
        assert!(Engaged::new().is_none() && Engaged::new().is_none());
        drop(mark);
        assert!(Engaged::new().is_some());
        assert!(Engaged::new().is_some(), "the one before is gone");
    }
}
