//! What audits keeps, all of it in the store `audits`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{json, Address, Ctx, Dec, Error, Item, KvRead, Map, Result, Sequence, Set, Walk};
use serde::{Deserialize, Serialize};

use super::params::Params;

pub(super) const STORE: &str = "audits";

pub(super) const PARAMS: Item<Params> = Item::new(STORE, 0x01);
pub(super) const LAST_ID: Sequence = Sequence::new(STORE, 0x02);

/// By the validator's operator.
pub(super) const AUDITORS: Map<Address, Auditor> = Map::new(STORE, 0x11);
/// Operator by hot key.
pub(super) const BY_KEY: Map<Address, Address> = Map::new(STORE, 0x12);

pub(super) const AUDITS: Map<u64, Audit> = Map::new(STORE, 0x21);
/// (last block of its phase, audit) of every open audit.
pub(super) const PHASES: Set<(u64, u64)> = Set::new(STORE, 0x22);
/// Latest draw by (operator, audit), of those drawn for open audits.
pub(super) const SEATS: Map<(Address, u64), u32> = Map::new(STORE, 0x23);
/// The audit of a task.
pub(super) const BY_TASK: Map<u64, u64> = Map::new(STORE, 0x24);
/// The open audit of a model's test vector.
pub(super) const BY_MODEL: Map<[u8; 32], u64> = Map::new(STORE, 0x25);
/// What workers had to show for open audits.
pub(super) const SHOWN: Map<u64, Shown> = Map::new(STORE, 0x26);

/// (height, task): receipts that are final in that block's end.
pub(super) const FINAL_AT: Set<(u64, u64)> = Set::new(STORE, 0x31);
/// Open disputes by worker: as long as there is one, nothing of it becomes final.
pub(super) const FROZEN: Map<Address, u32> = Map::new(STORE, 0x32);
/// By worker.
pub(super) const CONVICTED: Map<Address, Convicted> = Map::new(STORE, 0x33);

/// A validator that audits.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auditor {
    /// Hot key that signs verdicts.
    #[serde(with = "json::text")]
    pub key: Address,
    /// Names of the classes that it recomputes; ascending.
    pub classes: Vec<String>,
    /// udn.
    #[serde(with = "json::text")]
    pub deposit: u128,
    /// Audits in which it stood, was overruled, did not answer.
    #[serde(with = "json::text")]
    pub stood: u64,
    #[serde(with = "json::text")]
    pub overruled: u64,
    #[serde(with = "json::text")]
    pub missed: u64,
}

/// What is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Subject {
    /// The receipt of this task.
    Receipt(u64),
    /// The test vector of the model.
    Vector,
}

/// What an audit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The beacon of a draw; its height is the phase's last block.
    Draw,
    Commit,
    Reveal,
    /// The worker has to show its blobs on chain.
    Missing,
    Closed,
}

/// How far a dispute went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Round {
    /// The first seats, drawn among so many; 0 if only the worker's own validator was left.
    First { eligible: u32 },
    /// After the dissent of draw `first`: whether that draw's verdicts count too, and how many equal ones decide.
    Committee { first: u32, first_count: bool, needed: u32 },
    /// All auditors of the class, by stake.
    Court,
}

/// What an auditor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Right,
    Wrong,
    /// Input or output could not be had; counts against the worker.
    Unavailable,
}

/// How an audit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Right,
    Wrong,
    /// As wrong.
    Withheld,
    /// Nobody could decide.
    Void,
}

/// One drawing of auditors.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// Height of the beacon's value that chose members and layer.
    #[serde(with = "json::text")]
    pub height: u64,
    #[serde(with = "super::genesis::digest")]
    pub beacon: [u8; 32],
}

/// A seat of a draw.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    #[serde(with = "json::text")]
    pub operator: Address,
    /// Its hot key: when drawn, then when it committed.
    #[serde(with = "json::text")]
    pub key: Address,
    /// Index of the draw.
    pub draw: u32,
    /// What its verdict weighs: 1, in the court its stake in udn.
    #[serde(with = "json::text")]
    pub weight: u128,
    #[serde(with = "super::genesis::commitment")]
    pub commitment: Option<[u8; 32]>,
    pub verdict: Option<Verdict>,
    /// D, or the trace root of a test vector; zero before the reveal.
    #[serde(with = "super::genesis::digest")]
    pub digest: [u8; 32],
}

/// An audit.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    #[serde(with = "json::text")]
    pub id: u64,
    pub subject: Subject,
    #[serde(with = "super::genesis::digest")]
    pub model: [u8; 32],
    /// Of the receipt; of a test vector the model's id.
    #[serde(with = "super::genesis::digest")]
    pub digest: [u8; 32],
    /// Whose receipt it is; a test vector has none.
    #[serde(with = "super::genesis::address")]
    pub worker: Option<Address>,
    pub class: String,
    #[serde(with = "json::text")]
    pub cu: u64,
    /// Chance with which the receipt was drawn.
    #[serde(with = "json::text")]
    pub chance: Dec,
    pub phase: Phase,
    /// Last block of the phase; 0 once closed.
    #[serde(with = "json::text")]
    pub phase_end: u64,
    pub round: Round,
    /// Draws of this round that nobody answered.
    pub unanswered: u32,
    pub draws: Vec<Draw>,
    pub members: Vec<Member>,
    /// Whether it is a dispute: the worker's pay is frozen.
    pub frozen: bool,
    /// The operator whose auditor reported missing blobs.
    #[serde(with = "super::genesis::address")]
    pub reporter: Option<Address>,
    pub outcome: Option<Outcome>,
    #[serde(with = "json::text")]
    pub opened_height: u64,
    #[serde(with = "json::text")]
    pub closed_height: u64,
    /// udn to each auditor whose verdict stands.
    #[serde(with = "json::text")]
    pub fee: u128,
}

/// Blobs on chain.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Shown {
    /// As the user sent it; empty if the task carries it.
    pub input: Vec<u8>,
    /// Token ids.
    pub output: Vec<u8>,
}

/// The last conviction of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Convicted {
    /// Receipts up to this height belong to the same offence.
    pub height: u64,
    /// Another offence within a half-life of reputation costs the whole bond.
    pub epoch: u64,
}

impl Audit {
    /// Index of the latest draw; 0 before the first.
    pub fn draw(&self) -> u32 {
        u32::try_from(self.draws.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Members of a draw.
    pub fn members_of(&self, draw: u32) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |m| m.draw == draw)
    }

    /// Members of the latest draw.
    pub fn current(&self) -> impl Iterator<Item = &Member> {
        self.members_of(self.draw())
    }

    /// The task whose receipt it is about.
    pub fn task(&self) -> Option<u64> {
        match self.subject {
            Subject::Receipt(task) => Some(task),
            Subject::Vector => None,
        }
    }

    /// Enters a phase that lasts through block `end`.
    pub(super) fn enter(&mut self, cx: &mut Ctx<'_>, phase: Phase, end: u64) -> Result<()> {
        if self.phase != Phase::Closed {
            PHASES.remove(cx, &(self.phase_end, self.id))?;
        }
        if phase != Phase::Closed {
            PHASES.insert(cx, &(end, self.id))?;
        }
        self.phase = phase;
        self.phase_end = end;
        Ok(())
    }

    /// Writes it.
    pub(super) fn save(&self, cx: &mut Ctx<'_>) -> Result<()> {
        AUDITS.set(cx, &self.id, self)
    }
}

/// The audit `id`; a fault if there is none.
pub(super) fn known(kv: &(impl KvRead + ?Sized), id: u64) -> Result<Audit> {
    AUDITS.get(kv, &id)?.ok_or_else(|| Error::fault(format!("audits: no audit {id}")))
}

/// A receipt that nothing can undo any more.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FinalReceipt {
    pub task: u64,
    pub worker: Address,
    /// Name of the model's class.
    pub class: String,
    pub cu: u64,
    /// Price that it was paid at, udn for 10^6 CU.
    pub price: Dec,
    /// Whether governance lists the model.
    pub scored: bool,
    /// Size of the draw that chose the worker.
    pub workers_in_draw: u32,
    /// Validators that these workers back.
    pub validators_in_draw: u32,
    /// The user chose the worker: no draw.
    pub user_chosen: bool,
}

/// A worker whose receipt was found wrong.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Conviction {
    pub worker: Address,
    /// Its reputation without and with the conviction; 0 takes the whole score.
    pub before: Dec,
    pub after: Dec,
}

/// An audit whose verdict stood.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AuditWork {
    /// The validator that audited.
    pub operator: Address,
    /// CU that it recomputed.
    pub cu: u64,
}

/// What later modules drain, first in, first out.
pub(super) struct Queue<T> {
    last: Sequence,
    entries: Map<u64, T>,
}

impl<T: BorshSerialize + BorshDeserialize> Queue<T> {
    const fn new(last: u8, entries: u8) -> Self {
        Queue { last: Sequence::new(STORE, last), entries: Map::new(STORE, entries) }
    }

    /// Appends an entry.
    pub(super) fn push(&self, cx: &mut Ctx<'_>, entry: &T) -> Result<()> {
        let at = self.last.next(cx)?;
        self.entries.set(cx, &at, entry)
    }

    /// All entries, oldest first.
    pub(super) fn iter<'a>(&'a self, kv: &'a (impl KvRead + ?Sized)) -> impl Iterator<Item = Result<T>> + 'a {
        self.entries.iter(kv, Walk::FORWARD).map(|entry| Ok(entry?.1))
    }

    /// Takes up to `max` entries off the front.
    pub(super) fn take(&self, cx: &mut Ctx<'_>, max: usize) -> Result<Vec<T>> {
        let front: Vec<(u64, T)> = self.entries.iter(cx, Walk::FORWARD).take(max).collect::<Result<_>>()?;
        front
            .into_iter()
            .map(|(at, entry)| {
                self.entries.remove(cx, &at)?;
                Ok(entry)
            })
            .collect()
    }
}

pub(super) const FINAL: Queue<FinalReceipt> = Queue::new(0x71, 0x72);
pub(super) const CONVICTIONS: Queue<Conviction> = Queue::new(0x73, 0x74);
pub(super) const AUDIT_WORK: Queue<AuditWork> = Queue::new(0x75, 0x76);
