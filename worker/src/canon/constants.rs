//! Every constant of the arithmetic, as a bit pattern: whatever computes canon/1, on any processor, reads them here.

/// Elements of k, or positions, that are summed in one go before block sums are added.
pub const BLOCK: usize = 128;

/// log2(e).
pub const LOG2E: f32 = f32::from_bits(0x3fb8_aa3b);
/// The high part of ln 2, low bits clear, so that n * LN2_HI is exact for every exponent n.
pub const LN2_HI: f32 = f32::from_bits(0x3f31_7200);
/// ln 2 - LN2_HI.
pub const LN2_LO: f32 = f32::from_bits(0x35bf_be8e);

/// Below this exp is +0. Do not lower it: the least exp times the least half must not round to zero, else a sum could
/// become -0 and a masked position, which adds +0, would no longer be neutral.
pub const EXP_MIN: f32 = f32::from_bits(0xc2ae_0000); // -87
/// Above this exp is that of this.
pub const EXP_MAX: f32 = f32::from_bits(0x42b0_0000); // 88
/// Taylor coefficients of exp, highest power first: 1/720, 1/120, 1/24, 1/6, 1/2, 1, 1.
pub const EXP: [f32; 7] = [
    f32::from_bits(0x3ab6_0b61),
    f32::from_bits(0x3c08_8889),
    f32::from_bits(0x3d2a_aaab),
    f32::from_bits(0x3e2a_aaab),
    f32::from_bits(0x3f00_0000),
    f32::from_bits(0x3f80_0000),
    f32::from_bits(0x3f80_0000),
];

/// Bits of the f32 below sqrt(1/2): the least mantissa that log works on.
pub const LOG_SPLIT: u32 = 0x3f35_04f3;
/// Coefficients of log((1 + s) / (1 - s)) / s in s^2, highest power first: 2/9, 2/7, 2/5, 2/3, 2.
pub const LOG: [f32; 5] = [
    f32::from_bits(0x3e63_8e39),
    f32::from_bits(0x3e92_4925),
    f32::from_bits(0x3ecc_cccd),
    f32::from_bits(0x3f2a_aaab),
    f32::from_bits(0x4000_0000),
];

/// 1 / sqrt(2).
pub const SQRT_HALF: f32 = f32::from_bits(0x3f35_04f3);
/// p of formula 7.1.26 for erf in Abramowitz and Stegun's Handbook of Mathematical Functions: 0.3275911.
pub const ERFC_P: f32 = f32::from_bits(0x3ea7_ba05);
/// Its coefficients a5 to a1: 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592.
pub const ERFC: [f32; 5] = [
    f32::from_bits(0x3f87_dc22),
    f32::from_bits(0xbfba_00e3),
    f32::from_bits(0x3fb5_f0e3),
    f32::from_bits(0xbe91_a98e),
    f32::from_bits(0x3e82_7906),
];

/// Philox4x32: the two multipliers and the two key increments.
pub const PHILOX_M: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
pub const PHILOX_W: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
/// Rounds of Philox.
pub const PHILOX_ROUNDS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_what_they_say() {
        assert_eq!(LOG2E, std::f32::consts::LOG2_E);
        assert!((f64::from(LN2_HI) + f64::from(LN2_LO) - std::f64::consts::LN_2).abs() < 1e-13);
        assert_eq!(LN2_HI.to_bits() & 0xff, 0);
        assert_eq!((EXP_MIN, EXP_MAX), (-87.0, 88.0));
        assert_eq!(EXP, [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]);
        assert_eq!(LOG, [2.0 / 9.0, 2.0 / 7.0, 0.4, 2.0 / 3.0, 2.0]);
        assert_eq!(f32::from_bits(LOG_SPLIT), std::f32::consts::FRAC_1_SQRT_2);
        assert_eq!((SQRT_HALF, ERFC_P), (std::f32::consts::FRAC_1_SQRT_2, 0.327_591_1));
        let book = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592f64];
        assert_eq!(ERFC, book.map(|x| x as f32));
    }
}
