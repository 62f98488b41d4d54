//! The genesis section. What can be derived from auditors and audits (indexes, queues of phases) is not in it.

use std::collections::BTreeMap;

use deepnode_core::{errors, json, Address, Ctx, Dec, KvRead, Result, Walk};
use serde::{Deserialize, Serialize};

use super::state::{
    self, Audit, AuditWork, Auditor, Convicted, Conviction, FinalReceipt, Phase, Shown, Subject,
};
use super::{params, Params};
use crate::models;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: Params,
    pub auditors: Vec<AuditorJson>,
    /// The last audit's number.
    #[serde(with = "json::text")]
    pub last_id: u64,
    pub audits: Vec<Audit>,
    pub shown: Vec<ShownJson>,
    pub final_at: Vec<FinalAtJson>,
    pub convicted: Vec<ConvictedJson>,
    /// Not yet taken by powr.
    pub final_receipts: Vec<FinalJson>,
    pub convictions: Vec<ConvictionJson>,
    pub audit_work: Vec<AuditWorkJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditorJson {
    #[serde(with = "json::text")]
    pub operator: Address,
    pub auditor: Auditor,
}

/// Hex.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownJson {
    #[serde(with = "json::text")]
    pub audit: u64,
    pub input: String,
    pub output: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalAtJson {
    #[serde(with = "json::text")]
    pub height: u64,
    #[serde(with = "json::text")]
    pub task: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvictedJson {
    #[serde(with = "json::text")]
    pub worker: Address,
    #[serde(with = "json::text")]
    pub height: u64,
    #[serde(with = "json::text")]
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalJson {
    #[serde(with = "json::text")]
    pub task: u64,
    #[serde(with = "json::text")]
    pub worker: Address,
    pub class: String,
    #[serde(with = "json::text")]
    pub cu: u64,
    #[serde(with = "json::text")]
    pub price: Dec,
    pub scored: bool,
    pub workers_in_draw: u32,
    pub validators_in_draw: u32,
    pub user_chosen: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvictionJson {
    #[serde(with = "json::text")]
    pub worker: Address,
    #[serde(with = "json::text")]
    pub before: Dec,
    #[serde(with = "json::text")]
    pub after: Dec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditWorkJson {
    #[serde(with = "json::text")]
    pub operator: Address,
    #[serde(with = "json::text")]
    pub cu: u64,
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    genesis.params.check()?;
    params::set(cx, &genesis.params)?;
    for AuditorJson { operator, auditor } in &genesis.auditors {
        if state::AUDITORS.has(cx, operator)? {
            return Err(invalid("auditors", operator, "twice"));
        }
        if state::BY_KEY.has(cx, &auditor.key)? {
            return Err(invalid("auditors", auditor.key, "the key of two auditors"));
        }
        state::AUDITORS.set(cx, operator, auditor)?;
        state::BY_KEY.set(cx, &auditor.key, operator)?;
    }
    state::LAST_ID.set(cx, genesis.last_id)?;
    let mut frozen: BTreeMap<Address, u32> = BTreeMap::new();
    for audit in &genesis.audits {
        if audit.id == 0 || audit.id > genesis.last_id || state::AUDITS.has(cx, &audit.id)? {
            return Err(invalid("audits", audit.id, "0, twice, or above last_id"));
        }
        state::AUDITS.set(cx, &audit.id, audit)?;
        if let Some(task) = audit.task() {
            state::BY_TASK.set(cx, &task, &audit.id)?;
        }
        if audit.phase == Phase::Closed {
            continue;
        }
        if audit.subject == Subject::Vector {
            // Genesis of models lets every pending model wait for a draw.
            models::vector_drawn(cx, &audit.model)?;
            state::BY_MODEL.set(cx, &audit.model, &audit.id)?;
        }
        state::PHASES.insert(cx, &(audit.phase_end, audit.id))?;
        for member in &audit.members {
            state::SEATS.set(cx, &(member.operator, audit.id), &member.draw)?;
        }
        if let (Some(worker), true) = (audit.worker, audit.frozen) {
            let open = frozen.entry(worker).or_default();
            *open = open.saturating_add(1);
        }
    }
    for (worker, open) in &frozen {
        state::FROZEN.set(cx, worker, open)?;
    }
    for ShownJson { audit, input, output } in &genesis.shown {
        let bytes = |text: &str| hex::decode(text).map_err(|e| invalid("shown", audit, &e.to_string()));
        state::SHOWN.set(cx, audit, &Shown { input: bytes(input)?, output: bytes(output)? })?;
    }
    for FinalAtJson { height, task } in &genesis.final_at {
        state::FINAL_AT.insert(cx, &(*height, *task))?;
    }
    for ConvictedJson { worker, height, epoch } in &genesis.convicted {
        state::CONVICTED.set(cx, worker, &Convicted { height: *height, epoch: *epoch })?;
    }
    for f in genesis.final_receipts {
        let FinalJson { task, worker, class, cu, price, scored, .. } = f;
        let (workers_in_draw, validators_in_draw) = (f.workers_in_draw, f.validators_in_draw);
        let user_chosen = f.user_chosen;
        let receipt = FinalReceipt {
            task,
            worker,
            class,
            cu,
            price,
            scored,
            workers_in_draw,
            validators_in_draw,
            user_chosen,
        };
        state::FINAL.push(cx, &receipt)?;
    }
    for ConvictionJson { worker, before, after } in genesis.convictions {
        state::CONVICTIONS.push(cx, &Conviction { worker, before, after })?;
    }
    for AuditWorkJson { operator, cu } in genesis.audit_work {
        state::AUDIT_WORK.push(cx, &AuditWork { operator, cu })?;
    }
    Ok(())
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let auditors = state::AUDITORS.iter(kv, Walk::FORWARD).map(|entry| {
        let (operator, auditor) = entry?;
        Ok(AuditorJson { operator, auditor })
    });
    let audits = state::AUDITS.iter(kv, Walk::FORWARD).map(|entry| Ok(entry?.1));
    let shown = state::SHOWN.iter(kv, Walk::FORWARD).map(|entry| {
        let (audit, shown) = entry?;
        Ok(ShownJson { audit, input: hex::encode(shown.input), output: hex::encode(shown.output) })
    });
    let final_at = state::FINAL_AT.iter(kv, Walk::FORWARD).map(|entry| {
        let (height, task) = entry?;
        Ok(FinalAtJson { height, task })
    });
    let convicted = state::CONVICTED.iter(kv, Walk::FORWARD).map(|entry| {
        let (worker, Convicted { height, epoch }) = entry?;
        Ok(ConvictedJson { worker, height, epoch })
    });
    let final_receipts = state::FINAL.iter(kv).map(|entry| {
        let f = entry?;
        Ok(FinalJson {
            task: f.task,
            worker: f.worker,
            class: f.class,
            cu: f.cu,
            price: f.price,
            scored: f.scored,
            workers_in_draw: f.workers_in_draw,
            validators_in_draw: f.validators_in_draw,
            user_chosen: f.user_chosen,
        })
    });
    let convictions = state::CONVICTIONS.iter(kv).map(|entry| {
        let Conviction { worker, before, after } = entry?;
        Ok(ConvictionJson { worker, before, after })
    });
    let audit_work = state::AUDIT_WORK.iter(kv).map(|entry| {
        let AuditWork { operator, cu } = entry?;
        Ok(AuditWorkJson { operator, cu })
    });
    Ok(Genesis {
        params: params::params(kv)?,
        auditors: auditors.collect::<Result<_>>()?,
        last_id: state::LAST_ID.current(kv)?,
        audits: audits.collect::<Result<_>>()?,
        shown: shown.collect::<Result<_>>()?,
        final_at: final_at.collect::<Result<_>>()?,
        convicted: convicted.collect::<Result<_>>()?,
        final_receipts: final_receipts.collect::<Result<_>>()?,
        convictions: convictions.collect::<Result<_>>()?,
        audit_work: audit_work.collect::<Result<_>>()?,
    })
}

fn invalid(field: &str, value: impl std::fmt::Display, why: &str) -> deepnode_core::Error {
    errors::invalid_request(format!("genesis audits.{field}: {value} is {why}"))
}

/// A digest in hex.
pub(super) mod digest {
    use serde::{de::Error, Deserialize, Deserializer, Serializer};

    use crate::fields;

    pub fn serialize<S: Serializer>(digest: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(digest))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        fields::hex_digest("digest", &text).map_err(|e| D::Error::custom(format!("{e:?}")))
    }
}

/// A digest in hex, empty for none.
pub(super) mod commitment {
    use serde::{de::Error, Deserialize, Deserializer, Serializer};

    use crate::fields;

    pub fn serialize<S: Serializer>(digest: &Option<[u8; 32]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&digest.map(hex::encode).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 32]>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        fields::hex_digest("digest", &text).map(Some).map_err(|e| D::Error::custom(format!("{e:?}")))
    }
}

/// An address, empty for none.
pub(super) mod address {
    use deepnode_core::Address;
    use serde::{de::Error, Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(address: &Option<Address>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&address.map(|a| a.to_string()).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Address>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        Address::parse(&text).map(Some).map_err(D::Error::custom)
    }
}
