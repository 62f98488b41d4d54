//! Instruction sets and which of them this processor has.

use std::fmt;
use std::str::FromStr;

use super::kernels::{self, Kernels};

/// An instruction set that has kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// NEON, which every aarch64 has.
    Neon,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        })
    }
}

/// Of those that this processor has.
impl FromStr for Isa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::available();
        known.iter().copied().find(|isa| isa.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = known.iter().map(Self::to_string).collect();
            format!("instruction set is {text:?}, must be one of this processor's: {}", names.join(", "))
        })
    }
}

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Self {
        let fast = [Self::Avx512, Self::Avx2, Self::Neon];
        fast.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// All that this processor has.
    pub fn available() -> Vec<Self> {
        let all = [Self::Portable, Self::Avx2, Self::Avx512, Self::Neon];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let has = |avx512: bool| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && (!avx512
                    || (is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")))
        };
        #[cfg(not(target_arch = "x86_64"))]
        let has = |_| false;
        match self {
            Self::Portable => true,
            Self::Avx2 => has(false),
            Self::Avx512 => has(true),
            Self::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// Its kernels; panics where the processor lacks it.
    pub(super) fn kernels(self) -> &'static Kernels {
        assert!(self.is_available(), "this processor has no {self:?}");
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &kernels::AVX512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &kernels::AVX2,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => &kernels::NEON,
            _ => &kernels::PORTABLE,
        }
    }
}
