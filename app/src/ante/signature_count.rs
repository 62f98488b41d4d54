//! The number of signatures.

use deepnode_core::{errors, Result};

use super::Checked;

pub fn check(checked: &Checked<'_>) -> Result<()> {
    let (got, limit) = (checked.signers.len(), checked.params.tx_sig_limit);
    if u64::try_from(got).is_ok_and(|got| got <= limit) {
        return Ok(());
    }
    Err(errors::too_many_signatures(format!("signatures: {got}, limit: {limit}")))
}
