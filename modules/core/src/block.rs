//! What consensus tells the application about a block.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_tx::Address;

/// Nanoseconds since 1970, UTC. Block time, never a clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Time(pub u64);

impl Time {
    const NANOS: u64 = 1_000_000_000;

    /// Whole seconds since 1970.
    pub fn secs(self) -> u64 {
        self.0 / Self::NANOS
    }

    /// `seconds` later; the greatest time if that is out of range.
    pub fn plus_secs(self, seconds: u64) -> Self {
        Time(self.0.saturating_add(seconds.saturating_mul(Self::NANOS)))
    }

    /// As protobuf has it.
    pub fn to_proto(self) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: i64::try_from(self.secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(self.0 % Self::NANOS).unwrap_or(0),
        }
    }

    /// From protobuf; none before 1970 or beyond the year 2554.
    pub fn from_proto(t: &prost_types::Timestamp) -> Option<Self> {
        let nanos = u64::try_from(t.nanos).ok().filter(|n| *n < Self::NANOS)?;
        u64::try_from(t.seconds).ok()?.checked_mul(Self::NANOS)?.checked_add(nanos).map(Time)
    }
}

impl deepnode_store::Key for Time {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        u64::decode(bytes).map(Time)
    }
}

/// A validator's vote in the last commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Consensus address.
    pub validator: Address,
    pub power: u64,
    /// Whether its signature is in the commit (for the block or for nil).
    pub signed: bool,
}

/// Proof that a validator misbehaved, already verified by CometBFT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misbehavior {
    pub kind: MisbehaviorKind,
    /// Consensus address.
    pub validator: Address,
    pub height: u64,
    pub time: Time,
    pub power: u64,
    pub total_power: u64,
}

/// What CometBFT can prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MisbehaviorKind {
    DuplicateVote,
    LightClientAttack,
}

/// The block that is being executed, checked against or queried at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockInfo {
    pub chain_id: String,
    pub height: u64,
    pub time: Time,
    /// Consensus address of the proposer; all zero outside FinalizeBlock.
    pub proposer: Address,
    /// Hash of the block; all zero outside FinalizeBlock.
    pub hash: [u8; 32],
    pub votes: Vec<Vote>,
    pub misbehavior: Vec<Misbehavior>,
}
