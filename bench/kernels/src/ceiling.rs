//! What the processors of this machine do at most: multiplications in registers, bytes through memory.

use std::hint::black_box;
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use lowrank_kernels::gemm::amx;
use lowrank_kernels::{Compute, Tier};
use rayon::prelude::*;

/// Rounds of a measurement, of which the fastest counts.
const ROUNDS: usize = 5;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Numbers of the type that is computed in.
    Floats,
    /// Frozen weights of 8 bits, and rows that are rounded for them.
    Integers,
}

/// Multiplications and additions a second of all threads of the pool, for a type on a tier; none where no loop here measures
/// that.
pub fn operations(tier: Tier, compute: Compute, operands: Operands) -> Option<f64> {
    let kernel = kernel(tier, compute, operands)?;
    let threads = rayon::current_num_threads();
    let fastest = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        let operations: f64 = (0..threads).into_par_iter().map(|_| kernel(2_000_000)).sum();
        operations / start.elapsed().as_secs_f64()
    });
    Some(fastest.fold(0.0, f64::max))
}

/// Bytes a second that all threads of the pool read and write, of buffers that no cache holds.
pub fn bytes() -> f64 {
    const BYTES: usize = 256 << 20;
    let from = vec![1u8; BYTES];
    let mut to = vec![0u8; BYTES];
    let part = BYTES.div_ceil(rayon::current_num_threads());
    let mut fastest: f64 = 0.0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        fastest = fastest.max(2.0 * BYTES as f64 / start.elapsed().as_secs_f64());
        black_box(&to);
    }
    fastest
}

/// A loop of so many rounds that returns how many operations it did.
type Kernel = fn(usize) -> f64;

#[cfg(not(target_arch = "x86_64"))]
fn kernel(_: Tier, _: Compute, _: Operands) -> Option<Kernel> {
    None
}

#[cfg(target_arch = "x86_64")]
fn kernel(tier: Tier, compute: Compute, operands: Operands) -> Option<Kernel> {
    let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let has_avx512 = is_x86_feature_detected!("avx512f");
    let has_vnni = has_avx512 && is_x86_feature_detected!("avx512vnni");
    // The processor's own, which this process may use.
    let has_tiles = amx::is_available() && !amx::is_emulated();
    match (operands, tier, compute) {
        // bf16 is widened, and multiplied as f32.
        (Operands::Floats, Tier::Portable, _) if has_avx2 => Some(x86::avx2),
        (Operands::Floats, Tier::Avx512 | Tier::Amx, Compute::F32) if has_avx512 => Some(x86::avx512),
        (Operands::Floats, Tier::Avx512, Compute::Bf16)
            if has_avx512 && is_x86_feature_detected!("avx512bf16") =>
        {
            Some(x86::bf16)
        }
        (Operands::Floats, Tier::Amx, Compute::Bf16) if has_tiles => Some(x86::tiles),
        (Operands::Integers, Tier::Amx, Compute::Bf16) if has_tiles && amx::has_int8() => {
            Some(x86::tiles_of_8_bits)
        }
        (Operands::Integers, Tier::Portable, _) if has_avx2 => Some(x86::pairs),
        (Operands::Integers, Tier::Avx512, _) | (Operands::Integers, Tier::Amx, Compute::F32) if has_vnni => {
            Some(x86::wide_pairs)
        }
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums in registers of which none waits for another: more than two units of four cycles each can have under way.
    const SUMS: usize = 12;

    pub fn avx2(rounds: usize) -> f64 {
        #[target_feature(enable = "avx2,fma")]
        fn run(rounds: usize) {
            let (a, b) = (black_box(_mm256_set1_ps(1.0)), black_box(_mm256_set1_ps(1e-9)));
            let mut sums = [_mm256_setzero_ps(); SUMS];
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(a, b, *sum));
            }
            black_box(sums);
        }
        // SAFETY: `kernel` gives this function only where the processor has AVX2 and FMA.
        unsafe { run(rounds) }
        (rounds * SUMS * 8 * 2) as f64
    }

    pub fn avx512(rounds: usize) -> f64 {
        #[target_feature(enable = "avx512f")]
        fn run(rounds: usize) {
            let (a, b) = (black_box(_mm512_set1_ps(1.0)), black_box(_mm512_set1_ps(1e-9)));
            let mut sums = [_mm512_setzero_ps(); SUMS];
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(a, b, *sum));
            }
            black_box(sums);
        }
        // SAFETY: `kernel` gives this function only where the processor has AVX-512.
        unsafe { run(rounds) }
        (rounds * SUMS * 16 * 2) as f64
    }

    pub fn bf16(rounds: usize) -> f64 {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn run(rounds: usize) {
            let pairs = black_box(_mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(1e-9)));
            let mut sums = [_mm512_setzero_ps(); SUMS];
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, pairs, pairs));
            }
            black_box(sums);
        }
        // SAFETY: `kernel` gives this function only where the processor has these instructions.
        unsafe { run(rounds) }
        (rounds * SUMS * 32 * 2) as f64
    }

    pub fn pairs(rounds: usize) -> f64 {
        #[target_feature(enable = "avx2")]
        fn run(rounds: usize) {
            let pairs = black_box(_mm256_set1_epi16(1));
            let mut sums = [_mm256_set1_epi32(1); SUMS];
            for _ in 0..rounds {
                // By the sums themselves: a product that is the same in every round would be computed once.
                sums.iter_mut().for_each(|sum| *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, pairs)));
            }
            black_box(sums);
        }
        // SAFETY: `kernel` gives this function only where the processor has AVX2.
        unsafe { run(rounds) }
        (rounds * SUMS * 16 * 2) as f64
    }

    pub fn wide_pairs(rounds: usize) -> f64 {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn run(rounds: usize) {
            let pairs = black_box(_mm512_set1_epi16(1));
            let mut sums = [_mm512_setzero_si512(); SUMS];
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = _mm512_dpwssd_epi32(*sum, pairs, pairs));
            }
            black_box(sums);
        }
        // SAFETY: `kernel` gives this function only where the processor has these instructions.
        unsafe { run(rounds) }
        (rounds * SUMS * 32 * 2) as f64
    }

    /// The operand of `ldtilecfg`.
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);

    /// Eight tiles of sixteen rows of 64 bytes.
    static ALL_TILES: Configuration = {
        const PALETTE: usize = 0;
        const BYTES_OF_A_ROW: usize = 16;
        const ROWS: usize = 48;
        let mut bytes = [0; 64];
        bytes[PALETTE] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[BYTES_OF_A_ROW + 2 * tile] = 64;
            bytes[ROWS + tile] = 16;
            tile += 1;
        }
        Configuration(bytes)
    };

    /// Six tiles of sums, to which `$multiply` adds the product of two others, for a sixteenth of `$rounds`: a product takes the
    /// unit sixteen cycles. All tiles are zeros after `ldtilecfg`.
    ///
    /// # Safety
    /// The processor has the instruction, and this process may use the tiles, which this thread does not use for anything else.
    macro_rules! tiles_of {
        ($multiply:literal, $rounds:expr, $depth:literal) => {{
            let rounds = ($rounds / 16).max(1);
            asm!(
                "ldtilecfg [{configuration}]",
                "2:",
                concat!($multiply, " tmm0, tmm6, tmm7"),
                concat!($multiply, " tmm1, tmm6, tmm7"),
                concat!($multiply, " tmm2, tmm6, tmm7"),
                concat!($multiply, " tmm3, tmm6, tmm7"),
                concat!($multiply, " tmm4, tmm6, tmm7"),
                concat!($multiply, " tmm5, tmm6, tmm7"),
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                configuration = in(reg) &raw const ALL_TILES,
                rounds = inout(reg) rounds => _,
                options(nostack, readonly),
            );
            (rounds * 6 * 16 * 16 * $depth * 2) as f64
        }};
    }

    pub fn tiles(rounds: usize) -> f64 {
        // SAFETY: `kernel` gives this function only where the processor has the unit and this process may use it.
        unsafe { tiles_of!("tdpbf16ps", rounds, 32) }
    }

    pub fn tiles_of_8_bits(rounds: usize) -> f64 {
        // SAFETY: as above, and the unit multiplies 8 bits.
        unsafe { tiles_of!("tdpbssd", rounds, 64) }
    }
}
