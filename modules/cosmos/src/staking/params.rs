//! Parameters and their bounds.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, Ctx, Dec, KvRead, Result, UDN};
use deepnode_proto::cosmos::staking::v1beta1 as proto;

use super::state::{PARAMS, POWER_PERIOD};
use crate::consensus;

/// Parameters of staking. The bond denom is always udn.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Params {
    /// Seconds from undelegating until the tokens arrive.
    pub unbonding_time: u64,
    /// Size of the bonded set.
    pub max_validators: u32,
    /// Unbonding entries of a delegator with a validator, and redelegations between two.
    pub max_entries: u32,
    /// Heights for which the set is kept for IBC clients.
    pub historical_entries: u32,
    /// Least commission that a validator may ask.
    pub min_commission_rate: Dec,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            unbonding_time: 21 * 24 * 3_600,
            max_validators: 100,
            max_entries: 7,
            historical_entries: 0,
            min_commission_rate: Dec::ZERO,
        }
    }
}

impl Params {
    /// Greatest bonded set: every block's end walks it.
    const MAX_VALIDATORS: u32 = 500;
    /// Greatest list that one slash, cancellation or payment rewrites.
    const MAX_ENTRIES: u32 = 100;
    /// A hundred years: times stay far from the end of their type.
    const MAX_UNBONDING_TIME: u64 = 100 * 365 * 24 * 3_600;

    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<()> {
        let bounds = [
            ("unbonding_time", self.unbonding_time, 1, Self::MAX_UNBONDING_TIME),
            ("max_validators", self.max_validators.into(), 1, Self::MAX_VALIDATORS.into()),
            ("max_entries", self.max_entries.into(), 1, Self::MAX_ENTRIES.into()),
            // No client reads them yet, and a promise that is not kept is worse than none.
            ("historical_entries", self.historical_entries.into(), 0, 0),
        ];
        for (field, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                return Err(errors::invalid_request(format!(
                    "params.{field} is {value}, allowed are {min} to {max}"
                )));
            }
        }
        if self.min_commission_rate > Dec::ONE {
            return Err(errors::invalid_request(format!(
                "params.min_commission_rate is {}, allowed are 0 to 1",
                self.min_commission_rate
            )));
        }
        Ok(())
    }

    /// Refuses an unbonding time that evidence can outlive: stake must not leave before the faults of the power that it
    /// gave are known, and that power stands until all are set anew.
    pub(super) fn check_evidence(&self, kv: &(impl KvRead + ?Sized)) -> Result<()> {
        // InitChain stores them before any module's genesis; a module on its own has none.
        let Some(consensus) = consensus::state::PARAMS.get(kv)? else { return Ok(()) };
        let (age, period) = (consensus.evidence.max_age_seconds(), POWER_PERIOD.get(kv)?.unwrap_or(0));
        let least = age.saturating_add(period);
        if self.unbonding_time < least {
            return Err(errors::invalid_request(format!(
                "params.unbonding_time is {}, at least {least} is allowed: evidence.max_age_duration {age} and the \
                 longest epoch {period}",
                self.unbonding_time
            )));
        }
        Ok(())
    }

    /// Reads the parameters of a message; bounds are for [`Params::check`].
    pub(super) fn from_proto(p: &proto::Params) -> Result<Self> {
        let time = p.unbonding_time.unwrap_or_default();
        let unbonding_time =
            u64::try_from(time.seconds).ok().filter(|_| time.nanos == 0).ok_or_else(|| {
                errors::invalid_request(format!("params.unbonding_time {time} must be whole seconds"))
            })?;
        check_denom(&p.bond_denom)?;
        let rate = if p.min_commission_rate.is_empty() { "0" } else { &p.min_commission_rate };
        let min_commission_rate = Dec::from_wire(rate)
            .map_err(|e| errors::invalid_request(format!("params.min_commission_rate: {e}")))?;
        Ok(Params {
            unbonding_time,
            max_validators: p.max_validators,
            max_entries: p.max_entries,
            historical_entries: p.historical_entries,
            min_commission_rate,
        })
    }

    pub(super) fn to_proto(&self) -> proto::Params {
        proto::Params {
            unbonding_time: Some(deepnode_proto::Duration {
                seconds: i64::try_from(self.unbonding_time).unwrap_or(i64::MAX),
                nanos: 0,
            }),
            max_validators: self.max_validators,
            max_entries: self.max_entries,
            historical_entries: self.historical_entries,
            bond_denom: UDN.into(),
            min_commission_rate: self.min_commission_rate.to_wire(),
        }
    }
}

/// Stake is udn and nothing else.
pub(super) fn check_denom(denom: &str) -> Result<()> {
    if denom == UDN {
        return Ok(());
    }
    let shown: String = denom.chars().take(40).collect();
    Err(errors::invalid_request(format!("params.bond_denom {shown:?} must be {UDN}")))
}

/// The parameters in force.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// Sets them after their checks, and bounds the age of evidence by them.
pub(super) fn set(cx: &mut Ctx<'_>, params: &Params) -> Result<()> {
    params.check()?;
    params.check_evidence(cx)?;
    PARAMS.set(cx, params)?;
    limit_evidence(cx)
}

/// The longest time, in seconds, that may pass until all powers are set anew: unbonding_time less the greatest age of
/// evidence. None before genesis has set both.
pub fn max_power_period(kv: &(impl KvRead + ?Sized)) -> Result<Option<u64>> {
    let (params, consensus) = (PARAMS.get(kv)?, consensus::state::PARAMS.get(kv)?);
    let both = params.zip(consensus);
    Ok(both.map(|(own, other)| own.unbonding_time.saturating_sub(other.evidence.max_age_seconds())))
}

/// Tells the longest time until all powers are set anew, at most [`max_power_period`]. Who sets powers comes later in
/// the order of modules, and calls this at genesis and whenever it changes.
pub fn set_power_period(cx: &mut Ctx<'_>, seconds: u64) -> Result<()> {
    POWER_PERIOD.set(cx, &seconds)?;
    limit_evidence(cx)
}

fn limit_evidence(cx: &mut Ctx<'_>) -> Result<()> {
    let Some(params) = PARAMS.get(cx)? else { return Ok(()) };
    let period = POWER_PERIOD.get(cx)?.unwrap_or(0);
    consensus::limit_evidence_age(cx, params.unbonding_time.saturating_sub(period))
}
