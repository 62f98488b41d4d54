//! The length of the memo.

use deepnode_core::{errors, Result};
use deepnode_cosmos::auth;
use deepnode_tx::Tx;

pub fn check(params: &auth::Params, tx: &Tx) -> Result<()> {
    let (got, max) = (tx.body.memo.len(), params.max_memo_characters);
    if u64::try_from(got).is_ok_and(|got| got <= max) {
        return Ok(());
    }
    Err(errors::memo_too_large(format!(
        "maximum number of characters is {max} but received {got} characters"
    )))
}
