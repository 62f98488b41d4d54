//! Parameters of tasks and their bounds.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{json, Dec, Error, KvRead, NumError, Result};
use deepnode_proto::deepnode::tasks::v1 as proto;
use serde::{Deserialize, Serialize};

use super::state::PARAMS;
use crate::params::{AuditParams, FeeParams};

/// Parameters of tasks; parts are in millionths.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Blocks in which an assignee must accept.
    #[serde(with = "json::text")]
    pub accept_blocks: u64,
    /// Blocks from the receipt until it is final, if it is not audited.
    #[serde(with = "json::text")]
    pub window_blocks: u64,
    /// Least deadline besides CU / class speed, and greatest; blocks from acceptance to the receipt.
    #[serde(with = "json::text")]
    pub min_deadline: u64,
    #[serde(with = "json::text")]
    pub max_deadline: u64,
    /// Times that a task is given to another worker before it is refunded.
    pub reassignments: u32,
    /// Greatest inline input, bytes.
    pub max_inline: u32,
    pub max_stops: u32,
    /// Greatest length of a stop string, bytes.
    pub max_stop_bytes: u32,
    /// Parts of the compute fee.
    pub burn_ppm: u32,
    pub community_ppm: u32,
    pub levy_min_ppm: u32,
    pub levy_max_ppm: u32,
    /// An auditor's fee, a part of the price.
    pub audit_fee_ppm: u32,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            accept_blocks: 10,
            window_blocks: 600,
            min_deadline: 10,
            max_deadline: 20_000,
            reassignments: 2,
            max_inline: 4_096,
            max_stops: 8,
            max_stop_bytes: 64,
            burn_ppm: 150_000,
            community_ppm: 50_000,
            levy_min_ppm: 50_000,
            levy_max_ppm: 500_000,
            audit_fee_ppm: 500_000,
        }
    }
}

impl Params {
    /// Where an epoch is ten blocks.
    pub fn localnet() -> Self {
        Params { window_blocks: 10, ..Self::default() }
    }

    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<()> {
        NumError::in_range("params.accept_blocks", self.accept_blocks, 1, 1_000)?;
        NumError::in_range("params.window_blocks", self.window_blocks, 3, 1_000_000)?;
        NumError::in_range("params.min_deadline", self.min_deadline, 3, 1_000_000)?;
        NumError::in_range("params.max_deadline", self.max_deadline, self.min_deadline, 1_000_000)?;
        NumError::in_range("params.reassignments", self.reassignments, 0, 20)?;
        NumError::in_range("params.max_inline", self.max_inline, 0, 65_536)?;
        NumError::in_range("params.max_stops", self.max_stops, 0, 64)?;
        NumError::in_range("params.max_stop_bytes", self.max_stop_bytes, 1, 1_024)?;
        NumError::in_range("params.audit_fee_ppm", self.audit_fee_ppm, 0, 1_000_000)?;
        Ok(self.fees().check()?)
    }

    /// As the mathematics of fees takes them; prices are those of the classes.
    pub(super) fn fees(&self) -> FeeParams {
        FeeParams {
            burn: Dec::ppm(self.burn_ppm.into()),
            community: Dec::ppm(self.community_ppm.into()),
            levy_min: Dec::ppm(self.levy_min_ppm.into()),
            levy_max: Dec::ppm(self.levy_max_ppm.into()),
            ..FeeParams::default()
        }
    }

    pub(super) fn audit_fee(&self) -> Dec {
        Dec::ppm(self.audit_fee_ppm.into())
    }

    pub(super) fn from_proto(p: &proto::Params) -> Self {
        Params {
            accept_blocks: p.accept_blocks,
            window_blocks: p.window_blocks,
            min_deadline: p.min_deadline,
            max_deadline: p.max_deadline,
            reassignments: p.reassignments,
            max_inline: p.max_inline,
            max_stops: p.max_stops,
            max_stop_bytes: p.max_stop_bytes,
            burn_ppm: p.burn_ppm,
            community_ppm: p.community_ppm,
            levy_min_ppm: p.levy_min_ppm,
            levy_max_ppm: p.levy_max_ppm,
            audit_fee_ppm: p.audit_fee_ppm,
        }
    }

    pub(super) fn to_proto(&self) -> proto::Params {
        proto::Params {
            accept_blocks: self.accept_blocks,
            window_blocks: self.window_blocks,
            min_deadline: self.min_deadline,
            max_deadline: self.max_deadline,
            reassignments: self.reassignments,
            max_inline: self.max_inline,
            max_stops: self.max_stops,
            max_stop_bytes: self.max_stop_bytes,
            burn_ppm: self.burn_ppm,
            community_ppm: self.community_ppm,
            levy_min_ppm: self.levy_min_ppm,
            levy_max_ppm: self.levy_max_ppm,
            audit_fee_ppm: self.audit_fee_ppm,
        }
    }
}

/// The parameters in force.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.get(kv)?.ok_or_else(|| Error::fault("tasks: no parameters"))
}

/// What the chance of an audit is computed with, as audits last told.
pub fn audit_params(kv: &(impl KvRead + ?Sized)) -> Result<AuditParams> {
    Ok(super::state::AUDIT_PARAMS.get(kv)?.unwrap_or_default())
}
