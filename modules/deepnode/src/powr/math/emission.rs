//! Emission: what an epoch may mint and who earns it. What is not earned is not minted.

use crate::params::EmissionParams;
use deepnode_core::num::{amount, Dec, NumError};

/// What an epoch may mint, in udn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// To stakers, by the block, in proportion to stake * R_v of those who signed.
    pub validators: u128,
    /// For canary tasks.
    pub canaries: u128,
    /// To the community pool.
    pub community: u128,
    /// At most this much for work.
    pub work: u128,
}

/// The schedule of an epoch: floor((cap - ever minted) * rate), split by the parts; each floored, the rest is work's.
pub fn schedule(ever_minted: u128, params: &EmissionParams) -> Result<Schedule, NumError> {
    let all = params.rate.of(params.cap.saturating_sub(ever_minted))?;
    let validators = params.validators.of(all)?;
    let canaries = params.canaries.of(all)?;
    let community = params.community.of(all)?;
    let base = amount::add(amount::add(validators, canaries)?, community)?;
    Ok(Schedule { validators, canaries, community, work: amount::sub(all, base)? })
}

/// What a receipt earns by emission, in udn, before scaling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Earnings {
    pub worker: u128,
    /// The validator that the worker backs.
    pub backer: u128,
    pub model: u128,
}

/// The earnings of a receipt that burned `burned` udn: linear in the burn, never a share of a pot. Together they
/// stay below the burn, so that buying one's own work always loses.
pub fn earnings(
    burned: u128,
    worker: Dec,
    validator: Dec,
    params: &EmissionParams,
) -> Result<Earnings, NumError> {
    Ok(Earnings {
        worker: params.worker.checked_mul(worker.min(Dec::ONE))?.of(burned)?,
        backer: params.backer.checked_mul(validator.min(Dec::ONE))?.of(burned)?,
        model: params.model.of(burned)?,
    })
}

/// The scale of an epoch's earnings: 1, or room / earned if more was earned than the schedule has room for.
pub fn scale(earned: u128, room: u128) -> Result<Dec, NumError> {
    if earned <= room {
        return Ok(Dec::ONE);
    }
    Dec::ratio(room, earned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        let params = EmissionParams::default();
        let first = schedule(0, &params).unwrap();
        assert_eq!(
            first,
            Schedule {
                validators: 500_000_000,
                canaries: 500_000_000,
                community: 200_000_000,
                work: 800_000_000
            }
        );
        assert_eq!(schedule(params.cap, &params), Ok(Schedule::default()));
        let earned = earnings(1_000, Dec::percent(90), Dec::ONE, &params).unwrap();
        assert_eq!(earned, Earnings { worker: 450, backer: 200, model: 100 });
        assert_eq!((scale(5, 10), scale(20, 10)), (Ok(Dec::ONE), Ok(Dec::percent(50))));
    }

    #[test]
    fn the_cap_is_never_reached() {
        let params = EmissionParams::default();
        let minted = (0..500_000).fold(0, |minted, _| {
            let s = schedule(minted, &params).unwrap();
            minted + s.validators + s.canaries + s.community + s.work
        });
        assert!(minted < params.cap && minted > params.cap / 1000 * 999, "{minted}");
    }

    proptest! {
        #[test]
        fn wash_compute_loses(burned in any::<u128>(), r in 0..=Dec::SCALE, r_v in 0..=Dec::SCALE) {
            let params = EmissionParams::default();
            let e = earnings(burned, Dec::from_atomics(r), Dec::from_atomics(r_v), &params).unwrap();
            let back = e.worker + e.backer + e.model;
            prop_assert!(back <= burned / 5 * 4 + 4 && (burned == 0 || back < burned));
        }
    }
}
