//! How often results are audited, by how many, and when their verdicts decide.

use crate::params::AuditParams;
use deepnode_core::draw::Stream;
use deepnode_core::num::{amount, Dec, NumError};

/// p: the chance that one of `count` receipts, together worth `total` udn, is audited:
/// clamp(max(3 s r / (d (slash B + r)), (1 - R)^2), p_min, 1) with r = total / count. Cheating then costs three
/// times what it saves, on average, and newcomers are audited always. `bond` = B is the part that is not leaving.
///
/// floor(floor(3 s total / (floor(slash count B) + total)) / d), each in 18 decimals.
pub fn audit_chance(
    total: u128,
    count: u64,
    bond: u128,
    reputation: Dec,
    params: &AuditParams,
) -> Result<Dec, NumError> {
    NumError::in_range("receipts", count, 1, u64::MAX)?;
    let at_stake = amount::add(params.slash.of(amount::mul(bond, count.into())?)?, total)?;
    let deterring = match at_stake {
        0 => Dec::ZERO,
        _ => params.saving.mul_int(3)?.mul_div(total, at_stake)?.checked_div(params.detection)?,
    };
    let unknown = reputation.min(Dec::ONE).complement()?;
    let learning = unknown.checked_mul(unknown)?;
    Ok(deterring.max(learning).max(params.p_min).min(Dec::ONE))
}

/// What may be pending for a worker, in udn: B (1 + 9 R^2), floored. More is not accepted from it.
pub fn pending_limit(bond: u128, reputation: Dec) -> Result<u128, NumError> {
    let square = reputation.checked_mul(reputation)?;
    amount::add(bond, square.mul_int(9)?.of(bond)?)
}

/// How many leaves of a settlement of `count` receipts are drawn: floor(count p), one more by the fraction's chance.
pub fn draws(count: u64, p: Dec, stream: &mut Stream) -> Result<u64, NumError> {
    let expected = p.mul_int(count.into())?;
    let more = u128::from(stream.chance(expected.fract().atomics(), Dec::SCALE));
    let draws = amount::add(expected.floor(), more)?;
    u64::try_from(draws).map_err(|_| NumError::OutOfRange {
        field: "draws",
        value: draws.to_string(),
        min: "0".into(),
        max: u64::MAX.to_string(),
    })
}

/// Seats of a first draw: two, or above p = 1/2 one and a second with a chance of 1/4; never more than
/// `eligible` auditors. 0: nobody is eligible, the caller lifts the exclusion.
pub fn first_seats(p: Dec, eligible: usize, stream: &mut Stream, params: &AuditParams) -> usize {
    let second = p <= params.single_seat_above || stream.chance(params.second_seat.atomics(), Dec::SCALE);
    eligible.min(if second { 2 } else { 1 })
}

/// k as the levy counts it: the expected number of first seats.
pub fn expected_seats(p: Dec, eligible: usize, params: &AuditParams) -> Result<Dec, NumError> {
    match eligible {
        0 | 1 => Ok(Dec::ONE),
        _ if p <= params.single_seat_above => Dec::from_int(2),
        _ => Dec::ONE.checked_add(params.second_seat),
    }
}

/// What a conviction takes of a worker's bond, in udn: a part, floored; all of it when it is the second within a
/// half-life.
pub fn slashed(bond: u128, again: bool, params: &AuditParams) -> Result<u128, NumError> {
    if again {
        return Ok(bond);
    }
    params.slash.min(Dec::ONE).of(bond)
}

/// Where slashed bond goes, in udn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlashSplit {
    /// To the users whose results were wrong, up to what they are owed.
    pub users: u128,
    /// To each of the auditors who found it.
    pub each_auditor: u128,
    /// Half, rounded up, and what cannot be shared out.
    pub burn: u128,
}

/// Splits `amount`: half is burned; of the other half users are made whole first, then the auditors share the rest
/// equally.
pub fn split_slashed(amount: u128, owed_to_users: u128, auditors: u64) -> SlashSplit {
    let half = amount / 2;
    let users = half.min(owed_to_users);
    let rest = half.saturating_sub(users);
    let each_auditor = rest.checked_div(auditors.into()).unwrap_or(0);
    let paid = users.saturating_add(each_auditor.saturating_mul(auditors.into()));
    SlashSplit { users, each_auditor, burn: amount.saturating_sub(paid) }
}

/// What a wrong verdict takes of an auditor's deposit, in udn: 20 fees, at most what is there.
pub fn wrong_verdict_penalty(deposit: u128, fee: u128, params: &AuditParams) -> u128 {
    deposit.min(fee.saturating_mul(params.wrong_verdict_fees.into()))
}

/// What one revealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
}

/// What follows from the reveals of a first draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRound {
    /// All who revealed found the result right and computed the same digest.
    Right,
    /// Not all right, or two digests differ: the worker's pay is frozen, a committee is drawn.
    Dissent,
    /// The only eligible auditor says wrong: one word convicts nobody, all auditors are asked.
    ToCourt,
    /// Nobody revealed: drawn again, or void after too many.
    NoReveal,
}

/// Compares what the first seats revealed: verdict and digest D of the layer that the beacon named.
pub fn first_round(reveals: &[(Verdict, [u8; 32])], eligible: usize) -> FirstRound {
    let Some((_, digest)) = reveals.first() else { return FirstRound::NoReveal };
    let alike = reveals.iter().all(|(verdict, d)| *verdict == Verdict::Right && d == digest);
    match (alike, eligible) {
        (true, _) => FirstRound::Right,
        (false, 0 | 1) => FirstRound::ToCourt,
        (false, _) => FirstRound::Dissent,
    }
}

/// Who decides after a dissent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committee {
    /// Members to draw besides those of the first draw.
    pub drawn: usize,
    /// Whether the first seats' verdicts count too.
    pub first_count: bool,
    /// Equal verdicts that decide.
    pub needed: usize,
}

/// The committee after a dissent among `first` seats with `left` other eligible auditors: nine, of whom seven
/// decide; fewer than nine: all of them and the first seats, of whom more than 2/3 decide.
pub fn committee(first: usize, left: usize, params: &AuditParams) -> Committee {
    let full = usize::try_from(params.committee).unwrap_or(usize::MAX);
    if left >= full {
        let needed = usize::try_from(params.committee_decides).unwrap_or(usize::MAX);
        return Committee { drawn: full, first_count: false, needed };
    }
    let seats = left.saturating_add(first);
    Committee { drawn: left, first_count: true, needed: more_than_two_thirds(seats as u128) as usize }
}

/// What a vote says. Seats that do not reveal count against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Right,
    Wrong,
    /// Neither has enough: a committee goes on to the court; of the court, the leaf is void and its user
    /// refunded.
    Undecided,
}

impl Committee {
    /// Decides by the number of equal verdicts, including the first seats' if they count.
    pub fn decide(&self, right: usize, wrong: usize) -> Decision {
        decide(right as u128, wrong as u128, self.needed as u128)
    }
}

/// The court: all auditors of the class by stake; more than 2/3 of `total` decide.
pub fn court(right: u128, wrong: u128, total: u128) -> Decision {
    decide(right, wrong, more_than_two_thirds(total))
}

fn decide(right: u128, wrong: u128, needed: u128) -> Decision {
    match (right >= needed, wrong >= needed) {
        (true, false) => Decision::Right,
        (false, true) => Decision::Wrong,
        _ => Decision::Undecided,
    }
}

/// The least whole number above 2/3 of `total`; at least 1.
fn more_than_two_thirds(total: u128) -> u128 {
    // 2 (3 q + r) / 3 = 2 q + 2 r / 3, without leaving the type.
    let (q, r) = (total / 3, total % 3);
    q.saturating_mul(2).saturating_add(r.saturating_mul(2) / 3).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params() -> AuditParams {
        AuditParams::default()
    }

    fn stream(id: u32) -> Stream {
        Stream::new(&[3; 32], "test", &id.to_le_bytes())
    }

    #[test]
    fn chances() {
        let dn = 1_000_000u128;
        let p = |total, count, bond, r| audit_chance(total, count, bond, r, &params()).unwrap();
        assert_eq!(p(dn, 1, 1000 * dn, Dec::ZERO), Dec::ONE);
        assert_eq!(p(dn, 1, 1000 * dn, Dec::percent(50)), Dec::percent(25));
        // 3 * 0.8 / (0.9 * (250 + 1)) = 0.0106 is below p_min; with a tenth of the bond it is 0.1026.
        assert_eq!(p(dn, 1, 1000 * dn, Dec::percent(95)).to_string(), "0.020000000000000000");
        assert_eq!(p(dn, 1, 100 * dn, Dec::percent(95)).to_string(), "0.102564102564102563");
        assert_eq!(p(7 * dn, 7, 100 * dn, Dec::percent(95)), p(dn, 1, 100 * dn, Dec::percent(95)));
        assert_eq!(p(dn, 1, 0, Dec::percent(95)), Dec::ONE);
        assert_eq!(p(0, 1, 0, Dec::percent(99)), Dec::percent(2));
        assert!(audit_chance(1, 0, 1, Dec::ONE, &params()).is_err());
        assert_eq!(pending_limit(100, Dec::ZERO), Ok(100));
        assert_eq!(pending_limit(100, Dec::percent(50)), Ok(325));
    }

    proptest! {
        #[test]
        fn cheating_on_everything_costs_three_times_what_it_saves(
            price in 1_000u128..1_000_000_000,
            bond in 0u128..1_000_000_000_000,
            r in 0u128..Dec::SCALE,
        ) {
            let p = audit_chance(price, 1, bond, Dec::from_atomics(r), &params()).unwrap();
            prop_assert!(params().p_min <= p && p <= Dec::ONE);
            let saved = params().saving.of(price * 3).unwrap();
            let lost = p.checked_mul(params().detection).unwrap().of(bond / 4 + price).unwrap();
            prop_assert!(p == Dec::ONE || lost + 2 >= saved, "{} < {}", lost, saved);
        }

        #[test]
        fn more_bond_or_reputation_is_never_audited_more(
            price in 0u128..1_000_000_000,
            (bond, more) in (0u128..1_000_000_000_000, 0u128..1_000_000_000),
            (r, better) in (0u128..Dec::SCALE / 2, 0u128..Dec::SCALE / 2),
        ) {
            let p = |bond, r| audit_chance(price, 1, bond, Dec::from_atomics(r), &params()).unwrap();
            prop_assert!(p(bond + more, r + better) <= p(bond, r));
        }

        #[test]
        fn at_most_one_verdict_decides(first in 1usize..3, left in 0usize..30, right in 0usize..40) {
            let committee = committee(first, left, &params());
            let seats = committee.drawn + if committee.first_count { first } else { 0 };
            prop_assert!(committee.needed <= seats && 2 * committee.needed > seats);
            let right = right.min(seats);
            let decision = committee.decide(right, seats - right);
            prop_assert_eq!(decision == Decision::Right, right >= committee.needed);
            prop_assert_eq!(decision == Decision::Wrong, seats - right >= committee.needed);
        }
    }

    #[test]
    fn draws_keep_the_expected_number() {
        let p = Dec::ppm(123_400);
        let total: u64 = (0..10_000).map(|id| draws(10, p, &mut stream(id)).unwrap()).sum();
        assert!(total.abs_diff(12_340) < 250, "{total}");
        assert_eq!(draws(7, Dec::ONE, &mut stream(0)), Ok(7));
        assert_eq!(draws(7, Dec::ZERO, &mut stream(0)), Ok(0));
        assert_eq!(draws(0, Dec::ONE, &mut stream(0)), Ok(0));
    }

    #[test]
    fn first_seats_follow_the_chance() {
        let seats = |p, eligible, id| first_seats(p, eligible, &mut stream(id), &params());
        assert_eq!([0, 1, 2, 9].map(|eligible| seats(Dec::percent(50), eligible, 0)), [0, 1, 2, 2]);
        let twice = (0..4_000).filter(|id| seats(Dec::percent(51), 9, *id) == 2).count();
        assert!(twice.abs_diff(1_000) < 120, "{twice}");
        assert_eq!(expected_seats(Dec::ONE, 9, &params()), Ok(Dec::percent(125)));
        assert_eq!(expected_seats(Dec::percent(2), 9, &params()), Ok(Dec::percent(200)));
        assert_eq!(expected_seats(Dec::percent(2), 1, &params()), Ok(Dec::ONE));
    }

    #[test]
    fn any_difference_is_dissent() {
        use Verdict::{Right, Wrong};
        assert_eq!(first_round(&[(Right, [1; 32]), (Right, [1; 32])], 5), FirstRound::Right);
        assert_eq!(first_round(&[(Right, [1; 32]), (Right, [2; 32])], 5), FirstRound::Dissent);
        assert_eq!(first_round(&[(Right, [1; 32]), (Wrong, [1; 32])], 5), FirstRound::Dissent);
        assert_eq!(first_round(&[(Wrong, [1; 32])], 5), FirstRound::Dissent);
        assert_eq!(first_round(&[(Wrong, [1; 32])], 1), FirstRound::ToCourt);
        assert_eq!(first_round(&[], 5), FirstRound::NoReveal);
    }

    #[test]
    fn slashed_bond_is_shared_out_whole() {
        assert_eq!((slashed(1003, false, &params()), slashed(1003, true, &params())), (Ok(250), Ok(1003)));
        assert_eq!(split_slashed(1001, 100, 3), SlashSplit { users: 100, each_auditor: 133, burn: 502 });
        assert_eq!(split_slashed(1000, 9999, 3), SlashSplit { users: 500, each_auditor: 0, burn: 500 });
        assert_eq!(split_slashed(1000, 0, 0), SlashSplit { users: 0, each_auditor: 0, burn: 1000 });
        assert_eq!(
            (wrong_verdict_penalty(100, 4, &params()), wrong_verdict_penalty(100, 9, &params())),
            (80, 100)
        );
    }

    #[test]
    fn committees_and_the_court() {
        let full = Committee { drawn: 9, first_count: false, needed: 7 };
        assert_eq!(committee(2, 9, &params()), full);
        assert_eq!(committee(2, 40, &params()), full);
        assert_eq!(committee(2, 8, &params()), Committee { drawn: 8, first_count: true, needed: 7 });
        assert_eq!(committee(2, 1, &params()), Committee { drawn: 1, first_count: true, needed: 3 });
        assert_eq!(full.decide(2, 7), Decision::Wrong);
        assert_eq!(full.decide(7, 2), Decision::Right);
        assert_eq!(full.decide(6, 3), Decision::Undecided);
        assert_eq!(court(66, 0, 99), Decision::Undecided);
        assert_eq!(court(67, 0, 99), Decision::Right);
        assert_eq!(court(0, 67, 100), Decision::Wrong);
        assert_eq!(court(0, 0, 0), Decision::Undecided);
        assert_eq!(court(u128::MAX, 0, u128::MAX), Decision::Right);
    }
}
