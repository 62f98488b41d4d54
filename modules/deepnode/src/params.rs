//! The numbers of the economy, all in one place: what each means, its unit, its default on a public network and
//! on a localnet, where an epoch is ten blocks. The modules keep them in state; governance changes them.
//!
//! `check` refuses a set that the mathematics cannot carry.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::num::{Dec, NumError};

/// Micro-units of one unit of evidence; micro-CU of one CU; udn of one DN.
pub const MICRO: u128 = 1_000_000;

/// An epoch ends after so many blocks or so much time, whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EpochParams {
    pub blocks: u64,
    /// Seconds of block time.
    pub max_duration: u64,
}

impl Default for EpochParams {
    fn default() -> Self {
        EpochParams { blocks: 720, max_duration: 2 * 60 * 60 }
    }
}

impl EpochParams {
    pub fn localnet() -> Self {
        EpochParams { blocks: 10, max_duration: 10 * 60 }
    }

    pub fn check(&self) -> Result<(), NumError> {
        NumError::in_range("epoch.blocks", self.blocks, 2, 1_000_000)?;
        NumError::in_range("epoch.max_duration", self.max_duration, 1, 30 * 24 * 60 * 60)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ReputationParams {
    /// Evidence at which R would be 1/2, in micro-units.
    pub kappa: u128,
    /// Epochs after which half of all evidence is forgotten.
    pub half_life: u64,
    /// An epoch's evidence counts at most kappa / ramp.
    pub ramp: u64,
    /// Passes that a wrong result outweighs.
    pub wrong: u64,
    /// The same of a late one.
    pub late: u64,
    /// The same of one whose worker could not be reached.
    pub unavailable: u64,
    /// The same of an audit that a validator missed.
    pub missed: u64,
    /// What one receipt weighs at most, in micro-units.
    pub max_weight: u128,
}

impl Default for ReputationParams {
    fn default() -> Self {
        ReputationParams {
            kappa: 500 * MICRO,
            half_life: 720,
            ramp: 24,
            wrong: 50,
            late: 3,
            unavailable: 5,
            missed: 5,
            max_weight: 10 * MICRO,
        }
    }
}

impl ReputationParams {
    pub fn localnet() -> Self {
        ReputationParams { kappa: 2 * MICRO, half_life: 100, ramp: 2, ..Self::default() }
    }

    pub fn check(&self) -> Result<(), NumError> {
        NumError::in_range("reputation.kappa", self.kappa, 1, 1_000_000 * MICRO)?;
        NumError::in_range("reputation.half_life", self.half_life, 1, 1_000_000)?;
        NumError::in_range("reputation.ramp", self.ramp, 1, 1_000_000)?;
        for (field, weight) in [
            ("reputation.wrong", self.wrong),
            ("reputation.late", self.late),
            ("reputation.unavailable", self.unavailable),
            ("reputation.missed", self.missed),
        ] {
            NumError::in_range(field, weight, 1, 1_000)?;
        }
        NumError::in_range("reputation.max_weight", self.max_weight, MICRO, 1_000 * MICRO)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ScoreParams {
    /// Epochs over which scores are averaged.
    pub tau: u64,
    /// Part of the CU of its audits that a validator is credited.
    pub audit_part: Dec,
    /// A draw among fewer workers, or workers of fewer validators, earns half the credit.
    pub full_draw_workers: u64,
    pub full_draw_validators: u64,
    /// How far rho moves an epoch at most.
    pub rho_step: Dec,
    /// Part of power that follows stake, at least.
    pub rho_min: Dec,
    /// Work at which rho reaches its minimum, in CU an epoch.
    pub target: u128,
}

impl Default for ScoreParams {
    fn default() -> Self {
        ScoreParams {
            tau: 168,
            audit_part: Dec::percent(25),
            full_draw_workers: 5,
            full_draw_validators: 3,
            rho_step: Dec::percent(1),
            rho_min: Dec::percent(20),
            target: 10_000_000_000_000,
        }
    }
}

impl ScoreParams {
    pub fn localnet() -> Self {
        ScoreParams {
            tau: 4,
            full_draw_workers: 3,
            full_draw_validators: 2,
            rho_step: Dec::percent(10),
            target: 10_000,
            ..Self::default()
        }
    }

    pub fn check(&self) -> Result<(), NumError> {
        NumError::in_range("score.tau", self.tau, 1, 1_000_000)?;
        part("score.audit_part", self.audit_part)?;
        part("score.rho_step", self.rho_step)?;
        part("score.rho_min", self.rho_min)?;
        NumError::in_range("score.target", self.target, 1, 1_000_000_000_000_000_000)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PowerParams {
    /// Power is at most this many times the share of stake. Below 2 floors could leave some of it to nobody.
    pub leverage: u64,
    /// Part of its power, and of an equal share, that a validator gains or loses an epoch.
    pub drift: Dec,
    /// How much the stake behind all power may grow an epoch, as counted by the leverage bound.
    pub base_growth: Dec,
    /// Who signed a smaller part of the epoch's blocks gains no power.
    pub min_signed: Dec,
}

impl Default for PowerParams {
    fn default() -> Self {
        PowerParams {
            leverage: 2,
            drift: Dec::percent(10),
            base_growth: Dec::percent(10),
            min_signed: Dec::percent(90),
        }
    }
}

impl PowerParams {
    pub fn localnet() -> Self {
        Self::default()
    }

    pub fn check(&self) -> Result<(), NumError> {
        NumError::in_range("power.leverage", self.leverage, 2, 1_000)?;
        NumError::in_range("power.drift", self.drift, Dec::ppm(1), Dec::ONE)?;
        part("power.base_growth", self.base_growth)?;
        part("power.min_signed", self.min_signed)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AuditParams {
    /// s: part of the price that a cheat saves.
    pub saving: Dec,
    /// d: chance that an audit finds a wrong result.
    pub detection: Dec,
    /// Part of the bond that a first conviction takes.
    pub slash: Dec,
    /// Every result is audited with at least this chance.
    pub p_min: Dec,
    /// alpha: an auditor's fee, a part of the audited price.
    pub fee: Dec,
    /// Above this chance a second auditor comes only with the chance `second_seat`.
    pub single_seat_above: Dec,
    pub second_seat: Dec,
    /// Members drawn after a dissent, and how many of them decide.
    pub committee: u64,
    pub committee_decides: u64,
    /// A draw without reveal is repeated so often; then the leaf is void.
    pub redraws: u64,
    /// An auditor's deposit in udn, and how many fees a wrong verdict takes of it.
    pub deposit: u128,
    pub wrong_verdict_fees: u64,
    /// Blocks: from the receipt until an undrawn one is final; to commit; to reveal; to answer a missing blob.
    pub window: u64,
    pub commit_blocks: u64,
    pub reveal_blocks: u64,
    pub answer_blocks: u64,
}

impl Default for AuditParams {
    fn default() -> Self {
        AuditParams {
            saving: Dec::percent(80),
            detection: Dec::percent(90),
            slash: Dec::percent(25),
            p_min: Dec::percent(2),
            fee: Dec::percent(50),
            single_seat_above: Dec::percent(50),
            second_seat: Dec::percent(25),
            committee: 9,
            committee_decides: 7,
            redraws: 3,
            deposit: 100 * MICRO,
            wrong_verdict_fees: 20,
            window: 600,
            commit_blocks: 100,
            reveal_blocks: 100,
            answer_blocks: 100,
        }
    }
}

impl AuditParams {
    pub fn localnet() -> Self {
        AuditParams { window: 10, commit_blocks: 20, reveal_blocks: 20, answer_blocks: 20, ..Self::default() }
    }

    pub fn check(&self) -> Result<(), NumError> {
        part("audit.saving", self.saving)?;
        NumError::in_range("audit.detection", self.detection, Dec::percent(1), Dec::ONE)?;
        part("audit.slash", self.slash)?;
        part("audit.p_min", self.p_min)?;
        part("audit.fee", self.fee)?;
        part("audit.single_seat_above", self.single_seat_above)?;
        part("audit.second_seat", self.second_seat)?;
        NumError::in_range("audit.committee", self.committee, 1, 100)?;
        let majority = (self.committee / 2).saturating_add(1);
        NumError::in_range("audit.committee_decides", self.committee_decides, majority, self.committee)?;
        NumError::in_range("audit.redraws", self.redraws, 0, 100)?;
        NumError::in_range("audit.wrong_verdict_fees", self.wrong_verdict_fees, 1, 1_000)?;
        for (field, blocks) in [
            ("audit.window", self.window),
            ("audit.commit_blocks", self.commit_blocks),
            ("audit.reveal_blocks", self.reveal_blocks),
            ("audit.answer_blocks", self.answer_blocks),
        ] {
            NumError::in_range(field, blocks, 2, 1_000_000)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FeeParams {
    pub burn: Dec,
    pub community: Dec,
    /// Bounds of the audit levy.
    pub levy_min: Dec,
    pub levy_max: Dec,
    /// Price of 10^6 CU in udn at which work earns full credit; the middle of the prices allowed.
    pub ref_price: Dec,
    /// How far a class's price moves a block.
    pub price_step: Dec,
    /// Prices lie between ref_price / range and ref_price * range.
    pub price_range: u64,
    /// Part of the proven capacity at whose use the price rests.
    pub target_use: Dec,
}

impl Default for FeeParams {
    fn default() -> Self {
        FeeParams {
            burn: Dec::percent(15),
            community: Dec::percent(5),
            levy_min: Dec::percent(5),
            levy_max: Dec::percent(50),
            ref_price: Dec::from_atomics(14 * Dec::SCALE),
            price_step: Dec::ppm(1_000),
            price_range: 10,
            target_use: Dec::percent(50),
        }
    }
}

impl FeeParams {
    pub fn localnet() -> Self {
        FeeParams {
            ref_price: Dec::from_atomics(14_000 * Dec::SCALE),
            price_step: Dec::percent(2),
            ..Self::default()
        }
    }

    pub fn check(&self) -> Result<(), NumError> {
        part("fee.burn", self.burn)?;
        part("fee.community", self.community)?;
        part("fee.levy_max", self.levy_max)?;
        NumError::in_range("fee.levy_min", self.levy_min, Dec::ZERO, self.levy_max)?;
        let taken = self.burn.checked_add(self.community)?.checked_add(self.levy_max)?;
        NumError::in_range("fee.burn + fee.community + fee.levy_max", taken, Dec::ZERO, Dec::ONE)?;
        NumError::in_range("fee.ref_price", self.ref_price, Dec::ppm(1), Dec::percent(100_000_000_000_000))?;
        part("fee.price_step", self.price_step)?;
        NumError::in_range("fee.price_range", self.price_range, 1, 1_000)?;
        NumError::in_range("fee.target_use", self.target_use, Dec::percent(1), Dec::percent(99))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EmissionParams {
    /// No more DN than this are ever minted, in udn.
    pub cap: u128,
    /// Part of what is left under the cap that an epoch may mint.
    pub rate: Dec,
    /// Parts of the schedule: stakers, canary tasks, community pool. The rest may be earned by work.
    pub validators: Dec,
    pub canaries: Dec,
    pub community: Dec,
    /// Minted for each udn burned by a receipt: to its worker (times R), its validator (times R_v), the model's
    /// owner. Together below 1, so that buying one's own work always loses.
    pub worker: Dec,
    pub backer: Dec,
    pub model: Dec,
}

impl Default for EmissionParams {
    fn default() -> Self {
        EmissionParams {
            cap: 100_000_000 * MICRO,
            rate: Dec::ppm(20),
            validators: Dec::percent(25),
            canaries: Dec::percent(25),
            community: Dec::percent(10),
            worker: Dec::percent(50),
            backer: Dec::percent(20),
            model: Dec::percent(10),
        }
    }
}

impl EmissionParams {
    pub fn localnet() -> Self {
        Self::default()
    }

    pub fn check(&self) -> Result<(), NumError> {
        NumError::in_range("emission.cap", self.cap, 1, 1_000_000_000_000 * MICRO)?;
        part("emission.rate", self.rate)?;
        let base = self.validators.checked_add(self.canaries)?.checked_add(self.community)?;
        part("emission.validators + emission.canaries + emission.community", base)?;
        let back = self.worker.checked_add(self.backer)?.checked_add(self.model)?;
        let field = "emission.worker + emission.backer + emission.model";
        NumError::in_range(field, back, Dec::ZERO, Dec::percent(99))
    }
}

/// A part of a whole: 0 to 1.
fn part(field: &'static str, value: Dec) -> Result<(), NumError> {
    NumError::in_range(field, value, Dec::ZERO, Dec::ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_networks_start_with_sound_numbers() {
        for result in [
            EpochParams::default().check(),
            EpochParams::localnet().check(),
            ReputationParams::default().check(),
            ReputationParams::localnet().check(),
            ScoreParams::default().check(),
            ScoreParams::localnet().check(),
            PowerParams::default().check(),
            PowerParams::localnet().check(),
            AuditParams::default().check(),
            AuditParams::localnet().check(),
            FeeParams::default().check(),
            FeeParams::localnet().check(),
            EmissionParams::default().check(),
            EmissionParams::localnet().check(),
        ] {
            assert_eq!(result, Ok(()));
        }
    }

    #[test]
    fn unsound_numbers_are_named() {
        let power = PowerParams { leverage: 1, ..PowerParams::default() };
        assert_eq!(power.check().unwrap_err().to_string(), "power.leverage is 1, allowed are 2 to 1000");
        let fee = FeeParams { levy_max: Dec::percent(81), ..FeeParams::default() };
        assert!(fee.check().unwrap_err().to_string().contains("fee.levy_max is 1.01"));
        let emission = EmissionParams { backer: Dec::percent(40), ..EmissionParams::default() };
        assert!(emission.check().is_err(), "wash compute must lose");
        let audit = AuditParams { committee_decides: 4, ..AuditParams::default() };
        assert_eq!(
            audit.check().unwrap_err().to_string(),
            "audit.committee_decides is 4, allowed are 5 to 9"
        );
    }
}
