//! The gas meter of a transaction.

use deepnode_core::gas::GasMeter;
use deepnode_core::{errors, Ctx, Result};
use deepnode_cosmos::consensus;
use deepnode_tx::Tx;

use super::Mode;

/// Puts a meter with the transaction's limit in place and returns the limit, which a block must be able to hold.
pub fn set_meter(cx: &mut Ctx<'_>, tx: &Tx, mode: Mode) -> Result<u64> {
    // Read before the meter is set: what every transaction needs nobody pays.
    cx.swap_gas(GasMeter::unlimited());
    let max_gas = consensus::params(cx)?.block.max_gas;
    let limit = tx.auth_info.fee.as_ref().map_or(0, |fee| fee.gas_limit);
    if mode == Mode::Simulate {
        cx.swap_gas(GasMeter::unlimited());
        return Ok(limit);
    }
    cx.swap_gas(GasMeter::limited(limit));
    if limit == 0 {
        return Err(errors::invalid_gas_limit("must provide positive gas"));
    }
    if limit > max_gas {
        return Err(errors::invalid_gas_limit(format!(
            "tx gas limit {limit} exceeds block max gas {max_gas}"
        )));
    }
    Ok(limit)
}
