//! Proposals up to the end of their vote: submitting, paying in, voting, withdrawing.

use deepnode_core::{authority, errors, Address, Coin, Coins, Ctx, Dec, Error, KvRead, Result};

use super::state::*;
use super::{errors as refusals, events, params, tally};
use crate::bank;

/// The proposal number `id`.
pub fn proposal(kv: &(impl KvRead + ?Sized), id: u64) -> Result<Option<Proposal>> {
    PROPOSALS.get(kv, &id)
}

/// A proposal that a queue names.
pub(super) fn known(kv: &(impl KvRead + ?Sized), id: u64) -> Result<Proposal> {
    proposal(kv, id)?.ok_or_else(|| Error::fault(format!("gov: no proposal {id}")))
}

/// A proposal that a message names.
fn required(kv: &(impl KvRead + ?Sized), id: u64) -> Result<Proposal> {
    proposal(kv, id)?.ok_or_else(|| refusals::proposal_not_found(format!("proposal {id} doesn't exist")))
}

/// What a proposer says.
pub(super) struct Draft {
    pub messages: Vec<Message>,
    pub metadata: String,
    pub title: String,
    pub summary: String,
}

/// Submits a proposal with its first deposit; its number.
pub(super) fn submit(cx: &mut Ctx<'_>, proposer: Address, draft: Draft, deposit: &Coins) -> Result<u64> {
    for (at, message) in draft.messages.iter().enumerate() {
        // Whether it will succeed shows when it is executed; whether it ever can, now.
        cx.router().check(&authority(), &message.into()).map_err(|e| unfit(at, message, e))?;
    }
    let params = params(cx)?;
    for coin in params.min_deposit.iter() {
        let needed = params.min_initial_deposit_ratio.of_ceil(coin.amount)?;
        if deposit.amount_of(&coin.denom) < needed {
            return Err(refusals::deposit_too_small(format!("was {deposit}, need {needed}{}", coin.denom)));
        }
    }
    let id = NUMBERS.next(cx)?;
    let deposit_end = cx.time().plus_secs(params.max_deposit_period);
    let proposal = Proposal {
        messages: draft.messages,
        status: Status::DepositPeriod,
        result: [0; 4],
        submitted: cx.time(),
        deposit_end,
        deposit: Coins::new(),
        voting: None,
        metadata: draft.metadata,
        title: draft.title,
        summary: draft.summary,
        proposer,
        failed_reason: String::new(),
    };
    PROPOSALS.set(cx, &id, &proposal)?;
    DEPOSIT_QUEUE.insert(cx, &(deposit_end, id))?;
    cx.emit(events::submit_proposal(id, &proposal));
    if !deposit.is_empty() || !params.min_deposit_ratio.is_zero() {
        pay_in(cx, id, &proposer, deposit)?;
    }
    Ok(id)
}

/// The refusal of a message that cannot be part of a proposal.
fn unfit(at: usize, message: &Message, error: Error) -> Error {
    let Error::Tx(e) = error else { return error };
    let url: String = message.type_url.chars().take(100).collect();
    let text = format!("message {at} ({url}): {}", e.log);
    match (e.codespace, e.code) {
        ("sdk", 6) => refusals::unroutable_message(text),
        ("sdk", 4) => refusals::invalid_signer(text),
        _ => refusals::invalid_message(text),
    }
}

/// Adds to the deposit of a proposal; the vote begins when it suffices.
pub(super) fn pay_in(cx: &mut Ctx<'_>, id: u64, depositor: &Address, amount: &Coins) -> Result<()> {
    let mut proposal = required(cx, id)?;
    let waits = proposal.status == Status::DepositPeriod;
    if !waits && !proposal.is_voted_on(cx.time()) {
        return Err(refusals::inactive_proposal(id));
    }
    // The account that holds the deposits cannot pay into it: nothing would move.
    if *depositor == authority() {
        return Err(errors::unauthorized("the governance account cannot pay deposits"));
    }
    let params = params(cx)?;
    check_deposit(&params.min_deposit, params.min_deposit_ratio, amount)?;
    bank::send(cx, depositor, &authority(), amount)?;
    let mut of_depositor = DEPOSITS.get(cx, &(id, *depositor))?.unwrap_or_default();
    for coin in amount.iter() {
        proposal.deposit.add(&coin)?;
        of_depositor.add(&coin)?;
    }
    DEPOSITS.set(cx, &(id, *depositor), &of_depositor)?;
    cx.emit(events::deposit(id, depositor, amount));
    let suffices = params.min_deposit.iter().all(|c| proposal.deposit.amount_of(&c.denom) >= c.amount);
    if waits && suffices {
        let (start, end) = (cx.time(), cx.time().plus_secs(params.voting_period));
        proposal.status = Status::VotingPeriod;
        proposal.voting = Some((start, end));
        DEPOSIT_QUEUE.remove(cx, &(proposal.deposit_end, id))?;
        VOTING_QUEUE.insert(cx, &(end, id))?;
        cx.emit(events::voting_starts(id));
    }
    PROPOSALS.set(cx, &id, &proposal)
}

/// A deposit has only denoms of `min_deposit`, and of one of them at least `ratio` of what that asks.
fn check_deposit(min_deposit: &Coins, ratio: Dec, amount: &Coins) -> Result<()> {
    if let Some(coin) = amount.iter().find(|c| min_deposit.amount_of(&c.denom) == 0) {
        return Err(refusals::deposit_denom(format!("deposited {coin}, but governance takes {min_deposit}")));
    }
    let mut least = Coins::new();
    for coin in min_deposit.iter() {
        let needed = ratio.of_ceil(coin.amount)?;
        if amount.amount_of(&coin.denom) >= needed {
            return Ok(());
        }
        least.add(&Coin::new(needed, &coin.denom))?;
    }
    Err(refusals::deposit_too_small(format!(
        "received {amount} but need at least one of the following: {least}"
    )))
}

/// Votes, or changes the vote.
pub(super) fn vote(cx: &mut Ctx<'_>, id: u64, voter: &Address, vote: Vote) -> Result<()> {
    tally::check_vote(&vote)?;
    if !required(cx, id)?.is_voted_on(cx.time()) {
        return Err(refusals::inactive_proposal(id));
    }
    VOTES.set(cx, &(id, *voter), &vote)?;
    cx.emit(events::vote(id, voter, &vote));
    Ok(())
}

/// Withdraws a proposal of one's own before its vote is over, for a part of the deposits.
pub(super) fn cancel(cx: &mut Ctx<'_>, id: u64, proposer: &Address) -> Result<()> {
    let proposal = required(cx, id)?;
    if proposal.proposer != *proposer {
        return Err(refusals::invalid_proposer(format!("{proposer} did not propose {id}")));
    }
    match (proposal.status, proposal.voting) {
        (Status::DepositPeriod, _) => DEPOSIT_QUEUE.remove(cx, &(proposal.deposit_end, id))?,
        (Status::VotingPeriod, Some((_, end))) if cx.time() < end => VOTING_QUEUE.remove(cx, &(end, id))?,
        (Status::VotingPeriod, _) => return Err(refusals::voting_ended(id)),
        _ => return Err(refusals::invalid_proposal(format!("proposal {id} is closed"))),
    }
    let params = params(cx)?;
    let settlement = Settlement { charge: params.proposal_cancel_ratio, to: params.proposal_cancel_dest };
    SETTLING.set(cx, &id, &settlement)?;
    PROPOSALS.remove(cx, &id)?;
    cx.emit(events::cancel(id, proposer));
    Ok(())
}
