//! Scores: moving averages of credit times reputation, in micro-CU an epoch, and rho, the part of power that
//! follows stake instead.

use crate::params::{ScoreParams, MICRO};
use deepnode_core::num::{amount, Dec, NumError};

/// What a receipt of credit `c` adds to the (decayed) score of its worker and to that of its validator, the same
/// to both: floor(c R / tau).
pub fn gain(c: u128, reputation: Dec, tau: u64) -> Result<u128, NumError> {
    let per_unit = amount::mul(tau.into(), Dec::SCALE)?;
    amount::mul_div(c, reputation.atomics(), per_unit)
}

/// What an audit that stood adds to its validator's A_v: floor(10^6 CU part / tau).
pub fn audit_gain(cu: u128, params: &ScoreParams) -> Result<u128, NumError> {
    gain(amount::mul(cu, MICRO)?, params.audit_part, params.tau)
}

/// S_v = R_v (W_v + A_v): `backed` = W_v from the validator's workers, `audited` = A_v from its audits.
pub fn validator_score(reputation: Dec, backed: u128, audited: u128) -> Result<u128, NumError> {
    reputation.of(amount::add(backed, audited)?)
}

/// A worker's score after a conviction: S R' / R, R' its reputation with the conviction counted. What it loses its
/// validator's W_v loses too (subtract saturating: the two sums differ by roundings).
pub fn after_conviction(score: u128, before: Dec, after: Dec) -> Result<u128, NumError> {
    if before.is_zero() {
        return Ok(0);
    }
    amount::mul_div(score, after.min(before).atomics(), before.atomics())
}

/// rho of the next epoch: at most `rho_step` from the last, toward max(rho_min, 1 - work / target), `work` the sum
/// of all W_v in micro-CU an epoch.
pub fn next_rho(rho: Dec, work: u128, params: &ScoreParams) -> Result<Dec, NumError> {
    let done = Dec::ratio(work.min(amount::mul(params.target, MICRO)?), amount::mul(params.target, MICRO)?)?;
    let goal = done.complement()?.max(params.rho_min);
    if goal >= rho {
        Ok(goal.min(rho.checked_add(params.rho_step)?))
    } else {
        let lowest = Dec::from_atomics(rho.atomics().saturating_sub(params.rho_step.atomics()));
        Ok(goal.max(lowest))
    }
}

/// The part of the epoch's blocks that a validator signed, for the average u_v. `of` = 0: it had none to sign.
pub fn signed_part(signed: u64, of: u64) -> Result<Dec, NumError> {
    match of {
        0 => Ok(Dec::ONE),
        _ => Dec::ratio(signed.min(of).into(), of.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepnode_core::num::decay::{average_factor, decay};
    use proptest::prelude::*;

    #[test]
    fn steady_work_is_its_score() {
        let params = ScoreParams::default();
        let factor = average_factor(params.tau).unwrap();
        let credit = 1_000_000_000 * MICRO;
        let score = (0..3000).fold(0, |score, _| {
            decay(score, factor, 1).unwrap() + gain(credit, Dec::percent(80), params.tau).unwrap()
        });
        let expected = credit / 10 * 8;
        assert!(score.abs_diff(expected) < expected / 1_000_000, "{score}");
    }

    #[test]
    fn rho_moves_step_by_step() {
        let params = ScoreParams::default();
        let full = params.target * MICRO;
        let next = |rho, work| next_rho(rho, work, &params).unwrap();
        assert_eq!(next(Dec::ONE, 0), Dec::ONE);
        assert_eq!(next(Dec::ONE, full), Dec::percent(99));
        assert_eq!(next(Dec::percent(50), full / 2), Dec::percent(50));
        assert_eq!(next(Dec::percent(20), u128::MAX), Dec::percent(20));
        assert_eq!(next(Dec::percent(20), 0), Dec::percent(21));
        assert_eq!(next(Dec::ppm(999_995), 0), Dec::ONE);
    }

    #[test]
    fn convictions_and_validators() {
        assert_eq!(after_conviction(1000, Dec::percent(80), Dec::percent(20)), Ok(250));
        assert_eq!(after_conviction(1000, Dec::ZERO, Dec::ZERO), Ok(0));
        assert_eq!(validator_score(Dec::percent(50), 1000, 11), Ok(505));
        assert_eq!(audit_gain(168_000, &ScoreParams::default()), Ok(250_000_000));
        assert_eq!((signed_part(3, 4), signed_part(0, 0)), (Ok(Dec::percent(75)), Ok(Dec::ONE)));
    }

    proptest! {
        /// The scores of a validator's workers and its own W_v get the same gains at different times.
        #[test]
        fn sums_agree_up_to_rounding(gains in proptest::collection::vec((0usize..10, 0u64..20, 0u128..1_000_000_000), 1..200)) {
            let factor = average_factor(168).unwrap();
            let (mut workers, mut backed, mut now) = ([(0u128, 0u64); 10], (0u128, 0u64), 0u64);
            let add = |(value, at): (u128, u64), now: u64, gain: u128| {
                (decay(value, factor, now - at).unwrap() + gain, now)
            };
            for (who, wait, credit) in &gains {
                now += wait;
                let gain = gain(credit * MICRO, Dec::percent(90), 168).unwrap();
                workers[*who] = add(workers[*who], now, gain);
                backed = add(backed, now, gain);
            }
            let sum: u128 = workers.into_iter().map(|worker| add(worker, now, 0).0).sum();
            prop_assert!(sum.abs_diff(backed.0) <= 2 * gains.len() as u128 + 10, "{} {}", sum, backed.0);
        }
    }
}
