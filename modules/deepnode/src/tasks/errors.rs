//! Refusals of the codespace `tasks`. Codes are consensus.

use deepnode_core::{errors, Address, Error};

use super::state::Status;

fn refusal(code: u32, text: String) -> Error {
    errors::tx(super::state::STORE, code, text)
}

pub(super) fn not_found(id: u64) -> Error {
    refusal(2, format!("task {id} does not exist"))
}

/// A field of a request or receipt is not what it must be.
pub(super) fn field(name: &str, value: impl std::fmt::Display, bound: impl std::fmt::Display) -> Error {
    refusal(3, format!("{name} is {value}, it must be {bound}"))
}

pub(super) fn model(id: &str, why: impl std::fmt::Display) -> Error {
    refusal(4, format!("model {id} {why}"))
}

pub(super) fn max_price(given: u128, fee: u128) -> Error {
    refusal(5, format!("max_price is {given}udn, the fee of the greatest input and output is {fee}udn"))
}

pub(super) fn status(id: u64, status: Status, expected: &str) -> Error {
    refusal(6, format!("task {id} is {status:?}, it must be {expected}"))
}

pub(super) fn not_party(id: u64, signer: &str, role: &str, party: Option<&Address>) -> Error {
    let party = party.map_or("nobody".into(), Address::to_string);
    refusal(7, format!("task {id}: {signer} is not its {role}, which is {party}"))
}

pub(super) fn too_late(id: u64, height: u64, last: u64) -> Error {
    refusal(8, format!("task {id}: block {height} is too late, the last was {last}"))
}

pub(super) fn too_early(id: u64, height: u64) -> Error {
    refusal(9, format!("task {id}: its seed is fixed after block {height} at the earliest"))
}

pub(super) fn pending_limit(worker: &str, pending: u128, more: u128, limit: u128) -> Error {
    refusal(10, format!("{worker} has {pending}udn pending, {more}udn more exceed its limit of {limit}udn"))
}
