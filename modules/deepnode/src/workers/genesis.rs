//! The genesis section. The module account must hold the bonds of the workers listed, which may back a validator from
//! the start.

use deepnode_core::{errors, json, Address, Ctx, KvRead, Result, Walk};
use serde::{Deserialize, Serialize};

use super::state::*;
use super::{account, msgs, offer, Params};
use crate::fields;
use deepnode_cosmos::bank;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: ParamsJson,
    pub workers: Vec<WorkerJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamsJson {
    #[serde(with = "json::text")]
    pub min_bond: u128,
    #[serde(with = "json::text")]
    pub unbonding_blocks: u64,
    pub max_models: u32,
    #[serde(with = "json::text")]
    pub max_idle_epochs: u64,
    pub proven_decay_ppm: u32,
}

/// A worker; what is left out is zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerJson {
    #[serde(with = "json::text")]
    pub address: Address,
    #[serde(with = "json::text")]
    pub bond: u128,
    #[serde(with = "json::text")]
    pub leaving: u128,
    #[serde(with = "json::text")]
    pub leaving_height: u64,
    /// Operator address; empty for none.
    pub validator: String,
    /// Operator address; empty for none.
    pub next_validator: String,
    /// 0: no consent yet.
    #[serde(with = "json::text")]
    pub next_epoch: u64,
    pub endpoint: String,
    pub hardware: String,
    #[serde(with = "json::text")]
    pub declared: u64,
    #[serde(with = "json::text")]
    pub proven: u64,
    #[serde(with = "json::text")]
    pub proven_epoch: u64,
    #[serde(with = "json::text")]
    pub last_seen: u64,
    #[serde(with = "json::text")]
    pub heartbeat: u64,
    #[serde(with = "json::text")]
    pub open_tasks: u64,
    #[serde(with = "json::text")]
    pub pending_pay: u128,
    #[serde(with = "json::text")]
    pub registered_height: u64,
    /// Hex.
    pub models: Vec<String>,
    pub barred: bool,
}

impl Default for Genesis {
    fn default() -> Self {
        Genesis::new(&Params::default())
    }
}

impl Genesis {
    /// No workers, with these parameters.
    pub fn new(p: &Params) -> Self {
        let params = ParamsJson {
            min_bond: p.min_bond,
            unbonding_blocks: p.unbonding_blocks,
            max_models: p.max_models,
            max_idle_epochs: p.max_idle_epochs,
            proven_decay_ppm: p.proven_decay_ppm,
        };
        Genesis { params, workers: Vec::new() }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    let p = genesis.params;
    let params = Params {
        min_bond: p.min_bond,
        unbonding_blocks: p.unbonding_blocks,
        max_models: p.max_models,
        max_idle_epochs: p.max_idle_epochs,
        proven_decay_ppm: p.proven_decay_ppm,
    };
    params.check()?;
    PARAMS.set(cx, &params)?;
    let mut bonds = 0u128;
    for worker in genesis.workers {
        bonds = bonds.saturating_add(worker.bond).saturating_add(worker.leaving);
        add(cx, worker, &params)?;
    }
    let held = bank::balance_udn(cx, &account())?;
    if held != bonds {
        return Err(errors::invalid_request(format!(
            "genesis workers: bonds are {bonds} udn, the balance of {} is {held} udn",
            account()
        )));
    }
    Ok(())
}

fn add(cx: &mut Ctx<'_>, json: WorkerJson, params: &Params) -> Result<()> {
    let address = json.address;
    if WORKERS.has(cx, &address)? {
        return Err(errors::invalid_request(format!("genesis workers: {address} appears twice")));
    }
    msgs::check_profile(&json.endpoint, &json.hardware, json.declared)?;
    let next = optional("genesis workers.next_validator", &json.next_validator)?;
    let worker = Worker {
        status: match json.barred {
            true => Status::Barred,
            false if json.bond >= params.min_bond => Status::Active,
            false => Status::Inactive,
        },
        bond: json.bond,
        leaving: json.leaving,
        leaving_height: json.leaving_height,
        validator: optional("genesis workers.validator", &json.validator)?,
        next: next
            .map(|validator| Next { validator, epoch: (json.next_epoch > 0).then_some(json.next_epoch) }),
        declared: json.declared,
        proven: json.proven,
        proven_epoch: json.proven_epoch,
        last_seen: json.last_seen,
        heartbeat: json.heartbeat,
        open_tasks: json.open_tasks,
        pending_pay: json.pending_pay,
        registered_height: json.registered_height,
    };
    let mut models: Vec<_> = (json.models.iter())
        .map(|id| fields::hex_digest("genesis workers.models", id))
        .collect::<Result<_>>()?;
    models.sort_unstable();
    models.dedup();
    if worker.leaving > 0 {
        LEAVING.insert(cx, &(worker.leaving_height, address))?;
    }
    WORKERS.set(cx, &address, &worker)?;
    offer(cx, &address, &worker, &models)?;
    PROFILES.set(cx, &address, &Profile { endpoint: json.endpoint, hardware: json.hardware, models })
}

fn optional(field: &str, text: &str) -> Result<Option<Address>> {
    if text.is_empty() {
        return Ok(None);
    }
    fields::operator(field, text).map(Some)
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let mut genesis = Genesis::new(&PARAMS.load(kv)?);
    let operator = |validator: Option<Address>| validator.map(|v| v.to_operator()).unwrap_or_default();
    for entry in WORKERS.iter(kv, Walk::FORWARD) {
        let (address, w) = entry?;
        let profile = super::profile(kv, &address)?;
        genesis.workers.push(WorkerJson {
            address,
            bond: w.bond,
            leaving: w.leaving,
            leaving_height: w.leaving_height,
            validator: operator(w.validator),
            next_validator: operator(w.next.map(|next| next.validator)),
            next_epoch: w.next.and_then(|next| next.epoch).unwrap_or(0),
            endpoint: profile.endpoint,
            hardware: profile.hardware,
            declared: w.declared,
            proven: w.proven,
            proven_epoch: w.proven_epoch,
            last_seen: w.last_seen,
            heartbeat: w.heartbeat,
            open_tasks: w.open_tasks,
            pending_pay: w.pending_pay,
            registered_height: w.registered_height,
            models: profile.models.iter().map(hex::encode).collect(),
            barred: w.status == Status::Barred,
        });
    }
    Ok(genesis)
}
