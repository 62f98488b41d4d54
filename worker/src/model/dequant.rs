//! The canonical value of a stored weight: the exact real value of the format's formula, rounded once to
//! binary16, ties to even; a zero is +0; what is not finite is refused.
//!
//! A half is an integer times 2^-24 and the codes of a block are integers, so a block's formula is evaluated
//! exactly in `i64` and only the result is rounded.

use half::f16;

/// How a tensor is stored in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    /// 32 codes of 4 bits, d (q - 8).
    Q4_0,
    /// 32 codes of 4 bits, d q + m.
    Q4_1,
    /// 32 codes of 8 bits, d q.
    Q8_0,
}

/// The first element that has no finite half: its index and its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    pub index: usize,
    pub value: f64,
}

impl Encoding {
    pub const ALL: [Encoding; 5] =
        [Encoding::F32, Encoding::F16, Encoding::Q4_0, Encoding::Q4_1, Encoding::Q8_0];

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
            Encoding::Q8_0 => 8,
        }
    }

    /// Elements of a block.
    pub fn block_len(self) -> usize {
        match self {
            Encoding::F32 | Encoding::F16 => 1,
            Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q8_0 => 32,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::F16 => 2,
            Encoding::Q4_0 => 2 + 16,
            Encoding::Q4_1 => 4 + 16,
            Encoding::Q8_0 => 2 + 32,
        }
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
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        match self {
            Encoding::F32 => {
                let value = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                out[0] = finite(f16::from_f32(value), f64::from(value))?;
            }
            Encoding::F16 => {
                out[0] = finite(half(0), half(0).to_f64())?;
            }
            Encoding::Q4_0 => {
                let d = scale(half(0))?;
                let values = code_table(|q| d * (q - 8));
                nibbles(&block[2..], &values, out)?;
            }
            Encoding::Q4_1 => {
                let (d, m) = (scale(half(0))?, scale(half(2))?);
                let values = code_table(|q| d * q + m);
                nibbles(&block[4..], &values, out)?;
            }
            Encoding::Q8_0 => {
                let d = scale(half(0))?;
                for (index, (out, code)) in out.iter_mut().zip(&block[2..]).enumerate() {
                    *out = rounded(d * i64::from(*code as i8)).map_err(|value| NotFinite { index, value })?;
                }
            }
        }
        Ok(())
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

fn scale(half: f16) -> Result<i64, NotFinite> {
    to_fixed(half).ok_or(NotFinite { index: 0, value: half.to_f64() })
}

/// The 16 values of a block of 4-bit codes.
fn code_table(value: impl Fn(i64) -> i64) -> [Result<f16, f64>; 16] {
    std::array::from_fn(|q| rounded(value(q as i64)))
}

/// ggml keeps element i of a block in the low nibble of byte i, element i + 16 in the high one.
fn nibbles(codes: &[u8], values: &[Result<f16, f64>; 16], out: &mut [f16]) -> Result<(), NotFinite> {
    for (index, out) in out.iter_mut().enumerate() {
        let byte = codes[index % 16];
        let code = if index < 16 { byte & 15 } else { byte >> 4 };
        *out = values[usize::from(code)].map_err(|value| NotFinite { index, value })?;
    }
    Ok(())
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The nearest finite half by its definition: the neighbours of `value` among all halves, in f64 (every
    /// value here is exact in f64, and so are the distances).
    fn nearest(value: f64) -> Option<f16> {
        // From 65520 = 65504 + half a step on, the nearest is infinity.
        if value.is_nan() || value.abs() >= 65520.0 {
            return None;
        }
        let (mut lo, mut hi) = (0u16, 0x7bffu16);
        while lo < hi {
            let mid = (lo + hi).div_ceil(2);
            if f16::from_bits(mid).to_f64() <= value.abs() {
                lo = mid;
            } else {
                hi = mid - 1;
            }
        }
        let below = value.abs() - f16::from_bits(lo).to_f64();
        let above = f16::from_bits(lo + 1).to_f64() - value.abs();
        let up = lo < 0x7bff && (above < below || (above == below && lo & 1 == 1));
        let bits = lo + u16::from(up);
        Some(f16::from_bits(if value < 0.0 && bits > 0 { bits | 0x8000 } else { bits }))
    }

    fn check(encoding: Encoding, block: &[u8], formula: impl Fn(usize) -> f64) {
        let mut out = vec![f16::NAN; encoding.block_len()];
        let result = encoding.decode(block, &mut out);
        let expected: Vec<_> = (0..out.len()).map(|i| nearest(formula(i))).collect();
        match expected.iter().position(Option::is_none) {
            None => {
                assert_eq!(result, Ok(()));
                for (i, (found, expected)) in out.iter().zip(&expected).enumerate() {
                    assert_eq!(found.to_bits(), expected.unwrap().to_bits(), "{encoding:?} element {i}");
                }
            }
            Some(index) => assert_eq!(result.unwrap_err().index, index, "{encoding:?}"),
        }
    }

    #[test]
    fn all_scales_and_codes_of_4_bits() {
        let codes: Vec<u8> = (0..16).map(|q| q | (15 - q) << 4).collect();
        let code = |i: usize| if i < 16 { i as f64 } else { (15 - (i - 16)) as f64 };
        for bits in 0..=u16::MAX {
            let d = f16::from_bits(bits).to_f64();
            check(Encoding::Q4_0, &[&bits.to_le_bytes()[..], &codes].concat(), |i| d * (code(i) - 8.0));
            // A minimum far from the scale's exponent, so that the rounding matters.
            let m = f16::from_bits(bits.wrapping_mul(40503));
            check(Encoding::Q4_1, &[&bits.to_le_bytes()[..], &m.to_le_bytes(), &codes].concat(), |i| {
                d * code(i) + m.to_f64()
            });
        }
    }

    #[test]
    fn all_scales_and_codes_of_8_bits() {
        for bits in 0..=u16::MAX {
            let d = f16::from_bits(bits).to_f64();
            // Eight blocks of 32 codes hold every code; each scale takes one of them.
            let first = (bits % 8) as u8 * 32;
            let codes: Vec<u8> = (0..32).map(|i| first + i).collect();
            check(Encoding::Q8_0, &[&bits.to_le_bytes()[..], &codes].concat(), |i| {
                d * f64::from(codes[i] as i8)
            });
        }
    }

    #[test]
    fn wide_values() {
        for bits in 0..=u16::MAX {
            check(Encoding::F16, &bits.to_le_bytes(), |_| f16::from_bits(bits).to_f64());
        }
        let ties =
            [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65519.996, 65520.0, -65520.0, 3e-8, 2.98e-8, -1e-30];
        for value in ties.into_iter().chain([f32::NAN, f32::INFINITY, -0.0]) {
            check(Encoding::F32, &value.to_le_bytes(), |_| f64::from(value));
        }
    }

    proptest! {
        #[test]
        fn any_block(d in any::<u16>(), m in any::<u16>(), codes in any::<[u8; 16]>(), wide in any::<f32>()) {
            let (dv, mv) = (f16::from_bits(d).to_f64(), f16::from_bits(m).to_f64());
            let code = |i: usize| f64::from(if i < 16 { codes[i] & 15 } else { codes[i - 16] >> 4 });
            let head = [d.to_le_bytes(), m.to_le_bytes()].concat();
            check(Encoding::Q4_1, &[&head[..], &codes].concat(), |i| dv * code(i) + mv);
            check(Encoding::Q4_0, &[&head[..2], &codes].concat(), |i| dv * (code(i) - 8.0));
            check(Encoding::F32, &wide.to_le_bytes(), |_| f64::from(wide));
        }
    }
}
