//! What audits keeps, all of it in the store `audits`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Ctx, Dec, Map, Result, Sequence, Walk};

pub(super) const STORE: &str = "audits";

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
