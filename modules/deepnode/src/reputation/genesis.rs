//! The genesis section.

use deepnode_core::{errors, json, Address, Ctx, KvRead, Result, Walk};
use serde::{Deserialize, Serialize};

use super::math::{Evidence, Record};
use super::params::{self, Params};
use super::state::{PARAMS, RECORDS};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: ParamsJson,
    pub records: Vec<RecordJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamsJson {
    /// Units.
    #[serde(with = "json::text")]
    pub kappa: u64,
    #[serde(with = "json::text")]
    pub half_life: u64,
    #[serde(with = "json::text")]
    pub ramp: u64,
}

/// Amounts are millionths of units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordJson {
    #[serde(with = "json::text")]
    pub subject: Address,
    pub capability: String,
    #[serde(with = "json::text")]
    pub passes: u128,
    #[serde(with = "json::text")]
    pub soft: u128,
    #[serde(with = "json::text")]
    pub wrong: u128,
    #[serde(with = "json::text")]
    pub new_passes: u128,
    #[serde(with = "json::text")]
    pub new_late: u128,
    #[serde(with = "json::text")]
    pub new_unavailable: u128,
    #[serde(with = "json::text")]
    pub epoch: u64,
}

impl Genesis {
    /// No records, with these parameters.
    pub fn new(p: &Params) -> Result<Self> {
        let params = ParamsJson { kappa: params::kappa_units(p)?, half_life: p.half_life, ramp: p.ramp };
        Ok(Genesis { params, records: Vec::new() })
    }
}

impl Default for Genesis {
    fn default() -> Self {
        let params = ParamsJson { kappa: 500, half_life: 720, ramp: 24 };
        Genesis { params, records: Vec::new() }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    let p = genesis.params;
    super::set_params(cx, &params::new(p.kappa, p.half_life, p.ramp)?)?;
    for r in genesis.records {
        let key = (r.subject, r.capability);
        if RECORDS.has(cx, &key)? {
            let (subject, capability) = key;
            return Err(errors::invalid_request(format!(
                "genesis reputation.records: {subject} has {capability:?} twice"
            )));
        }
        let fresh = Evidence { passes: r.new_passes, late: r.new_late, unavailable: r.new_unavailable };
        let record = Record { passes: r.passes, soft: r.soft, wrong: r.wrong, fresh, epoch: r.epoch };
        RECORDS.set(cx, &key, &record)?;
    }
    Ok(())
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let mut genesis = Genesis::new(&PARAMS.load(kv)?)?;
    for entry in RECORDS.iter(kv, Walk::FORWARD) {
        let ((subject, capability), r) = entry?;
        genesis.records.push(RecordJson {
            subject,
            capability,
            passes: r.passes,
            soft: r.soft,
            wrong: r.wrong,
            new_passes: r.fresh.passes,
            new_late: r.fresh.late,
            new_unavailable: r.fresh.unavailable,
            epoch: r.epoch,
        });
    }
    Ok(genesis)
}
