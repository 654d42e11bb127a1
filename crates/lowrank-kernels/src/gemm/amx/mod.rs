//! The AMX kernel: products of bf16 tiles, sixteen rows of 64 bytes each, in the processor's matrix unit. That of 8-bit
//! tiles is with the others of its kind.
//!
//! The unit is reached through `unit::Unit`, of which a plain emulation lets every machine test the rest.

#[cfg(test)]
mod emulated;
#[cfg(target_arch = "x86_64")]
mod hardware;
#[cfg(any(test, target_arch = "x86_64"))]
mod kernel;
#[cfg(any(test, target_arch = "x86_64"))]
mod unit;

#[cfg(test)]
pub(super) use emulated::Emulated;
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) use kernel::{Tiles, two_by_two};
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) use unit::{TILE_BYTES, TILE_ROWS, Unit};

/// The kernel on the processor's own unit.
#[cfg(target_arch = "x86_64")]
pub(super) type Amx = kernel::Tiles<hardware::Hardware>;

/// Whether the processor multiplies bf16 tiles and the operating system lets this process use them.
///
/// The first call asks the system for the permission.
pub fn is_available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return hardware::is_permitted();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Whether the unit, where it is available, also multiplies tiles of 8 bits.
pub fn has_int8() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return is_available() && hardware::has_int8();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
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
