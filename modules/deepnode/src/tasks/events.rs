//! Events of tasks: workers, gateways and explorers follow these.

use deepnode_core::{Address, Dec, Event};

use super::state::{Receipt, Settlement, Task};

/// 32 bytes in hex.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    hex::encode(bytes)
}

fn event(kind: &'static str, task: &Task) -> Event {
    Event::new(kind).with("task_id", task.id).with("model_id", hex(&task.model)).with("creator", task.creator)
}

pub(super) fn submitted(task: &Task) -> Event {
    event("task_submitted", task)
        .with("input_tokens", task.input_tokens)
        .with("max_output", task.max_output)
        .with("escrow", task.escrow)
        .with("draw_height", task.draw_height)
}

/// `last` is the last block in which the worker may accept.
pub(super) fn assigned(task: &Task, worker: &Address, last: u64) -> Event {
    event("task_assigned", task).with("worker", worker).with("accept_until", last)
}

pub(super) fn accepted(task: &Task, worker: &Address) -> Event {
    event("task_accepted", task).with("worker", worker).with("deadline_height", task.deadline_height)
}

pub(super) fn seeded(task: &Task, worker: &Address, seed: &[u8; 32]) -> Event {
    event("task_seeded", task).with("worker", worker).with("seed", hex(seed))
}

/// The worker lost the task: `declined`, `not_accepted` or `late`.
pub(super) fn lost(task: &Task, worker: &Address, reason: &'static str) -> Event {
    event("task_lost", task).with("worker", worker).with("reason", reason)
}

/// Evidence of lateness; `chance` is that of an audit, in proportion to which it counts.
pub(super) fn late(task: &Task, worker: &Address, chance: Dec) -> Event {
    event("task_late", task).with("worker", worker).with("chance", chance)
}

pub(super) fn receipt(task: &Task, worker: &Address, receipt: &Receipt, price: u128) -> Event {
    event("task_submitted_receipt", task)
        .with("worker", worker)
        .with("receipt_digest", hex(&receipt.digest))
        .with("result_digest", hex(&receipt.result_digest))
        .with("input_tokens", receipt.input_tokens)
        .with("output_tokens", receipt.output_tokens)
        .with("cu", task.cu)
        .with("price", price)
}

pub(super) fn settled(task: &Task, worker: &Address, s: &Settlement) -> Event {
    event("task_settled", task)
        .with("worker", worker)
        .with("price", s.price)
        .with("worker_part", s.worker)
        .with("owner_part", s.owner)
        .with("parent_part", s.parent)
        .with("burned", s.burned)
        .with("community", s.community)
        .with("levy", s.levy)
        .with("returned", s.returned)
}

/// The escrow of `amount` udn went back; the kind says why.
pub(super) fn refunded(kind: &'static str, task: &Task, amount: u128, reason: &'static str) -> Event {
    let worker = task.worker.map(|w| w.to_string()).unwrap_or_default();
    event(kind, task).with("worker", worker).with("amount", amount).with("reason", reason)
}
