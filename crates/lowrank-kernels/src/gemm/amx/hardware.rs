//! The processor's matrix unit, through assembly: the intrinsics are not in stable Rust.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::unit::{TILE_BYTES, TILE_ROWS, Unit};
use crate::element::Element;
use crate::gemm::tile::Finish;

/// This thread's hold on the tiles; not to be sent to another.
pub(crate) struct Hardware(PhantomData<*mut ()>);

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    const ALL: usize = 8;
    let (mut row_bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < ALL {
        row_bytes[tile] = TILE_BYTES as u16;
        rows[tile] = TILE_ROWS as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

impl Unit for Hardware {
    fn is_available() -> bool {
        super::is_available()
    }

    unsafe fn configure() -> Self {
        // SAFETY: the caller promises that the unit is there; the configuration is as the manual lays it out.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags, readonly));
        }
        Self(PhantomData)
    }

    #[inline(always)]
    fn zero<const TILE: usize>(&mut self) {
        // SAFETY: the tiles are configured as long as `self` lives.
        unsafe { asm!("tilezero tmm{}", const TILE, options(nostack, preserves_flags, nomem)) }
    }

    #[inline(always)]
    unsafe fn load<const TILE: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the tiles are configured as long as `self` lives, and the caller promises readable rows.
        unsafe {
            asm!(
                "tileloadd tmm{}, [{} + {}*1]",
                const TILE, in(reg) from, in(reg) stride,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const TILE: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: the tiles are configured as long as `self` lives, and the caller promises writable rows.
        unsafe {
            asm!(
                "tilestored [{} + {}*1], tmm{}",
                in(reg) to, in(reg) stride, const TILE,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    fn dot<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // SAFETY: the tiles are configured as long as `self` lives.
        unsafe {
            asm!(
                "tdpbf16ps tmm{}, tmm{}, tmm{}",
                const SUMS, const LEFT, const RIGHT,
                options(nostack, preserves_flags, nomem),
            );
        }
    }

    #[inline(always)]
    fn dot_int8<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // SAFETY: the tiles are configured as long as `self` lives, and a kernel that calls this exists only where the unit
        // multiplies 8 bits.
        unsafe {
            asm!(
                "tdpbssd tmm{}, tmm{}, tmm{}",
                const SUMS, const LEFT, const RIGHT,
                options(nostack, preserves_flags, nomem),
            );
        }
    }

    fn finish<T: Element>(finish: Finish<'_, T>) {
        // SAFETY: the kernel on this unit exists only in the AMX tier, which includes the AVX-512 tier.
        unsafe { crate::gemm::avx512::finish(finish) }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: the tiles are configured; releasing them has no other effect.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
    }
}

/// Whether the processor has the unit and the system lets this process use it; asks for it at the first call.
#[cfg(target_os = "linux")]
pub(super) fn is_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| has_tiles() && system_saves_tiles() && ask_permission())
}

/// CPUID's bits for AMX-TILE and AMX-BF16.
fn has_tiles() -> bool {
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE
}

/// CPUID's bit for AMX-INT8, on a processor that has the unit.
pub(super) fn has_int8() -> bool {
    const INT8: u32 = 1 << 25;
    __cpuid_count(7, 0).edx & INT8 != 0
}

/// Whether the system has switched the tiles' state on.
fn system_saves_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATES: u32 = 0b11 << 17;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let enabled: u32;
    // SAFETY: OSXSAVE says that `xgetbv` may be used; register 0 always exists.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nostack, nomem, preserves_flags));
    }
    enabled & TILE_STATES == TILE_STATES
}

/// Linux gives a process the tiles' state when it asks.
#[cfg(target_os = "linux")]
fn ask_permission() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this system call takes two numbers and touches none of the process's memory; the kernel
    // overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}
