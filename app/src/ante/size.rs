//! Gas for the bytes of a transaction.

use deepnode_core::{Ctx, Result};
use deepnode_cosmos::auth;
use deepnode_tx::Tx;

use super::Mode;

/// Bytes that a signature adds to a transaction in which it is empty.
const SIGNATURE: usize = 64;
/// Bytes that a secp256k1 key adds to a signer info without one: the field, and the Any in it.
const PUBLIC_KEY: usize = 74;

/// In Simulate, what the client has not filled in yet counts as if it were there.
pub fn charge(cx: &Ctx<'_>, params: &auth::Params, tx: &Tx, mode: Mode) -> Result<()> {
    let mut size = tx.size;
    if mode == Mode::Simulate {
        let signatures = tx.signatures.iter().filter(|s| s.is_empty()).count();
        let keys = tx.auth_info.signer_infos.iter().filter(|info| info.public_key.is_none()).count();
        size = size.saturating_add(signatures.saturating_mul(SIGNATURE));
        size = size.saturating_add(keys.saturating_mul(PUBLIC_KEY));
    }
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    cx.consume_gas(params.tx_size_cost_per_byte.saturating_mul(size), "txSize")
}
