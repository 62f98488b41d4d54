//! Refusals of the codespace `audits`. Codes are consensus.

use std::fmt::Display;

use deepnode_core::{errors, Error};

use super::state::Phase;

fn refusal(code: u32, text: String) -> Error {
    errors::tx(super::state::STORE, code, text)
}

pub(super) fn not_found(id: u64) -> Error {
    refusal(2, format!("audit {id} does not exist"))
}

pub(super) fn not_drawn(id: u64, who: impl Display) -> Error {
    refusal(3, format!("audit {id}: {who} is not a member of its latest draw"))
}

pub(super) fn phase(id: u64, phase: Phase, end: u64, expected: &str) -> Error {
    refusal(4, format!("audit {id} is in phase {phase:?} until block {end}, it must be in {expected}"))
}

pub(super) fn already(id: u64, what: &str) -> Error {
    refusal(5, format!("audit {id}: {what}"))
}

pub(super) fn mismatch(field: &str, value: impl Display, expected: impl Display) -> Error {
    refusal(6, format!("{field} has digest {value}, it must be {expected}"))
}

pub(super) fn field(name: &str, value: impl Display, bound: impl Display) -> Error {
    refusal(7, format!("{name} is {value}, it must be {bound}"))
}

pub(super) fn not_validator(operator: impl Display) -> Error {
    refusal(8, format!("operator {operator} has no validator"))
}

pub(super) fn key_taken(key: impl Display, operator: impl Display) -> Error {
    refusal(9, format!("auditor {key} is the key of operator {operator}"))
}

pub(super) fn deposit(given: u128, min: u128) -> Error {
    refusal(10, format!("deposit is {given}udn with what is there, the least is {min}udn"))
}

pub(super) fn still_drawn(operator: impl Display, audit: u64) -> Error {
    refusal(11, format!("operator {operator} cannot retire while it is drawn for audit {audit}"))
}
