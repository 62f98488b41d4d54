//! The genesis section: cosmos.staking's JSON, and besides it `genesis_validators`, which create validators out of
//! the operators' balances as their own messages would.

use deepnode_core::{errors, json, Address, Ctx, Dec, Error, KvRead, Result, Time, Walk, UDN};
use serde::{Deserialize, Serialize};

use super::state::*;
use super::{liability, msgs, params, validators, Params};

/// The whole section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: ParamsJson,
    #[serde(with = "json::text")]
    pub last_total_power: u64,
    pub last_validator_powers: Vec<PowerJson>,
    pub validators: Vec<ValidatorJson>,
    pub delegations: Vec<DelegationJson>,
    pub unbonding_delegations: Vec<UnbondingJson>,
    pub redelegations: Vec<RedelegationJson>,
    /// Validators to create; needs their operators' balances.
    pub genesis_validators: Vec<GenesisValidator>,
    pub exported: bool,
}

/// A validator that a network starts with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisValidator {
    pub moniker: String,
    /// The operator's account, `dn1...`.
    #[serde(with = "json::text")]
    pub operator: Address,
    /// ed25519.
    #[serde(with = "json::base64")]
    pub consensus_pubkey: [u8; 32],
    /// udn that the operator delegates to it.
    #[serde(with = "json::text")]
    pub self_delegation: u128,
    /// 0.1 if absent.
    #[serde(with = "json::text", default = "usual_commission")]
    pub commission_rate: Dec,
}

fn usual_commission() -> Dec {
    Dec::percent(10)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParamsJson {
    #[serde(with = "json::seconds")]
    pub unbonding_time: u64,
    pub max_validators: u32,
    pub max_entries: u32,
    pub historical_entries: u32,
    pub bond_denom: String,
    #[serde(with = "json::text")]
    pub min_commission_rate: Dec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerJson {
    #[serde(with = "json::operator")]
    pub address: Address,
    #[serde(with = "json::text")]
    pub power: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorJson {
    #[serde(with = "json::operator")]
    pub operator_address: Address,
    pub consensus_pubkey: KeyJson,
    pub jailed: bool,
    pub status: StatusJson,
    #[serde(with = "json::text")]
    pub tokens: u128,
    #[serde(with = "json::text")]
    pub delegator_shares: Dec,
    pub description: Description,
    #[serde(with = "json::text")]
    pub unbonding_height: u64,
    #[serde(with = "json::time")]
    pub unbonding_time: Time,
    pub commission: CommissionJson,
    #[serde(with = "json::text")]
    pub min_self_delegation: u128,
    /// Whether the key signed two blocks of a height; ours, the SDK keeps it in slashing.
    #[serde(default)]
    pub tombstoned: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "@type")]
pub enum KeyJson {
    #[serde(rename = "/cosmos.crypto.ed25519.PubKey")]
    Ed25519 {
        #[serde(with = "json::base64")]
        key: [u8; 32],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum StatusJson {
    #[serde(rename = "BOND_STATUS_UNBONDED")]
    Unbonded,
    #[serde(rename = "BOND_STATUS_UNBONDING")]
    Unbonding,
    #[serde(rename = "BOND_STATUS_BONDED")]
    Bonded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommissionJson {
    pub commission_rates: RatesJson,
    #[serde(with = "json::time")]
    pub update_time: Time,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesJson {
    #[serde(with = "json::text")]
    pub rate: Dec,
    #[serde(with = "json::text")]
    pub max_rate: Dec,
    #[serde(with = "json::text")]
    pub max_change_rate: Dec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegationJson {
    #[serde(with = "json::text")]
    pub delegator_address: Address,
    #[serde(with = "json::operator")]
    pub validator_address: Address,
    #[serde(with = "json::text")]
    pub shares: Dec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnbondingJson {
    #[serde(with = "json::text")]
    pub delegator_address: Address,
    #[serde(with = "json::operator")]
    pub validator_address: Address,
    pub entries: Vec<UnbondingEntryJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnbondingEntryJson {
    #[serde(with = "json::text")]
    pub creation_height: u64,
    #[serde(with = "json::time")]
    pub completion_time: Time,
    #[serde(with = "json::text")]
    pub initial_balance: u128,
    #[serde(with = "json::text")]
    pub balance: u128,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedelegationJson {
    #[serde(with = "json::text")]
    pub delegator_address: Address,
    #[serde(with = "json::operator")]
    pub validator_src_address: Address,
    #[serde(with = "json::operator")]
    pub validator_dst_address: Address,
    pub entries: Vec<RedelegationEntryJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedelegationEntryJson {
    #[serde(with = "json::text")]
    pub creation_height: u64,
    #[serde(with = "json::time")]
    pub completion_time: Time,
    #[serde(with = "json::text")]
    pub initial_balance: u128,
    #[serde(with = "json::text")]
    pub shares_dst: Dec,
}

impl Default for ParamsJson {
    fn default() -> Self {
        ParamsJson::from(&Params::default())
    }
}

impl From<&Params> for ParamsJson {
    fn from(p: &Params) -> Self {
        ParamsJson {
            unbonding_time: p.unbonding_time,
            max_validators: p.max_validators,
            max_entries: p.max_entries,
            historical_entries: p.historical_entries,
            bond_denom: UDN.into(),
            min_commission_rate: p.min_commission_rate,
        }
    }
}

impl ParamsJson {
    fn read(&self) -> Result<Params> {
        params::check_denom(&self.bond_denom)?;
        Ok(Params {
            unbonding_time: self.unbonding_time,
            max_validators: self.max_validators,
            max_entries: self.max_entries,
            historical_entries: self.historical_entries,
            min_commission_rate: self.min_commission_rate,
        })
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    let params = genesis.params.read()?;
    params::set(cx, &params)?;
    STARTED.set(cx, &false)?;
    for v in genesis.validators {
        read_validator(cx, v)?;
    }
    for d in genesis.delegations {
        let (delegator, operator) = (d.delegator_address, d.validator_address);
        once(DELEGATIONS.has(cx, &(delegator, operator))?, "delegations", &delegator)?;
        DELEGATIONS.set(cx, &(delegator, operator), &d.shares)?;
        DELEGATORS.insert(cx, &(operator, delegator))?;
    }
    for u in genesis.unbonding_delegations {
        read_unbonding(cx, u)?;
    }
    for r in genesis.redelegations {
        read_redelegation(cx, r)?;
    }
    // What was imported must add up before anything is built on it.
    super::invariants::check(cx).map_err(|e| refused(e.to_string()))?;
    for v in genesis.genesis_validators {
        create(cx, v)?;
    }
    validators::update_bonded_set(cx)?;
    for p in genesis.last_validator_powers {
        if !BONDED.has(cx, &p.address)? {
            return Err(refused(format!("last_validator_powers: {} is not bonded", p.address.to_operator())));
        }
        liability::set_power(cx, &p.address, p.power)?;
    }
    Ok(())
}

fn create(cx: &mut Ctx<'_>, v: GenesisValidator) -> Result<()> {
    let description = Description { moniker: v.moniker, ..Description::default() };
    let max_rate = v.commission_rate.max(Dec::percent(20));
    let commission = Commission {
        rate: v.commission_rate,
        max_rate,
        max_change_rate: Dec::percent(1),
        updated: cx.time(),
    };
    msgs::check_description(&description)?;
    msgs::check_commission(&commission)?;
    validators::create(cx, &v.operator, v.consensus_pubkey, description, commission, 1, v.self_delegation)
}

fn read_validator(cx: &mut Ctx<'_>, v: ValidatorJson) -> Result<()> {
    let operator = v.operator_address;
    let KeyJson::Ed25519 { key } = v.consensus_pubkey;
    let rates = v.commission.commission_rates;
    let validator = Validator {
        consensus_key: key,
        status: match v.status {
            StatusJson::Unbonded => Status::Unbonded,
            StatusJson::Unbonding => Status::Unbonding,
            StatusJson::Bonded => Status::Bonded,
        },
        jailed: v.jailed,
        tokens: v.tokens,
        shares: v.delegator_shares,
        commission: Commission {
            rate: rates.rate,
            max_rate: rates.max_rate,
            max_change_rate: rates.max_change_rate,
            updated: v.commission.update_time,
        },
        min_self_delegation: v.min_self_delegation,
        unbonding_height: v.unbonding_height,
        unbonding_time: v.unbonding_time,
    };
    msgs::check_description(&v.description)?;
    msgs::check_commission(&validator.commission)?;
    validators::insert(cx, &operator, &validator, &v.description)?;
    if v.tombstoned {
        if !v.jailed {
            return Err(refused(format!(
                "validators: {} is tombstoned and not jailed",
                operator.to_operator()
            )));
        }
        TOMBSTONES.insert(cx, &validator.consensus())?;
    }
    match validator.status {
        Status::Bonded => BONDED.insert(cx, &operator),
        Status::Unbonding => VALIDATOR_QUEUE.insert(cx, &(validator.unbonding_time, operator)),
        Status::Unbonded => Ok(()),
    }
}

fn read_unbonding(cx: &mut Ctx<'_>, u: UnbondingJson) -> Result<()> {
    let pair = (u.delegator_address, u.validator_address);
    once(UNBONDINGS.has(cx, &pair)?, "unbonding_delegations", &pair.0)?;
    let mut entries = Vec::new();
    for e in u.entries {
        UNBONDING_QUEUE.insert(cx, &(e.completion_time, pair.0, pair.1))?;
        entries.push(UnbondingEntry {
            height: e.creation_height,
            completion: e.completion_time,
            initial: e.initial_balance,
            balance: e.balance,
        });
    }
    UNBONDINGS.set(cx, &pair, &entries)?;
    UNBONDING_DELEGATORS.insert(cx, &(pair.1, pair.0))
}

fn read_redelegation(cx: &mut Ctx<'_>, r: RedelegationJson) -> Result<()> {
    let (delegator, from, to) = (r.delegator_address, r.validator_src_address, r.validator_dst_address);
    once(REDELEGATIONS.has(cx, &(delegator, from, to))?, "redelegations", &delegator)?;
    let mut entries = Vec::new();
    for e in r.entries {
        REDELEGATION_QUEUE.insert(cx, &(e.completion_time, delegator, from, to))?;
        entries.push(RedelegationEntry {
            height: e.creation_height,
            completion: e.completion_time,
            initial: e.initial_balance,
            shares: e.shares_dst,
        });
    }
    REDELEGATIONS.set(cx, &(delegator, from, to), &entries)?;
    REDELEGATIONS_FROM.insert(cx, &(from, delegator, to))?;
    REDELEGATIONS_TO.insert(cx, &(delegator, to, from))
}

/// Everything but liability: powers that genesis sets answer with the tokens of genesis.
pub(super) fn export(kv: &(impl KvRead + ?Sized)) -> Result<Genesis> {
    let mut genesis = Genesis {
        params: ParamsJson::from(&params(kv)?),
        last_total_power: liability::total_power(kv)?,
        exported: true,
        ..Genesis::default()
    };
    for (address, power) in liability::powers(kv)? {
        genesis.last_validator_powers.push(PowerJson { address, power });
    }
    for entry in VALIDATORS.iter(kv, Walk::FORWARD) {
        let (operator, v) = entry?;
        genesis.validators.push(write_validator(kv, operator, v)?);
    }
    for entry in DELEGATIONS.iter(kv, Walk::FORWARD) {
        let ((delegator_address, validator_address), shares) = entry?;
        genesis.delegations.push(DelegationJson { delegator_address, validator_address, shares });
    }
    for entry in UNBONDINGS.iter(kv, Walk::FORWARD) {
        let ((delegator_address, validator_address), entries) = entry?;
        let entries = entries.into_iter().map(|e| UnbondingEntryJson {
            creation_height: e.height,
            completion_time: e.completion,
            initial_balance: e.initial,
            balance: e.balance,
        });
        let entries = entries.collect();
        genesis.unbonding_delegations.push(UnbondingJson { delegator_address, validator_address, entries });
    }
    for entry in REDELEGATIONS.iter(kv, Walk::FORWARD) {
        let ((delegator_address, validator_src_address, validator_dst_address), entries) = entry?;
        let entries = entries.into_iter().map(|e| RedelegationEntryJson {
            creation_height: e.height,
            completion_time: e.completion,
            initial_balance: e.initial,
            shares_dst: e.shares,
        });
        genesis.redelegations.push(RedelegationJson {
            delegator_address,
            validator_src_address,
            validator_dst_address,
            entries: entries.collect(),
        });
    }
    Ok(genesis)
}

fn write_validator(kv: &(impl KvRead + ?Sized), operator: Address, v: Validator) -> Result<ValidatorJson> {
    Ok(ValidatorJson {
        tombstoned: validators::tombstoned(kv, &v.consensus())?,
        description: validators::description(kv, &operator)?,
        operator_address: operator,
        consensus_pubkey: KeyJson::Ed25519 { key: v.consensus_key },
        jailed: v.jailed,
        status: match v.status {
            Status::Unbonded => StatusJson::Unbonded,
            Status::Unbonding => StatusJson::Unbonding,
            Status::Bonded => StatusJson::Bonded,
        },
        tokens: v.tokens,
        delegator_shares: v.shares,
        unbonding_height: v.unbonding_height,
        unbonding_time: v.unbonding_time,
        commission: CommissionJson {
            commission_rates: RatesJson {
                rate: v.commission.rate,
                max_rate: v.commission.max_rate,
                max_change_rate: v.commission.max_change_rate,
            },
            update_time: v.commission.updated,
        },
        min_self_delegation: v.min_self_delegation,
    })
}

fn refused(text: String) -> Error {
    errors::invalid_request(format!("genesis of staking: {text}"))
}

fn once(twice: bool, list: &str, who: &Address) -> Result<()> {
    if twice {
        return Err(refused(format!("{list}: {who} appears twice with the same validators")));
    }
    Ok(())
}
