//! Refusals of the codespace `gov`, with the codes and words of the Cosmos SDK.

use std::fmt::Display;

use deepnode_core::{errors, Error};

macro_rules! refusals {
    ($($name:ident = $code:literal, $text:literal;)*) => {$(
        pub(super) fn $name(what: impl Display) -> Error {
            errors::tx("gov", $code, format!("{what}: {}", $text))
        }
    )*};
}

refusals! {
    inactive_proposal = 3, "inactive proposal";
    invalid_vote = 7, "invalid vote option";
    unroutable_message = 10, "proposal message not recognized by router";
    no_messages = 11, "no messages proposed";
    invalid_message = 12, "invalid proposal message";
    invalid_signer = 13, "expected gov account as only signer for proposal message";
    metadata_too_long = 15, "metadata too long";
    deposit_too_small = 16, "minimum deposit is too small";
    proposal_not_found = 17, "proposal is not found";
    invalid_proposer = 18, "invalid proposer";
    voting_ended = 20, "voting period already ended";
    invalid_proposal = 21, "invalid proposal";
    summary_too_long = 22, "summary too long";
    deposit_denom = 23, "wrong deposit denom";
}
