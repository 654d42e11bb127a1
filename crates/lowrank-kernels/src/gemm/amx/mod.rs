//! The AMX kernel: products of bf16 tiles, sixteen rows of 64 bytes each, in the processor's matrix unit. That of 8-bit
//! tiles is with the others of its kind.
//!
//! `small` has products of matrices in working memory, for attention.
//!
//! The unit is reached through `unit::Unit`, of which a plain emulation lets every machine test the rest.

#[cfg(any(test, all(target_arch = "x86_64", feature = "emulated-amx")))]
mod emulated;
#[cfg(all(target_arch = "x86_64", not(feature = "emulated-amx")))]
mod hardware;
#[cfg(any(test, target_arch = "x86_64"))]
mod kernel;
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) mod small;
#[cfg(any(test, target_arch = "x86_64"))]
mod unit;

#[cfg(test)]
pub(crate) use emulated::Emulated;
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) use kernel::{Tiles, two_by_two};
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) use unit::Unit;
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) use unit::{TILE_BYTES, TILE_ROWS};

/// The unit of the tier `amx`: the processor's own, if it is not emulated for tests.
#[cfg(all(target_arch = "x86_64", not(feature = "emulated-amx")))]
pub(crate) type Processor = hardware::Hardware;
/// The unit of the tier `amx`: the processor's own, if it is not emulated for tests.
#[cfg(all(target_arch = "x86_64", feature = "emulated-amx"))]
pub(crate) type Processor = emulated::Emulated;

/// The kernel on the tier's unit.
#[cfg(target_arch = "x86_64")]
pub(super) type Amx = kernel::Tiles<Processor>;

/// Whether the processor multiplies bf16 tiles, has AVX-512, and the operating system lets this process use the tiles.
///
/// The first call asks the system for the permission.
pub fn is_available() -> bool {
    #[cfg(all(target_arch = "x86_64", feature = "emulated-amx"))]
    return true;
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(feature = "emulated-amx")))]
    return crate::tier::has_avx512() && hardware::is_permitted();
    #[allow(unreachable_code)]
    false
}

/// Whether the unit is that of the feature `emulated-amx`.
pub fn is_emulated() -> bool {
    cfg!(feature = "emulated-amx")
}

/// Whether the unit, where it is available, also multiplies tiles of 8 bits.
pub fn has_int8() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(feature = "emulated-amx")))]
    return is_available() && hardware::has_int8();
    #[allow(unreachable_code)]
    is_available()
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::check::{check_kernel, check_streamed};
    use super::kernel::Tiles;

    #[test]
    fn the_kernel_agrees_with_the_reference_on_an_emulated_unit() {
        check_kernel::<_, bf16>(Tiles::<super::emulated::Emulated>::new());
        check_streamed::<_, bf16>(Tiles::<super::emulated::Emulated>::new());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_kernel_agrees_with_the_reference_on_the_processor() {
        match super::Amx::detect() {
            Some(kernel) => {
                check_kernel::<_, bf16>(kernel);
                check_streamed::<_, bf16>(kernel);
            }
            None => println!("skipped: this machine does not have AMX"),
        }
    }
}
