//! What governance keeps, all of it in the store `gov`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{json, Address, Any, Coins, Dec, Item, Map, Result, Sequence, Set, Time};
use serde::{Deserialize, Serialize};

use super::params::Params;

pub(super) const STORE: &str = "gov";

pub(super) const PARAMS: Item<Params> = Item::new(STORE, 0x01);
/// The last proposal's number.
pub(super) const NUMBERS: Sequence = Sequence::new(STORE, 0x02);
/// A text that the network agreed on.
pub(super) const CONSTITUTION: Item<String> = Item::new(STORE, 0x03);

pub(super) const PROPOSALS: Map<u64, Proposal> = Map::new(STORE, 0x11);
/// By (proposal, depositor), until it is settled.
pub(super) const DEPOSITS: Map<(u64, Address), Coins> = Map::new(STORE, 0x12);
/// By (proposal, voter), until it is counted.
pub(super) const VOTES: Map<(u64, Address), Vote> = Map::new(STORE, 0x13);

/// Proposals that wait for deposits, by the end of their wait.
pub(super) const DEPOSIT_QUEUE: Set<(Time, u64)> = Set::new(STORE, 0x21);
/// Proposals that are voted on, by the end of the vote.
pub(super) const VOTING_QUEUE: Set<(Time, u64)> = Set::new(STORE, 0x22);
/// The count that a block began and did not finish.
pub(super) const RUNNING: Item<Tally> = Item::new(STORE, 0x23);
/// Proposals whose deposits, and votes if they were cancelled, are still there.
pub(super) const SETTLING: Map<u64, Settlement> = Map::new(STORE, 0x24);

/// A proposal.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// Executed in order if it passes, each signed by the governance account.
    pub messages: Vec<Message>,
    pub status: Status,
    /// udn for each [`Choice`], once the vote is over.
    pub result: [u128; 4],
    pub submitted: Time,
    pub deposit_end: Time,
    pub deposit: Coins,
    /// Start and end of the vote, once the deposit suffices.
    pub voting: Option<(Time, Time)>,
    pub metadata: String,
    pub title: String,
    pub summary: String,
    pub proposer: Address,
    /// Why a message failed.
    pub failed_reason: String,
}

/// A message as `google.protobuf.Any`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub type_url: String,
    #[serde(with = "json::base64")]
    pub value: Vec<u8>,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub enum Status {
    #[serde(rename = "PROPOSAL_STATUS_DEPOSIT_PERIOD")]
    DepositPeriod,
    #[serde(rename = "PROPOSAL_STATUS_VOTING_PERIOD")]
    VotingPeriod,
    #[serde(rename = "PROPOSAL_STATUS_PASSED")]
    Passed,
    #[serde(rename = "PROPOSAL_STATUS_REJECTED")]
    Rejected,
    /// Passed, and one of its messages failed: none of them had an effect.
    #[serde(rename = "PROPOSAL_STATUS_FAILED")]
    Failed,
}

/// What one can vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub enum Choice {
    #[serde(rename = "VOTE_OPTION_YES")]
    Yes,
    #[serde(rename = "VOTE_OPTION_ABSTAIN")]
    Abstain,
    #[serde(rename = "VOTE_OPTION_NO")]
    No,
    #[serde(rename = "VOTE_OPTION_NO_WITH_VETO")]
    NoWithVeto,
}

/// A vote: choices with weights that sum to 1.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    pub options: Vec<(Choice, Dec)>,
    pub metadata: String,
}

/// A count in progress.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Tally {
    pub proposal: u64,
    /// udn for each [`Choice`].
    pub counts: [Dec; 4],
    /// The bonded validators when the count began, by operator.
    pub seats: Vec<Seat>,
}

/// A validator in a count.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Seat {
    pub operator: Address,
    pub tokens: u128,
    pub shares: Dec,
    /// Shares whose delegators voted for themselves.
    pub overridden: Dec,
    /// What it voted for the rest; empty if it did not.
    pub vote: Vec<(Choice, Dec)>,
}

/// What happens to the deposits of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Settlement {
    /// The part that is not returned.
    pub charge: Dec,
    /// Who gets that part; it is burned if nobody does.
    pub to: Option<Address>,
}

impl Choice {
    pub const ALL: [Choice; 4] = [Choice::Yes, Choice::Abstain, Choice::No, Choice::NoWithVeto];

    /// Its place in counts.
    pub fn index(self) -> usize {
        match self {
            Choice::Yes => 0,
            Choice::Abstain => 1,
            Choice::No => 2,
            Choice::NoWithVeto => 3,
        }
    }
}

impl Proposal {
    /// Whether votes count at `now`.
    pub fn is_voted_on(&self, now: Time) -> bool {
        self.status == Status::VotingPeriod && self.voting.is_some_and(|(_, end)| now < end)
    }
}

impl Settlement {
    pub(super) const REFUND: Self = Settlement { charge: Dec::ZERO, to: None };
    pub(super) const BURN: Self = Settlement { charge: Dec::ONE, to: None };
}

impl Seat {
    /// udn that `shares` are worth.
    pub(super) fn worth(&self, shares: Dec) -> Result<Dec> {
        if self.shares.is_zero() {
            return Ok(Dec::ZERO);
        }
        let tokens = Dec::from_int(self.tokens)?.atomics();
        let worth = deepnode_core::num::amount::mul_div(tokens, shares.atomics(), self.shares.atomics())?;
        Ok(Dec::from_atomics(worth))
    }
}

impl From<Any> for Message {
    fn from(any: Any) -> Self {
        Message { type_url: any.type_url, value: any.value }
    }
}

impl From<&Message> for Any {
    fn from(m: &Message) -> Self {
        Any { type_url: m.type_url.clone(), value: m.value.clone() }
    }
}
