//! Who audits: registered validators, their hot keys and deposits, and the panel that draws choose from.

use deepnode_core::num::amount;
use deepnode_core::{errors as sdk, Address, Ctx, Error, KvRead, Result, Walk};
use deepnode_cosmos::{bank, staking};

use super::state::{Audit, Auditor, AUDITORS, BY_KEY, SEATS};
use super::{errors, events, params};
use crate::{fields, models};

/// Module account that holds the deposits. The levies lie in the account `audits`, so that no fee is paid out of them.
pub const DEPOSITS: &str = "audit_deposits";
/// Classes that one auditor may name.
const MAX_CLASSES: usize = 32;

/// The account that holds the deposits.
pub fn deposits() -> Address {
    Address::module(DEPOSITS)
}

/// The account that holds the levies, which pay the auditors.
pub fn levies() -> Address {
    Address::module(super::state::STORE)
}

/// Registers the auditor of a validator, replaces its key and classes, and adds to its deposit. Without classes it
/// retires and gets its deposit back.
pub(super) fn register(
    cx: &mut Ctx<'_>,
    operator: &Address,
    key: &Address,
    mut classes: Vec<String>,
    more: u128,
) -> Result<()> {
    if classes.is_empty() {
        return retire(cx, operator);
    }
    if staking::validator(cx, operator)?.is_none() {
        return Err(errors::not_validator(operator.to_operator()));
    }
    fields::within("number of classes", classes.len(), 1, MAX_CLASSES)?;
    classes.sort_unstable();
    for pair in classes.windows(2) {
        if let [a, b] = pair {
            if a == b {
                return Err(sdk::invalid_request(format!("classes: {:?} twice", fields::excerpt(a))));
            }
        }
    }
    for class in &classes {
        if models::class(cx, class)?.is_none() {
            return Err(sdk::invalid_request(format!("classes: no class {:?}", fields::excerpt(class))));
        }
    }
    if let Some(other) = BY_KEY.get(cx, key)?.filter(|other| other != operator) {
        return Err(errors::key_taken(key, other));
    }
    let before = AUDITORS.get(cx, operator)?;
    let deposit = amount::add(before.as_ref().map_or(0, |a| a.deposit), more)?;
    let min = params::params(cx)?.min_deposit;
    if deposit < min {
        return Err(errors::deposit(deposit, min));
    }
    bank::send_udn(cx, operator, &deposits(), more)?;
    if let Some(before) = &before {
        BY_KEY.remove(cx, &before.key)?;
    }
    BY_KEY.set(cx, key, operator)?;
    let (stood, overruled, missed) = before.map_or((0, 0, 0), |a| (a.stood, a.overruled, a.missed));
    cx.emit(events::registered(operator, key, &classes, deposit));
    AUDITORS.set(cx, operator, &Auditor { key: *key, classes, deposit, stood, overruled, missed })
}

fn retire(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let auditor = AUDITORS
        .get(cx, operator)?
        .ok_or_else(|| errors::field("classes", "empty", "the names of classes to audit"))?;
    let seat = SEATS.iter_from(cx, operator, Walk::FORWARD).next().transpose()?;
    if let Some(((_, audit), _)) = seat {
        return Err(errors::still_drawn(operator, audit));
    }
    bank::send_udn(cx, &deposits(), operator, auditor.deposit)?;
    BY_KEY.remove(cx, &auditor.key)?;
    AUDITORS.remove(cx, operator)?;
    cx.emit(events::retired(operator, auditor.deposit));
    Ok(())
}

/// Changes what is kept of an auditor, if it is still registered (it is while it is drawn).
pub(super) fn change(cx: &mut Ctx<'_>, operator: &Address, f: impl FnOnce(&mut Auditor)) -> Result<()> {
    let mut auditor = AUDITORS
        .get(cx, operator)?
        .ok_or_else(|| Error::fault(format!("audits: drawn auditor {operator} is not registered")))?;
    f(&mut auditor);
    AUDITORS.set(cx, operator, &auditor)
}

/// An auditor that can be drawn.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub operator: Address,
    pub key: Address,
    pub classes: Vec<String>,
    /// Voting power.
    pub power: u64,
    /// udn.
    pub stake: u128,
}

/// All auditors of bonded validators whose deposit is whole, by operator.
pub(super) struct Panel(Vec<Seat>);

impl Panel {
    /// Reads the bonded set, at most max_validators.
    pub fn load(kv: &(impl KvRead + ?Sized)) -> Result<Panel> {
        let min = params::params(kv)?.min_deposit;
        let mut seats = Vec::new();
        for (operator, stake) in staking::bonded(kv)? {
            if let Some(auditor) = AUDITORS.get(kv, &operator)?.filter(|a| a.deposit >= min) {
                let power = staking::power(kv, &operator)?;
                let Auditor { key, classes, .. } = auditor;
                seats.push(Seat { operator, key, classes, power, stake });
            }
        }
        Ok(Panel(seats))
    }

    /// Those who recompute `class`.
    pub fn of_class<'a, 'b>(&'a self, class: &'b str) -> impl Iterator<Item = &'a Seat> + use<'a, 'b> {
        self.0.iter().filter(move |seat| seat.classes.iter().any(|c| c == class))
    }

    /// Those who may judge `audit`: not the worker itself, nor the validator that it backs.
    pub fn eligible(&self, audit: &Audit, backed: Option<Address>) -> Vec<&Seat> {
        let own = |seat: &&Seat| {
            Some(seat.operator) == backed
                || Some(seat.operator) == audit.worker
                || Some(seat.key) == audit.worker
        };
        self.of_class(&audit.class).filter(|seat| !own(seat)).collect()
    }
}
