//! Counter-based random numbers: Philox4x32, whose n-th block is a function of the key and n alone.
//!
//! # Source
//! Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); checked against Random123's vectors.

use crate::simd::{Lanes, Vector};

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// The rounds that Random123 recommends for general use.
pub const ROUNDS: usize = 10;
/// The fewest rounds that pass BigCrush; used where many masks are needed.
pub const FAST_ROUNDS: usize = 7;

/// The block of four words that Philox4x32 with `N` rounds gives for a counter and a key.
pub fn philox4x32<const N: usize>(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox4x32_vector::<Lanes<1>, N>(counter.map(|word| [word]), key).map(|[word]| word)
}

/// As many blocks at once as there are lanes, word by word.
#[inline(always)]
pub(crate) fn philox4x32_vector<V: Vector, const N: usize>(
    counter: [V::Bits; 4],
    key: [u32; 2],
) -> [V::Bits; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..N {
        let (low0, high0) = V::mul_wide(c0, MULTIPLIERS[0]);
        let (low1, high1) = V::mul_wide(c2, MULTIPLIERS[1]);
        c0 = V::xor(V::xor(high1, c1), V::bits(k0));
        c2 = V::xor(V::xor(high0, c3), V::bits(k1));
        (c1, c3) = (low1, low0);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The two words of a 64-bit number, the low one first.
pub(crate) fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// A sequence of random numbers: one of 2⁶⁴ streams of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    stream: [u32; 2],
    position: u64,
    block: [u32; 4],
}

impl Philox {
    /// The stream `stream` of `seed`, at its start.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut generator = Self { key: words(seed), stream: words(stream), position: 0, block: [0; 4] };
        generator.set_position(0);
        generator
    }

    /// How many 32-bit words were drawn. With seed and stream it is the whole state.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Continues as if `position` words had been drawn.
    pub fn set_position(&mut self, position: u64) {
        self.position = position;
        let [low, high] = words(position / 4);
        self.block = philox4x32::<ROUNDS>([low, high, self.stream[0], self.stream[1]], self.key);
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        let word = self.block[(self.position % 4) as usize];
        self.position += 1;
        if self.position.is_multiple_of(4) {
            self.set_position(self.position);
        }
        word
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        u64::from(low) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻²⁴.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal (Box–Muller; two words each, so that the position stays the whole state).
    pub fn normal_f32(&mut self) -> f32 {
        let radius = (f64::from(self.next_u32()) + 1.0) * (1.0 / 4_294_967_296.0);
        let angle = f64::from(self.next_u32()) * (std::f64::consts::TAU / 4_294_967_296.0);
        ((-2.0 * radius.ln()).sqrt() * angle.cos()) as f32
    }

    /// Uniform in `0..n`, without bias.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        let unfair = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= unfair {
                return (product >> 64) as u64;
            }
        }
    }

    /// Puts `items` into a uniformly random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
