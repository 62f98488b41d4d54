//! Reputation as whole numbers: R = P / (P + 50 F_wrong + F_soft + kappa), in 18 decimals.
//!
//! Evidence is counted in micro-units. An epoch's evidence is gathered apart and folded in at the first touch in
//! a later epoch, so that R stays fixed within an epoch (but a conviction counts at once).

use crate::params::{ReputationParams, MICRO};
use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::num::{amount, decay::decay, Dec, NumError};

/// What a subject (worker or validator) has shown in one capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// P: passes. Micro-units, as of `epoch`.
    pub passes: u128,
    /// F_soft: lateness and absence, weighted.
    pub soft: u128,
    /// F_wrong: wrong results (of a validator: wrong verdicts), not yet weighted.
    pub wrong: u128,
    /// What `epoch` has brought so far.
    pub fresh: Evidence,
    /// The epoch of the last touch.
    pub epoch: u64,
}

/// What one epoch has brought, in micro-units. `late` and `unavailable` show on every task but passes on audited
/// ones only: they are added times the audit probability ([`soft_weight`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Evidence {
    pub passes: u128,
    pub late: u128,
    pub unavailable: u128,
}

impl Record {
    /// The record as of `epoch`: evidence of an earlier epoch is folded in, then all decays by `factor` an epoch.
    /// An epoch before the record's own changes nothing.
    pub fn at(&self, epoch: u64, factor: Dec, params: &ReputationParams) -> Result<Record, NumError> {
        let epochs = epoch.saturating_sub(self.epoch);
        if epochs == 0 {
            return Ok(self.clone());
        }
        let (passes, soft) = self.fresh.folded(params)?;
        Ok(Record {
            passes: decay(amount::add(self.passes, passes)?, factor, epochs)?,
            soft: decay(amount::add(self.soft, soft)?, factor, epochs)?,
            wrong: decay(self.wrong, factor, epochs)?,
            fresh: Evidence::default(),
            epoch,
        })
    }

    /// R of a worker, as of the record's epoch.
    pub fn score(&self, params: &ReputationParams) -> Result<Dec, NumError> {
        let wrong = amount::mul(self.wrong, params.wrong.into())?;
        reputation(self.passes, amount::add(wrong, self.soft)?, params.kappa)
    }
}

impl Evidence {
    /// What is added to (P, F_soft): k passes and k (3 late + 5 unavailable) with
    /// k = min(1, kappa / (ramp (passes + late + unavailable))).
    fn folded(&self, params: &ReputationParams) -> Result<(u128, u128), NumError> {
        let late = amount::mul(self.late, params.late.into())?;
        let soft = amount::add(late, amount::mul(self.unavailable, params.unavailable.into())?)?;
        let all = amount::add(amount::add(self.passes, self.late)?, self.unavailable)?;
        let ramped = amount::mul(all, params.ramp.into())?;
        if ramped <= params.kappa {
            return Ok((self.passes, soft));
        }
        let scaled = |value| amount::mul_div(value, params.kappa, ramped);
        Ok((scaled(self.passes)?, scaled(soft)?))
    }
}

/// floor(P / (P + F + kappa)) in 18 decimals: from 0 to below 1. `failures` = F is the weighted sum of all failures.
pub fn reputation(passes: u128, failures: u128, kappa: u128) -> Result<Dec, NumError> {
    NumError::in_range("kappa", kappa, 1, u128::MAX)?;
    Dec::ratio(passes, amount::add(amount::add(passes, failures)?, kappa)?)
}

/// R_v of a validator: u_v (P + kappa) / (P + kappa + 50 F_wrong + 5 F_missed). Its duty is assigned, so it starts
/// at 1. `signing` = u_v is the moving average of the part of the blocks that it signed.
pub fn validator_reputation(
    passes: u128,
    wrong: u128,
    missed: u128,
    signing: Dec,
    params: &ReputationParams,
) -> Result<Dec, NumError> {
    let good = amount::add(passes, params.kappa)?;
    let wrong = amount::mul(wrong, params.wrong.into())?;
    let failures = amount::add(wrong, amount::mul(missed, params.missed.into())?)?;
    signing.mul_div(good, amount::add(good, failures)?)
}

/// What an audited receipt weighs, in micro-units: min(10, CU / cu_ref of its class).
pub fn weight(cu: u128, cu_ref: u128, params: &ReputationParams) -> Result<u128, NumError> {
    Ok(amount::mul_div(cu, MICRO, cu_ref)?.min(params.max_weight))
}

/// The same for a wrong one: at least one unit.
pub fn wrong_weight(cu: u128, cu_ref: u128, params: &ReputationParams) -> Result<u128, NumError> {
    Ok(weight(cu, cu_ref, params)?.max(MICRO))
}

/// The same for a late or unavailable one, audited or not: times the audit probability `p`.
pub fn soft_weight(cu: u128, cu_ref: u128, p: Dec, params: &ReputationParams) -> Result<u128, NumError> {
    p.of(weight(cu, cu_ref, params)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepnode_core::num::decay::half_life_factor;
    use proptest::prelude::*;

    fn params() -> ReputationParams {
        ReputationParams::default()
    }

    /// R after `epochs` epochs with so many full passes each.
    fn grown(per_epoch: u128, epochs: u64) -> Record {
        let factor = half_life_factor(params().half_life).unwrap();
        (0..epochs).fold(Record::default(), |record, epoch| {
            let mut record = record.at(epoch, factor, &params()).unwrap();
            record.fresh.passes += per_epoch * MICRO;
            record
        })
    }

    #[test]
    fn reputation_takes_its_time_and_idling_forgets() {
        let factor = half_life_factor(params().half_life).unwrap();
        let r = |record: &Record| record.score(&params()).unwrap();
        // However much is done, R stays below 1/2 for `ramp` epochs.
        assert!(r(&grown(1_000_000, 24).at(24, factor, &params()).unwrap()) < Dec::percent(50));
        assert!(r(&grown(1_000_000, 27).at(27, factor, &params()).unwrap()) > Dec::percent(50));
        let high = grown(500, 2000);
        assert!(r(&high) > Dec::percent(95));
        let idle = high.at(high.epoch + 7200, factor, &params()).unwrap();
        assert!(r(&idle) < Dec::percent(5));
        assert_eq!(r(&Record::default()), Dec::ZERO);
    }

    #[test]
    fn within_an_epoch_only_a_conviction_counts() {
        let factor = half_life_factor(params().half_life).unwrap();
        let mut record = grown(500, 100);
        let before = record.score(&params()).unwrap();
        record.fresh.passes += 1000 * MICRO;
        record.fresh.late += 1000 * MICRO;
        assert_eq!(record.at(record.epoch, factor, &params()).unwrap().score(&params()), Ok(before));
        record.wrong += MICRO;
        assert!(record.score(&params()).unwrap() < before);
    }

    #[test]
    fn a_wrong_result_outweighs_fifty_passes_above_one_half() {
        let (kappa, high) = (params().kappa, 2000 * MICRO);
        let before = reputation(high, 0, kappa).unwrap();
        let after = |passes: u128| reputation(high + passes * MICRO, 50 * MICRO, kappa).unwrap();
        // 50 R / (1 - R) passes with R = 0.8.
        assert!(after(199) < before && after(200) == before);
    }

    #[test]
    fn validators_start_at_one() {
        let r = |passes, wrong, missed, signing| {
            validator_reputation(passes, wrong, missed, signing, &params()).unwrap()
        };
        assert_eq!(r(0, 0, 0, Dec::ONE), Dec::ONE);
        assert_eq!(r(0, 0, 0, Dec::percent(70)), Dec::percent(70));
        assert_eq!(r(0, 10 * MICRO, 0, Dec::ONE), Dec::percent(50));
        assert_eq!(r(0, 0, 100 * MICRO, Dec::ONE), Dec::percent(50));
    }

    #[test]
    fn weights() {
        let p = params();
        assert_eq!(weight(5_000, 10_000, &p), Ok(MICRO / 2));
        assert_eq!(weight(u128::MAX / MICRO, 10_000, &p), Ok(10 * MICRO));
        assert_eq!(wrong_weight(1, 10_000, &p), Ok(MICRO));
        assert_eq!(soft_weight(5_000, 10_000, Dec::percent(2), &p), Ok(10_000));
        assert!(weight(1, 0, &p).is_err());
    }

    proptest! {
        #[test]
        fn always_below_one(passes in 0..u128::MAX / 4, failures in 0..u128::MAX / 4, kappa in 1..u128::MAX / 4) {
            prop_assert!(reputation(passes, failures, kappa).unwrap() < Dec::ONE);
        }

        /// The score, work times reputation, of a worker against those of the parts that it could split into
        /// (each late as often as the whole).
        #[test]
        fn splitting_never_raises_the_score(
            parts in proptest::collection::vec(1u128..100, 1..6),
            (passes, late) in (1u128..2_000_000, 0u128..100_000),
            epochs in 1u64..40,
        ) {
            let factor = half_life_factor(params().half_life).unwrap();
            let score = |size: u128| {
                let mut record = Record::default();
                for epoch in 0..epochs {
                    record = record.at(epoch, factor, &params()).unwrap();
                    record.fresh = Evidence { passes: passes * size, late: late * size, unavailable: 0 };
                }
                let r = record.at(epochs, factor, &params()).unwrap().score(&params()).unwrap();
                r.of(passes * size).unwrap()
            };
            let whole = score(parts.iter().sum());
            let split: u128 = parts.into_iter().map(score).sum();
            prop_assert!(split <= whole + whole / 1_000_000 + 5, "{} > {}", split, whole);
        }
    }
}
