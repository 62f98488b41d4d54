//! Parameters of audits and their bounds.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::num::amount;
use deepnode_core::{errors, json, Ctx, Dec, KvRead, NumError, Result};
use deepnode_proto::deepnode::audits::v1 as proto;
use serde::{Deserialize, Serialize};

use super::state::PARAMS;
use crate::params::AuditParams;
use crate::tasks;

/// Parameters of audits; parts and chances are in millionths. The window and an auditor's fee are parameters of tasks.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Blocks to commit, and again to reveal.
    #[serde(with = "json::text")]
    pub phase_blocks: u64,
    /// Blocks in which a worker must show what was reported missing.
    #[serde(with = "json::text")]
    pub missing_blocks: u64,
    /// Least chance of an audit.
    pub min_chance_ppm: u32,
    /// Part of the bond that a conviction takes.
    pub slash_ppm: u32,
    /// Part of the price that a cheat saves, and chance that an audit finds it.
    pub advantage_ppm: u32,
    pub detection_ppm: u32,
    /// First seats: 1, or 2 as the chance asks.
    pub auditors: u32,
    /// Members after a dissent, and how many of them decide.
    pub committee: u32,
    pub quorum: u32,
    /// Draws without an answer after which an audit is void.
    pub max_draws: u32,
    /// Least deposit, udn.
    #[serde(with = "json::text")]
    pub min_deposit: u128,
    /// Fees that a wrong verdict costs.
    pub wrong_verdict_fees: u32,
    /// Blocks after finality for which workers keep blobs.
    #[serde(with = "json::text")]
    pub retention_blocks: u64,
}

impl Default for Params {
    fn default() -> Self {
        let rules = AuditParams::default();
        Params {
            phase_blocks: rules.commit_blocks,
            missing_blocks: rules.answer_blocks,
            min_chance_ppm: 20_000,
            slash_ppm: 250_000,
            advantage_ppm: 800_000,
            detection_ppm: 900_000,
            auditors: 2,
            committee: 9,
            quorum: 7,
            max_draws: 4,
            min_deposit: rules.deposit,
            wrong_verdict_fees: 20,
            retention_blocks: 600,
        }
    }
}

impl Params {
    /// Where an epoch is ten blocks.
    pub fn localnet() -> Self {
        Params { phase_blocks: 20, missing_blocks: 20, retention_blocks: 20, ..Self::default() }
    }

    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<()> {
        NumError::in_range("params.auditors", self.auditors, 1, 2)?;
        NumError::in_range("params.max_draws", self.max_draws, 1, 100)?;
        NumError::in_range("params.min_deposit", self.min_deposit, 1, u128::from(u64::MAX))?;
        NumError::in_range("params.retention_blocks", self.retention_blocks, 1, 10_000_000)?;
        Ok(self.rules(&AuditParams::default()).check()?)
    }

    /// As the mathematics takes them; window and fee are those of `others`.
    fn rules(&self, others: &AuditParams) -> AuditParams {
        let single = self.auditors == 1;
        let ppm = |part: u32| Dec::ppm(part.into());
        AuditParams {
            saving: ppm(self.advantage_ppm),
            detection: ppm(self.detection_ppm),
            slash: ppm(self.slash_ppm),
            p_min: ppm(self.min_chance_ppm),
            single_seat_above: if single { Dec::ZERO } else { others.single_seat_above },
            second_seat: if single { Dec::ZERO } else { others.second_seat },
            committee: self.committee.into(),
            committee_decides: self.quorum.into(),
            redraws: u64::from(self.max_draws).saturating_sub(1),
            deposit: self.min_deposit,
            wrong_verdict_fees: self.wrong_verdict_fees.into(),
            commit_blocks: self.phase_blocks,
            reveal_blocks: self.phase_blocks,
            answer_blocks: self.missing_blocks,
            window: others.window,
            fee: others.fee,
        }
    }

    pub(super) fn from_proto(p: &proto::Params) -> Result<Self> {
        let min_deposit = amount::parse(&p.min_deposit)
            .map_err(|e| errors::invalid_request(format!("params.min_deposit: {e}")))?;
        let params = Params {
            phase_blocks: p.phase_blocks,
            missing_blocks: p.missing_blocks,
            min_chance_ppm: p.min_chance_ppm,
            slash_ppm: p.slash_ppm,
            advantage_ppm: p.advantage_ppm,
            detection_ppm: p.detection_ppm,
            auditors: p.auditors,
            committee: p.committee,
            quorum: p.quorum,
            max_draws: p.max_draws,
            min_deposit,
            wrong_verdict_fees: p.wrong_verdict_fees,
            retention_blocks: p.retention_blocks,
        };
        params.check()?;
        Ok(params)
    }

    pub(super) fn to_proto(&self) -> proto::Params {
        proto::Params {
            phase_blocks: self.phase_blocks,
            missing_blocks: self.missing_blocks,
            min_chance_ppm: self.min_chance_ppm,
            slash_ppm: self.slash_ppm,
            advantage_ppm: self.advantage_ppm,
            detection_ppm: self.detection_ppm,
            auditors: self.auditors,
            committee: self.committee,
            quorum: self.quorum,
            max_draws: self.max_draws,
            min_deposit: self.min_deposit.to_string(),
            wrong_verdict_fees: self.wrong_verdict_fees,
            retention_blocks: self.retention_blocks,
        }
    }
}

/// The parameters in force.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// All that the mathematics of audits needs, with the window and the fee that tasks has.
pub(super) fn rules(kv: &(impl KvRead + ?Sized)) -> Result<AuditParams> {
    let tasks = tasks::params(kv)?;
    let others = AuditParams {
        window: tasks.window_blocks,
        fee: Dec::ppm(tasks.audit_fee_ppm.into()),
        ..AuditParams::default()
    };
    Ok(PARAMS.load(kv)?.rules(&others))
}

/// Sets them, here and where the chance of an audit is computed.
pub(super) fn set(cx: &mut Ctx<'_>, params: &Params) -> Result<()> {
    PARAMS.set(cx, params)?;
    tasks::set_audit_params(cx, &rules(cx)?)
}
