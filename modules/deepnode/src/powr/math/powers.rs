//! Powers: what CometBFT counts, set for all bonded validators at an epoch's end. They sum to [`TOTAL`], stay within
//! what a validator's stake carries (its collateral) and move by at most D an epoch.

use super::MathError;
use crate::params::PowerParams;
use deepnode_core::num::{amount, mul_div, Dec, NumError};

/// T: the sum of all powers.
pub const TOTAL: u64 = 100_000_000;

/// Fixed-point one of the weights.
const WEIGHT_ONE: u128 = 1 << 40;

/// A bonded validator at an epoch's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// q: its share before bounds, from [`shares`]; at least 1.
    pub share: u128,
    /// Its power so far, from [`rescale`]; 0 for all in genesis.
    pub old: u64,
    /// Bonded tokens, udn.
    pub stake: u128,
    /// Whether it signed enough of the epoch's blocks to gain power.
    pub signed: bool,
}

/// The most that one of n validators may have: 60, 40, 30, 24, then 20%, however much stake it has.
pub fn cap(n: usize) -> u64 {
    match n as u64 {
        0 | 1 => TOTAL,
        n => (TOTAL / 5).max((6 * TOTAL).checked_div(n.saturating_mul(5)).unwrap_or(0)),
    }
}

/// q of each validator: 18-decimal shares of score and stake, mixed by rho (the part of stake) in parts per
/// million, plus 1. Without any score only stake counts.
pub fn shares(scores: &[u128], stakes: &[u128], rho: Dec) -> Result<Vec<u128>, MathError> {
    const PPM: u128 = 1_000_000;
    let (all_scores, all_stake) = (sum(scores)?, sum(stakes)?);
    let rho = match all_scores {
        0 => PPM,
        _ => (rho.min(Dec::ONE).atomics()) / (Dec::SCALE / PPM),
    };
    scores
        .iter()
        .zip(stakes)
        .map(|(score, stake)| {
            let by_score = if all_scores == 0 { 0 } else { amount::mul_div(*score, Dec::SCALE, all_scores)? };
            let by_stake = amount::mul_div(*stake, Dec::SCALE, all_stake)?;
            let by_score = amount::mul(PPM.saturating_sub(rho), by_score)?;
            let mixed = amount::add(by_score, amount::mul(rho, by_stake)?)? / PPM;
            Ok(amount::add(mixed, 1)?)
        })
        .collect()
}

/// The stake that collateral is measured against: the sum of stakes, but at most a tenth above the last base, so
/// that a newcomer with more stake than all others does not take their collateral in one epoch. `last` is `None` in
/// genesis.
pub fn stake_base(stake: u128, last: Option<u128>, params: &PowerParams) -> Result<u128, NumError> {
    match last {
        None => Ok(stake),
        Some(last) => Ok(stake.min(amount::add(last, params.base_growth.of(last)?)?)),
    }
}

/// Powers scaled to [`TOTAL`] after removals: floors, and the remainder one each in the order given (by address).
/// Without any power all stay 0.
pub fn rescale(powers: &[u64]) -> Result<Vec<u64>, MathError> {
    let all = sum_u64(powers)?;
    if all == 0 {
        return Ok(powers.to_vec());
    }
    let scale = |power: u64| narrow(amount::mul_div(power.into(), TOTAL.into(), all.into())?);
    let mut scaled = powers.iter().map(|power| scale(*power)).collect::<Result<Vec<_>, MathError>>()?;
    // Each floor lost less than one, so the remainder is below the number of powers.
    let rest = TOTAL.saturating_sub(sum_u64(&scaled)?);
    for power in scaled.iter_mut().take(rest as usize) {
        *power = power.saturating_add(1);
    }
    Ok(scaled)
}

/// What CometBFT is told: a power of 0 would remove a bonded validator.
pub fn consensus_power(power: u64) -> u64 {
    power.max(1)
}

/// What a seat gets, and the bounds that it was kept within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allotment {
    /// What its stake carries.
    pub collateral: u64,
    /// The most that one validator may have.
    pub cap: u64,
    /// The bounds that follow from both, from drift and from signing.
    pub low: u64,
    pub high: u64,
    pub power: u64,
}

/// The powers of all seats (in address order), proportional to their shares within bounds. They sum to [`TOTAL`].
///
/// The collateral bound never gives way. When the others leave no room for the whole, they do, in this order: the
/// cap for who is above it already; the rule that who did not sign gains nothing; the drift bound.
pub fn allot(seats: &[Seat], base: u128, params: &PowerParams) -> Result<Vec<Allotment>, MathError> {
    if seats.is_empty() || seats.len() as u64 > TOTAL {
        return Err(MathError::Validators { found: seats.len(), max: TOTAL });
    }
    let collateral = seats
        .iter()
        .map(|seat| collateral(seat.stake, base, params.leverage))
        .collect::<Result<Vec<_>, MathError>>()?;
    let cap = feasible_cap(&collateral)?;
    let bounds = bounds(seats, &collateral, cap, params)?;
    let shares: Vec<u128> = seats.iter().map(|seat| seat.share).collect();
    let all = sum(&shares)?;
    let weights = shares
        .iter()
        .map(|share| Ok(amount::mul_div(*share, WEIGHT_ONE, all)?.max(1)))
        .collect::<Result<Vec<_>, NumError>>()?;
    let powers = fill(&weights, &bounds)?;
    let each = collateral.into_iter().zip(bounds).zip(powers);
    Ok(each
        .map(|((collateral, Bounds { low, high }), power)| Allotment { collateral, cap, low, high, power })
        .collect())
}

/// The powers alone: see [`allot`].
pub fn powers(seats: &[Seat], base: u128, params: &PowerParams) -> Result<Vec<u64>, MathError> {
    Ok(allot(seats, base, params)?.into_iter().map(|allotment| allotment.power).collect())
}

/// What one may have at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    low: u64,
    high: u64,
}

/// The bounds of every seat; their highs sum to at least TOTAL, their lows to at most that.
fn bounds(
    seats: &[Seat],
    collateral: &[u64],
    cap: u64,
    params: &PowerParams,
) -> Result<Vec<Bounds>, MathError> {
    let old = sum_u64(&seats.iter().map(|seat| seat.old).collect::<Vec<_>>())?;
    let within_cap = |at: usize| collateral.get(at).copied().unwrap_or(0).min(cap);
    if old == 0 {
        return Ok((0..seats.len()).map(|at| Bounds { low: 0, high: within_cap(at) }).collect());
    }
    if old != TOTAL {
        return Err(MathError::OldPowers { found: old, total: TOTAL });
    }

    let equal = TOTAL.checked_div(seats.len() as u64).unwrap_or(TOTAL);
    let drift = |old: u64| narrow(params.drift.of(old.saturating_add(equal).into())?);
    let deltas = seats.iter().map(|seat| drift(seat.old)).collect::<Result<Vec<_>, MathError>>()?;
    let high = |step: Step, at: usize, seat: &Seat, delta: u64| {
        let limit =
            seat.old.saturating_add(if seat.signed || step >= Step::UnsignedGain { delta } else { 0 });
        let carried = collateral.get(at).copied().unwrap_or(0);
        match step {
            Step::All => within_cap(at).min(limit),
            Step::CapForNew | Step::UnsignedGain => carried.min(cap.max(seat.old)).min(limit),
            Step::CollateralAlone => within_cap(at),
        }
    };
    let highs = |step: Step| -> Vec<u64> {
        let each = seats.iter().zip(&deltas).enumerate();
        each.map(|(at, (seat, delta))| high(step, at, seat, *delta)).collect()
    };
    let mut chosen = highs(Step::All);
    for step in [Step::CapForNew, Step::UnsignedGain, Step::CollateralAlone] {
        if sum_u64(&chosen)? < TOTAL {
            chosen = highs(step);
        }
    }
    let each = seats.iter().zip(&deltas).zip(chosen);
    Ok(each
        .map(|((seat, delta), high)| Bounds { low: seat.old.saturating_sub(*delta).min(high), high })
        .collect())
}

/// How far the upper bounds have given way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Collateral, cap, drift; no gain for who did not sign.
    All,
    /// Who is above the cap keeps what it has: nobody can take over at once what the cap takes away.
    CapForNew,
    /// Who did not sign may gain too.
    UnsignedGain,
    /// Collateral forced a fall, and who takes it over may rise faster than D.
    CollateralAlone,
}

/// floor(L T stake / base), at most T.
fn collateral(stake: u128, base: u128, leverage: u64) -> Result<u64, MathError> {
    NumError::in_range("stake base", base, 1, u128::MAX)?;
    let carried = amount::mul(leverage.into(), TOTAL.into())?;
    // A quotient beyond the type is certainly above T.
    let power = mul_div(carried, stake, base).unwrap_or(u128::MAX);
    narrow(power.min(TOTAL.into()))
}

/// The cap of n validators or, where their collateral does not carry T below it, the least cap under which it does.
fn feasible_cap(collateral: &[u64]) -> Result<u64, MathError> {
    let carried = |cap: u64| sum_u64(&collateral.iter().map(|power| (*power).min(cap)).collect::<Vec<_>>());
    let (mut low, mut high) = (cap(collateral.len()), TOTAL);
    if carried(high)? < TOTAL {
        return Err(MathError::Collateral { carried: carried(high)?, total: TOTAL });
    }
    if carried(low)? >= TOTAL {
        return Ok(low);
    }
    while low < high {
        let middle = low.saturating_add(high.saturating_sub(low) / 2);
        if carried(middle)? >= TOTAL {
            high = middle;
        } else {
            low = middle.saturating_add(1);
        }
    }
    Ok(low)
}

/// Water filling: x = clamp(theta w / 2^40, low, high) with the largest theta whose x sum to at most TOTAL; what is
/// then missing goes one each to who is below its bound, by the fraction cut off (descending), then by address.
fn fill(weights: &[u128], bounds: &[Bounds]) -> Result<Vec<u64>, MathError> {
    let at = |theta: u128| {
        let level = |(weight, bounds): (&u128, &Bounds)| -> Result<u64, MathError> {
            let level = amount::mul(theta, *weight)? / WEIGHT_ONE;
            narrow(level.min(bounds.high.into()).max(bounds.low.into()))
        };
        weights.iter().zip(bounds).map(level).collect::<Result<Vec<u64>, MathError>>()
    };
    let (mut low, mut high) = (0, u128::from(TOTAL) * WEIGHT_ONE);
    while low < high {
        let middle = high.saturating_sub(high.saturating_sub(low) / 2);
        if sum_u64(&at(middle)?)? <= TOTAL {
            low = middle;
        } else {
            high = middle.saturating_sub(1);
        }
    }
    let theta = low;
    let mut powers = at(theta)?;
    let mut order = weights
        .iter()
        .enumerate()
        .map(|(at, weight)| Ok((std::cmp::Reverse(amount::mul(theta, *weight)? % WEIGHT_ONE), at)))
        .collect::<Result<Vec<_>, MathError>>()?;
    order.sort_unstable();
    let mut missing = TOTAL.saturating_sub(sum_u64(&powers)?);
    while missing > 0 {
        let before = missing;
        for (_, at) in &order {
            match (powers.get_mut(*at), bounds.get(*at)) {
                (Some(power), Some(bounds)) if missing > 0 && *power < bounds.high => {
                    *power = power.saturating_add(1);
                    missing = missing.saturating_sub(1);
                }
                _ => {}
            }
        }
        if missing == before {
            return Err(MathError::Collateral { carried: TOTAL.saturating_sub(missing), total: TOTAL });
        }
    }
    Ok(powers)
}

fn sum(values: &[u128]) -> Result<u128, NumError> {
    values.iter().try_fold(0, |sum, value| amount::add(sum, *value))
}

fn sum_u64(values: &[u64]) -> Result<u64, MathError> {
    narrow(values.iter().map(|value| u128::from(*value)).sum())
}

fn narrow(value: u128) -> Result<u64, MathError> {
    u64::try_from(value).map_err(|_| {
        let (expression, max) = (value.to_string(), u64::MAX.to_string());
        NumError::Overflow { expression, max }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params() -> PowerParams {
        PowerParams::default()
    }

    fn genesis(stakes: &[u128]) -> Vec<u64> {
        set(&vec![0; stakes.len()], &vec![0; stakes.len()], stakes, &vec![true; stakes.len()], Dec::ONE)
    }

    fn set(scores: &[u128], old: &[u64], stakes: &[u128], signed: &[bool], rho: Dec) -> Vec<u64> {
        let shares = shares(scores, stakes, rho).unwrap();
        let seats: Vec<Seat> = (0..stakes.len())
            .map(|i| Seat { share: shares[i], old: old[i], stake: stakes[i], signed: signed[i] })
            .collect();
        powers(&seats, stakes.iter().sum(), &params()).unwrap()
    }

    fn collaterals(stakes: &[u128]) -> Vec<u64> {
        let base = stakes.iter().sum();
        stakes.iter().map(|stake| collateral(*stake, base, params().leverage).unwrap()).collect()
    }

    #[test]
    fn genesis_follows_stake_under_the_cap() {
        assert_eq!(genesis(&[5]), [100_000_000]);
        assert_eq!(genesis(&[5, 5]), [50_000_000, 50_000_000]);
        assert_eq!(genesis(&[9, 1]), [80_000_000, 20_000_000]);
        assert_eq!(genesis(&[25, 25, 25, 25]), [25_000_000; 4]);
        assert_eq!(genesis(&[40, 30, 20, 10]), [30_000_000, 30_000_000, 26_666_667, 13_333_333]);
        assert_eq!((1..7).map(cap).collect::<Vec<_>>(), [100, 60, 40, 30, 24, 20].map(|m| m * 1_000_000));
    }

    #[test]
    fn who_does_not_sign_gains_nothing() {
        let stakes = [100u128; 5];
        let old = [20_000_000u64; 5];
        let scores = [10u128, 1, 1, 1, 1];
        let gained = set(&scores, &old, &stakes, &[true; 5], Dec::percent(20));
        assert_eq!(gained[0], 24_000_000);
        let absent = set(&scores, &old, &stakes, &[false, true, true, true, true], Dec::percent(20));
        assert_eq!(absent[0], 20_000_000);
        // Nobody signed enough: nobody gains, so nobody can lose.
        assert_eq!(set(&scores, &old, &stakes, &[false; 5], Dec::percent(20)), old);
    }

    #[test]
    fn absence_gives_way_before_the_drift_bound_does() {
        // The first loses half its collateral; the one who signs alone may not take over all of it within D.
        let mut stakes = [39u128; 10];
        stakes[0] = 9;
        let old = [10_000_000u64; 10];
        let mut signed = [false; 10];
        signed[1] = true;
        let x = set(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &old, &stakes, &signed, Dec::percent(20));
        assert_eq!(x.iter().sum::<u64>(), TOTAL);
        assert_eq!((x[0], x[1]), (collaterals(&stakes)[0], 12_000_000));
        assert!(x[2..].iter().all(|power| (10_000_000..12_000_000).contains(power)), "{x:?}");
    }

    #[test]
    fn newcomers_enter_slowly_and_the_base_holds_a_giant_back() {
        let stakes = [100u128; 10];
        let mut old = [TOTAL / 9; 10];
        (old[9], old[0]) = (0, TOTAL / 9 + TOTAL % 9);
        let x = set(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1000], &old, &stakes, &[true; 10], Dec::percent(20));
        assert_eq!(x[9], 1_000_000, "D T / n");
        assert_eq!(stake_base(3000, None, &params()), Ok(3000));
        assert_eq!(stake_base(3000, Some(1000), &params()), Ok(1100));
        assert_eq!(stake_base(900, Some(1000), &params()), Ok(900));
    }

    #[test]
    fn removals_are_shared_out() {
        assert_eq!(rescale(&[0, 0]).unwrap(), [0, 0]);
        assert_eq!(rescale(&[20_000_000; 3]).unwrap(), [33_333_334, 33_333_333, 33_333_333]);
        assert_eq!(rescale(&[TOTAL, 1]).unwrap().iter().sum::<u64>(), TOTAL);
        assert_eq!(consensus_power(0), 1);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let seat = Seat { share: 1, old: 0, stake: 10, signed: true };
        assert!(matches!(powers(&[], 1, &params()), Err(MathError::Validators { found: 0, .. })));
        assert!(matches!(powers(&[seat], 0, &params()), Err(MathError::Num(_))));
        assert!(matches!(
            powers(&[seat], 100, &params()),
            Err(MathError::Collateral { carried: 20_000_000, .. })
        ));
        let half = Seat { old: 1, ..seat };
        assert!(matches!(powers(&[half, seat], 20, &params()), Err(MathError::OldPowers { found: 1, .. })));
        let greedy = Seat { share: u128::MAX, ..seat };
        assert!(matches!(powers(&[greedy, seat], 20, &params()), Err(MathError::Num(_))));
        assert!(shares(&[1], &[0], Dec::ONE).is_err());
    }

    /// One validator of a random set: stake, score, old power (before rescaling), whether it signs.
    fn validator() -> impl Strategy<Value = (u128, u128, u64, bool)> {
        let stake = (1u128..1_000, 3u32..12).prop_map(|(digits, zeros)| digits * 10u128.pow(zeros));
        let score = prop_oneof![Just(0u128), 1..1_000_000_000_000_000_000u128];
        (stake, score, 0u64..1_000_000, proptest::bool::weighted(0.8))
    }

    fn validators() -> impl Strategy<Value = Vec<(u128, u128, u64, bool)>> {
        prop_oneof![
            proptest::collection::vec(validator(), 1..5),
            proptest::collection::vec(validator(), 1..60)
        ]
    }

    proptest! {
        #[test]
        fn sound_for_any_set(validators in validators(), rho in 0u64..=1_000_000) {
            let stakes: Vec<u128> = validators.iter().map(|v| v.0).collect();
            let scores: Vec<u128> = validators.iter().map(|v| v.1).collect();
            let old = rescale(&validators.iter().map(|v| v.2).collect::<Vec<_>>()).unwrap();
            let signed: Vec<bool> = validators.iter().map(|v| v.3).collect();
            let carried = collaterals(&stakes);

            let first = genesis(&stakes);
            let next = set(&scores, &old, &stakes, &signed, Dec::ppm(rho));
            for powers in [&first, &next] {
                prop_assert_eq!(powers.iter().sum::<u64>(), TOTAL);
                prop_assert!(powers.iter().zip(&carried).all(|(power, most)| power <= most));
            }
            let limit = feasible_cap(&carried).unwrap();
            prop_assert!(first.iter().all(|power| *power <= limit));
            prop_assert!(next.iter().zip(&old).all(|(power, old)| *power <= limit.max(*old)));
        }

        /// From the powers of one epoch to those of the next with the same stakes nobody moves by more than D of
        /// its power and of an equal share, so that at most D of all power moves.
        #[test]
        fn drift_is_bounded(validators in validators(), rho in 0u64..=1_000_000, epochs in 1usize..4) {
            let stakes: Vec<u128> = validators.iter().map(|v| v.0).collect();
            let scores: Vec<u128> = validators.iter().map(|v| v.1).collect();
            let signed: Vec<bool> = validators.iter().map(|v| v.3).collect();
            let mut old = genesis(&stakes);
            for _ in 0..epochs {
                let next = set(&scores, &old, &stakes, &signed, Dec::ppm(rho));
                let equal = TOTAL / stakes.len() as u64;
                for ((new, old), signed) in next.iter().zip(&old).zip(&signed) {
                    prop_assert!(new.abs_diff(*old) <= (old + equal) / 10);
                    prop_assert!(*signed || new <= old);
                }
                let moved: u64 = next.iter().zip(&old).map(|(new, old)| new.abs_diff(*old)).sum::<u64>() / 2;
                prop_assert!(moved <= TOTAL / 10);
                old = next;
            }
        }

        /// Whoever has stake and work reaches its share in the end, whatever it had before.
        #[test]
        fn nobody_starves(old in proptest::collection::vec(0u64..1_000_000, 4..30), who in any::<prop::sample::Index>()) {
            let n = old.len();
            let who = who.index(n);
            let mut powers = rescale(&old).unwrap();
            prop_assume!(powers.iter().sum::<u64>() == TOTAL);
            let fair = TOTAL / n as u64;
            for _ in 0..60 {
                powers = set(&vec![1_000_000; n], &powers, &vec![1_000_000; n], &vec![true; n], Dec::percent(20));
            }
            prop_assert!(powers[who] + 1 >= fair && powers[who] <= fair + 1, "{} of {}", powers[who], fair);
        }
    }
}
