//! Fields of messages and of genesis: read strictly, and refused by field, value and bound.

use std::fmt::Display;

use deepnode_core::{errors, Address, Error, Result};

/// An account, `dn1...`.
pub fn account(field: &str, text: &str) -> Result<Address> {
    Address::parse(text).map_err(|e| errors::invalid_address(format!("{field}: {e}")))
}

/// A validator by its operator, `dnvaloper1...`; the address is that of the operator's account.
pub fn operator(field: &str, text: &str) -> Result<Address> {
    Address::parse_operator(text).map_err(|e| errors::invalid_address(format!("{field}: {e}")))
}

/// A 32-byte digest.
pub fn digest(field: &str, bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| invalid(format!("{field} has {} bytes, must have 32", bytes.len())))
}

/// A 32-byte digest in lower-case hex.
pub fn hex_digest(field: &str, text: &str) -> Result<[u8; 32]> {
    let mut digest = [0; 32];
    if text.bytes().any(|b| b.is_ascii_uppercase()) || hex::decode_to_slice(text, &mut digest).is_err() {
        return Err(invalid(format!("{field} {:?} must be 64 lower-case hex digits", excerpt(text))));
    }
    Ok(digest)
}

/// A sub-message that must be there.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| invalid(format!("{field} is missing")))
}

/// min <= value <= max.
pub fn within<T: PartialOrd + Display>(field: &str, value: T, min: T, max: T) -> Result<()> {
    if min <= value && value <= max {
        return Ok(());
    }
    Err(invalid(format!("{field} is {value}, allowed are {min} to {max}")))
}

/// `min` to `max` bytes of printable ASCII (a space is printable).
pub fn printable(field: &str, text: &str, min: usize, max: usize) -> Result<()> {
    within(&format!("length of {field}"), text.len(), min, max)?;
    if text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Ok(());
    }
    Err(invalid(format!("{field} {:?} must be printable ASCII", excerpt(text))))
}

/// The beginning of a text that somebody sent: an error never grows with its input.
pub fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

fn invalid(text: String) -> Error {
    errors::invalid_request(text)
}
