//! The operations of canon/1, one function each, in scalar code. This is the definition; everything else is compared
//! with it bit for bit.
//!
//! Stored values are f16, arithmetic is f32, rounded to nearest even, subnormals kept. `mul_add` is one rounding.

use std::ops::Range;

use half::f16;

use super::constants::*;

/// Rounds to f16. A store that is not finite stores +0 and clears `finite`: its position ends the sequence, and
/// whatever is still computed from it holds no infinity and no NaN.
pub fn store(x: f32, finite: &mut bool) -> f16 {
    let half = f16::from_f32(x);
    if half.is_finite() {
        half
    } else {
        *finite = false;
        f16::ZERO
    }
}

/// Sum of `terms` by fma in blocks of 128, each block from +0 in ascending order, then the blocks in ascending order.
/// Blocks lie at multiples of 128 wherever the range begins.
fn blocked(range: Range<usize>, term: impl Fn(usize) -> (f32, f32)) -> f32 {
    let mut total = None;
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min((start / BLOCK + 1) * BLOCK);
        let acc = (start..end).fold(0.0f32, |acc, i| {
            let (a, b) = term(i);
            a.mul_add(b, acc)
        });
        total = Some(total.map_or(acc, |total| total + acc));
        start = end;
    }
    total.unwrap_or(0.0)
}

/// Dot product.
pub fn dot(x: &[f16], w: &[f16]) -> f32 {
    blocked(0..x.len(), |k| (x[k].to_f32(), w[k].to_f32()))
}

/// e^x. Below -87 it is +0, above 88 that of 88.
pub fn exp(x: f32) -> f32 {
    if x < EXP_MIN {
        return 0.0;
    }
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let n = (x * LOG2E).round_ties_even();
    let r = n.mul_add(-LN2_HI, x);
    let r = n.mul_add(-LN2_LO, r);
    let p = EXP[1..].iter().fold(EXP[0], |p, c| p.mul_add(r, *c));
    f32::from_bits(p.to_bits().wrapping_add(((n as i32) << 23) as u32))
}

/// Natural logarithm of a positive normal number.
pub fn log(x: f32) -> f32 {
    const MANTISSA: u32 = 0x007f_ffff;
    let bits = x.to_bits().wrapping_add(1.0f32.to_bits() - LOG_SPLIT);
    let e = ((bits >> 23) as i32 - 127) as f32;
    let m = f32::from_bits((bits & MANTISSA) + LOG_SPLIT);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let p = LOG[1..].iter().fold(LOG[0], |p, c| p.mul_add(s2, *c));
    e.mul_add(LN2_HI, e.mul_add(LN2_LO, p * s))
}

/// Root mean square normalisation of the residual stream `h` with gain `g`.
pub fn rmsnorm(h: &[f32], g: &[f16], eps: f32, finite: &mut bool) -> Vec<f16> {
    let rstd = rstd(blocked(0..h.len(), |k| (h[k], h[k])), h.len(), eps);
    h.iter().zip(g).map(|(h, g)| store((h * rstd) * g.to_f32(), finite)).collect()
}

/// The same over one head of q or k, in place and not stored: rope comes next.
pub fn head_norm(head: &mut [f32], g: &[f16], eps: f32) {
    let rstd = rstd(blocked(0..head.len(), |k| (head[k], head[k])), head.len(), eps);
    for (x, g) in head.iter_mut().zip(g) {
        *x = (*x * rstd) * g.to_f32();
    }
}

/// 1 / sqrt(sum of squares / elements + eps).
pub fn rstd(sum_of_squares: f32, elements: usize, eps: f32) -> f32 {
    1.0 / (sum_of_squares / elements as f32 + eps).sqrt()
}

/// Turns one head in place: element i pairs with element i + d/2. `table` is the position's row, (cos, sin).
pub fn rope(head: &mut [f32], table: &[[f32; 2]]) {
    let (low, high) = head.split_at_mut(table.len());
    for ((a, b), [cos, sin]) in low.iter_mut().zip(high).zip(table) {
        let (x, y) = (*a, *b);
        *a = x.mul_add(*cos, -(y * sin));
        *b = x.mul_add(*sin, y * cos);
    }
}

/// What scores are multiplied by: 1 / sqrt(head dim), computed in f64.
pub fn score_scale(head_dim: u32) -> f32 {
    (1.0 / f64::from(head_dim).sqrt()) as f32
}

/// One query over the keys and values of the positions `seen`, of all that there are.
pub fn attention(
    q: &[f16],
    keys: &[&[f16]],
    values: &[&[f16]],
    seen: Range<usize>,
    scale: f32,
    finite: &mut bool,
) -> Vec<f16> {
    let first = seen.start;
    let scores: Vec<f32> = keys[seen.clone()].iter().map(|k| dot(q, k) * scale).collect();
    let max = scores.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
    let p: Vec<f32> = scores.iter().map(|s| exp(s - max)).collect();
    // p * 1 + l, rounded once, is p + l.
    let sum = blocked(seen.clone(), |j| (p[j - first], 1.0));
    (0..q.len())
        .map(|d| store(blocked(seen.clone(), |j| (p[j - first], values[j][d].to_f32())) / sum, finite))
        .collect()
}

/// Normalises `h` to mean 0 and variance 1, then gain `g` and bias `b`.
pub fn layernorm(h: &[f32], g: &[f16], b: &[f16], eps: f32, finite: &mut bool) -> Vec<f16> {
    let mean = blocked(0..h.len(), |k| (h[k], 1.0)) / h.len() as f32;
    let d: Vec<f32> = h.iter().map(|h| h - mean).collect();
    let rstd = rstd(blocked(0..d.len(), |k| (d[k], d[k])), d.len(), eps);
    d.iter()
        .zip(g.iter().zip(b))
        .map(|(d, (g, b))| store((d * rstd) * g.to_f32() + b.to_f32(), finite))
        .collect()
}

/// x (1 + erf(x / sqrt 2)) / 2, before its store. With c = erfc(|x| / sqrt 2), the factor 1 + erf is 2 - c for positive
/// x, and c for others, which loses nothing where it is small.
pub fn gelu(x: f32) -> f32 {
    let z = (x * SQRT_HALF).abs();
    let t = 1.0 / z.mul_add(ERFC_P, 1.0);
    let p = ERFC[1..].iter().fold(ERFC[0], |p, c| p.mul_add(t, *c)) * t;
    let c = p * exp(-(z * z));
    let (positive, negative) = if x > 0.0 { (x, 0.0) } else { (0.0, x) };
    (positive * (2.0 - c) + negative * c) * 0.5
}

/// The mean of vectors, element by element, as f32.
pub fn mean(x: &[Vec<f16>]) -> Vec<f32> {
    let width = x.first().map_or(0, Vec::len);
    (0..width).map(|d| blocked(0..x.len(), |t| (x[t][d].to_f32(), 1.0)) / x.len() as f32).collect()
}

/// A vector divided by its length. One of zeros stays.
pub fn unit(m: &[f32], finite: &mut bool) -> Vec<f16> {
    let length = blocked(0..m.len(), |d| (m[d], m[d])).sqrt();
    m.iter().map(|m| if length == 0.0 { f16::ZERO } else { store(m / length, finite) }).collect()
}

/// silu(g) * u, before its store.
pub fn silu_gate(g: f32, u: f32) -> f32 {
    (g / (1.0 + exp(-g))) * u
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<f16> {
        values.iter().map(|x| f16::from_f32(*x)).collect()
    }

    /// 2^24 + 1 + 1 loses both ones in one block and keeps their sum across two.
    #[test]
    fn dot_adds_in_blocks_of_128() {
        let mut x = vec![0.0; 256];
        (x[0], x[1], x[2]) = (4096.0, 1.0, 1.0);
        let mut w = vec![0.0; 256];
        (w[0], w[1], w[2]) = (4096.0, 1.0, 1.0);
        assert_eq!(dot(&halves(&x), &halves(&w)), 16_777_216.0);
        (x[1], x[2], x[128], x[129]) = (0.0, 0.0, 1.0, 1.0);
        (w[1], w[2], w[128], w[129]) = (0.0, 0.0, 1.0, 1.0);
        assert_eq!(dot(&halves(&x), &halves(&w)), 16_777_218.0);
        (x[129], x[127], w[129], w[127]) = (0.0, 1.0, 0.0, 1.0);
        assert_eq!(dot(&halves(&x), &halves(&w)), 16_777_216.0);
    }

    #[test]
    fn a_dot_is_never_negative_zero() {
        assert_eq!(dot(&halves(&[-0.0, 0.0]), &halves(&[1.0, -1.0])).to_bits(), 0);
    }

    #[test]
    fn a_store_beyond_half_range_is_zero_and_marked() {
        let mut finite = true;
        assert_eq!(store(65_519.0, &mut finite), f16::MAX);
        assert_eq!(store(5.9e-8, &mut finite), f16::from_bits(1));
        assert!(finite);
        assert_eq!(store(-65_520.0, &mut finite).to_bits(), 0);
        assert!(!finite);
    }

    #[test]
    fn exp_and_log_are_close() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 2.5e-7, "exp({x}) = {ours}");
        }
        for i in 1..20_000 {
            let x = (i as f32 / 300.0).powi(5);
            let (ours, exact) = (f64::from(log(x)), f64::from(x).ln());
            assert!((ours - exact).abs() <= 2e-7 * exact.abs().max(0.3), "log({x}) = {ours}, {exact}");
        }
    }

    /// Pins every constant and the order of the operations: one other bit anywhere is another arithmetic. The single
    /// values were computed with exact rationals, rounded where the definition rounds.
    #[test]
    fn exp_and_log_vectors() {
        let exps = [(-87.0, 0x00b3_3686), (-20.25, 0x30dc_9ef1), (-1.0, 0x3ebc_5ab3), (-0.0, 0x3f80_0000)];
        for (x, bits) in exps.into_iter().chain([(0.5, 0x3fd3_094c), (1.0, 0x402d_f854), (88.0, 0x7ef8_82b7)])
        {
            assert_eq!(exp(x).to_bits(), bits, "exp({x})");
        }
        assert_eq!((exp(-87.00001).to_bits(), exp(f32::NEG_INFINITY).to_bits()), (0, 0));
        assert_eq!(exp(1e30), exp(88.0));
        let logs = [(0.5, 0xbf31_7218), (1.0, 0), (2.0, 0x3f31_7218), (3.0, 0x3f8c_9f54)];
        for (x, bits) in logs.into_iter().chain([(10.0, 0x4013_5d8e), (2f32.powi(-10), 0xc0dd_ce9e)]) {
            assert_eq!(log(x).to_bits(), bits, "log({x})");
        }
        let mut hasher = blake3::Hasher::new();
        for i in 0..200_000u32 {
            hasher.update(&exp(-87.0 + i as f32 * 0.000_875).to_le_bytes());
            hasher.update(&log(f32::from_bits(0x0080_0000 + i * 10_650)).to_le_bytes());
        }
        assert_eq!(
            hasher.finalize().to_hex().as_str(),
            "01263cf67cd923c462989d15259ebbf30cfea6e4501e534a8e1a47a2d8e01b73"
        );
    }

    /// Against the error function of `libm`: 7.1.26 is good to 1.5e-7, its rounding to as much again.
    #[test]
    fn gelu_is_close() {
        for i in -120_000..=120_000 {
            let x = i as f32 / 10_000.0;
            let exact = f64::from(x) * libm::erfc(-f64::from(x) / 2f64.sqrt()) / 2.0;
            let ours = f64::from(gelu(x));
            assert!((ours - exact).abs() < 3e-7 * f64::from(x).abs() + 1e-9, "gelu({x}) = {ours}, {exact}");
        }
    }

    /// Pins its constants and the order of its operations; the single values were computed with exact rationals, rounded
    /// where the definition rounds.
    #[test]
    fn gelu_vectors() {
        const VECTORS: [(u32, u32); 9] = [
            (0xc120_0000, 0x9abb_e008), // -10
            (0xc060_0000, 0xba55_7a93),
            (0xbf80_0000, 0xbe22_7687),
            (0xbdcc_cccd, 0xbd3c_7c8b),
            (0x3a83_126f, 0x3a03_2d34), // 0.001
            (0x3f00_0000, 0x3eb1_03ae),
            (0x3f80_0000, 0x3f57_625e),
            (0x4030_0000, 0x402f_79be),
            (0x40c0_0000, 0x40c0_0000), // 6
        ];
        for (x, bits) in VECTORS {
            assert_eq!(gelu(f32::from_bits(x)).to_bits(), bits, "gelu({})", f32::from_bits(x));
        }
        assert_eq!((gelu(0.0).to_bits(), gelu(-0.0).to_bits()), (0, 0));
        let mut hasher = blake3::Hasher::new();
        for i in 0..200_000u32 {
            hasher.update(&gelu(-20.0 + i as f32 * 0.000_2).to_le_bytes());
        }
        assert_eq!(
            hasher.finalize().to_hex().as_str(),
            "8e42902acc4b0ed182919e5b275ff5fca8f964c02f202794cfb46c971038be21"
        );
    }

    #[test]
    fn layernorm_mean_and_unit_spelled_out() {
        let mut finite = true;
        let x = layernorm(&[1.0, 3.0], &halves(&[1.0, 2.0]), &halves(&[0.5, 0.0]), 0.0, &mut finite);
        assert_eq!(x, halves(&[-0.5, 2.0]));
        let m = mean(&[halves(&[1.0, 6.0]), halves(&[5.0, 2.0])]);
        assert_eq!(m, [3.0, 4.0]);
        assert_eq!(unit(&m, &mut finite), halves(&[0.6, 0.8]));
        assert_eq!(unit(&[0.0, 0.0], &mut finite), halves(&[0.0, 0.0]));
        assert!(finite);
    }

    #[test]
    fn rmsnorm_and_rope_spelled_out() {
        let mut finite = true;
        let x = rmsnorm(&[3.0, 4.0], &halves(&[1.0, 2.0]), 0.0, &mut finite);
        let rstd = 1.0 / 12.5f32.sqrt();
        assert_eq!(x, halves(&[3.0 * rstd, 4.0 * rstd * 2.0]));
        let mut head = [1.0, 2.0, 3.0, 4.0];
        rope(&mut head, &[[0.0, 1.0], [1.0, 0.0]]);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
        assert_eq!(score_scale(64), 0.125);
    }
}
