//! What holds without any state: known messages, and one signature for each signer.

use std::collections::BTreeSet;

use deepnode_core::{errors, Address, Messages, Result};
use deepnode_tx::Tx;

use super::refused;

/// Returns who must sign, each once, in order of appearance; the fee payer last unless it is among the others.
pub fn check(messages: &Messages, tx: &Tx) -> Result<Vec<Address>> {
    if tx.body.messages.is_empty() {
        return Err(errors::invalid_request("must contain at least one message"));
    }
    let (mut signers, mut seen) = (Vec::new(), BTreeSet::new());
    let mut add = |signer| {
        if seen.insert(signer) {
            signers.push(signer);
        }
    };
    for message in &tx.body.messages {
        messages.get(&message.type_url)?;
        deepnode_tx::signers(message).map_err(refused)?.into_iter().for_each(&mut add);
    }
    let payer = tx.auth_info.fee.as_ref().map_or("", |fee| fee.payer.as_str());
    if !payer.is_empty() {
        add(Address::parse(payer).map_err(|e| errors::invalid_address(format!("fee.payer: {e}")))?);
    }

    if tx.signatures.is_empty() {
        return Err(errors::tx("sdk", 15, "no signatures supplied"));
    }
    let expected = signers.len();
    for got in [tx.signatures.len(), tx.auth_info.signer_infos.len()] {
        if got != expected {
            return Err(errors::unauthorized(format!(
                "wrong number of signers; expected {expected}, got {got}"
            )));
        }
    }
    Ok(signers)
}
