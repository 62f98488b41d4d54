use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::GgmlDType;
use candle_core::Device;
use proptest::prelude::*;

use super::*;

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
        check(Encoding::Q8_0, &[&bits.to_le_bytes()[..], &codes].concat(), |i| d * f64::from(codes[i] as i8));
    }
}

#[test]
fn wide_values() {
    for bits in 0..=u16::MAX {
        check(Encoding::F16, &bits.to_le_bytes(), |_| f16::from_bits(bits).to_f64());
    }
    let ties = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65519.996, 65520.0, -65520.0, 3e-8, 2.98e-8, -1e-30];
    for value in ties.into_iter().chain([f32::NAN, f32::INFINITY, -0.0]) {
        check(Encoding::F32, &value.to_le_bytes(), |_| f64::from(value));
    }
}

/// Element i of a block by ggml's own description of the format, in f64, which holds every value exactly.
fn described(encoding: Encoding, block: &[u8], i: usize) -> f64 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
    let (big, part) = (i / 128, i % 128);
    let five = |at: usize| {
        let high = u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
        let low = if i < 16 { block[at + 4 + i] & 15 } else { block[at + 4 + i - 16] >> 4 };
        f64::from(u32::from(low) + (high >> i) % 2 * 16)
    };
    // get_scale_min_k4
    let scale_min = |s: &[u8]| {
        let j = i / 32;
        if j < 4 {
            (f64::from(s[j] % 64), f64::from(s[j + 4] % 64))
        } else {
            let (scale, min) = (s[j + 4] % 16 + s[j - 4] / 64 * 16, s[j + 4] / 16 + s[j] / 64 * 16);
            (f64::from(scale), f64::from(min))
        }
    };
    let quarter = |codes: &[u8]| codes[i / 64 * 32 + i % 32] / if i % 64 < 32 { 1 } else { 16 } % 16;
    match encoding {
        Encoding::F32 => f32::from_le_bytes(block.try_into().unwrap()).into(),
        Encoding::Bf16 => half::bf16::from_le_bytes(block.try_into().unwrap()).to_f64(),
        Encoding::F16 => half(0),
        Encoding::Q4_0 => {
            half(0) * (f64::from(if i < 16 { block[2 + i] % 16 } else { block[i - 14] / 16 }) - 8.0)
        }
        Encoding::Q4_1 => {
            half(0) * f64::from(if i < 16 { block[4 + i] % 16 } else { block[i - 12] / 16 }) + half(2)
        }
        Encoding::Q5_0 => half(0) * (five(2) - 16.0),
        Encoding::Q5_1 => half(0) * five(4) + half(2),
        Encoding::Q8_0 => half(0) * f64::from(block[2 + i] as i8),
        Encoding::Q2K => {
            let code = block[16 + 32 * big + part % 32] / [1, 4, 16, 64][part / 32] % 4;
            let scale = block[i / 16];
            half(80) * f64::from(scale % 16) * f64::from(code) - half(82) * f64::from(scale / 16)
        }
        Encoding::Q3K => {
            let code = block[32 + 32 * big + part % 32] / [1, 4, 16, 64][part / 32] % 4;
            let above = block[i % 32] & 1 << (i / 32) != 0;
            let (s, j) = (&block[96..108], i / 16);
            let low = if j < 8 { s[j] % 16 } else { s[j - 8] / 16 };
            let scale = low + s[8 + j % 4] / [1, 4, 16, 64][j / 4] % 4 * 16;
            half(108) * (f64::from(scale) - 32.0) * (f64::from(code) - if above { 0.0 } else { 4.0 })
        }
        Encoding::Q4K => {
            let (scale, min) = scale_min(&block[4..16]);
            half(0) * scale * f64::from(quarter(&block[16..])) - half(2) * min
        }
        Encoding::Q5K => {
            let (scale, min) = scale_min(&block[4..16]);
            let above = if block[16 + i % 32] & 1 << (i / 32) != 0 { 16.0 } else { 0.0 };
            half(0) * scale * (f64::from(quarter(&block[48..])) + above) - half(2) * min
        }
        Encoding::Q6K => {
            let (l, at) = (part % 32, part / 32);
            let low = block[64 * big + l + at % 2 * 32] / if at < 2 { 1 } else { 16 } % 16;
            let high = block[128 + 32 * big + l] / [1, 4, 16, 64][at] % 4;
            let scale = block[192 + 8 * big + l / 16 + 2 * at] as i8;
            half(208) * f64::from(scale) * (f64::from(low + 16 * high) - 32.0)
        }
    }
}

/// Where a block has halves that scale it.
fn halves(encoding: Encoding) -> &'static [usize] {
    match encoding {
        Encoding::Q2K => &[80, 82],
        Encoding::Q3K => &[108],
        Encoding::Q6K => &[208],
        Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4K | Encoding::Q5K => &[0, 2],
        Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Q8_0 => &[0],
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => &[],
    }
}

fn candle_type(encoding: Encoding) -> GgmlDType {
    match encoding {
        Encoding::F32 => GgmlDType::F32,
        Encoding::F16 => GgmlDType::F16,
        Encoding::Bf16 => GgmlDType::BF16,
        Encoding::Q4_0 => GgmlDType::Q4_0,
        Encoding::Q4_1 => GgmlDType::Q4_1,
        Encoding::Q5_0 => GgmlDType::Q5_0,
        Encoding::Q5_1 => GgmlDType::Q5_1,
        Encoding::Q8_0 => GgmlDType::Q8_0,
        Encoding::Q2K => GgmlDType::Q2K,
        Encoding::Q3K => GgmlDType::Q3K,
        Encoding::Q4K => GgmlDType::Q4K,
        Encoding::Q5K => GgmlDType::Q5K,
        Encoding::Q6K => GgmlDType::Q6K,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes at all, halves that are not finite among them.
    #[test]
    fn any_block(bytes in prop::collection::vec(any::<u8>(), 256), scales in any::<[u16; 2]>()) {
        for encoding in Encoding::ALL {
            let mut block = bytes[..encoding.block_bytes()].to_vec();
            for (at, half) in halves(encoding).iter().zip(scales) {
                block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
            check(encoding, &block, |i| described(encoding, &block, i));
        }
    }

    /// Candle decodes the same blocks itself, in f32: each value is ours before its one rounding, up to theirs.
    #[test]
    fn an_independent_decoder_agrees(bytes in prop::collection::vec(any::<u8>(), 256), scales in any::<[f32; 2]>()) {
        for encoding in Encoding::ALL {
            let mut block = bytes[..encoding.block_bytes()].to_vec();
            for (at, x) in halves(encoding).iter().zip(scales) {
                // Exponents where no product leaves the range of halves.
                let half = f16::from_bits(f16::from_f32(x).to_bits() & 0xa3ff);
                block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
            let len = encoding.block_len();
            let (mut ours, aligned) = (vec![f16::ZERO; len], block.clone());
            if encoding.decode(&block, &mut ours).is_err() {
                prop_assert!(halves(encoding).is_empty());
                continue;
            }
            let theirs = qtensor_from_ggml(candle_type(encoding), &aligned, vec![len], &Device::Cpu).unwrap();
            let theirs: Vec<f32> = theirs.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap();
            let largest = halves(encoding).iter().map(|at| f16::from_le_bytes([block[*at], block[at + 1]]));
            let largest = largest.fold(0.0f32, |m, x| m.max(x.to_f32().abs()));
            for (ours, theirs) in ours.iter().zip(&theirs) {
                // Half a step of ours, and two of their largest product (below 2^12 times a scale) where a difference
                // cancels.
                let bound = theirs.abs() / 2048.0 + 3.1e-8 + largest / 2048.0;
                prop_assert!((ours.to_f32() - theirs).abs() <= bound, "{encoding:?}: {ours} {theirs}");
            }
        }
    }
}

/// A scale or a minimum that is no number spoils its whole block, and the row's index says which one.
#[test]
fn halves_that_are_not_finite() {
    for encoding in Encoding::ALL {
        for at in halves(encoding) {
            for bits in [0x7c00u16, 0xfc00, 0x7e00] {
                let (len, bytes) = (encoding.block_len(), encoding.block_bytes());
                let mut blocks = vec![0; 3 * bytes];
                blocks[bytes + at..bytes + at + 2].copy_from_slice(&bits.to_le_bytes());
                let error = encoding.decode(&blocks, &mut vec![f16::ZERO; 3 * len]).unwrap_err();
                assert_eq!(error.index, len, "{encoding:?}");
                assert!(!error.value.is_finite());
            }
        }
    }
}
