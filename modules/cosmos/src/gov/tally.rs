//! Counting votes by bonded stake: who delegates may vote, and otherwise its validator does.

use deepnode_core::{Address, Dec, KvRead, Result, Walk};

use super::params::Params;
use super::state::{Choice, Seat, Tally, Vote, VOTES};
use crate::staking;

/// What a count says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Rejected,
    /// Rejected, because too little stake voted.
    NoQuorum,
    /// Rejected by veto.
    Vetoed,
}

impl Tally {
    /// A count of nothing yet, by the stake that is bonded now.
    pub(super) fn begin(kv: &(impl KvRead + ?Sized), proposal: u64) -> Result<Self> {
        let mut seats = Vec::new();
        for (operator, tokens) in staking::bonded(kv)? {
            let shares = staking::validator(kv, &operator)?.map(|v| v.shares).unwrap_or_default();
            seats.push(Seat { operator, tokens, shares, overridden: Dec::ZERO, vote: Vec::new() });
        }
        Ok(Tally { proposal, counts: [Dec::ZERO; 4], seats })
    }

    /// Counts the votes that are stored, until `budget` is used up; whose they were, and whether that was all. A
    /// vote costs 1, and 1 for each delegation of its voter.
    pub(super) fn count(
        &mut self,
        kv: &(impl KvRead + ?Sized),
        budget: &mut usize,
    ) -> Result<(Vec<Address>, bool)> {
        let mut counted = Vec::new();
        for entry in VOTES.iter_from(kv, &self.proposal, Walk::FORWARD) {
            if *budget == 0 {
                return Ok((counted, false));
            }
            let ((_, voter), vote) = entry?;
            let mut work = 1usize;
            for delegation in staking::delegations(kv, &voter) {
                let (operator, shares) = delegation?;
                work = work.saturating_add(1);
                let Some(seat) = self.seat(&operator) else { continue };
                seat.overridden = seat.overridden.checked_add(shares)?;
                let worth = seat.worth(shares)?;
                self.add(&vote.options, worth)?;
            }
            if let Some(seat) = self.seat(&voter) {
                seat.vote = vote.options;
            }
            counted.push(voter);
            *budget = budget.saturating_sub(work);
        }
        Ok((counted, true))
    }

    /// Adds what validators voted for those who did not, and decides. Final counts are whole udn.
    pub(super) fn finish(mut self, params: &Params) -> Result<(Verdict, [u128; 4])> {
        for seat in std::mem::take(&mut self.seats) {
            // Who delegated more since the count began overrides at most what there was.
            let rest = seat.shares.checked_sub(seat.overridden).unwrap_or_default();
            self.add(&seat.vote, seat.worth(rest)?)?;
            self.seats.push(seat);
        }
        Ok((self.verdict(params)?, self.counts.map(Dec::floor)))
    }

    fn verdict(&self, params: &Params) -> Result<Verdict> {
        let [yes, abstain, no, veto] = self.counts;
        let voted = yes.checked_add(abstain)?.checked_add(no)?.checked_add(veto)?;
        let bonded =
            self.seats.iter().try_fold(0u128, |sum, s| deepnode_core::num::amount::add(sum, s.tokens))?;
        if bonded == 0 || voted.div_int(bonded)? < params.quorum {
            return Ok(Verdict::NoQuorum);
        }
        let decided = voted.checked_sub(abstain)?;
        if decided.is_zero() {
            return Ok(Verdict::Rejected);
        }
        if veto.checked_div(voted)? > params.veto_threshold {
            return Ok(Verdict::Vetoed);
        }
        Ok(if yes.checked_div(decided)? > params.threshold { Verdict::Passed } else { Verdict::Rejected })
    }

    fn seat(&mut self, operator: &Address) -> Option<&mut Seat> {
        let at = self.seats.binary_search_by_key(operator, |s| s.operator).ok()?;
        self.seats.get_mut(at)
    }

    fn add(&mut self, options: &[(Choice, Dec)], worth: Dec) -> Result<()> {
        for (choice, weight) in options {
            if let Some(count) = self.counts.get_mut(choice.index()) {
                *count = count.checked_add(worth.checked_mul(*weight)?)?;
            }
        }
        Ok(())
    }
}

/// Refuses weights that do not sum to 1, are 0, or stand with the same choice twice.
pub(super) fn check_vote(vote: &Vote) -> Result<()> {
    use super::errors::invalid_vote;
    let mut sum = Dec::ZERO;
    for (at, (choice, weight)) in vote.options.iter().enumerate() {
        if weight.is_zero() || *weight > Dec::ONE {
            return Err(invalid_vote(format!("weight {weight} of {choice:?} must be above 0 and at most 1")));
        }
        if vote.options.iter().take(at).any(|(other, _)| other == choice) {
            return Err(invalid_vote(format!("duplicated vote option {choice:?}")));
        }
        sum = sum.checked_add(*weight)?;
    }
    if sum != Dec::ONE {
        return Err(invalid_vote(format!("total weight {sum} must be 1")));
    }
    Ok(())
}
