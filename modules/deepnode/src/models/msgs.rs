//! Messages.

use deepnode_core::{authority, check_authority, errors, merkle, Address, Ctx, Event, Messages, Result};
use deepnode_cosmos::bank;
use deepnode_proto::deepnode::models::v1::{
    MsgCommitModel, MsgCommitModelResponse, MsgRegisterModel, MsgRegisterModelResponse, MsgSetScored,
    MsgSetScoredResponse, MsgSetStatus, MsgSetStatusResponse, MsgUpdateParams, MsgUpdateParamsResponse,
};

use super::architecture::Architecture;
use super::state::*;
use super::{Params, COMMITMENT_BLOCKS, KIND};
use crate::fields;

const MAX_NAME: usize = 64;
const MAX_LICENCE: usize = 64;
const MAX_SALT: usize = 64;
/// Gas of opening the manifest.
const PROOF_GAS: u64 = 20_000;

pub(super) fn register(messages: &mut Messages) {
    messages.on(commit_model).on(register_model).on(set_scored).on(set_status).on(update_params);
}

/// What a registration is announced by.
pub fn commitment(id: &ModelId, owner: &Address, salt: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(id).update(owner.as_bytes()).update(salt).finalize().as_bytes()
}

fn commit_model(cx: &mut Ctx<'_>, msg: MsgCommitModel) -> Result<MsgCommitModelResponse> {
    let owner = fields::account("owner", &msg.owner)?;
    let commitment = fields::digest("commitment", &msg.commitment)?;
    if let Some(height) = COMMITMENTS.get(cx, &(owner, commitment))? {
        return Err(refuse(
            2,
            format!("commitment {} stands since height {height}", hex::encode(commitment)),
        ));
    }
    COMMITMENTS.set(cx, &(owner, commitment), &cx.height())?;
    COMMITMENT_QUEUE.insert(cx, &(cx.height(), owner, commitment))?;
    Ok(MsgCommitModelResponse {})
}

fn register_model(cx: &mut Ctx<'_>, msg: MsgRegisterModel) -> Result<MsgRegisterModelResponse> {
    let owner = fields::account("owner", &msg.owner)?;
    let id = fields::digest("model_id", &msg.model_id)?;
    fields::within("length of salt", msg.salt.len(), 1, MAX_SALT)?;
    check_name(&msg.name)?;
    fields::printable("licence", &msg.licence, 1, MAX_LICENCE)?;
    let parent = match msg.parent.as_slice() {
        [] => None,
        parent => Some(fields::digest("parent", parent)?),
    };
    fields::within("number of architecture_path", msg.architecture_path.len(), 0, merkle::MAX_PATH)?;
    let path: Vec<_> = (msg.architecture_path.iter())
        .map(|sibling| fields::digest("architecture_path", sibling))
        .collect::<Result<_>>()?;
    let architecture = Architecture::decode(&msg.architecture)?;
    let leaves = architecture.manifest_leaves();
    fields::within("manifest_leaves", msg.manifest_leaves, leaves, leaves)?;
    cx.consume_gas(PROOF_GAS, "manifest proof")?;
    if !merkle::verify(&id, &msg.architecture, 0, leaves, &path) {
        return Err(refuse(3, "architecture_path does not lead from the architecture to model_id"));
    }

    let params = PARAMS.load(cx)?;
    take_commitment(cx, &params, &id, &owner, &msg.salt)?;
    if MODELS.get(cx, &id)?.is_some_and(|model| model.status != Status::Rejected) {
        return Err(refuse(4, format!("model {} is registered", hex::encode(id))));
    }
    fields::within("royalty_ppm", msg.royalty_ppm, 0, params.max_royalty_ppm)?;
    let depth = match parent {
        Some(parent) => parent_depth(cx, &params, &parent)?,
        None => 0,
    };
    fields::within("parent_part_ppm", msg.parent_part_ppm, 0, if parent.is_some() { 500_000 } else { 0 })?;
    let weights = architecture.weights()?;
    let class = super::class_for(cx, KIND, weights)?;

    bank::send_udn(cx, &owner, &super::account(), params.deposit)?;
    let model = Model {
        owner,
        name: msg.name,
        licence: msg.licence,
        kind: class.kind,
        class: class.name.clone(),
        architecture,
        weights,
        royalty_ppm: msg.royalty_ppm,
        parent,
        parent_part_ppm: msg.parent_part_ppm,
        depth,
        status: Status::Pending,
        scored: false,
        registered_height: cx.height(),
        failed_draws: 0,
        vector_root: None,
        deposit: params.deposit,
    };
    MODELS.set(cx, &id, &model)?;
    PENDING.insert(cx, &(cx.height(), id))?;
    cx.emit(
        Event::new("model_registered")
            .with("model", hex::encode(id))
            .with("owner", owner)
            .with("name", &model.name)
            .with("class", &class.name),
    );
    Ok(MsgRegisterModelResponse { class: class.name })
}

/// A name that hosts and people can type: also not the hex of an id.
pub(super) fn check_name(name: &str) -> Result<()> {
    fields::printable("name", name, 1, MAX_NAME)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
    if !name.bytes().all(good) || fields::hex_digest("name", name).is_ok() {
        return Err(errors::invalid_request(format!(
            "name {name:?} must be letters, digits or ._:/- and not the hex of an id"
        )));
    }
    Ok(())
}

/// Uses up the commitment that announced this registration early enough.
fn take_commitment(
    cx: &mut Ctx<'_>,
    params: &Params,
    id: &ModelId,
    owner: &Address,
    salt: &[u8],
) -> Result<()> {
    let commitment = commitment(id, owner, salt);
    let Some(height) = COMMITMENTS.get(cx, &(*owner, commitment))? else {
        return Err(refuse(
            5,
            format!(
                "no commitment {} of {owner}: MsgCommitModel comes first, at most {COMMITMENT_BLOCKS} blocks before",
                hex::encode(commitment)
            ),
        ));
    };
    let from = height.saturating_add(params.commit_blocks);
    if cx.height() < from {
        return Err(refuse(
            6,
            format!(
                "committed at height {height}, may be registered from height {from}, now is {}",
                cx.height()
            ),
        ));
    }
    COMMITMENTS.remove(cx, &(*owner, commitment))?;
    COMMITMENT_QUEUE.remove(cx, &(height, *owner, commitment))
}

/// Length of the chain of parents of a child of `parent`.
fn parent_depth(cx: &Ctx<'_>, params: &Params, parent: &ModelId) -> Result<u32> {
    let found = super::existing(cx, parent)?;
    if !matches!(found.status, Status::Active | Status::Deprecated) {
        return Err(refuse(
            7,
            format!("parent {} is {:?}, must be active", hex::encode(parent), found.status),
        ));
    }
    let depth = found.depth.saturating_add(1);
    fields::within("depth of parents", depth, 0, params.max_depth)?;
    Ok(depth)
}

fn set_scored(cx: &mut Ctx<'_>, msg: MsgSetScored) -> Result<MsgSetScoredResponse> {
    check_authority(&msg.authority)?;
    let id = fields::digest("model_id", &msg.model_id)?;
    let mut model = super::existing(cx, &id)?;
    if msg.scored && !model.is_active() {
        return Err(refuse(8, format!("model {} is {:?}, must be active", hex::encode(id), model.status)));
    }
    model.scored = msg.scored;
    MODELS.set(cx, &id, &model)?;
    cx.emit(Event::new("model_scored").with("model", hex::encode(id)).with("scored", msg.scored));
    Ok(MsgSetScoredResponse {})
}

/// The owner deprecates an active model; governance delists one or lists it again.
fn set_status(cx: &mut Ctx<'_>, msg: MsgSetStatus) -> Result<MsgSetStatusResponse> {
    let signer = fields::account("signer", &msg.signer)?;
    let id = fields::digest("model_id", &msg.model_id)?;
    let status = Status::from_proto(msg.status)?;
    let model = super::existing(cx, &id)?;
    let allowed = match (model.status, status) {
        (Status::Active, Status::Deprecated) => signer == model.owner,
        (Status::Active | Status::Deprecated, Status::Delisted) => signer == authority(),
        (Status::Deprecated | Status::Delisted, Status::Active) => signer == authority(),
        (from, to) => return Err(refuse(8, format!("a model that is {from:?} cannot become {to:?}"))),
    };
    if !allowed {
        let who = if status == Status::Deprecated { model.owner } else { authority() };
        return Err(errors::unauthorized(format!("signer {signer} must be {who} to make it {status:?}")));
    }
    super::change_status(cx, &id, model, status)?;
    Ok(MsgSetStatusResponse {})
}

/// Sets parameters and the class table. Rows keep their prices, which the market made; no row may go, since models
/// and reputations stand in it.
fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    let (params, classes) = Params::from_proto(&fields::required("params", msg.params)?)?;
    for old in CLASSES.load(cx)? {
        if !classes.iter().any(|new| new.name == old.name && new.kind == old.kind) {
            return Err(errors::invalid_request(format!(
                "params.classes must keep {:?} of kind {:?}",
                old.name, old.kind
            )));
        }
    }
    super::set_classes(cx, &classes)?;
    PARAMS.set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}

fn refuse(code: u32, text: impl Into<String>) -> deepnode_core::Error {
    errors::tx(STORE, code, text)
}
