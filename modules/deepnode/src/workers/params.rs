//! Parameters.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::num::amount;
use deepnode_core::{errors, Result};
use deepnode_proto::deepnode::workers::v1 as proto;

use crate::fields::within;
use crate::params::MICRO;

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Params {
    /// Least bond, udn.
    pub min_bond: u128,
    /// Blocks from the last open receipt until a leaving bond is paid out.
    pub unbonding_blocks: u64,
    /// Greatest number of models that a worker serves.
    pub max_models: u32,
    /// Epochs without heartbeat or receipt after which a worker is not drawn.
    pub max_idle_epochs: u64,
    /// Factor an epoch on proven capacity, millionths.
    pub proven_decay_ppm: u32,
}

impl Default for Params {
    /// Seven days of 10-second blocks.
    fn default() -> Self {
        Params {
            min_bond: 100 * MICRO,
            unbonding_blocks: 60_480,
            max_models: 16,
            max_idle_epochs: 2,
            proven_decay_ppm: 990_000,
        }
    }
}

impl Params {
    pub fn localnet() -> Self {
        Params { unbonding_blocks: 100, max_idle_epochs: 10, proven_decay_ppm: 900_000, ..Self::default() }
    }

    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<()> {
        within("params.min_bond", self.min_bond, 1, 1_000_000_000_000 * MICRO)?;
        within("params.unbonding_blocks", self.unbonding_blocks, 1, 10_000_000)?;
        // Every change of a bond touches all models served.
        within("params.max_models", self.max_models, 1, 64)?;
        within("params.max_idle_epochs", self.max_idle_epochs, 1, 1_000_000)?;
        within("params.proven_decay_ppm", self.proven_decay_ppm, 0, 1_000_000)
    }

    pub(super) fn from_proto(p: &proto::Params) -> Result<Self> {
        let min_bond = amount::parse(&p.min_bond)
            .map_err(|e| errors::invalid_request(format!("params.min_bond: {e}")))?;
        let params = Params {
            min_bond,
            unbonding_blocks: p.unbonding_blocks,
            max_models: p.max_models,
            max_idle_epochs: p.max_idle_epochs,
            proven_decay_ppm: p.proven_decay_ppm,
        };
        params.check()?;
        Ok(params)
    }

    pub(super) fn to_proto(&self) -> proto::Params {
        proto::Params {
            min_bond: self.min_bond.to_string(),
            unbonding_blocks: self.unbonding_blocks,
            max_models: self.max_models,
            max_idle_epochs: self.max_idle_epochs,
            proven_decay_ppm: self.proven_decay_ppm,
        }
    }
}
