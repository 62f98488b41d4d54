//! The canonical value of a stored weight: the exact real value of the format's formula, rounded once to
//! binary16, ties to even; a zero is +0; what is not finite is refused.
//!
//! A half is an integer times 2^-24 and the codes of a block are integers, so a block's formula is evaluated
//! exactly in `i64` and only the result is rounded.

mod blocks;

use half::f16;

use crate::canon::packed::{Group, Packing};

/// How a tensor is stored in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    /// The upper half of an F32.
    Bf16,
    /// 32 codes of 4 bits, d (q - 8).
    Q4_0,
    /// 32 codes of 4 bits, d q + m.
    Q4_1,
    /// 32 codes of 5 bits, d (q - 16).
    Q5_0,
    /// 32 codes of 5 bits, d q + m.
    Q5_1,
    /// 32 codes of 8 bits, d q.
    Q8_0,
    /// 256 codes of 2 bits; each 16 have s and m of 4 bits: d s q - dmin m.
    Q2K,
    /// 256 codes of 3 bits; each 16 have s of 6 bits: d (s - 32) (q - 4).
    Q3K,
    /// 256 codes of 4 bits; each 32 have s and m of 6 bits: d s q - dmin m.
    Q4K,
    /// 256 codes of 5 bits; each 32 have s and m of 6 bits: d s q - dmin m.
    Q5K,
    /// 256 codes of 6 bits; each 16 have s of 8 bits: d s (q - 32).
    Q6K,
}

/// The first element that has no finite half: its index and its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    pub index: usize,
    pub value: f64,
}

impl Encoding {
    pub const ALL: [Encoding; 13] = [
        Encoding::F32,
        Encoding::F16,
        Encoding::Bf16,
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Q5_0,
        Encoding::Q5_1,
        Encoding::Q8_0,
        Encoding::Q2K,
        Encoding::Q3K,
        Encoding::Q4K,
        Encoding::Q5K,
        Encoding::Q6K,
    ];

    /// From `ggml_type`.
    pub fn from_ggml(kind: u32) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|e| e.ggml() == kind)
    }

    /// The number of this encoding in `ggml_type`.
    pub fn ggml(self) -> u32 {
        match self {
            Encoding::F32 => 0,
            Encoding::F16 => 1,
            Encoding::Q4_0 => 2,
            Encoding::Q4_1 => 3,
            Encoding::Q5_0 => 6,
            Encoding::Q5_1 => 7,
            Encoding::Q8_0 => 8,
            Encoding::Q2K => 10,
            Encoding::Q3K => 11,
            Encoding::Q4K => 12,
            Encoding::Q5K => 13,
            Encoding::Q6K => 14,
            Encoding::Bf16 => 30,
        }
    }

    /// Elements of a block.
    pub fn block_len(self) -> usize {
        use Encoding::*;
        match self {
            F32 | F16 | Bf16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q2K | Q3K | Q4K | Q5K | Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::F16 | Encoding::Bf16 => 2,
            Encoding::Q4_0 => 2 + 16,
            Encoding::Q4_1 => 4 + 16,
            Encoding::Q5_0 => 2 + 4 + 16,
            Encoding::Q5_1 => 4 + 4 + 16,
            Encoding::Q8_0 => 2 + 32,
            Encoding::Q2K => 16 + 64 + 4,
            Encoding::Q3K => 32 + 64 + 12 + 2,
            Encoding::Q4K => 4 + 12 + 128,
            Encoding::Q5K => 4 + 12 + 32 + 128,
            Encoding::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// How the kernels can keep it quantised, if they can.
    pub fn packing(self) -> Option<Packing> {
        match self {
            Encoding::Q4_0 => Some(Packing::Q4_0),
            Encoding::Q4_1 => Some(Packing::Q4_1),
            Encoding::Q8_0 => Some(Packing::Q8_0),
            _ => None,
        }
    }

    /// What a block of an encoding that has a packing holds.
    pub fn group(self, block: &[u8]) -> Group {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let (m, codes) = match self {
            Encoding::Q4_1 => (half(2), &block[4..]),
            _ => (f16::ZERO, &block[2..]),
        };
        let code = |i: usize| match self {
            Encoding::Q8_0 => codes[i] as i8,
            Encoding::Q4_0 => blocks::nibble_32(codes, i) as i8 - 8,
            _ => blocks::nibble_32(codes, i) as i8,
        };
        Group { d: half(0), m, q: std::array::from_fn(code) }
    }

    /// Canonical values of whole blocks: `bytes` holds `out.len() / block_len` blocks.
    pub fn decode(self, bytes: &[u8], out: &mut [f16]) -> Result<(), NotFinite> {
        let len = self.block_len();
        debug_assert_eq!(bytes.len(), out.len() / len * self.block_bytes());
        for (n, (block, out)) in
            bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(len)).enumerate()
        {
            self.decode_block(block, out)
                .map_err(|at| NotFinite { index: n * len + at.index, value: at.value })?;
        }
        Ok(())
    }

    fn decode_block(self, block: &[u8], out: &mut [f16]) -> Result<(), NotFinite> {
        let wide = |value: f32, out: &mut [f16]| {
            out[0] = finite(f16::from_f32(value), f64::from(value))?;
            Ok(())
        };
        match self {
            Encoding::F32 => wide(f32::from_le_bytes([block[0], block[1], block[2], block[3]]), out),
            Encoding::Bf16 => wide(f32::from_le_bytes([0, 0, block[0], block[1]]), out),
            Encoding::F16 => {
                let half = f16::from_le_bytes([block[0], block[1]]);
                out[0] = finite(half, half.to_f64())?;
                Ok(())
            }
            Encoding::Q4_0 => blocks::q4_0(block, out),
            Encoding::Q4_1 => blocks::q4_1(block, out),
            Encoding::Q5_0 => blocks::q5_0(block, out),
            Encoding::Q5_1 => blocks::q5_1(block, out),
            Encoding::Q8_0 => blocks::q8_0(block, out),
            Encoding::Q2K => blocks::q2_k(block, out),
            Encoding::Q3K => blocks::q3_k(block, out),
            Encoding::Q4K => blocks::q4_k(block, out),
            Encoding::Q5K => blocks::q5_k(block, out),
            Encoding::Q6K => blocks::q6_k(block, out),
        }
    }
}

fn finite(half: f16, value: f64) -> Result<f16, NotFinite> {
    if !half.is_finite() {
        Err(NotFinite { index: 0, value })
    } else if half == f16::ZERO {
        Ok(f16::ZERO)
    } else {
        Ok(half)
    }
}

/// A finite half as a multiple of 2^-24.
fn to_fixed(half: f16) -> Option<i64> {
    let bits = half.to_bits();
    let (exponent, fraction) = (bits >> 10 & 31, i64::from(bits & 0x3ff));
    let magnitude = match exponent {
        31 => return None,
        0 => fraction,
        e => (fraction | 0x400) << (e - 1),
    };
    Some(if bits & 0x8000 == 0 { magnitude } else { -magnitude })
}

/// `fixed` * 2^-24 rounded to the nearest half, ties to even; the value itself if that is not finite.
fn rounded(fixed: i64) -> Result<f16, f64> {
    let magnitude = fixed.unsigned_abs();
    // Halves below 2^-13 are the multiples of 2^-24 themselves, and their bits count them.
    let excess = (64 - magnitude.leading_zeros()).saturating_sub(11);
    let mut kept = magnitude >> excess;
    if excess > 0 {
        let (dropped, tie) = (magnitude - (kept << excess), 1 << (excess - 1));
        kept += u64::from(dropped > tie || (dropped == tie && kept & 1 == 1));
    }
    // The leading bit of `kept` carries into the exponent, as does a rounding up to the next power of two.
    let bits = (u64::from(excess) << 10) + kept;
    if bits >= 0x7c00 {
        return Err(fixed as f64 / (1 << 24) as f64);
    }
    let sign = if fixed < 0 { 0x8000 } else { 0 };
    Ok(f16::from_bits(bits as u16 | sign))
}

#[cfg(test)]
mod tests;
