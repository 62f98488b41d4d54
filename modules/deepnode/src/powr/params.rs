//! Parameters of PoWR as messages, queries, state and genesis have them.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{json, Dec, Error, KvRead, NumError, Result};
use deepnode_proto::deepnode::powr::v1 as proto;
use serde::{Deserialize, Serialize};

use super::state::PARAMS;
use crate::params::{PowerParams, ScoreParams};

/// Parameters of PoWR; parts are in millionths.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Epochs over which scores are averaged.
    #[serde(with = "json::text")]
    pub tau: u64,
    /// Power is at most this many times the share of stake.
    pub collateral: u32,
    /// How much of all power moves an epoch at most.
    pub drift_percent: u32,
    /// Part of power that follows stake: at least, and how far it moves an epoch.
    pub rho_min_ppm: u32,
    pub rho_step_ppm: u32,
    /// Work at which rho reaches its minimum, CU an epoch.
    #[serde(with = "json::text")]
    pub target_cu: u64,
    /// Part of the CU of its audits that a validator is credited.
    pub audit_work_ppm: u32,
    /// A draw among fewer workers, or workers of fewer validators, earns half the credit.
    pub full_credit_workers: u32,
    pub full_credit_validators: u32,
    /// Who signed a smaller part of the epoch's blocks gains no power.
    pub min_signed_ppm: u32,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            tau: 168,
            collateral: 2,
            drift_percent: 10,
            rho_min_ppm: 200_000,
            rho_step_ppm: 10_000,
            target_cu: 10_000_000_000_000,
            audit_work_ppm: 250_000,
            full_credit_workers: 5,
            full_credit_validators: 3,
            min_signed_ppm: 900_000,
        }
    }
}

impl Params {
    /// Where an epoch is ten blocks.
    pub fn localnet() -> Self {
        Params {
            tau: 4,
            rho_step_ppm: 100_000,
            target_cu: 10_000,
            full_credit_workers: 3,
            full_credit_validators: 2,
            ..Self::default()
        }
    }

    /// Refuses what the mathematics cannot carry.
    pub fn check(&self) -> Result<()> {
        NumError::in_range("params.drift_percent", self.drift_percent, 1, 100)?;
        self.scores().check()?;
        Ok(self.powers().check()?)
    }

    pub(super) fn scores(&self) -> ScoreParams {
        ScoreParams {
            tau: self.tau,
            audit_part: Dec::ppm(self.audit_work_ppm.into()),
            full_draw_workers: self.full_credit_workers.into(),
            full_draw_validators: self.full_credit_validators.into(),
            rho_step: Dec::ppm(self.rho_step_ppm.into()),
            rho_min: Dec::ppm(self.rho_min_ppm.into()),
            target: self.target_cu.into(),
        }
    }

    pub(super) fn powers(&self) -> PowerParams {
        PowerParams {
            leverage: self.collateral.into(),
            drift: Dec::percent(self.drift_percent.into()),
            min_signed: Dec::ppm(self.min_signed_ppm.into()),
            ..PowerParams::default()
        }
    }

    pub(super) fn from_proto(p: &proto::Params) -> Self {
        Params {
            tau: p.tau,
            collateral: p.collateral,
            drift_percent: p.drift_percent,
            rho_min_ppm: p.rho_min_ppm,
            rho_step_ppm: p.rho_step_ppm,
            target_cu: p.target_cu,
            audit_work_ppm: p.audit_work_ppm,
            full_credit_workers: p.full_credit_workers,
            full_credit_validators: p.full_credit_validators,
            min_signed_ppm: p.min_signed_ppm,
        }
    }

    pub(super) fn to_proto(&self) -> proto::Params {
        proto::Params {
            tau: self.tau,
            collateral: self.collateral,
            drift_percent: self.drift_percent,
            rho_min_ppm: self.rho_min_ppm,
            rho_step_ppm: self.rho_step_ppm,
            target_cu: self.target_cu,
            audit_work_ppm: self.audit_work_ppm,
            full_credit_workers: self.full_credit_workers,
            full_credit_validators: self.full_credit_validators,
            min_signed_ppm: self.min_signed_ppm,
        }
    }
}

/// The parameters in force.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.get(kv)?.ok_or_else(|| Error::fault("powr: no parameters"))
}
