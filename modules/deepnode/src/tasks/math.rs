//! Fees: what a request costs and where it goes.
//!
//! Every part is floored and the remainder is burned, so that the parts sum to the fee exactly.

use crate::params::{FeeParams, MICRO};
use deepnode_core::num::{amount, Dec, NumError};

/// The fee of compute in udn: ceil(CU * price / 10^6), the price in udn for 10^6 CU.
pub fn compute_fee(cu: u128, price: Dec) -> Result<u128, NumError> {
    let per_cu_scale = amount::mul(MICRO, Dec::SCALE)?;
    amount::mul_div_ceil(cu, price.atomics(), per_cu_scale)
}

/// The audit levy, a part of the compute fee: max(5%, alpha k p), at most 50%. alpha is an auditor's fee as a
/// part of the price, `seats` = k the expected number of auditors, p the chance of an audit.
pub fn levy_rate(alpha: Dec, seats: Dec, p: Dec, params: &FeeParams) -> Result<Dec, NumError> {
    let cost = alpha.checked_mul(seats)?.checked_mul(p)?;
    Ok(cost.max(params.levy_min).min(params.levy_max))
}

/// The parts of a compute fee, in udn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeeSplit {
    pub worker: u128,
    /// To the pool that pays the auditors.
    pub levy: u128,
    /// To the community pool.
    pub community: u128,
    /// Burned, with the remainders of the others.
    pub burn: u128,
}

/// Splits a settlement's compute fee at the levy rate `levy`.
pub fn split_fee(fee: u128, levy: Dec, params: &FeeParams) -> Result<FeeSplit, NumError> {
    let taken = params.burn.checked_add(params.community)?.checked_add(levy)?;
    let worker = taken.complement()?.of(fee)?;
    let community = params.community.of(fee)?;
    let levy = levy.of(fee)?;
    let burn = amount::sub(fee, amount::add(amount::add(worker, community)?, levy)?)?;
    Ok(FeeSplit { worker, levy, community, burn })
}

/// The parts of a royalty, in udn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoyaltySplit {
    pub owner: u128,
    /// To the parent model and the data sets, in the order of their parts.
    pub others: Vec<u128>,
    /// Remainders.
    pub burn: u128,
}

/// Splits a royalty: `parts` go to the parent model and the data sets, what they leave to the owner.
/// Parts above 1 together are refused.
pub fn split_royalty(royalty: u128, parts: &[Dec]) -> Result<RoyaltySplit, NumError> {
    let given = parts.iter().try_fold(Dec::ZERO, |sum, part| sum.checked_add(*part))?;
    let owner = given.complement()?.of(royalty)?;
    let others = parts.iter().map(|part| part.of(royalty)).collect::<Result<Vec<_>, _>>()?;
    let paid = others.iter().try_fold(owner, |sum, part| amount::add(sum, *part))?;
    Ok(RoyaltySplit { owner, others, burn: amount::sub(royalty, paid)? })
}

/// A class's price of the next block: it moves by at most `price_step` of itself toward the use at which it rests,
/// in proportion to how far use is from there:
/// price (1 + step (use - target) / target), the last factor at most 1, within ref / range to ref * range.
/// `used` are the CU settled in the block, `capacity` the proven CU a block; without capacity there is no use
/// to measure, and the price stays.
pub fn next_price(price: Dec, used: u128, capacity: u128, params: &FeeParams) -> Result<Dec, NumError> {
    let low = params.ref_price.div_int(params.price_range.into())?;
    let high = params.ref_price.mul_int(params.price_range.into())?;
    let price = price.max(low).min(high);
    if capacity == 0 {
        return Ok(price);
    }
    let usage = Dec::ratio(used.min(capacity), capacity)?;
    let target = params.target_use;
    let distance = usage.max(target).checked_sub(usage.min(target))?.checked_div(target)?.min(Dec::ONE);
    let change = price.checked_mul(params.price_step)?.checked_mul(distance)?;
    let moved = if usage > target { price.checked_add(change)? } else { price.checked_sub(change)? };
    Ok(moved.max(low).min(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::AuditParams;
    use proptest::prelude::*;

    fn params() -> FeeParams {
        FeeParams::default()
    }

    fn levy(p: Dec) -> Dec {
        let seats = if p > Dec::percent(50) { Dec::percent(125) } else { Dec::percent(200) };
        levy_rate(AuditParams::default().fee, seats, p, &params()).unwrap()
    }

    #[test]
    fn fees() {
        assert_eq!(compute_fee(131_870, Dec::from_int(14).unwrap()), Ok(2));
        assert_eq!(compute_fee(1_000_000, Dec::from_int(14).unwrap()), Ok(14));
        assert_eq!(compute_fee(0, Dec::MAX), Ok(0));
        assert!(compute_fee(u128::MAX, Dec::MAX).is_err());
    }

    #[test]
    fn the_unproven_pay_their_own_audits() {
        assert_eq!(levy(Dec::percent(2)), Dec::percent(5));
        assert_eq!(levy(Dec::percent(25)), Dec::percent(25));
        assert_eq!(levy(Dec::ONE), Dec::percent(50));
    }

    #[test]
    fn splits_by_hand() {
        let split = split_fee(1_000_003, Dec::percent(5), &params()).unwrap();
        assert_eq!(split, FeeSplit { worker: 750_002, levy: 50_000, community: 50_000, burn: 150_001 });
        assert!(split_fee(10, Dec::percent(81), &params()).is_err());
        let royalty = split_royalty(101, &[Dec::percent(50), Dec::percent(10)]).unwrap();
        assert_eq!(royalty, RoyaltySplit { owner: 40, others: vec![50, 10], burn: 1 });
        assert!(split_royalty(10, &[Dec::percent(60), Dec::percent(60)]).is_err());
    }

    #[test]
    fn prices_rest_at_half_use() {
        let reference = params().ref_price;
        let next = |price, used| next_price(price, used, 1000, &params()).unwrap();
        assert_eq!(next(reference, 500), reference);
        assert_eq!(next(reference, 1000).to_string(), "14.014000000000000000");
        assert_eq!(next(reference, 0).to_string(), "13.986000000000000000");
        assert_eq!(next(reference, 750).to_string(), "14.007000000000000000");
        assert_eq!(next_price(reference, 5, 0, &params()), Ok(reference));
        let limit = |used| (0..10_000).fold(reference, |price, _| next(price, used));
        assert_eq!(limit(1000).to_string(), "140.000000000000000000");
        assert_eq!(limit(0).to_string(), "1.400000000000000000");
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_whole(fee in any::<u128>(), p in 0u64..=1_000_000) {
            let split = split_fee(fee, levy(Dec::ppm(p)), &params()).unwrap();
            prop_assert_eq!(split.worker + split.levy + split.community + split.burn, fee);
            // At most one udn of each other part is lost to the burn.
            let burn = params().burn.of(fee).unwrap();
            prop_assert!(split.burn >= burn && split.burn <= burn + 4);
        }

        #[test]
        fn royalties_sum_to_the_whole(royalty in any::<u128>(), parts in proptest::collection::vec(0u64..200_000, 0..5)) {
            let parts: Vec<Dec> = parts.into_iter().map(Dec::ppm).collect();
            let split = split_royalty(royalty, &parts).unwrap();
            prop_assert_eq!(split.owner + split.others.iter().sum::<u128>() + split.burn, royalty);
            prop_assert!(split.burn <= parts.len() as u128 + 1);
        }
    }
}
