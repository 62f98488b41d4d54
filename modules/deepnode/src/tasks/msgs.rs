//! One handler a message.

use deepnode_core::{check_authority, Address, Coin, Ctx, Messages, Result};
use deepnode_proto::deepnode::tasks::v1::*;
use prost::Message;

use super::state::{self, Status, Task};
use super::{errors, events, pay, receipt, request, steps, Params};
use crate::{fields, models, workers};
use deepnode_cosmos::bank;

/// Greatest length of a reason to decline, bytes.
const MAX_REASON: usize = 256;

pub(super) fn register(messages: &mut Messages) {
    messages.on(submit).on(cancel).on(accept).on(decline).on(submit_receipt).on(update_params);
}

fn submit(cx: &mut Ctx<'_>, m: MsgSubmitTask) -> Result<MsgSubmitTaskResponse> {
    let creator = fields::account("creator", &m.creator)?;
    let max_price = Coin::positive_udn("max_price", m.max_price.as_ref())?;
    let params = super::params(cx)?;
    let request = request::check(&m, &params)?;
    let model_id = fields::digest("request.model_id", &request.model_id)?;
    let (model, class) = request::active_model(cx, &model_id)?;
    let cost = request::cost(&model, &class, m.input_tokens, request.max_output, &params)?;
    if max_price < cost.fee {
        return Err(errors::max_price(max_price, cost.fee));
    }
    let deadline = if m.deadline == 0 { cost.min_deadline } else { m.deadline };
    fields::within("deadline", deadline, cost.min_deadline, params.max_deadline)?;

    let seed = request.sampling.as_ref().and_then(|s| s.seed.as_slice().try_into().ok());
    let bytes = request.encode_to_vec();
    let mut task = Task {
        id: state::LAST_ID.next(cx)?,
        creator,
        request_digest: blake3::hash(&bytes).into(),
        request: bytes,
        model: model_id,
        class: class.name,
        input_tokens: m.input_tokens,
        max_output: request.max_output,
        inline_input: m.inline_input,
        escrow: max_price,
        unit_price: class.price,
        royalty: request::royalty(&model),
        submitted_height: cx.height(),
        deadline,
        status: Status::Open,
        worker: None,
        earlier: Vec::new(),
        draw_height: cx.height().saturating_add(state::BEACON_DELAY),
        empty_draws: 0,
        workers_in_draw: 0,
        validators_in_draw: 0,
        assigned_height: 0,
        accepted_height: 0,
        deadline_height: 0,
        receipt_height: 0,
        seed,
        receipt: None,
        cu: 0,
        decided: false,
        audit_chance: deepnode_core::Dec::ZERO,
        drawn: false,
        settlement: None,
        due: 0,
    };
    bank::send_udn(cx, &creator, &pay::escrow_account(), max_price)?;
    task.schedule(cx, task.draw_height)?;
    state::BY_CREATOR.insert(cx, &(creator, task.id))?;
    task.save(cx)?;
    cx.emit(events::submitted(&task));
    Ok(MsgSubmitTaskResponse { task_id: task.id })
}

fn cancel(cx: &mut Ctx<'_>, m: MsgCancelTask) -> Result<MsgCancelTaskResponse> {
    let creator = fields::account("creator", &m.creator)?;
    let task = existing(cx, m.task_id)?;
    if task.creator != creator {
        return Err(errors::not_party(task.id, &m.creator, "creator", Some(&task.creator)));
    }
    if !matches!(task.status, Status::Open | Status::Assigned) {
        return Err(errors::status(task.id, task.status, "Open or Assigned"));
    }
    pay::refund(cx, task, Status::Cancelled, "cancelled")?;
    Ok(MsgCancelTaskResponse {})
}

fn accept(cx: &mut Ctx<'_>, m: MsgAcceptTask) -> Result<MsgAcceptTaskResponse> {
    let (mut task, worker) = assigned_to(cx, m.task_id, &m.worker)?;
    let last = task.assigned_height.saturating_add(super::params(cx)?.accept_blocks);
    if cx.height() > last {
        return Err(errors::too_late(task.id, cx.height(), last));
    }
    let class = steps::class_of(cx, &task)?;
    let (pending, limit) = steps::pending(cx, &worker, &class)?;
    let (_, more) = pay::greatest(cx, &task)?;
    if pending.saturating_add(more) > limit {
        return Err(errors::pending_limit(&m.worker, pending, more, limit));
    }
    task.status = Status::Accepted;
    task.accepted_height = cx.height();
    task.deadline_height = cx.height().saturating_add(task.deadline);
    // Another has the input, so the silent could have had it.
    let silent: Vec<Address> = task.earlier.iter().filter(|e| e.silent).map(|e| e.worker).collect();
    silent.iter().try_for_each(|who| steps::late(cx, &task, who))?;
    task.earlier.iter_mut().for_each(|e| e.silent = false);
    let step = match task.needs_seed()? {
        true => cx.height().saturating_add(state::BEACON_DELAY),
        false => task.deadline_height,
    };
    task.schedule(cx, step)?;
    task.save(cx)?;
    workers::task_opened(cx, &worker)?;
    cx.emit(events::accepted(&task, &worker));
    Ok(MsgAcceptTaskResponse {})
}

fn decline(cx: &mut Ctx<'_>, m: MsgDeclineTask) -> Result<MsgDeclineTaskResponse> {
    if m.reason.len() > MAX_REASON {
        let length = format!("{} bytes long", m.reason.len());
        return Err(errors::field("reason", length, format!("at most {MAX_REASON} bytes long")));
    }
    let (task, _) = assigned_to(cx, m.task_id, &m.worker)?;
    steps::reassign(cx, task, steps::Lost::Declined)?;
    Ok(MsgDeclineTaskResponse {})
}

fn submit_receipt(cx: &mut Ctx<'_>, m: MsgSubmitReceipt) -> Result<MsgSubmitReceiptResponse> {
    let worker = fields::account("worker", &m.worker)?;
    let given = fields::required("receipt", m.receipt)?;
    let mut task = existing(cx, given.task_id)?;
    if task.worker != Some(worker) {
        let had = task.earlier.iter().any(|e| e.worker == worker);
        let over = cx.height() > task.deadline_height && task.deadline_height > 0;
        return Err(match had && over {
            true => errors::too_late(task.id, cx.height(), task.deadline_height),
            false => errors::not_party(task.id, &m.worker, "worker", task.worker.as_ref()),
        });
    }
    if task.status != Status::Accepted {
        return Err(errors::status(task.id, task.status, "Accepted"));
    }
    if cx.height() > task.deadline_height {
        return Err(errors::too_late(task.id, cx.height(), task.deadline_height));
    }
    if task.needs_seed()? {
        return Err(errors::too_early(task.id, task.accepted_height.saturating_add(state::BEACON_DELAY)));
    }
    let checked = receipt::check(&task, &given)?;
    let model = models::existing(cx, &task.model)?;
    task.cu = models::cu(&model.architecture, checked.input_tokens, checked.output_tokens)?;
    task.status = Status::Submitted;
    task.receipt_height = cx.height();
    let price = pay::price(&task)?;
    workers::add_pending(cx, &worker, price.compute)?;
    task.schedule(cx, 0)?;
    state::RECEIPTS_DUE.insert(cx, &(cx.height().saturating_add(state::BEACON_DELAY), task.id))?;
    cx.emit(events::receipt(&task, &worker, &checked, price.total));
    task.receipt = Some(checked);
    task.save(cx)?;
    Ok(MsgSubmitReceiptResponse { price: price.total.to_string() })
}

fn update_params(cx: &mut Ctx<'_>, m: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&m.authority)?;
    let params = Params::from_proto(&fields::required("params", m.params)?);
    params.check()?;
    state::PARAMS.set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}

fn existing(cx: &Ctx<'_>, id: u64) -> Result<Task> {
    state::TASKS.get(cx, &id)?.ok_or_else(|| errors::not_found(id))
}

/// A task that is assigned to the signer.
fn assigned_to(cx: &Ctx<'_>, id: u64, signer: &str) -> Result<(Task, Address)> {
    let worker = fields::account("worker", signer)?;
    let task = existing(cx, id)?;
    if task.worker != Some(worker) {
        return Err(errors::not_party(id, signer, "worker", task.worker.as_ref()));
    }
    if task.status != Status::Assigned {
        return Err(errors::status(id, task.status, "Assigned"));
    }
    Ok((task, worker))
}
