//! The formulas of ggml's quantised blocks, in multiples of 2^-24. A half is below 2^41 of them, a scale has at most
//! 8 bits and a code at most 8, so nothing comes near the end of `i64`.

use half::f16;

use super::{rounded, to_fixed, NotFinite};

type Decoded = Result<(), NotFinite>;

/// The half at byte `at`, as a multiple of 2^-24.
fn scale(block: &[u8], at: usize) -> Result<i64, NotFinite> {
    let half = f16::from_le_bytes([block[at], block[at + 1]]);
    to_fixed(half).ok_or(NotFinite { index: 0, value: half.to_f64() })
}

/// Element i is `value(i)`, rounded.
fn each(out: &mut [f16], value: impl Fn(usize) -> i64) -> Decoded {
    for (index, out) in out.iter_mut().enumerate() {
        *out = rounded(value(index)).map_err(|value| NotFinite { index, value })?;
    }
    Ok(())
}

/// In runs of `len` elements, element i of run n is `value(n, its code)`: each of a run's few values is rounded once.
fn by_code<const CODES: usize>(
    out: &mut [f16],
    len: usize,
    code: impl Fn(usize) -> usize,
    value: impl Fn(usize, i64) -> i64,
) -> Decoded {
    for (run, out) in out.chunks_exact_mut(len).enumerate() {
        let values: [Result<f16, f64>; CODES] = std::array::from_fn(|q| rounded(value(run, q as i64)));
        for (at, out) in out.iter_mut().enumerate() {
            let index = run * len + at;
            *out = values[code(index)].map_err(|value| NotFinite { index, value })?;
        }
    }
    Ok(())
}

/// 4-bit code i of a block of 32: the low nibble of byte i, from 16 on the high one of byte i - 16.
pub(super) fn nibble_32(codes: &[u8], i: usize) -> usize {
    usize::from(codes[i % 16] >> (i / 16 * 4) & 15)
}

/// 4-bit code i of 256: each 32 bytes hold 64 codes, the first 32 in the low nibbles.
fn nibble_256(codes: &[u8], i: usize) -> usize {
    usize::from(codes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15)
}

/// 2-bit code i of 256: each 32 bytes hold 128 codes, the first 32 in the lowest bits.
fn pair_256(codes: &[u8], i: usize) -> usize {
    usize::from(codes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3)
}

/// Bit i of 256 that are stored by bit of a byte: each of the 8 bits of 32 bytes belongs to 32 elements.
fn bit_256(bits: &[u8], i: usize) -> usize {
    usize::from(bits[i % 32] >> (i / 32) & 1)
}

/// Scale and minimum j of eight pairs of 6 bits in 12 bytes.
fn scale_and_min(packed: &[u8], j: usize) -> (i64, i64) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        (low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4)
    };
    (scale.into(), min.into())
}

pub fn q4_0(block: &[u8], out: &mut [f16]) -> Decoded {
    let d = scale(block, 0)?;
    by_code::<16>(out, 32, |i| nibble_32(&block[2..], i), |_, q| d * (q - 8))
}

pub fn q4_1(block: &[u8], out: &mut [f16]) -> Decoded {
    let (d, m) = (scale(block, 0)?, scale(block, 2)?);
    by_code::<16>(out, 32, |i| nibble_32(&block[4..], i), |_, q| d * q + m)
}

/// 5-bit code i of a block of 32: four bits as in `nibble_32`, the fifth is bit i of the first four bytes.
fn five_32(block: &[u8], i: usize) -> usize {
    nibble_32(&block[4..], i) | usize::from(block[i / 8] >> (i % 8) & 1) << 4
}

pub fn q5_0(block: &[u8], out: &mut [f16]) -> Decoded {
    let d = scale(block, 0)?;
    by_code::<32>(out, 32, |i| five_32(&block[2..], i), |_, q| d * (q - 16))
}

pub fn q5_1(block: &[u8], out: &mut [f16]) -> Decoded {
    let (d, m) = (scale(block, 0)?, scale(block, 2)?);
    by_code::<32>(out, 32, |i| five_32(&block[4..], i), |_, q| d * q + m)
}

pub fn q8_0(block: &[u8], out: &mut [f16]) -> Decoded {
    let d = scale(block, 0)?;
    each(out, |i| d * i64::from(block[2 + i] as i8))
}

pub fn q2_k(block: &[u8], out: &mut [f16]) -> Decoded {
    let (scales, codes) = block.split_at(16);
    let (d, dmin) = (scale(block, 80)?, scale(block, 82)?);
    let value = |run: usize, q: i64| d * i64::from(scales[run] & 15) * q - dmin * i64::from(scales[run] >> 4);
    by_code::<4>(out, 16, |i| pair_256(codes, i), value)
}

pub fn q3_k(block: &[u8], out: &mut [f16]) -> Decoded {
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = scale(block, 108)?;
    // Sixteen scales: the low nibbles of eight bytes, then their high ones; two more bits of each in the last four.
    let scale_of = |run: usize| {
        let low = scales[run % 8] >> (run / 8 * 4) & 15;
        i64::from(low | (scales[8 + run % 4] >> (run / 4 * 2) & 3) << 4) - 32
    };
    let code = |i: usize| pair_256(codes, i) | bit_256(high, i) << 2;
    by_code::<8>(out, 16, code, |run, q| d * scale_of(run) * (q - 4))
}

pub fn q4_k(block: &[u8], out: &mut [f16]) -> Decoded {
    let (d, dmin) = (scale(block, 0)?, scale(block, 2)?);
    let value = |run: usize, q: i64| {
        let (scale, min) = scale_and_min(&block[4..16], run);
        d * scale * q - dmin * min
    };
    by_code::<16>(out, 32, |i| nibble_256(&block[16..], i), value)
}

pub fn q5_k(block: &[u8], out: &mut [f16]) -> Decoded {
    let (d, dmin) = (scale(block, 0)?, scale(block, 2)?);
    let code = |i: usize| nibble_256(&block[48..], i) | bit_256(&block[16..48], i) << 4;
    let value = |run: usize, q: i64| {
        let (scale, min) = scale_and_min(&block[4..16], run);
        d * scale * q - dmin * min
    };
    by_code::<32>(out, 32, code, value)
}

pub fn q6_k(block: &[u8], out: &mut [f16]) -> Decoded {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(block, 208)?;
    each(out, |i| {
        // 64 bytes of low nibbles hold 128 codes, the first 64 in the low ones.
        let nibble = low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        let q = i64::from(nibble) | (pair_256(high, i) as i64) << 4;
        d * i64::from(scales[i / 16] as i8) * (q - 32)
    })
}
