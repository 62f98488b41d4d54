//! Reputation: what a subject has shown, a number from 0 to below 1. See README.md.

pub mod genesis;
pub mod math;
mod msgs;
mod params;
pub mod query;
mod state;
#[cfg(test)]
mod tests;

use deepnode_core::num::{amount, decay::half_life_factor};
use deepnode_core::{json, Address, Ctx, Dec, Error, Event, KvRead, Messages, Module, Queries, Result, Walk};

use crate::beacon;
use crate::models::Class;
use crate::params::MICRO;
use math::Record;
pub use params::Params;
use state::{FACTOR, PARAMS, RECORDS};

/// The capability of validators as auditors.
pub const DUTY: &str = "audit";

/// The module `reputation`.
pub struct ReputationModule;

impl Module for ReputationModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        msgs::register(messages.begin(self.name()));
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
    }

    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!(genesis::Genesis::default())
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        let params = PARAMS.load(state)?;
        for entry in RECORDS.iter(state, Walk::FORWARD) {
            let ((subject, capability), _) = entry?;
            // Duty is assigned, so its reputation starts at 1; all others stay below.
            let (r, most) = match capability.as_str() {
                DUTY => (duty(state, &subject)?, Dec::SCALE),
                _ => (record(state, &subject, &capability)?.score(&params)?, Dec::SCALE.saturating_sub(1)),
            };
            if r.atomics() > most {
                return Err(Error::fault(format!("reputation: R of {subject} in {capability} is {r}")));
            }
        }
        Ok(())
    }
}

/// The parameters.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// R of a worker in a capability ([`Class::capability`]), from 0 to below 1. It is fixed within an epoch, except that a
/// conviction counts at once.
pub fn value(kv: &(impl KvRead + ?Sized), subject: &Address, capability: &str) -> Result<Dec> {
    Ok(record(kv, subject, capability)?.score(&PARAMS.load(kv)?)?)
}

/// An audited receipt of so many CU was right.
pub fn pass(cx: &mut Ctx<'_>, subject: &Address, capability: &str, cu: u64, class: &Class) -> Result<()> {
    let params = PARAMS.load(cx)?;
    let weight = math::weight(cu.into(), class.cu_ref.into(), &params)?;
    let mut record = record(cx, subject, capability)?;
    record.fresh.passes = amount::add(record.fresh.passes, weight)?;
    save(cx, subject, capability, &record)
}

/// A task of so many CU was late; `p` is the chance at which it would have been audited.
pub fn late(
    cx: &mut Ctx<'_>,
    subject: &Address,
    capability: &str,
    cu: u64,
    class: &Class,
    p: Dec,
) -> Result<()> {
    let params = PARAMS.load(cx)?;
    let weight = math::soft_weight(cu.into(), class.cu_ref.into(), p, &params)?;
    let mut record = record(cx, subject, capability)?;
    record.fresh.late = amount::add(record.fresh.late, weight)?;
    save(cx, subject, capability, &record)
}

/// A worker did not take a task of so many CU; `p` is the chance at which it would have been audited.
pub fn unavailable(
    cx: &mut Ctx<'_>,
    subject: &Address,
    capability: &str,
    cu: u64,
    class: &Class,
    p: Dec,
) -> Result<()> {
    let params = PARAMS.load(cx)?;
    let weight = math::soft_weight(cu.into(), class.cu_ref.into(), p, &params)?;
    let mut record = record(cx, subject, capability)?;
    record.fresh.unavailable = amount::add(record.fresh.unavailable, weight)?;
    save(cx, subject, capability, &record)
}

/// A receipt of so many CU was wrong, or withheld: counts at once. R before and after.
pub fn wrong(
    cx: &mut Ctx<'_>,
    subject: &Address,
    capability: &str,
    cu: u64,
    class: &Class,
) -> Result<(Dec, Dec)> {
    let params = PARAMS.load(cx)?;
    let mut record = record(cx, subject, capability)?;
    let before = record.score(&params)?;
    let weight = math::wrong_weight(cu.into(), class.cu_ref.into(), &params)?;
    record.wrong = amount::add(record.wrong, weight)?;
    let after = record.score(&params)?;
    save(cx, subject, capability, &record)?;
    cx.emit(
        Event::new("reputation_wrong")
            .with("subject", subject)
            .with("capability", capability)
            .with("before", before)
            .with("after", after),
    );
    Ok((before, after))
}

/// Takes all that the subject has shown in a capability; its failures stay.
pub fn forfeit(cx: &mut Ctx<'_>, subject: &Address, capability: &str) -> Result<()> {
    let mut record = record(cx, subject, capability)?;
    record.passes = 0;
    record.fresh.passes = 0;
    save(cx, subject, capability, &record)
}

/// R_v of a validator apart from what it signed: 1 until it misses or fails an audit.
pub fn duty(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<Dec> {
    duty_signed(kv, operator, Dec::ONE)
}

/// R_v of a validator; `signing` is the moving average of the part of the blocks that it signed.
pub fn duty_signed(kv: &(impl KvRead + ?Sized), operator: &Address, signing: Dec) -> Result<Dec> {
    let r = record(kv, operator, DUTY)?;
    Ok(math::validator_reputation(r.passes, r.wrong, r.soft, signing, &PARAMS.load(kv)?)?)
}

/// A verdict of the validator stood.
pub fn duty_stood(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let mut record = record(cx, operator, DUTY)?;
    record.fresh.passes = amount::add(record.fresh.passes, MICRO)?;
    save(cx, operator, DUTY, &record)
}

/// The validator was drawn and revealed no verdict.
pub fn duty_missed(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let mut record = record(cx, operator, DUTY)?;
    record.fresh.unavailable = amount::add(record.fresh.unavailable, MICRO)?;
    save(cx, operator, DUTY, &record)
}

/// A verdict of the validator was wrong: counts at once.
pub fn duty_wrong(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let mut record = record(cx, operator, DUTY)?;
    record.wrong = amount::add(record.wrong, MICRO)?;
    save(cx, operator, DUTY, &record)
}

/// The record as of this epoch. Of a validator's duty, `soft` is what it missed, not yet weighted: a validator's
/// formula weighs that itself.
fn record(kv: &(impl KvRead + ?Sized), subject: &Address, capability: &str) -> Result<Record> {
    let epoch = beacon::epoch(kv)?.number;
    let Some(record) = RECORDS.get(kv, &(*subject, capability.to_owned()))? else {
        return Ok(Record { epoch, ..Record::default() });
    };
    let mut params = PARAMS.load(kv)?;
    if capability == DUTY {
        params.unavailable = 1;
    }
    Ok(record.at(epoch, FACTOR.load(kv)?, &params)?)
}

fn save(cx: &mut Ctx<'_>, subject: &Address, capability: &str, record: &Record) -> Result<()> {
    RECORDS.set(cx, &(*subject, capability.to_owned()), record)
}

fn set_params(cx: &mut Ctx<'_>, params: &Params) -> Result<()> {
    FACTOR.set(cx, &half_life_factor(params.half_life)?)?;
    PARAMS.set(cx, params)
}
