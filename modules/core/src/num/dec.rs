use super::amount::whole;
use super::error::{Excerpt, NumError};
use super::{mul_div, mul_div_ceil, mul_div_round};
use borsh::{BorshDeserialize, BorshSerialize};
use std::fmt;
use std::str::FromStr;

/// How errors call a [`Dec`].
pub(super) const KIND: &str = "decimal";

/// An unsigned fixed-point number with 18 decimals: a whole number of 10^-18 ("atomics"), as `cosmossdk.io/math.LegacyDec`.
///
/// It reaches from 0 to 340282366920938463463.374607431768211455. Products and quotients say how they
/// round: the plain name floors (the SDK's `MulTruncate`, `QuoTruncate`), `_ceil` rounds up (`MulRoundUp`),
/// `_round` goes to the nearest, a half to the even (`Mul`, `Quo`).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Dec(u128);

impl Dec {
    /// Digits after the point.
    pub const DECIMALS: usize = 18;
    /// Atomics of 1.
    pub const SCALE: u128 = 1_000_000_000_000_000_000;
    pub const ZERO: Dec = Dec(0);
    pub const ONE: Dec = Dec(Self::SCALE);
    pub const MAX: Dec = Dec(u128::MAX);

    /// The number of `atomics` * 10^-18.
    pub const fn from_atomics(atomics: u128) -> Dec {
        Dec(atomics)
    }

    /// The number in units of 10^-18.
    pub const fn atomics(self) -> u128 {
        self.0
    }

    /// n / 100. (A `u64` always fits.)
    #[allow(clippy::arithmetic_side_effects)] // 2^64 * 10^16 < 2^128
    pub const fn percent(n: u64) -> Dec {
        Dec((n as u128).saturating_mul(Self::SCALE / 100)) // 64 + 54 bits: never saturates
    }

    /// n / 10^6. (A `u64` always fits.)
    #[allow(clippy::arithmetic_side_effects)] // 2^64 * 10^12 < 2^128
    pub const fn ppm(n: u64) -> Dec {
        Dec((n as u128).saturating_mul(Self::SCALE / 1_000_000)) // 64 + 40 bits: never saturates
    }

    /// The whole number n; n must be at most 340282366920938463463.
    pub fn from_int(n: u128) -> Result<Dec, NumError> {
        n.checked_mul(Self::SCALE).map(Dec).ok_or_else(|| overflow(n.to_string()))
    }

    /// n / d, floored to 18 decimals.
    pub fn ratio(n: u128, d: u128) -> Result<Dec, NumError> {
        dec(mul_div(n, Self::SCALE, d), d, || format!("{n} / {d}"))
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub fn checked_add(self, other: Dec) -> Result<Dec, NumError> {
        self.0.checked_add(other.0).map(Dec).ok_or_else(|| overflow(format!("{self} + {other}")))
    }

    pub fn checked_sub(self, other: Dec) -> Result<Dec, NumError> {
        let difference = self.0.checked_sub(other.0).map(Dec);
        difference.ok_or_else(|| NumError::Negative { expression: format!("{self} - {other}") })
    }

    /// floor(self * other).
    pub fn checked_mul(self, other: Dec) -> Result<Dec, NumError> {
        dec(mul_div(self.0, other.0, Self::SCALE), 1, || format!("{self} * {other}"))
    }

    /// ceil(self * other).
    pub fn checked_mul_ceil(self, other: Dec) -> Result<Dec, NumError> {
        dec(mul_div_ceil(self.0, other.0, Self::SCALE), 1, || format!("{self} * {other}"))
    }

    /// self * other, half to even.
    pub fn checked_mul_round(self, other: Dec) -> Result<Dec, NumError> {
        dec(mul_div_round(self.0, other.0, Self::SCALE), 1, || format!("{self} * {other}"))
    }

    /// floor(self / other).
    pub fn checked_div(self, other: Dec) -> Result<Dec, NumError> {
        dec(mul_div(self.0, Self::SCALE, other.0), other.0, || format!("{self} / {other}"))
    }

    /// ceil(self / other).
    pub fn checked_div_ceil(self, other: Dec) -> Result<Dec, NumError> {
        dec(mul_div_ceil(self.0, Self::SCALE, other.0), other.0, || format!("{self} / {other}"))
    }

    /// self / other, half to even.
    pub fn checked_div_round(self, other: Dec) -> Result<Dec, NumError> {
        dec(mul_div_round(self.0, Self::SCALE, other.0), other.0, || format!("{self} / {other}"))
    }

    /// self^n by square and multiply from the lowest bit, a floor at every product.
    pub fn checked_pow(self, mut n: u64) -> Result<Dec, NumError> {
        let (mut power, mut square) = (Self::ONE, self);
        while n > 0 {
            if n & 1 == 1 {
                power = power.checked_mul(square)?;
            }
            n >>= 1;
            if n > 0 {
                square = square.checked_mul(square)?;
            }
        }
        Ok(power)
    }

    /// self * n, exact.
    pub fn mul_int(self, n: u128) -> Result<Dec, NumError> {
        self.0.checked_mul(n).map(Dec).ok_or_else(|| overflow(format!("{self} * {n}")))
    }

    /// floor(self / n).
    pub fn div_int(self, n: u128) -> Result<Dec, NumError> {
        dec(self.0.checked_div(n), n, || format!("{self} / {n}"))
    }

    /// floor(self * n / d) for whole n and d; the product may exceed the type, as in shares * tokens / all tokens.
    pub fn mul_div(self, n: u128, d: u128) -> Result<Dec, NumError> {
        dec(mul_div(self.0, n, d), d, || format!("{self} * {n} / {d}"))
    }

    /// This part of an amount, floored: floor(self * amount).
    pub fn of(self, amount: u128) -> Result<u128, NumError> {
        super::amount::mul_div(self.0, amount, Self::SCALE)
    }

    /// This part of an amount, rounded up: ceil(self * amount).
    pub fn of_ceil(self, amount: u128) -> Result<u128, NumError> {
        super::amount::mul_div_ceil(self.0, amount, Self::SCALE)
    }

    /// 1 - self; an error above 1.
    pub fn complement(self) -> Result<Dec, NumError> {
        Self::ONE.checked_sub(self)
    }

    /// The whole part (the SDK's `TruncateInt`).
    pub const fn floor(self) -> u128 {
        self.0 / Self::SCALE
    }

    /// The least whole number that is not below (at most 340282366920938463464).
    pub const fn ceil(self) -> u128 {
        self.0.div_ceil(Self::SCALE)
    }

    /// The nearest whole number, a half to the even one (the SDK's `RoundInt`).
    pub fn round(self) -> u128 {
        mul_div_round(self.0, 1, Self::SCALE).unwrap_or(self.floor())
    }

    /// What follows the point: self - floor(self).
    pub const fn fract(self) -> Dec {
        Dec(self.0 % Self::SCALE)
    }

    /// The text of a `cosmos.Dec` field in protobuf: the whole number of atomics ("100000000000000000" is 0.1).
    pub fn to_wire(self) -> String {
        self.0.to_string()
    }

    /// Reads what [`Dec::to_wire`] writes, as strictly as an amount.
    pub fn from_wire(text: &str) -> Result<Dec, NumError> {
        whole(KIND, text, text, u128::MAX).map(Dec)
    }
}

fn dec(atomics: Option<u128>, divisor: u128, expression: impl Fn() -> String) -> Result<Dec, NumError> {
    match (atomics, divisor) {
        (Some(atomics), _) => Ok(Dec(atomics)),
        (None, 0) => Err(NumError::DivisionByZero { expression: expression() }),
        (None, _) => Err(overflow(expression())),
    }
}

fn overflow(expression: String) -> NumError {
    NumError::Overflow { expression, max: Dec::MAX.to_string() }
}

/// All 18 decimals, always: "0.100000000000000000".
impl fmt::Display for Dec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:018}", self.floor(), self.fract().0)
    }
}

impl fmt::Debug for Dec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads "1", "0.1" or "0.100000000000000000": digits, then perhaps a point and 1 to 18 digits. No sign, no
/// exponent, no leading zeros, nothing but digits around the point.
impl FromStr for Dec {
    type Err = NumError;

    fn from_str(text: &str) -> Result<Dec, NumError> {
        let (int, fraction) = match text.split_once('.') {
            Some((int, fraction)) => (int, Some(fraction)),
            None => (text, None),
        };
        let too_large =
            || NumError::TooLarge { kind: KIND, text: Excerpt::of(text), max: Dec::MAX.to_string() };
        let units = whole(KIND, text, int, Dec::MAX)?.checked_mul(Dec::SCALE).ok_or_else(too_large)?;
        let Some(fraction) = fraction else { return Ok(Dec(units)) };
        if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NumError::NotDigits { kind: KIND, text: Excerpt::of(text), point: true });
        }
        if fraction.len() > Dec::DECIMALS {
            let (found, max) = (fraction.len(), Dec::DECIMALS);
            return Err(NumError::TooManyDecimals { kind: KIND, text: Excerpt::of(text), found, max });
        }
        let part: u128 = format!("{fraction:0<18}").parse().map_err(|_| too_large())?;
        units.checked_add(part).map(Dec).ok_or_else(too_large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::tests::any_magnitude;
    use num_bigint::BigUint;
    use proptest::prelude::*;

    fn decs() -> impl Strategy<Value = Dec> {
        any_magnitude().prop_map(Dec)
    }

    fn fits(value: BigUint) -> Option<u128> {
        u128::try_from(value).ok()
    }

    fn atomics(result: Result<Dec, NumError>) -> Option<u128> {
        result.ok().map(Dec::atomics)
    }

    proptest! {
        #[test]
        fn operations_equal_big_integers(a in decs(), b in decs(), n in any_magnitude()) {
            let (big_a, big_b, scale) = (BigUint::from(a.0), BigUint::from(b.0), BigUint::from(Dec::SCALE));
            prop_assert_eq!(atomics(a.checked_add(b)), fits(&big_a + &big_b));
            prop_assert_eq!(atomics(a.checked_sub(b)), (a >= b).then(|| a.0.wrapping_sub(b.0)));
            prop_assert_eq!(atomics(a.checked_mul(b)), fits(&big_a * &big_b / &scale));
            prop_assert_eq!(atomics(a.checked_mul_ceil(b)), fits((&big_a * &big_b + &scale - 1u32) / &scale));
            prop_assert_eq!(atomics(a.mul_int(n)), fits(&big_a * n));
            prop_assert_eq!(a.of(n).ok(), fits(&big_a * n / &scale));
            prop_assert_eq!(atomics(Dec::from_int(n)), fits(&scale * n));
            if !b.is_zero() {
                prop_assert_eq!(atomics(a.checked_div(b)), fits(&big_a * &scale / &big_b));
                prop_assert_eq!(atomics(a.checked_div_ceil(b)), fits((&big_a * &scale + &big_b - 1u32) / &big_b));
                prop_assert_eq!(atomics(a.mul_div(n, b.0)), fits(&big_a * n / b.0));
                prop_assert_eq!(atomics(Dec::ratio(n, b.0)), fits(&scale * n / b.0));
            }
        }

        #[test]
        fn text_wire_and_bytes_return_the_number(a in decs()) {
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(Dec::from_wire(&a.to_wire()), Ok(a));
            prop_assert_eq!(borsh::from_slice::<Dec>(&borsh::to_vec(&a).unwrap()).unwrap(), a);
        }

        #[test]
        fn whatever_is_read_prints_as_itself(text in "[0-9]{0,22}(\\.[0-9]{0,20})?|[0-9+. -]{0,12}") {
            if let Ok(value) = text.parse::<Dec>() {
                let full = if text.contains('.') { text.clone() } else { format!("{text}.") };
                let zeros = 18 - full.split_once('.').unwrap().1.len();
                prop_assert_eq!(value.to_string(), full + &"0".repeat(zeros));
            }
        }
    }

    #[test]
    fn prints_like_legacy_dec() {
        assert_eq!(Dec::percent(10).to_string(), "0.100000000000000000");
        assert_eq!(Dec::ppm(20).to_string(), "0.000020000000000000");
        assert_eq!(Dec::ONE.to_string(), "1.000000000000000000");
        assert_eq!(Dec::MAX.to_string(), "340282366920938463463.374607431768211455");
        assert_eq!(Dec::percent(10).to_wire(), "100000000000000000");
        assert_eq!(Dec::percent(u64::MAX).to_string(), "184467440737095516.150000000000000000");
    }

    #[test]
    fn refusals_name_value_and_bound() {
        let message = |text: &str| text.parse::<Dec>().unwrap_err().to_string();
        assert_eq!(message(""), "decimal: empty, at least one digit is required");
        assert_eq!(message("-0.1"), "decimal \"-0.1\": a sign is not allowed");
        assert_eq!(message("00.1"), "decimal \"00.1\": leading zeros are not allowed");
        for text in ["1.", "0.1.2", "0.-1", "1e18", " 1", "0,1"] {
            assert_eq!(
                message(text),
                format!("decimal {text:?}: only decimal digits are allowed around one point")
            );
        }
        assert_eq!(message(".5"), "decimal: empty, at least one digit is required");
        assert_eq!(
            message("0.1000000000000000000"),
            "decimal \"0.1000000000000000000\": 19 decimals, at most 18 are allowed"
        );
        for text in ["340282366920938463464", "340282366920938463463.374607431768211456"] {
            assert_eq!(
                message(text),
                format!("decimal {text:?} exceeds the maximum 340282366920938463463.374607431768211455")
            );
        }
        assert!(
            Dec::from_wire("0.1").is_err() && Dec::from_wire("").is_err() && Dec::from_wire("-1").is_err()
        );
        assert_eq!(
            Dec::ONE.checked_div(Dec::ZERO).unwrap_err().to_string(),
            "1.000000000000000000 / 0.000000000000000000 divides by zero"
        );
        assert_eq!(
            Dec::percent(50).checked_sub(Dec::ONE).unwrap_err().to_string(),
            "0.500000000000000000 - 1.000000000000000000 is below 0"
        );
    }

    #[test]
    fn rounding_modes() {
        let tenth_of_an_atomic = Dec::percent(10);
        assert_eq!(Dec(15).checked_mul(tenth_of_an_atomic).unwrap(), Dec(1));
        assert_eq!(Dec(15).checked_mul_ceil(tenth_of_an_atomic).unwrap(), Dec(2));
        assert_eq!(Dec(15).checked_mul_round(tenth_of_an_atomic).unwrap(), Dec(2));
        assert_eq!(Dec(25).checked_mul_round(tenth_of_an_atomic).unwrap(), Dec(2));
        let three = Dec::from_int(3).unwrap();
        assert_eq!(Dec::from_int(2).unwrap().checked_div(three).unwrap().to_string(), "0.666666666666666666");
        assert_eq!(
            Dec::from_int(2).unwrap().checked_div_round(three).unwrap().to_string(),
            "0.666666666666666667"
        );
        assert_eq!(
            (Dec::percent(150).floor(), Dec::percent(150).ceil(), Dec::percent(150).fract()),
            (1, 2, Dec::percent(50))
        );
        assert_eq!([50, 51, 150, 250].map(|n| Dec::percent(n).round()), [0, 1, 2, 2]);
        assert_eq!((Dec::percent(15).of(99), Dec::percent(15).of_ceil(99)), (Ok(14), Ok(15)));
    }
}
