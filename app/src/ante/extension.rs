//! Extension options: none is known here, and a critical one must be.

use deepnode_core::{errors, Result};
use deepnode_tx::Tx;

pub fn check(tx: &Tx) -> Result<()> {
    match tx.body.extension_options.first() {
        Some(option) => Err(errors::unknown_extension_options(&option.type_url)),
        None => Ok(()),
    }
}
