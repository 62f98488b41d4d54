//! Whole numbers and fixed-point numbers of the chain.
//!
//! Nothing here panics, wraps or saturates: an operation that has no exact place in its type says so.
//! A product that is divided at once goes over 256 bits ([`mul_div`]), so that only its quotient must fit.

pub mod amount;
mod dec;
pub mod decay;
mod error;

pub use dec::Dec;
pub use error::NumError;

use ethnum::U256;

/// floor(a * b / c), the product over 256 bits. `None` if `c` is 0 or the quotient exceeds `u128`.
pub fn mul_div(a: u128, b: u128, c: u128) -> Option<u128> {
    div_rem(a, b, c).map(|(quotient, _)| quotient)
}

/// ceil(a * b / c), the product over 256 bits. `None` if `c` is 0 or the quotient exceeds `u128`.
pub fn mul_div_ceil(a: u128, b: u128, c: u128) -> Option<u128> {
    let (quotient, remainder) = div_rem(a, b, c)?;
    quotient.checked_add(u128::from(remainder > 0))
}

/// a * b / c to the nearest whole number, a half to the even one (the SDK's `LegacyDec.Mul` and `Quo`).
/// `None` if `c` is 0 or the result exceeds `u128`.
pub fn mul_div_round(a: u128, b: u128, c: u128) -> Option<u128> {
    let (quotient, remainder) = div_rem(a, b, c)?;
    let up = match remainder.cmp(&c.checked_sub(remainder)?) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => quotient & 1 == 1,
        std::cmp::Ordering::Greater => true,
    };
    quotient.checked_add(u128::from(up))
}

/// Quotient and remainder of a * b / c.
fn div_rem(a: u128, b: u128, c: u128) -> Option<(u128, u128)> {
    if c == 0 {
        return None;
    }
    if let Some(product) = a.checked_mul(b) {
        return Some((product.checked_div(c)?, product.checked_rem(c)?));
    }
    // Two factors below 2^128 have a product below 2^256.
    let product = U256::from(a).checked_mul(U256::from(b))?;
    let divisor = U256::from(c);
    let quotient = u128::try_from(product.checked_div(divisor)?).ok()?;
    let remainder = u128::try_from(product.checked_rem(divisor)?).ok()?;
    Some((quotient, remainder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigUint;
    use proptest::prelude::*;

    /// Numbers of every magnitude, not only the large ones that a uniform choice yields.
    pub(crate) fn any_magnitude() -> impl Strategy<Value = u128> {
        (any::<u128>(), 0u32..=128).prop_map(|(value, shift)| value.checked_shr(shift).unwrap_or(0))
    }

    fn fits(value: BigUint) -> Option<u128> {
        u128::try_from(value).ok()
    }

    proptest! {
        #[test]
        fn quotients_equal_big_integers(a in any_magnitude(), b in any_magnitude(), c in any_magnitude()) {
            let product = BigUint::from(a) * b;
            if c == 0 {
                prop_assert_eq!((mul_div(a, b, c), mul_div_ceil(a, b, c), mul_div_round(a, b, c)), (None, None, None));
            } else {
                let floor = &product / c;
                let rest = &product % c;
                let twice = &rest * 2u32;
                let odd = &floor % 2u32 == BigUint::from(1u32);
                let round_up = twice > BigUint::from(c) || (twice == BigUint::from(c) && odd);
                prop_assert_eq!(mul_div(a, b, c), fits(floor.clone()));
                prop_assert_eq!(mul_div_ceil(a, b, c), fits(floor.clone() + u32::from(rest > BigUint::ZERO)));
                prop_assert_eq!(mul_div_round(a, b, c), fits(floor + u32::from(round_up)));
            }
        }
    }

    #[test]
    fn halves_go_to_the_even_number() {
        let rounded: Vec<_> = (0..8).map(|n| mul_div_round(n, 1, 2)).collect();
        assert_eq!(rounded, [0, 0, 1, 2, 2, 2, 3, 4].map(Some));
    }

    #[test]
    fn edges_of_u128() {
        assert_eq!(mul_div(u128::MAX, u128::MAX, u128::MAX), Some(u128::MAX));
        assert_eq!(mul_div(u128::MAX, 2, 1), None);
        assert_eq!(mul_div_ceil(u128::MAX, u128::MAX, u128::MAX - 1), None);
        assert_eq!(mul_div(0, 0, 1), Some(0));
    }
}
