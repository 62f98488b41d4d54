//! Values that fade by the epoch. They are kept with the epoch of their last change and decayed when next
//! touched, so nobody walks them; a query computes the decayed value and stores nothing.

use super::{amount, Dec, NumError};

/// The factor an epoch of a half-life of `epochs`: the largest f with f^epochs <= 1/2 under [`Dec::checked_pow`].
/// Derived once, at genesis or when the parameter changes.
pub fn half_life_factor(epochs: u64) -> Result<Dec, NumError> {
    NumError::in_range("half-life in epochs", epochs, 1, u64::MAX)?;
    let half = Dec::percent(50);
    let (mut low, mut high) = (0u128, Dec::SCALE);
    while low < high {
        let middle = high.saturating_sub(high.saturating_sub(low) / 2);
        if Dec::from_atomics(middle).checked_pow(epochs)? <= half {
            low = middle;
        } else {
            high = middle.saturating_sub(1);
        }
    }
    Ok(Dec::from_atomics(low))
}

/// The factor an epoch of a moving average over `tau` epochs: 1 - 1/tau, floored.
pub fn average_factor(tau: u64) -> Result<Dec, NumError> {
    NumError::in_range("tau in epochs", tau, 1, u64::MAX)?;
    Dec::ratio(u128::from(tau).saturating_sub(1), tau.into())
}

/// What is left of `value` after `epochs`: floor(value * factor^epochs).
pub fn decay(value: u128, factor: Dec, epochs: u64) -> Result<u128, NumError> {
    if value == 0 || epochs == 0 {
        return Ok(value);
    }
    factor.checked_pow(epochs)?.of(value)
}

/// A moving average over `tau` epochs after one more sample: floor((average (tau - 1) + sample) / tau), so that
/// a constant sample is kept exactly.
pub fn ema(average: Dec, sample: Dec, tau: u64) -> Result<Dec, NumError> {
    NumError::in_range("tau in epochs", tau, 1, u64::MAX)?;
    let tau = u128::from(tau);
    let sum = amount::mul(average.atomics(), tau.saturating_sub(1))?;
    Dec::from_atomics(amount::add(sum, sample.atomics())?).div_int(tau)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn factors() {
        for epochs in [1, 2, 100, 720, 1 << 40] {
            let factor = half_life_factor(epochs).unwrap();
            let next = Dec::from_atomics(factor.atomics() + 1);
            assert!(factor.checked_pow(epochs).unwrap() <= Dec::percent(50));
            assert!(next.checked_pow(epochs).unwrap() > Dec::percent(50));
        }
        assert_eq!(half_life_factor(1).unwrap(), Dec::percent(50));
        assert_eq!(half_life_factor(720).unwrap().to_string(), "0.999037758833783389");
        assert_eq!(half_life_factor(100).unwrap().to_string(), "0.993092495437035902");
        assert_eq!(average_factor(168).unwrap().to_string(), "0.994047619047619047");
        assert_eq!(
            half_life_factor(0).unwrap_err().to_string(),
            "half-life in epochs is 0, allowed are 1 to 18446744073709551615"
        );
    }

    #[test]
    fn a_full_average_stays_full() {
        assert_eq!(ema(Dec::ONE, Dec::ONE, 168), Ok(Dec::ONE));
        assert_eq!(ema(Dec::ONE, Dec::ZERO, 4), Ok(Dec::percent(75)));
        assert!(ema(Dec::MAX, Dec::ONE, 3).is_err());
    }

    proptest! {
        #[test]
        fn decay_falls_and_never_rises(value in any::<u128>(), epochs in 0u64..1000, more in 0u64..1000) {
            let factor = half_life_factor(100).unwrap();
            let later = decay(value, factor, epochs + more).unwrap();
            let now = decay(value, factor, epochs).unwrap();
            prop_assert!(later <= now && now <= value);
            prop_assert!(decay(now, factor, more).unwrap() <= now);
        }
    }
}
