//! What the events of blocks tell those who follow them, and what has happened so far.

use std::collections::{BTreeMap, BTreeSet};

use deepnode_proto::tendermint_proto::v0_38::abci::{RequestFinalizeBlock, ResponseFinalizeBlock};
use deepnode_tx::{Address, Tx};

use crate::chain::{events, Attributes};

/// An audit that runs.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// The task of the receipt; none for a test vector.
    pub task: Option<u64>,
    pub worker: Option<Address>,
    pub draw: u64,
    pub phase: Phase,
    /// Keys of the latest draw.
    pub auditors: Vec<Address>,
    pub committed: BTreeSet<Address>,
    pub revealed: BTreeSet<Address>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Commit,
    Reveal,
    Missing,
}

/// The open things, and counts of all that happened.
#[derive(Default)]
pub struct Seen {
    pub tasks: BTreeSet<u64>,
    pub audits: BTreeMap<u64, Audit>,
    /// Proposals that are voted on or wait for deposits.
    pub proposals: BTreeSet<u64>,
    pub active_models: BTreeSet<[u8; 32]>,
    /// Events by kind; some also by what they say: `audit_closed.right`.
    pub events: BTreeMap<String, u64>,
    /// Transactions that took effect, by the type URL of each message.
    pub messages: BTreeMap<String, u64>,
    /// Transactions by codespace and code.
    pub codes: BTreeMap<(String, u32), u64>,
}

impl Seen {
    pub fn observe(&mut self, height: u64, request: &RequestFinalizeBlock, response: &ResponseFinalizeBlock) {
        for (bytes, result) in request.txs.iter().zip(&response.tx_results) {
            *self.codes.entry((result.codespace.clone(), result.code)).or_default() += 1;
            if result.code == 0 {
                for message in Tx::decode(bytes).unwrap().body.messages {
                    *self.messages.entry(message.type_url).or_default() += 1;
                }
            }
        }
        for (kind, attributes) in events(response) {
            self.event(kind, &attributes);
        }
        assert!(self.audits.values().all(|audit| audit.auditors.len() <= 100), "height {height}");
    }

    pub fn count(&self, event: &str) -> u64 {
        self.events.get(event).copied().unwrap_or(0)
    }

    fn event(&mut self, kind: &str, a: &Attributes<'_>) {
        *self.events.entry(kind.into()).or_default() += 1;
        for detail in ["outcome", "status", "proposal_result", "paid", "subject", "reason"] {
            if let Some(value) = a.get(detail) {
                *self.events.entry(format!("{kind}.{value}")).or_default() += 1;
            }
        }
        let id = |name: &str| a.get(name).and_then(|text| text.parse::<u64>().ok());
        let address = |name: &str| a.get(name).and_then(|text| Address::parse(text).ok());
        match kind {
            "task_submitted" => drop(self.tasks.insert(id("task_id").unwrap())),
            "task_settled" | "task_refunded" | "task_cancelled" | "task_convicted" | "task_void" => {
                assert!(self.tasks.remove(&id("task_id").unwrap()), "a task closes once");
            }
            "audit_opened" | "audit_drawn" => {
                let auditors = a["auditors"].split(',').filter_map(|key| Address::parse(key).ok());
                let audit = Audit {
                    task: id("task_id"),
                    worker: address("worker"),
                    draw: id("draw").unwrap(),
                    auditors: auditors.collect(),
                    ..Audit::default()
                };
                self.audits.insert(id("audit_id").unwrap(), audit);
            }
            "audit_revealing" => self.audit(id, |audit| audit.phase = Phase::Reveal),
            "audit_missing" => self.audit(id, |audit| audit.phase = Phase::Missing),
            "audit_shown" => self.audit(id, |audit| audit.phase = Phase::Commit),
            "audit_committed" => self.audit(id, |audit| audit.committed.extend(address("auditor"))),
            "audit_revealed" => self.audit(id, |audit| audit.revealed.extend(address("auditor"))),
            "audit_closed" => drop(self.audits.remove(&id("audit_id").unwrap())),
            "submit_proposal" => self.proposals.extend(id("proposal_id")),
            "active_proposal" | "inactive_proposal" | "cancel_proposal" => {
                self.proposals.remove(&id("proposal_id").unwrap());
            }
            "model_status" => {
                let mut model = [0; 32];
                hex::decode_to_slice(a["model"], &mut model).unwrap();
                match a["status"].ends_with("ACTIVE") {
                    true => self.active_models.insert(model),
                    false => self.active_models.remove(&model),
                };
            }
            _ => {}
        }
    }

    fn audit(&mut self, id: impl Fn(&str) -> Option<u64>, change: impl FnOnce(&mut Audit)) {
        if let Some(audit) = id("audit_id").and_then(|id| self.audits.get_mut(&id)) {
            change(audit);
        }
    }
}
