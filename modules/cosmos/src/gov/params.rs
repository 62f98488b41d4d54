//! Parameters and their bounds.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, json, Address, Coin, Coins, Dec, KvRead, Result};
use deepnode_proto::cosmos::gov::v1 as proto;
use deepnode_proto::Duration;
use serde::{Deserialize, Serialize};

use super::state::PARAMS;

/// Parameters of governance. Those of expedited proposals are kept for clients; such proposals are refused.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// What starts the vote.
    #[serde(with = "json::coins")]
    pub min_deposit: Coins,
    /// Seconds.
    #[serde(with = "json::seconds")]
    pub max_deposit_period: u64,
    /// Seconds.
    #[serde(with = "json::seconds")]
    pub voting_period: u64,
    /// Part of the bonded stake that must vote.
    #[serde(with = "json::text")]
    pub quorum: Dec,
    /// More than this part of those who do not abstain must say yes.
    #[serde(with = "json::text")]
    pub threshold: Dec,
    /// More than this part of all votes stops it.
    #[serde(with = "json::text")]
    pub veto_threshold: Dec,
    /// Part of `min_deposit` that a proposal must come with.
    #[serde(with = "json::text")]
    pub min_initial_deposit_ratio: Dec,
    /// Part of the deposits that cancelling costs.
    #[serde(with = "json::text")]
    pub proposal_cancel_ratio: Dec,
    /// Who gets it; it is burned if nobody does.
    #[serde(with = "json::text_or_empty")]
    pub proposal_cancel_dest: Option<Address>,
    /// Seconds.
    #[serde(with = "json::seconds")]
    pub expedited_voting_period: u64,
    #[serde(with = "json::text")]
    pub expedited_threshold: Dec,
    #[serde(with = "json::coins")]
    pub expedited_min_deposit: Coins,
    /// Whether the deposits burn if there is no quorum.
    pub burn_vote_quorum: bool,
    /// Whether the deposits burn if they do not suffice in time.
    pub burn_proposal_deposit_prevote: bool,
    /// Whether the deposits burn if a veto stops it.
    pub burn_vote_veto: bool,
    /// Part of `min_deposit` that a single deposit must be.
    #[serde(with = "json::text")]
    pub min_deposit_ratio: Dec,
}

const DAY: u64 = 24 * 3_600;
/// Ten years: times stay far from the end of their type.
const MAX_PERIOD: u64 = 3_650 * DAY;

impl Default for Params {
    fn default() -> Self {
        Params {
            min_deposit: Coin::udn(100_000_000).into(),
            max_deposit_period: 2 * DAY,
            voting_period: 2 * DAY,
            quorum: Dec::ppm(334_000),
            threshold: Dec::percent(50),
            veto_threshold: Dec::ppm(334_000),
            min_initial_deposit_ratio: Dec::ZERO,
            proposal_cancel_ratio: Dec::percent(50),
            proposal_cancel_dest: None,
            expedited_voting_period: DAY,
            expedited_threshold: Dec::ppm(667_000),
            expedited_min_deposit: Coin::udn(500_000_000).into(),
            burn_vote_quorum: false,
            burn_proposal_deposit_prevote: false,
            burn_vote_veto: true,
            min_deposit_ratio: Dec::percent(1),
        }
    }
}

impl Params {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<()> {
        let periods = [
            ("max_deposit_period", self.max_deposit_period, MAX_PERIOD),
            ("voting_period", self.voting_period, MAX_PERIOD),
            // Shorter than the vote that it would shorten.
            ("expedited_voting_period", self.expedited_voting_period, self.voting_period.saturating_sub(1)),
        ];
        for (field, value, max) in periods {
            if !(1..=max).contains(&value) {
                return Err(refused(format!("{field} is {value}s, allowed are 1s to {max}s")));
            }
        }
        let smallest = Dec::from_atomics(1);
        let parts = [
            ("quorum", self.quorum, Dec::ZERO),
            ("threshold", self.threshold, smallest),
            ("veto_threshold", self.veto_threshold, smallest),
            ("expedited_threshold", self.expedited_threshold, self.threshold.checked_add(smallest)?),
            ("min_initial_deposit_ratio", self.min_initial_deposit_ratio, Dec::ZERO),
            ("proposal_cancel_ratio", self.proposal_cancel_ratio, Dec::ZERO),
            ("min_deposit_ratio", self.min_deposit_ratio, Dec::ZERO),
        ];
        for (field, value, min) in parts {
            if !(min..=Dec::ONE).contains(&value) {
                return Err(refused(format!("{field} is {value}, allowed are {min} to 1")));
            }
        }
        if self.min_deposit.is_empty() {
            return Err(refused("min_deposit must not be empty"));
        }
        if self.min_deposit.iter().any(|c| self.expedited_min_deposit.amount_of(&c.denom) <= c.amount) {
            return Err(refused(format!(
                "expedited_min_deposit {} must exceed min_deposit {}",
                self.expedited_min_deposit, self.min_deposit
            )));
        }
        Ok(())
    }

    /// Reads the parameters of a message; bounds are for [`Params::check`].
    pub(super) fn from_proto(p: &proto::Params) -> Result<Self> {
        let dest = &p.proposal_cancel_dest;
        let proposal_cancel_dest = (!dest.is_empty())
            .then(|| Address::parse(dest))
            .transpose()
            .map_err(|e| errors::invalid_address(format!("params.proposal_cancel_dest: {e}")))?;
        Ok(Params {
            min_deposit: Coins::from_proto("params.min_deposit", &p.min_deposit)?,
            max_deposit_period: seconds("max_deposit_period", p.max_deposit_period)?,
            voting_period: seconds("voting_period", p.voting_period)?,
            quorum: part("quorum", &p.quorum)?,
            threshold: part("threshold", &p.threshold)?,
            veto_threshold: part("veto_threshold", &p.veto_threshold)?,
            min_initial_deposit_ratio: part("min_initial_deposit_ratio", &p.min_initial_deposit_ratio)?,
            proposal_cancel_ratio: part("proposal_cancel_ratio", &p.proposal_cancel_ratio)?,
            proposal_cancel_dest,
            expedited_voting_period: seconds("expedited_voting_period", p.expedited_voting_period)?,
            expedited_threshold: part("expedited_threshold", &p.expedited_threshold)?,
            expedited_min_deposit: Coins::from_proto(
                "params.expedited_min_deposit",
                &p.expedited_min_deposit,
            )?,
            burn_vote_quorum: p.burn_vote_quorum,
            burn_proposal_deposit_prevote: p.burn_proposal_deposit_prevote,
            burn_vote_veto: p.burn_vote_veto,
            min_deposit_ratio: part("min_deposit_ratio", &p.min_deposit_ratio)?,
        })
    }

    /// As protobuf has it: gov v1 writes decimals with their point.
    pub(super) fn to_proto(&self) -> proto::Params {
        proto::Params {
            min_deposit: self.min_deposit.to_proto(),
            max_deposit_period: duration(self.max_deposit_period),
            voting_period: duration(self.voting_period),
            quorum: self.quorum.to_string(),
            threshold: self.threshold.to_string(),
            veto_threshold: self.veto_threshold.to_string(),
            min_initial_deposit_ratio: self.min_initial_deposit_ratio.to_string(),
            proposal_cancel_ratio: self.proposal_cancel_ratio.to_string(),
            proposal_cancel_dest: self.proposal_cancel_dest.map(|a| a.to_string()).unwrap_or_default(),
            expedited_voting_period: duration(self.expedited_voting_period),
            expedited_threshold: self.expedited_threshold.to_string(),
            expedited_min_deposit: self.expedited_min_deposit.to_proto(),
            burn_vote_quorum: self.burn_vote_quorum,
            burn_proposal_deposit_prevote: self.burn_proposal_deposit_prevote,
            burn_vote_veto: self.burn_vote_veto,
            min_deposit_ratio: self.min_deposit_ratio.to_string(),
        }
    }
}

fn refused(text: impl std::fmt::Display) -> deepnode_core::Error {
    errors::invalid_request(format!("params.{text}"))
}

fn seconds(field: &str, duration: Option<Duration>) -> Result<u64> {
    let duration = duration.unwrap_or_default();
    u64::try_from(duration.seconds)
        .ok()
        .filter(|_| duration.nanos == 0)
        .ok_or_else(|| refused(format!("{field} {duration} must be whole seconds")))
}

fn part(field: &str, text: &str) -> Result<Dec> {
    text.parse().map_err(|e| refused(format!("{field}: {e}")))
}

pub(super) fn duration(seconds: u64) -> Option<Duration> {
    Some(Duration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 })
}

/// The parameters in force.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}
