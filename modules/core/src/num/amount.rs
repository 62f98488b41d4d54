//! Amounts: whole, unsigned numbers that travel as decimal text (`Coin.amount`, `cosmos.Int`).

use super::error::{Excerpt, NumError};

/// Reads an amount: decimal digits only, no sign, no leading zero (but "0"), at most `u128::MAX`.
pub fn parse(text: &str) -> Result<u128, NumError> {
    parse_at_most(text, u128::MAX)
}

/// Reads an amount of at most `max`.
pub fn parse_at_most(text: &str, max: u128) -> Result<u128, NumError> {
    let value = whole("amount", text, text, max)?;
    if value > max {
        return Err(NumError::TooLarge { kind: "amount", text: Excerpt::of(text), max: max.to_string() });
    }
    Ok(value)
}

/// a + b, or an error that names both.
pub fn add(a: u128, b: u128) -> Result<u128, NumError> {
    a.checked_add(b).ok_or_else(|| overflow(format!("{a} + {b}")))
}

/// a - b, or an error that names both.
pub fn sub(a: u128, b: u128) -> Result<u128, NumError> {
    a.checked_sub(b).ok_or_else(|| NumError::Negative { expression: format!("{a} - {b}") })
}

/// a * b, or an error that names both.
pub fn mul(a: u128, b: u128) -> Result<u128, NumError> {
    a.checked_mul(b).ok_or_else(|| overflow(format!("{a} * {b}")))
}

/// floor(a * b / c), or an error that names them.
pub fn mul_div(a: u128, b: u128, c: u128) -> Result<u128, NumError> {
    quotient(super::mul_div(a, b, c), a, b, c)
}

/// ceil(a * b / c), or an error that names them.
pub fn mul_div_ceil(a: u128, b: u128, c: u128) -> Result<u128, NumError> {
    quotient(super::mul_div_ceil(a, b, c), a, b, c)
}

fn quotient(result: Option<u128>, a: u128, b: u128, c: u128) -> Result<u128, NumError> {
    match (result, c) {
        (Some(value), _) => Ok(value),
        (None, 0) => Err(NumError::DivisionByZero { expression: format!("{a} * {b} / {c}") }),
        (None, _) => Err(overflow(format!("{a} * {b} / {c}"))),
    }
}

fn overflow(expression: String) -> NumError {
    NumError::Overflow { expression, max: u128::MAX.to_string() }
}

/// The whole number `digits`, a part of `text`, which errors show; `max` is what they call the greatest value.
pub(super) fn whole(
    kind: &'static str,
    text: &str,
    digits: &str,
    max: impl ToString,
) -> Result<u128, NumError> {
    match digits.as_bytes() {
        [] => return Err(NumError::Empty { kind }),
        [b'+' | b'-', ..] => return Err(NumError::Sign { kind, text: Excerpt::of(text) }),
        bytes if !bytes.iter().all(u8::is_ascii_digit) => {
            return Err(NumError::NotDigits {
                kind,
                text: Excerpt::of(text),
                point: kind == super::dec::KIND,
            })
        }
        [b'0', _, ..] => return Err(NumError::LeadingZero { kind, text: Excerpt::of(text) }),
        _ => {}
    }
    // Digits without a sign have one way to fail.
    digits.parse().map_err(|_| NumError::TooLarge { kind, text: Excerpt::of(text), max: max.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::tests::any_magnitude;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read(value in any_magnitude()) {
            prop_assert_eq!(parse(&value.to_string()), Ok(value));
        }

        #[test]
        fn whatever_is_read_is_canonical(text in "[0-9+. -]{0,42}|\\PC{0,8}") {
            if let Ok(value) = parse(&text) {
                prop_assert_eq!(value.to_string(), text);
            }
        }
    }

    #[test]
    fn refusals_name_value_and_bound() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(message(""), "amount: empty, at least one digit is required");
        assert_eq!(message("-1"), "amount \"-1\": a sign is not allowed");
        assert_eq!(message("+1"), "amount \"+1\": a sign is not allowed");
        assert_eq!(message("007"), "amount \"007\": leading zeros are not allowed");
        assert_eq!(message("1e6"), "amount \"1e6\": only decimal digits are allowed");
        assert_eq!(message("٣"), "amount \"٣\": only decimal digits are allowed");
        assert_eq!(
            message("340282366920938463463374607431768211456"),
            "amount \"340282366920938463463374607431768211456\" exceeds the maximum 340282366920938463463374607431768211455"
        );
        assert_eq!(parse_at_most("11", 10).unwrap_err().to_string(), "amount \"11\" exceeds the maximum 10");
        assert!(message(&"9".repeat(1_000_000)).len() < 250, "an error stays short");
    }

    #[test]
    fn operations_refuse_what_does_not_fit() {
        assert_eq!(
            add(u128::MAX, 1).unwrap_err().to_string(),
            format!("{0} + 1 exceeds the maximum {0}", u128::MAX)
        );
        assert_eq!(sub(1, 2).unwrap_err().to_string(), "1 - 2 is below 0");
        assert_eq!(mul_div(1, 2, 0).unwrap_err().to_string(), "1 * 2 / 0 divides by zero");
        assert!(mul(u128::MAX, 2).is_err() && mul_div(u128::MAX, 2, 1).is_err());
        assert_eq!((mul_div(7, 3, 2), mul_div_ceil(7, 3, 2)), (Ok(10), Ok(11)));
    }
}
