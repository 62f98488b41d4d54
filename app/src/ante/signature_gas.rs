//! Gas for verifying signatures, whether or not one was verified before.

use deepnode_core::{Ctx, Result};

use super::Checked;

pub fn charge(cx: &Ctx<'_>, checked: &Checked<'_>) -> Result<()> {
    // secp256k1 is the one kind of key that signs transactions.
    let cost = checked.params.sig_verify_cost_secp256k1;
    checked.signers.iter().try_for_each(|_| cx.consume_gas(cost, "ante verify: secp256k1"))
}
