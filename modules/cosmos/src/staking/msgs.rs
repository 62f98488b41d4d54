//! One handler a message. Each checks what needs no state before it reads any.

use deepnode_core::num::amount;
use deepnode_core::{check_authority, errors, Address, Coin, Ctx, Dec, Messages, Result};
use deepnode_proto::cosmos::crypto::ed25519;
use deepnode_proto::cosmos::staking::v1beta1::{self as proto, *};
use deepnode_proto::{Any, AnyExt};

use super::params::{self, params, Params};
use super::state::{Description, DESCRIPTIONS};
use super::validators::{self, required};
use super::{delegations, errors as refusals, events, leaving, Commission};

/// A commission changes at most this often.
const COMMISSION_PERIOD: u64 = 24 * 3_600;
/// What an edit says of a field that stays as it is.
const DO_NOT_MODIFY: &str = "[do-not-modify]";

pub(super) fn register(messages: &mut Messages) {
    messages
        .on(create_validator)
        .on(edit_validator)
        .on(delegate)
        .on(undelegate)
        .on(cancel_unbonding)
        .on(begin_redelegate)
        .on(update_params);
}

#[allow(deprecated)] // delegator_address: the SDK still checks it if it is there
fn create_validator(cx: &mut Ctx<'_>, m: MsgCreateValidator) -> Result<MsgCreateValidatorResponse> {
    let operator = operator("validator_address", &m.validator_address)?;
    if !m.delegator_address.is_empty() && account("delegator_address", &m.delegator_address)? != operator {
        return Err(errors::invalid_request(format!(
            "delegator_address {:?} must be the operator's account {operator} or empty",
            m.delegator_address
        )));
    }
    let key = consensus_key(m.pubkey.as_ref())?;
    let amount = Coin::positive_udn("value", m.value.as_ref())?;
    let description = m.description.map(Description::from).unwrap_or_default();
    check_description(&description)?;
    let rates = m.commission.ok_or_else(|| errors::invalid_request("commission is missing"))?;
    let commission = Commission {
        rate: dec("commission.rate", &rates.rate)?,
        max_rate: dec("commission.max_rate", &rates.max_rate)?,
        max_change_rate: dec("commission.max_change_rate", &rates.max_change_rate)?,
        updated: cx.time(),
    };
    check_commission(&commission)?;
    let min_self_delegation = self_delegation(&m.min_self_delegation)?;

    if commission.rate < params(cx)?.min_commission_rate {
        return Err(refusals::commission_below_min());
    }
    validators::create(cx, &operator, key, description, commission, min_self_delegation, amount)?;
    cx.emit(events::create_validator(&operator, amount));
    Ok(MsgCreateValidatorResponse {})
}

fn edit_validator(cx: &mut Ctx<'_>, m: MsgEditValidator) -> Result<MsgEditValidatorResponse> {
    let operator = operator("validator_address", &m.validator_address)?;
    let edit = m.description.map(Description::from).unwrap_or_default();
    let rate = optional(&m.commission_rate, |t| dec("commission_rate", t))?;
    let minimum = optional(&m.min_self_delegation, self_delegation)?;

    let validator = required(cx, &operator)?;
    let mut description = validators::description(cx, &operator)?;
    for (field, new) in [
        (&mut description.moniker, edit.moniker),
        (&mut description.identity, edit.identity),
        (&mut description.website, edit.website),
        (&mut description.security_contact, edit.security_contact),
        (&mut description.details, edit.details),
    ] {
        if new != DO_NOT_MODIFY {
            *field = new;
        }
    }
    check_description(&description)?;
    let mut commission = validator.commission.clone();
    if let Some(rate) = rate {
        check_commission_change(cx, &commission, rate)?;
        commission.rate = rate;
        commission.updated = cx.time();
    }
    if let Some(minimum) = minimum {
        if minimum <= validator.min_self_delegation {
            return Err(refusals::min_self_delegation_decreased());
        }
        let held = delegations::delegation(cx, &operator, &operator)?.unwrap_or_default();
        if minimum > validator.tokens_from_shares(held)? {
            return Err(refusals::self_delegation());
        }
    }
    DESCRIPTIONS.set(cx, &operator, &description)?;
    let after = validators::update(cx, &operator, |v| {
        v.commission = commission;
        v.min_self_delegation = minimum.unwrap_or(v.min_self_delegation);
        Ok(())
    })?;
    cx.emit(events::edit_validator(after.commission.rate, after.min_self_delegation));
    Ok(MsgEditValidatorResponse {})
}

fn delegate(cx: &mut Ctx<'_>, m: MsgDelegate) -> Result<MsgDelegateResponse> {
    let delegator = account("delegator_address", &m.delegator_address)?;
    let operator = operator("validator_address", &m.validator_address)?;
    let amount = Coin::positive_udn("amount", m.amount.as_ref())?;
    let shares = delegations::delegate(cx, &delegator, &operator, amount)?;
    cx.emit(events::delegate(&delegator, &operator, amount, shares));
    Ok(MsgDelegateResponse {})
}

fn undelegate(cx: &mut Ctx<'_>, m: MsgUndelegate) -> Result<MsgUndelegateResponse> {
    let delegator = account("delegator_address", &m.delegator_address)?;
    let operator = operator("validator_address", &m.validator_address)?;
    let amount = Coin::positive_udn("amount", m.amount.as_ref())?;
    let (completion, returned) = delegations::undelegate(cx, &delegator, &operator, amount)?;
    cx.emit(events::unbond(&delegator, &operator, returned, completion));
    Ok(MsgUndelegateResponse {
        completion_time: Some(completion.to_proto()),
        amount: Some(Coin::udn(returned).to_proto()),
    })
}

fn cancel_unbonding(
    cx: &mut Ctx<'_>,
    m: MsgCancelUnbondingDelegation,
) -> Result<MsgCancelUnbondingDelegationResponse> {
    let delegator = account("delegator_address", &m.delegator_address)?;
    let operator = operator("validator_address", &m.validator_address)?;
    let amount = Coin::positive_udn("amount", m.amount.as_ref())?;
    let height = u64::try_from(m.creation_height).ok().filter(|h| *h > 0).ok_or_else(|| {
        errors::invalid_request(format!("creation_height {} must be positive", m.creation_height))
    })?;
    leaving::cancel_unbonding(cx, &delegator, &operator, height, amount)?;
    cx.emit(events::cancel_unbonding(&delegator, &operator, amount, height));
    Ok(MsgCancelUnbondingDelegationResponse {})
}

fn begin_redelegate(cx: &mut Ctx<'_>, m: MsgBeginRedelegate) -> Result<MsgBeginRedelegateResponse> {
    let delegator = account("delegator_address", &m.delegator_address)?;
    let from = operator("validator_src_address", &m.validator_src_address)?;
    let to = operator("validator_dst_address", &m.validator_dst_address)?;
    let amount = Coin::positive_udn("amount", m.amount.as_ref())?;
    let (completion, moved) = delegations::redelegate(cx, &delegator, &from, &to, amount)?;
    cx.emit(events::redelegate(&from, &to, moved, completion));
    Ok(MsgBeginRedelegateResponse { completion_time: Some(completion.to_proto()) })
}

fn update_params(cx: &mut Ctx<'_>, m: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&m.authority)?;
    let params = m.params.as_ref().ok_or_else(|| errors::invalid_request("params is missing"))?;
    let params = Params::from_proto(params)?;
    params::set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}

fn account(field: &str, text: &str) -> Result<Address> {
    Address::parse(text).map_err(|e| errors::invalid_address(format!("{field}: {e}")))
}

fn operator(field: &str, text: &str) -> Result<Address> {
    Address::parse_operator(text).map_err(|e| errors::invalid_address(format!("{field}: {e}")))
}

fn dec(field: &str, text: &str) -> Result<Dec> {
    Dec::from_wire(text).map_err(|e| errors::invalid_request(format!("{field}: {e}")))
}

/// A field that is empty if it is not meant.
fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
    (!text.is_empty()).then(|| parse(text)).transpose()
}

fn self_delegation(text: &str) -> Result<u128> {
    let value =
        amount::parse(text).map_err(|e| errors::invalid_request(format!("min_self_delegation: {e}")))?;
    if value == 0 {
        return Err(errors::invalid_request("min_self_delegation 0 must be positive"));
    }
    Ok(value)
}

/// The ed25519 key of a message.
pub(super) fn consensus_key(key: Option<&Any>) -> Result<[u8; 32]> {
    let key = key.ok_or_else(|| errors::invalid_pub_key("pubkey is missing"))?;
    let decoded = key.unpack::<ed25519::PubKey>().map_err(|_| refusals::key_type(&key.type_url))?;
    decoded.key.try_into().map_err(|_| refusals::key_type(&key.type_url))
}

/// Refuses descriptions that are too long or have no name.
pub(super) fn check_description(d: &Description) -> Result<()> {
    let fields = [
        ("moniker", &d.moniker, 70),
        ("identity", &d.identity, 3_000),
        ("website", &d.website, 140),
        ("security_contact", &d.security_contact, 140),
        ("details", &d.details, 280),
    ];
    for (field, text, max) in fields {
        if text.len() > max {
            return Err(errors::invalid_request(format!(
                "description.{field} has {} bytes, at most {max} are allowed",
                text.len()
            )));
        }
    }
    if d.moniker.is_empty() {
        return Err(errors::invalid_request("description.moniker must not be empty"));
    }
    Ok(())
}

/// Refuses a commission out of its own bounds.
pub(super) fn check_commission(c: &Commission) -> Result<()> {
    if c.max_rate > Dec::ONE {
        return Err(refusals::commission_huge());
    }
    if c.rate > c.max_rate {
        return Err(refusals::commission_above_max());
    }
    if c.max_change_rate > c.max_rate {
        return Err(refusals::change_rate_above_max());
    }
    Ok(())
}

fn check_commission_change(cx: &Ctx<'_>, commission: &Commission, rate: Dec) -> Result<()> {
    if cx.time() < commission.updated.plus_secs(COMMISSION_PERIOD) {
        return Err(refusals::commission_too_soon());
    }
    if rate > commission.max_rate {
        return Err(refusals::commission_above_max());
    }
    let change = rate.atomics().abs_diff(commission.rate.atomics());
    if change > commission.max_change_rate.atomics() {
        return Err(refusals::commission_change());
    }
    if rate < params(cx)?.min_commission_rate {
        return Err(refusals::commission_below_min());
    }
    Ok(())
}

impl From<proto::Description> for Description {
    fn from(d: proto::Description) -> Self {
        Description {
            moniker: d.moniker,
            identity: d.identity,
            website: d.website,
            security_contact: d.security_contact,
            details: d.details,
        }
    }
}
