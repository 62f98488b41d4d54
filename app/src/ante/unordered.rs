//! Unordered transactions: a nonce (timeout, signer) stands in for the sequence.

use deepnode_core::{errors, Ctx, Result};
use deepnode_cosmos::auth;

use super::{timeout, Checked};

/// How far ahead of the block's time a timeout may lie, in seconds: it bounds the nonces that must be remembered.
const MAX_AHEAD_SECS: u64 = 600;
/// Gas on top of storing the nonces: their removal in a later block.
const GAS: u64 = 2_240;

/// Uses up the nonce of each signer, also if the transaction's messages fail.
pub fn use_nonces(cx: &mut Ctx<'_>, checked: &Checked<'_>) -> Result<()> {
    let Some(timeout) = timeout::timestamp(checked.tx)? else {
        return Err(errors::invalid_request("unordered transaction must have timeout_timestamp set"));
    };
    // A timeout in the past was refused before.
    if timeout > cx.time().plus_secs(MAX_AHEAD_SECS) {
        return Err(errors::invalid_request("unordered tx ttl exceeds 10m0s"));
    }
    cx.consume_gas(GAS, "unordered tx")?;
    for signer in &checked.signers {
        if auth::nonce_used(cx, timeout, signer)? {
            let text = format!("already used timeout {} for address {signer}", timeout.0);
            return Err(errors::invalid_request(text));
        }
        auth::use_nonce(cx, timeout, signer)?;
    }
    Ok(())
}
