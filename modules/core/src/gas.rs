//! Gas: what a transaction pays for reading, writing and computing. The table is consensus.

use std::cell::Cell;

use crate::{errors, Result};

/// Gas of state access, as in the Cosmos SDK's KVGasConfig.
pub mod cost {
    pub const HAS: u64 = 1_000;
    pub const DELETE: u64 = 1_000;
    pub const READ: u64 = 1_000;
    /// A byte of key and value read.
    pub const READ_BYTE: u64 = 3;
    pub const WRITE: u64 = 2_000;
    /// A byte of key and value written.
    pub const WRITE_BYTE: u64 = 30;
    /// A step of a scan, besides its bytes.
    pub const ITER_STEP: u64 = 30;
}

/// Counts gas up to a limit. Reads charge through a shared reference, hence the cell.
#[derive(Clone, Debug)]
pub struct GasMeter {
    limit: Option<u64>,
    used: Cell<u64>,
}

impl GasMeter {
    /// A meter that refuses what exceeds `limit`.
    pub fn limited(limit: u64) -> Self {
        GasMeter { limit: Some(limit), used: Cell::new(0) }
    }

    /// A meter that only counts: block hooks, simulation, genesis.
    pub fn unlimited() -> Self {
        GasMeter { limit: None, used: Cell::new(0) }
    }

    /// Gas used so far; it may exceed the limit by the charge that was refused.
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    /// The limit; none for a meter that only counts.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Charges `amount`. `what` names the place in the error, code 11.
    pub fn consume(&self, amount: u64, what: &str) -> Result<()> {
        self.used.set(self.used.get().saturating_add(amount));
        match self.limit {
            Some(limit) if self.used.get() > limit => Err(errors::out_of_gas(what, limit, self.used.get())),
            _ => Ok(()),
        }
    }

    /// Charges `flat` and `per_byte` for each byte of both.
    pub(crate) fn bytes(&self, flat: u64, per_byte: u64, key: usize, value: usize, what: &str) -> Result<()> {
        let bytes = u64::try_from(key.saturating_add(value)).unwrap_or(u64::MAX);
        self.consume(flat.saturating_add(per_byte.saturating_mul(bytes)), what)
    }
}
