//! The CPU tier: which instructions the kernels use, chosen once per process.

use std::fmt;
use std::sync::OnceLock;

/// A set of kernels. Every tier computes the same functions; each has its own rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// No instructions of ours beyond the baseline of the compile target: what runs where there is neither AVX2 nor
    /// AVX-512, as on aarch64. Never picked by itself; for tests. Matrix products go to the `gemm` crate, which picks
    /// its own instructions.
    Plain,
    /// AVX2 with FMA where the processor has both, else as [`Tier::Plain`].
    Portable,
    /// AVX-512 (F, BW, DQ, VL), with `vdpbf16ps` where the processor has it.
    Avx512,
    /// AVX-512 and the AMX bf16 tile unit.
    Amx,
}

/// Why a tier could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierError {
    /// `LOWRANK_CPU` holds something else than `amx`, `avx512`, `portable` or `plain`.
    Unknown(String),
    /// The processor or the operating system does not offer the tier that was asked for.
    Unavailable(Tier),
}

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(value) => {
                write!(f, "LOWRANK_CPU is {value:?}; it must be amx, avx512, portable or plain")
            }
            Self::Unavailable(tier) => {
                write!(f, "LOWRANK_CPU asks for {tier}, which this machine does not have; leave it unset")
            }
        }
    }
}

impl std::error::Error for TierError {}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Portable => "portable",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        })
    }
}

impl Tier {
    /// Every tier, the plainest first.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Portable, Self::Avx512, Self::Amx];

    /// Whether this machine can run the tier.
    pub fn is_available(self) -> bool {
        match self {
            Self::Plain | Self::Portable => true,
            Self::Avx512 => has_avx512(),
            Self::Amx => crate::gemm::amx::is_available(),
        }
    }

    /// Whether the tier multiplies bf16 faster than f32, so that `auto` should pick bf16.
    pub fn prefers_bf16(self) -> bool {
        match self {
            Self::Plain | Self::Portable => false,
            Self::Avx512 => has_avx512_bf16(),
            Self::Amx => true,
        }
    }

    /// The tier with what decides its rounding on this machine, as `portable (avx2)`: two processes with the same
    /// name here compute the same bits.
    pub fn kernels(self) -> String {
        let plain = if FUSED { "plain, fma" } else { "plain" };
        match self {
            Self::Amx if crate::gemm::amx::is_emulated() => "amx (emulated)".to_owned(),
            Self::Plain => plain.to_owned(),
            Self::Portable => format!("portable ({})", if has_avx2() { "avx2" } else { plain }),
            Self::Avx512 if has_avx512_bf16() => "avx512 (bf16)".to_owned(),
            Self::Amx if crate::gemm::amx::has_int8() => "amx (int8)".to_owned(),
            Self::Avx512 | Self::Amx => self.to_string(),
        }
    }

    /// The fastest tier of this machine, which an emulated one never is.
    pub fn best() -> Self {
        let emulated = |tier| tier == Self::Amx && crate::gemm::amx::is_emulated();
        let fast = |tier: &Self| tier.is_available() && !emulated(*tier);
        Self::ALL.into_iter().rev().find(fast).unwrap_or(Self::Portable)
    }

    /// The tier that `LOWRANK_CPU` names, or the best one where it is unset or empty.
    ///
    /// # Errors
    /// An unknown name, or a tier that this machine does not have.
    pub fn from_env() -> Result<Self, TierError> {
        let value = std::env::var("LOWRANK_CPU").unwrap_or_default();
        let tier = match value.as_str() {
            "" => return Ok(Self::best()),
            "plain" => Self::Plain,
            "portable" => Self::Portable,
            "avx512" => Self::Avx512,
            "amx" => Self::Amx,
            _ => return Err(TierError::Unknown(value)),
        };
        if tier.is_available() { Ok(tier) } else { Err(TierError::Unavailable(tier)) }
    }

    /// The tier of this process: [`Tier::from_env`] at the first call. A program checks `from_env` at its start
    /// to report a bad `LOWRANK_CPU`; here it falls back to the best tier.
    pub fn active() -> Self {
        static ACTIVE: OnceLock<Tier> = OnceLock::new();
        *ACTIVE.get_or_init(|| Self::from_env().unwrap_or_else(|_| Self::best()))
    }
}

/// Whether the compile target has a fused multiply-add.
pub(crate) const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Whether the processor has AVX2 and FMA.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor has what the AVX-512 tier uses.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// Whether the processor has AVX-512's `vpdpwssd`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// Whether the processor has `vdpbf16ps`.
pub fn has_avx512_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_kernels_tells_what_a_tier_is_here() {
        let names = Tier::ALL.map(Tier::kernels);
        let begins = |(tier, name): (Tier, &String)| name.starts_with(&tier.to_string());
        assert!(Tier::ALL.into_iter().zip(&names).all(begins), "{names:?}");
        assert_eq!(names[1] == "portable (avx2)", has_avx2());
        assert_eq!(names[1].contains("plain"), !has_avx2());
    }
}
