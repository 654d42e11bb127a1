//! What a micro-kernel is, and what it is given.

use super::panels::Layout;
use crate::columns::Block;
use crate::element::Element;

/// Room for the sums of one tile of any kernel.
pub(super) const TILE_FLOATS: usize = 32 * 48;

/// Evaluates `$body` with the constant `$R` as the number of rows: one of those named, or else 1.
#[cfg(target_arch = "x86_64")]
macro_rules! with_rows {
    ($rows:expr, $($count:literal)*, $R:ident => $body:expr) => {
        match $rows {
            $($count => {
                const $R: usize = $count;
                $body
            })*
            _ => {
                const $R: usize = 1;
                $body
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use with_rows;

/// A loop over the depth for six rows and sixteen columns, which begins at a cache line: at half of one it is slower, and where
/// the compiler puts a loop changes from build to build (docs/performance.md).
///
/// A step loads the panel's columns into ymm12 and ymm13 with `$columns` and goes `$panel_bytes` on; `$row` is a macro that
/// multiplies the four bytes of a row at an address by them with ymm14 and ymm15, and adds to two registers of `$sums`.
///
/// # Safety
/// There are as many `$steps` of six rows from `$left`, `$stride` bytes apart, and of the panel, and one at least; the
/// processor has the instructions. Nothing is written.
#[cfg(target_arch = "x86_64")]
macro_rules! six_rows {
    ($row:ident, $columns:literal, $panel_bytes:literal; $steps:expr, $left:expr, $stride:expr, $panel:expr, $sums:ident) => {
        std::arch::asm!(
            ".p2align 6",
            "2:",
            $columns,
            $row!("{left}", "ymm0", "ymm1"),
            $row!("{left} + {stride}", "ymm2", "ymm3"),
            $row!("{left} + 2*{stride}", "ymm4", "ymm5"),
            $row!("{lower}", "ymm6", "ymm7"),
            $row!("{lower} + {stride}", "ymm8", "ymm9"),
            $row!("{lower} + 2*{stride}", "ymm10", "ymm11"),
            concat!("add {panel}, ", $panel_bytes),
            "add {left}, 4",
            "add {lower}, 4",
            "dec {steps}",
            "jnz 2b",
            steps = inout(reg) $steps => _,
            panel = inout(reg) $panel => _,
            left = inout(reg) $left => _,
            lower = inout(reg) $left.byte_add(3 * $stride) => _,
            stride = in(reg) $stride,
            inout("ymm0") $sums[0],
            inout("ymm1") $sums[1],
            inout("ymm2") $sums[2],
            inout("ymm3") $sums[3],
            inout("ymm4") $sums[4],
            inout("ymm5") $sums[5],
            inout("ymm6") $sums[6],
            inout("ymm7") $sums[7],
            inout("ymm8") $sums[8],
            inout("ymm9") $sums[9],
            inout("ymm10") $sums[10],
            inout("ymm11") $sums[11],
            out("ymm12") _,
            out("ymm13") _,
            out("ymm14") _,
            out("ymm15") _,
            options(nostack, readonly),
        )
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use six_rows;

/// A micro-kernel: the product of a few rows and a few columns.
pub(super) trait Tile: Copy + Send + Sync {
    /// What it reads rows as.
    type Left: Element;
    /// What it reads panels as.
    type Panel: Element;
    /// What it holds while a thread works on a task.
    type Session;

    /// The panels it reads.
    const LAYOUT: Layout;
    /// Columns of a tile.
    const COLS: usize = Self::LAYOUT.cols * Self::LAYOUT.panel_multiple;
    /// The most rows of a tile.
    const ROWS: usize;
    /// Rows are read, and sums written, up to a multiple of this.
    const ROW_MULTIPLE: usize = 1;
    /// Length of the sum after which a tile's sums go to memory; a multiple of `LAYOUT.depth_multiple`.
    const DEPTH: usize;

    /// Whether the panels of a transposed weight are made for each product, or once and kept. Making them costs as much as
    /// some twenty rows on AVX2, and more of them where the arithmetic is faster.
    const TURNS: bool = true;

    /// The operations from which on a product is worth several threads.
    const PARALLEL_FLOPS: usize = super::PARALLEL_FLOPS;

    /// Rows of a task for a sum of this length, so that they stay in the second-level cache.
    fn task_rows(depth: usize) -> usize;

    /// Columns of a task, so that they stay there from one task to the next.
    fn task_cols(depth: usize) -> usize;

    /// Prepares the thread for a task.
    fn enter(self) -> Self::Session;

    /// `sums = left·panel`, or `sums += left·panel` with `add`, for all the columns of a tile.
    ///
    /// # Safety
    /// From `left`, `rows` rounded up to `ROW_MULTIPLE` rows of `depth` rounded up to `LAYOUT.depth_multiple`
    /// elements can be read at `left_stride`, and as many steps from each of the tile's panels, `panel_len`
    /// elements apart; to `sums`, the rounded rows of `COLS` elements can be written, and read with `add`.
    unsafe fn run(session: &mut Self::Session, step: Step<Self::Left, Self::Panel>);

    /// Writes finished sums to the result; overridden where the tier's instructions make it faster.
    fn finish<T: Element>(self, finish: Finish<'_, T>) {
        finish.plain();
    }
}

/// The operands of one call of a micro-kernel.
#[derive(Clone, Copy)]
pub(super) struct Step<L, P> {
    pub rows: usize,
    pub depth: usize,
    pub left: *const L,
    pub left_stride: usize,
    pub panel: *const P,
    pub panel_len: usize,
    pub sums: *mut f32,
    pub sums_stride: usize,
    pub add: bool,
}

/// Sums of a tile on their way to the result: `out = sums [+ bias]`, or `out += sums` with `add`.
pub(crate) struct Finish<'a, T> {
    pub sums: &'a [f32],
    pub sums_stride: usize,
    pub bias: Option<&'a [f32]>,
    pub add: bool,
    pub out: Block<'a, T>,
}

impl<T: Element> Finish<'_, T> {
    /// Inlined into callers that are compiled for more instructions.
    #[inline(always)]
    pub fn plain(mut self) {
        for i in 0..self.out.rows() {
            let out = self.out.row(i);
            let sums = &self.sums[i * self.sums_stride..][..out.len()];
            let out = out.iter_mut().zip(sums);
            match self.bias {
                Some(bias) => out.zip(bias).for_each(|((out, sum), bias)| *out = T::round(sum + bias)),
                None if self.add => out.for_each(|(out, sum)| *out = T::round(out.widen() + sum)),
                None => out.for_each(|(out, &sum)| *out = T::round(sum)),
            }
        }
    }
}
