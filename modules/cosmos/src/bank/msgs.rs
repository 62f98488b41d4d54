//! Messages.

use std::collections::BTreeSet;

use deepnode_core::coin::check_denom;
use deepnode_core::{check_authority, errors, Address, Coins, Ctx, Error, Result};
use deepnode_proto::cosmos::bank::v1beta1::*;
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;

use super::state::{PARAMS, SEND_ENABLED, STORE};
use super::{events, Params};
use crate::auth;

/// Moves coins from one account to another.
pub fn send(cx: &mut Ctx<'_>, msg: MsgSend) -> Result<MsgSendResponse> {
    let from = address("from", &msg.from_address)?;
    let to = address("to", &msg.to_address)?;
    let coins = positive("amount", &msg.amount)?;
    check_send_enabled(cx, &coins)?;
    check_receiver(cx, &to)?;
    super::send(cx, &from, &to, &coins)?;
    Ok(MsgSendResponse {})
}

/// Moves coins from one account to several, whose parts add up to what it gives.
pub fn multi_send(cx: &mut Ctx<'_>, msg: MsgMultiSend) -> Result<MsgMultiSendResponse> {
    let input = match msg.inputs.as_slice() {
        [input] => input,
        [] => return Err(refuse(2, "no inputs to send transaction")),
        _ => return Err(refuse(8, "multiple senders not allowed")),
    };
    if msg.outputs.is_empty() {
        return Err(refuse(3, "no outputs to send transaction"));
    }
    let from = address("input", &input.address)?;
    let coins = positive("inputs[0].coins", &input.coins)?;
    let mut outputs = Vec::new();
    let mut sum = Coins::new();
    for (i, output) in msg.outputs.iter().enumerate() {
        let to = address("output", &output.address)?;
        let part = positive(&format!("outputs[{i}].coins"), &output.coins)?;
        part.iter().try_for_each(|coin| sum.add(&coin))?;
        outputs.push((to, part));
    }
    if sum != coins {
        return Err(refuse(4, &format!("inputs {coins}, outputs {sum}: sum inputs != sum outputs")));
    }
    check_send_enabled(cx, &coins)?;
    outputs.iter().try_for_each(|(to, _)| check_receiver(cx, to))?;

    super::subtract(cx, &from, &coins)?;
    cx.emit(events::spent(&from, &coins));
    cx.emit(events::sender(&from));
    for (to, part) in &outputs {
        super::add(cx, to, part)?;
        cx.emit(events::received(to, part));
        cx.emit(events::transfer(&from, to, part));
    }
    Ok(MsgMultiSendResponse {})
}

/// Governance replaces the parameters.
pub fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    let params = msg.params.ok_or_else(|| errors::invalid_request("params is missing"))?;
    PARAMS.set(cx, &Params::from_proto(&params)?)?;
    Ok(MsgUpdateParamsResponse {})
}

/// Governance allows or stops sends of single denominations, or returns them to the default.
pub fn set_send_enabled(cx: &mut Ctx<'_>, msg: MsgSetSendEnabled) -> Result<MsgSetSendEnabledResponse> {
    check_authority(&msg.authority)?;
    let set = msg.send_enabled.iter().map(|s| ("send_enabled", &s.denom));
    let mut seen = BTreeSet::new();
    for (field, denom) in set.chain(msg.use_default_for.iter().map(|denom| ("use_default_for", denom))) {
        check_denom(field, denom)?;
        if !seen.insert(denom) {
            return Err(errors::invalid_request(format!("{field}: denom {denom:?} appears twice")));
        }
    }
    for setting in &msg.send_enabled {
        SEND_ENABLED.set(cx, &setting.denom, &setting.enabled)?;
    }
    for denom in &msg.use_default_for {
        SEND_ENABLED.remove(cx, denom)?;
    }
    Ok(MsgSetSendEnabledResponse {})
}

fn address(what: &str, text: &str) -> Result<Address> {
    Address::parse(text).map_err(|e| errors::invalid_address(format!("invalid {what} address: {e}")))
}

fn positive(field: &str, coins: &[ProtoCoin]) -> Result<Coins> {
    let coins = Coins::from_proto(field, coins)?;
    if coins.is_empty() {
        return Err(errors::invalid_coins(format!("{field} is empty, at least one coin is required")));
    }
    Ok(coins)
}

fn check_send_enabled(cx: &Ctx<'_>, coins: &Coins) -> Result<()> {
    for coin in coins.iter() {
        if !super::send_enabled(cx, &coin.denom)? {
            let text =
                format!("{} transfers are currently disabled: send transactions are disabled", coin.denom);
            return Err(refuse(5, &text));
        }
    }
    Ok(())
}

/// Modules account for what their accounts hold: nobody may send there past them.
fn check_receiver(cx: &Ctx<'_>, to: &Address) -> Result<()> {
    if auth::is_module_account(cx, to)? {
        return Err(errors::unauthorized(format!("{to} is not allowed to receive funds")));
    }
    Ok(())
}

/// Codes of the Cosmos SDK's bank.
fn refuse(code: u32, text: &str) -> Error {
    errors::tx(STORE, code, text)
}
