//! A process-wide pool of buffers. Fresh pages are dear (a fault for each, then a cold TLB), so a buffer that is
//! dropped is kept for the next one of about its size, and large ones ask for huge pages.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Buffers start at a cache line.
pub const ALIGNMENT: usize = 64;
const MAPPED_FROM: usize = 64 << 10;
#[cfg(target_os = "linux")]
const HUGE_FROM: usize = 2 << 20;

/// Memory of a fixed capacity.
#[derive(Debug)]
enum Block {
    /// A mapping of its own.
    Mapped(MmapMut),
    /// Heap memory; the first aligned byte is at `start`.
    Heap { bytes: Box<[u8]>, start: usize, capacity: usize },
}

impl Block {
    /// Memory of `capacity` zero bytes.
    fn new(capacity: usize) -> Self {
        if capacity >= MAPPED_FROM
            && let Ok(map) = MmapMut::map_anon(capacity)
        {
            #[cfg(target_os = "linux")]
            if capacity >= HUGE_FROM {
                // Only advice: without huge pages everything works, more slowly.
                let _ = map.advise(memmap2::Advice::HugePage);
            }
            return Self::Mapped(map);
        }
        let bytes = vec![0_u8; capacity + ALIGNMENT - 1].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self::Heap { bytes, start, capacity }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Mapped(map) => map.len(),
            Self::Heap { capacity, .. } => *capacity,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Heap { bytes, start, capacity } => &bytes[*start..*start + *capacity],
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Heap { bytes, start, capacity } => &mut bytes[*start..*start + *capacity],
        }
    }
}

/// What is free, by capacity, and how much there is in all.
#[derive(Debug)]
struct Pool {
    free: BTreeMap<usize, Vec<Block>>,
    allocated_bytes: usize,
    free_bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), allocated_bytes: 0, free_bytes: 0 });

/// The pool; its numbers are consistent between statements, so a thread that panicked leaves it usable.
fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pool's size at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes that the pool holds: in buffers and free.
    pub allocated_bytes: usize,
    /// Bytes of these that no buffer uses.
    pub free_bytes: usize,
}

/// How much memory the pool holds: for programs that watch theirs.
pub fn statistics() -> Statistics {
    let pool = pool();
    Statistics { allocated_bytes: pool.allocated_bytes, free_bytes: pool.free_bytes }
}

/// Gives all free memory back to the system: for programs that go on to something else after training.
pub fn trim() {
    let mut pool = pool();
    let free = std::mem::take(&mut pool.free);
    pool.allocated_bytes -= pool.free_bytes;
    pool.free_bytes = 0;
    drop(pool);
    drop(free);
}

/// `bytes` rounded up to one of eight sizes per power of two, so that similar requests meet.
fn size_class(bytes: usize) -> usize {
    let step = bytes.next_power_of_two() / 16;
    bytes.next_multiple_of(step.max(ALIGNMENT))
}

impl Pool {
    /// The smallest free block that holds `capacity` and is at most twice as large.
    fn take(&mut self, capacity: usize) -> Option<Block> {
        let mut fitting = self.free.range_mut(capacity..=capacity.saturating_mul(2));
        let (&found, blocks) = fitting.next()?;
        let block = blocks.pop()?;
        if blocks.is_empty() {
            self.free.remove(&found);
        }
        self.free_bytes -= found;
        Some(block)
    }
}

/// Bytes aligned to [`ALIGNMENT`]: from the pool, into which they go back when it is dropped, or of its own.
#[derive(Debug)]
pub struct Buffer {
    block: Option<Block>,
    len: usize,
    pooled: bool,
}

impl Buffer {
    /// `bytes` bytes of any content: what the last user left, or zeros.
    pub fn uninit(bytes: usize) -> Self {
        Self::allocate(bytes).0
    }

    /// `bytes` zero bytes apart from the pool, no more than that, which the system has back when they are dropped: for what
    /// stays.
    pub fn kept(bytes: usize) -> Self {
        Self { block: (bytes > 0).then(|| Block::new(bytes)), len: bytes, pooled: false }
    }

    /// `bytes` zero bytes.
    pub fn zeroed(bytes: usize) -> Self {
        let (mut buffer, fresh) = Self::allocate(bytes);
        if !fresh {
            buffer.bytes_mut().fill(0);
        }
        buffer
    }

    /// The buffer, and whether its memory is new and therefore zero.
    fn allocate(len: usize) -> (Self, bool) {
        if len == 0 {
            return (Self { block: None, len, pooled: true }, true);
        }
        let capacity = size_class(len);
        if let Some(block) = pool().take(capacity) {
            return (Self { block: Some(block), len, pooled: true }, false);
        }
        let block = Block::new(capacity);
        pool().allocated_bytes += block.capacity();
        (Self { block: Some(block), len, pooled: true }, true)
    }

    /// Length in bytes, as asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn bytes(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block.bytes()[..self.len])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.block.as_mut().map_or(&mut [], |block| &mut block.bytes_mut()[..self.len])
    }

    /// The content as numbers of type `T`.
    ///
    /// # Panics
    /// If the length is not a multiple of the size of `T`.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        if self.len == 0 { &[] } else { bytemuck::cast_slice(self.bytes()) }
    }

    /// As [`Buffer::as_slice`], for writing.
    ///
    /// # Panics
    /// If the length is not a multiple of the size of `T`.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        if self.len == 0 { &mut [] } else { bytemuck::cast_slice_mut(self.bytes_mut()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take().filter(|_| self.pooled) {
            let capacity = block.capacity();
            let mut pool = pool();
            pool.free_bytes += capacity;
            pool.free.entry(capacity).or_default().push(block);
        }
    }
}
