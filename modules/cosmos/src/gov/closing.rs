//! What happens when time is up: drop, count, execute, and give the deposits back. All of it is bounded a block.

use deepnode_core::gas::GasMeter;
use deepnode_core::{authority, Any, Coin, Coins, Ctx, Error, Result, Time, Walk};

use super::params;
use super::state::*;
use super::tally::Verdict;
use super::{events, proposals};
use crate::bank;

/// Work of one block's end: votes counted with their delegations, deposits settled, votes deleted.
const WORK_A_BLOCK: usize = 10_000;
/// Proposals dropped a block for want of deposits.
const DROPPED_A_BLOCK: usize = 100;
/// What carrying out one proposal takes of a block's work.
const WORK_A_PROPOSAL: usize = 1_000;
/// Gas of one proposal's messages together. Nobody pays for it, so it is the bound.
pub(super) const GAS_A_PROPOSAL: u64 = 50_000_000;

pub(super) fn end_block(cx: &mut Ctx<'_>) -> Result<()> {
    drop_expired(cx)?;
    let mut budget = WORK_A_BLOCK;
    while budget > 0 && count_next(cx, &mut budget)? {}
    settle(cx, &mut budget)
}

/// The end of a queue whose entries are due at `now` or before.
fn next_instant(now: Time) -> (Time, u64) {
    (Time(now.0.saturating_add(1)), 0)
}

fn drop_expired(cx: &mut Ctx<'_>) -> Result<()> {
    let due: Vec<_> = DEPOSIT_QUEUE
        .iter_below(cx, &next_instant(cx.time()))
        .take(DROPPED_A_BLOCK)
        .collect::<Result<_>>()?;
    let burn = params(cx)?.burn_proposal_deposit_prevote;
    for (time, id) in due {
        DEPOSIT_QUEUE.remove(cx, &(time, id))?;
        PROPOSALS.remove(cx, &id)?;
        SETTLING.set(cx, &id, if burn { &Settlement::BURN } else { &Settlement::REFUND })?;
        cx.emit(events::dropped(id));
    }
    Ok(())
}

/// Counts the proposal whose vote ended first, and closes it if that was all of it. False if there is none.
fn count_next(cx: &mut Ctx<'_>, budget: &mut usize) -> Result<bool> {
    let mut tally = match RUNNING.get(cx)? {
        Some(tally) => tally,
        None => {
            let due = VOTING_QUEUE.iter_below(cx, &next_instant(cx.time())).next().transpose()?;
            let Some((_, id)) = due else { return Ok(false) };
            Tally::begin(cx, id)?
        }
    };
    let id = tally.proposal;
    let (voters, complete) = tally.count(cx, budget)?;
    for voter in voters {
        VOTES.remove(cx, &(id, voter))?;
    }
    if !complete {
        RUNNING.set(cx, &tally)?;
        return Ok(true);
    }
    RUNNING.remove(cx)?;
    *budget = budget.saturating_sub(WORK_A_PROPOSAL);
    close(cx, tally)?;
    Ok(true)
}

fn close(cx: &mut Ctx<'_>, tally: Tally) -> Result<()> {
    let id = tally.proposal;
    let mut proposal = proposals::known(cx, id)?;
    let params = params(cx)?;
    let (verdict, result) = tally.finish(&params)?;
    proposal.result = result;
    let burn = match verdict {
        Verdict::Passed | Verdict::Rejected => false,
        Verdict::NoQuorum => params.burn_vote_quorum,
        Verdict::Vetoed => params.burn_vote_veto,
    };
    let (status, outcome, log) = match verdict {
        Verdict::Passed => match execute(cx, &proposal)? {
            Ok(()) => (Status::Passed, "proposal_passed", "passed".to_string()),
            Err(reason) => (Status::Failed, "proposal_failed", reason),
        },
        _ => (Status::Rejected, "proposal_rejected", format!("{verdict:?}")),
    };
    if status == Status::Failed {
        proposal.failed_reason = log.clone();
    }
    proposal.status = status;
    if let Some((_, end)) = proposal.voting {
        VOTING_QUEUE.remove(cx, &(end, id))?;
    }
    PROPOSALS.set(cx, &id, &proposal)?;
    SETTLING.set(cx, &id, if burn { &Settlement::BURN } else { &Settlement::REFUND })?;
    cx.emit(events::closed(id, outcome, &log));
    Ok(())
}

/// Runs the messages, all or none; why they failed.
fn execute(cx: &mut Ctx<'_>, proposal: &Proposal) -> Result<std::result::Result<(), String>> {
    let before = cx.swap_gas(GasMeter::limited(GAS_A_PROPOSAL));
    let result = cx.fork(|cx| {
        for (at, message) in proposal.messages.iter().enumerate() {
            cx.router().run(cx, &authority(), &Any::from(message)).map_err(|e| match e {
                Error::Tx(mut e) => {
                    e.log = format!("message {at} ({}): {}", message.type_url, e.log);
                    Error::Tx(e)
                }
                fault => fault,
            })?;
        }
        Ok(())
    });
    cx.swap_gas(before);
    match result {
        Ok(()) => Ok(Ok(())),
        Err(Error::Tx(e)) => Ok(Err(e.log)),
        Err(fault) => Err(fault),
    }
}

/// Gives deposits back, or burns them, and forgets the votes of cancelled proposals.
fn settle(cx: &mut Ctx<'_>, budget: &mut usize) -> Result<()> {
    while *budget > 0 {
        let Some((id, settlement)) = SETTLING.iter(cx, Walk::FORWARD).next().transpose()? else {
            return Ok(());
        };
        let votes: Vec<_> = VOTES.iter_from(cx, &id, Walk::FORWARD).take(*budget).collect::<Result<_>>()?;
        *budget = budget.saturating_sub(votes.len());
        for (key, _) in votes {
            VOTES.remove(cx, &key)?;
        }
        let deposits: Vec<_> =
            DEPOSITS.iter_from(cx, &id, Walk::FORWARD).take(*budget).collect::<Result<_>>()?;
        *budget = budget.saturating_sub(deposits.len());
        for ((_, depositor), deposit) in deposits {
            let (mut kept, mut returned) = (Coins::new(), Coins::new());
            for coin in deposit.iter() {
                let charge = settlement.charge.of(coin.amount)?;
                kept.add(&Coin::new(charge, &coin.denom))?;
                returned.add(&Coin::new(coin.amount.saturating_sub(charge), &coin.denom))?;
            }
            match settlement.to {
                _ if kept.is_empty() => {}
                Some(to) => bank::send(cx, &authority(), &to, &kept)?,
                None => bank::burn(cx, &authority(), &kept)?,
            }
            if !returned.is_empty() {
                bank::send(cx, &authority(), &depositor, &returned)?;
            }
            DEPOSITS.remove(cx, &(id, depositor))?;
        }
        if *budget > 0 {
            SETTLING.remove(cx, &id)?;
            *budget = budget.saturating_sub(1);
        }
    }
    Ok(())
}
