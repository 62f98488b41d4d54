//! The mathematics of PoWR, in whole numbers: from a final receipt to voting power.
//!
//! `credit` values a receipt, `scores` averages credits, `powers` turns scores and stake into the power that
//! CometBFT sees, `emission` says what is minted. All of them floor where they divide.

pub mod credit;
pub mod emission;
pub mod powers;
pub mod scores;

use deepnode_core::num::NumError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MathError {
    #[error(transparent)]
    Num(#[from] NumError),
    #[error("powers of {found} validators, allowed are 1 to {max}")]
    Validators { found: usize, max: u64 },
    #[error("the old powers sum to {found}, allowed are 0 and {total}")]
    OldPowers { found: u64, total: u64 },
    #[error("the collateral of all validators carries a power of {carried} of {total}")]
    Collateral { carried: u64, total: u64 },
}
