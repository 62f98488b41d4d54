//! Messages.

use deepnode_core::num::amount;
use deepnode_core::{check_authority, errors, Address, Coin, Ctx, Error, Event, KvRead, Messages, Result};
use deepnode_cosmos::{bank, staking};
use deepnode_proto::deepnode::workers::v1::{
    MsgAddBond, MsgAddBondResponse, MsgApproveWorker, MsgApproveWorkerResponse, MsgBackValidator,
    MsgBackValidatorResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgRegisterWorker,
    MsgRegisterWorkerResponse, MsgServeModels, MsgServeModelsResponse, MsgUnbond, MsgUnbondResponse,
    MsgUpdateParams, MsgUpdateParamsResponse, MsgUpdateWorker, MsgUpdateWorkerResponse,
};

use super::state::*;
use super::{account, change, existing, offer, profile, served, touch, withdraw, Params, MAX_SERVING};
use crate::{beacon, fields, models};

const MAX_ENDPOINT: usize = 256;
const MAX_HARDWARE: usize = 64;
const MAX_DECLARED: u64 = 1_000_000_000_000_000;

pub(super) fn register(messages: &mut Messages) {
    messages
        .on(register_worker)
        .on(update_worker)
        .on(add_bond)
        .on(unbond)
        .on(back_validator)
        .on(approve_worker)
        .on(serve_models)
        .on(heartbeat)
        .on(update_params);
}

fn register_worker(cx: &mut Ctx<'_>, msg: MsgRegisterWorker) -> Result<MsgRegisterWorkerResponse> {
    let address = fields::account("worker", &msg.worker)?;
    let bond = Coin::positive_udn("bond", msg.bond.as_ref())?;
    let validator = fields::operator("validator", &msg.validator)?;
    check_profile(&msg.endpoint, &msg.hardware, msg.declared)?;
    if WORKERS.has(cx, &address)? {
        return Err(refuse(2, format!("worker {address} is registered")));
    }
    let min_bond = PARAMS.load(cx)?.min_bond;
    fields::within("bond.amount", bond, min_bond, u128::MAX)?;
    check_validator(cx, &validator)?;
    bank::send_udn(cx, &address, &account(), bond)?;
    let epoch = beacon::epoch(cx)?.number;
    let worker = Worker {
        bond,
        next: Some(Next { validator, epoch: None }),
        declared: msg.declared,
        proven_epoch: epoch,
        last_seen: epoch,
        registered_height: cx.height(),
        ..Worker::default()
    };
    WORKERS.set(cx, &address, &worker)?;
    let profile = Profile { endpoint: msg.endpoint, hardware: msg.hardware, models: Vec::new() };
    PROFILES.set(cx, &address, &profile)?;
    cx.emit(
        Event::new("worker_registered")
            .with("worker", address)
            .with("bond", bond)
            .with("validator", validator.to_operator()),
    );
    Ok(MsgRegisterWorkerResponse {})
}

fn update_worker(cx: &mut Ctx<'_>, msg: MsgUpdateWorker) -> Result<MsgUpdateWorkerResponse> {
    let address = fields::account("worker", &msg.worker)?;
    check_profile(&msg.endpoint, &msg.hardware, msg.declared)?;
    let mut worker = not_barred(cx, &address)?;
    worker.declared = msg.declared;
    WORKERS.set(cx, &address, &worker)?;
    let profile = Profile { endpoint: msg.endpoint, hardware: msg.hardware, ..profile(cx, &address)? };
    PROFILES.set(cx, &address, &profile)?;
    Ok(MsgUpdateWorkerResponse {})
}

fn add_bond(cx: &mut Ctx<'_>, msg: MsgAddBond) -> Result<MsgAddBondResponse> {
    let address = fields::account("worker", &msg.worker)?;
    let udn = Coin::positive_udn("amount", msg.amount.as_ref())?;
    not_barred(cx, &address)?;
    bank::send_udn(cx, &address, &account(), udn)?;
    let worker = change(cx, &address, |worker| {
        worker.bond = amount::add(worker.bond, udn)?;
        Ok(())
    })?;
    cx.emit(
        Event::new("worker_bonded").with("worker", address).with("amount", udn).with("bond", worker.bond),
    );
    Ok(MsgAddBondResponse {})
}

/// Moves bond to what leaves; all that leaves is paid out together, an unbonding time after the last of it began and
/// after the last open receipt.
fn unbond(cx: &mut Ctx<'_>, msg: MsgUnbond) -> Result<MsgUnbondResponse> {
    let address = fields::account("worker", &msg.worker)?;
    let udn = Coin::positive_udn("amount", msg.amount.as_ref())?;
    let bond = existing(cx, &address)?.bond;
    fields::within("amount.amount", udn, 1, bond)?;
    let height = cx.height().saturating_add(PARAMS.load(cx)?.unbonding_blocks);
    let mut queued = false;
    let worker = change(cx, &address, |worker| {
        queued = worker.leaving > 0;
        worker.bond = amount::sub(worker.bond, udn)?;
        worker.leaving = amount::add(worker.leaving, udn)?;
        worker.leaving_height = worker.leaving_height.max(height);
        Ok(())
    })?;
    // What already leaves is queued at its own height, and moves on when that comes.
    if !queued {
        LEAVING.insert(cx, &(worker.leaving_height, address))?;
    }
    cx.emit(
        Event::new("worker_unbonding")
            .with("worker", address)
            .with("amount", udn)
            .with("height", worker.leaving_height),
    );
    Ok(MsgUnbondResponse {})
}

/// Asks for a validator. A move that was agreed on and has not happened yet is given up.
fn back_validator(cx: &mut Ctx<'_>, msg: MsgBackValidator) -> Result<MsgBackValidatorResponse> {
    let address = fields::account("worker", &msg.worker)?;
    let validator = fields::operator("validator", &msg.validator)?;
    let mut worker = not_barred(cx, &address)?;
    if worker.validator == Some(validator) && worker.next.is_none() {
        return Err(refuse(4, format!("worker {address} backs {} already", validator.to_operator())));
    }
    check_validator(cx, &validator)?;
    let stays = worker.validator == Some(validator);
    worker.next = (!stays).then_some(Next { validator, epoch: None });
    WORKERS.set(cx, &address, &worker)?;
    cx.emit(Event::new("worker_backing").with("worker", address).with("validator", validator.to_operator()));
    Ok(MsgBackValidatorResponse {})
}

/// A first join counts from the end of this epoch; a move leaves at its end and joins at the end of the next.
fn approve_worker(cx: &mut Ctx<'_>, msg: MsgApproveWorker) -> Result<MsgApproveWorkerResponse> {
    let operator = fields::account("operator", &msg.operator)?;
    let address = fields::account("worker", &msg.worker)?;
    check_validator(cx, &operator)?;
    let mut worker = not_barred(cx, &address)?;
    let asked = worker.next.filter(|next| next.validator == operator);
    let Some(Next { epoch: None, .. }) = asked else {
        return Err(refuse(
            5,
            format!("worker {address} does not wait for the consent of {}", operator.to_operator()),
        ));
    };
    let epoch = beacon::epoch(cx)?.number.saturating_add(u64::from(worker.validator.is_some()));
    worker.next = Some(Next { validator: operator, epoch: Some(epoch) });
    WORKERS.set(cx, &address, &worker)?;
    cx.emit(
        Event::new("worker_approved")
            .with("worker", address)
            .with("validator", operator.to_operator())
            .with("epoch", epoch),
    );
    Ok(MsgApproveWorkerResponse {})
}

fn serve_models(cx: &mut Ctx<'_>, msg: MsgServeModels) -> Result<MsgServeModelsResponse> {
    let address = fields::account("worker", &msg.worker)?;
    let most = usize::try_from(PARAMS.load(cx)?.max_models).unwrap_or(usize::MAX);
    fields::within("number of model_ids", msg.model_ids.len(), 0, most)?;
    let mut ids: Vec<_> =
        msg.model_ids.iter().map(|id| fields::digest("model_ids", id)).collect::<Result<_>>()?;
    ids.sort_unstable();
    if let Some([id, _]) = ids.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(errors::invalid_request(format!("model_ids has {} twice", hex::encode(id))));
    }
    let worker = not_barred(cx, &address)?;
    let mut profile = profile(cx, &address)?;
    for id in ids.iter().filter(|id| !profile.models.contains(id)) {
        let model = models::existing(cx, id)?;
        if !model.is_active() {
            return Err(refuse(
                6,
                format!("model {} is {:?}, must be active", hex::encode(id), model.status),
            ));
        }
        let workers = served(cx, id)?.workers;
        if workers >= MAX_SERVING {
            return Err(refuse(7, format!("model {} has {workers} workers, the most", hex::encode(id))));
        }
    }
    withdraw(cx, &address, &worker, &profile.models)?;
    offer(cx, &address, &worker, &ids)?;
    profile.models = ids;
    PROFILES.set(cx, &address, &profile)?;
    cx.emit(Event::new("worker_serves").with("worker", address).with("models", profile.models.len()));
    Ok(MsgServeModelsResponse {})
}

fn heartbeat(cx: &mut Ctx<'_>, msg: MsgHeartbeat) -> Result<MsgHeartbeatResponse> {
    let address = fields::account("worker", &msg.worker)?;
    let epoch = beacon::epoch(cx)?.number;
    let worker = not_barred(cx, &address)?;
    if worker.heartbeat == epoch {
        return Err(refuse(8, format!("worker {address} has sent the heartbeat of epoch {epoch}")));
    }
    touch(cx, &address, |worker| {
        worker.heartbeat = epoch;
        worker.last_seen = epoch;
        Ok(())
    })?;
    Ok(MsgHeartbeatResponse {})
}

/// A new least bond holds for a worker from the next change of its bond on.
fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    PARAMS.set(cx, &Params::from_proto(&fields::required("params", msg.params)?)?)?;
    Ok(MsgUpdateParamsResponse {})
}

pub(super) fn check_profile(endpoint: &str, hardware: &str, declared: u64) -> Result<()> {
    fields::printable("endpoint", endpoint, 8, MAX_ENDPOINT)?;
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    if host.is_none_or(str::is_empty) || endpoint.contains(' ') {
        return Err(errors::invalid_request(format!(
            "endpoint {:?} must be an http:// or https:// URL without spaces",
            fields::excerpt(endpoint)
        )));
    }
    fields::printable("hardware", hardware, 0, MAX_HARDWARE)?;
    fields::within("declared", declared, 1, MAX_DECLARED)
}

fn check_validator(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<()> {
    match staking::validator(kv, operator)? {
        Some(_) => Ok(()),
        None => Err(errors::not_found(format!("validator {}", operator.to_operator()))),
    }
}

fn not_barred(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Worker> {
    let worker = existing(kv, address)?;
    match worker.status {
        Status::Barred => Err(refuse(3, format!("worker {address} is barred"))),
        _ => Ok(worker),
    }
}

fn refuse(code: u32, text: String) -> Error {
    errors::tx(STORE, code, text)
}
