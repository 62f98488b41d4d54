//! Queries of deepnode.tasks.v1.

use deepnode_core::query::paginate;
use deepnode_core::{KvRead, Queries, QueryCtx, QueryResult, Result, Status as Refusal};
use deepnode_proto::deepnode::tasks::v1::{self as proto, *};

use super::state::{self, Status, Task};
use super::{params, pay, receipt, request};
use crate::fields;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.tasks.v1.Query/Params", parameters)
        .on("/deepnode.tasks.v1.Query/Task", task)
        .on("/deepnode.tasks.v1.Query/Tasks", tasks)
        .on("/deepnode.tasks.v1.Query/EstimateTask", estimate);
}

fn parameters(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(params(cx.state)?.to_proto()) })
}

fn task(cx: QueryCtx<'_>, q: QueryTaskRequest) -> QueryResult<QueryTaskResponse> {
    let task = super::get(cx.state, q.id)?
        .ok_or_else(|| Refusal::not_found(format!("task {} does not exist", q.id)))?;
    Ok(QueryTaskResponse { task: Some(to_proto(&task)?) })
}

fn tasks(cx: QueryCtx<'_>, q: QueryTasksRequest) -> QueryResult<QueryTasksResponse> {
    let (tasks, pagination) = match (q.creator.as_str(), q.worker.as_str()) {
        ("", "") => {
            let (page, next) = paginate(
                q.pagination,
                |k| state::TASKS.raw_key(k),
                |walk| state::TASKS.iter(cx.state, walk),
            )?;
            (page.into_iter().map(|(_, task)| task).collect(), next)
        }
        (creator, "") => {
            of(cx.state, &state::BY_CREATOR, fields::account("creator", creator)?, q.pagination)?
        }
        ("", worker) => of(cx.state, &state::BY_WORKER, fields::account("worker", worker)?, q.pagination)?,
        _ => return Err(Refusal::invalid("only one of creator and worker may be given")),
    };
    let tasks = tasks.iter().map(to_proto).collect::<Result<_>>()?;
    Ok(QueryTasksResponse { tasks, pagination: Some(pagination) })
}

/// A page of the tasks that an index names for an account.
fn of(
    kv: &dyn KvRead,
    index: &deepnode_core::Set<(deepnode_core::Address, u64)>,
    account: deepnode_core::Address,
    page: Option<deepnode_proto::cosmos::base::query::v1beta1::PageRequest>,
) -> QueryResult<(Vec<Task>, deepnode_proto::cosmos::base::query::v1beta1::PageResponse)> {
    let (page, next) = paginate(
        page,
        |k| index.raw_key(k),
        |walk| index.iter_from(kv, &account, walk).map(|key| Ok((key?, ()))),
    )?;
    let tasks = page.into_iter().map(|((_, id), ())| state::known(kv, id)).collect::<Result<_>>()?;
    Ok((tasks, next))
}

fn estimate(cx: QueryCtx<'_>, q: QueryEstimateTaskRequest) -> QueryResult<QueryEstimateTaskResponse> {
    let model = fields::hex_digest("model_id", &q.model_id)?;
    fields::within("input_tokens", q.input_tokens, 1, u32::MAX)?;
    fields::within("max_output", q.max_output, 1, u32::MAX)?;
    let estimate = request::estimate(cx.state, &model, q.input_tokens, q.max_output)?;
    Ok(QueryEstimateTaskResponse {
        cu: estimate.cu,
        compute: estimate.compute.to_string(),
        royalty: estimate.royalty.to_string(),
        fee: estimate.fee.to_string(),
        min_deadline: estimate.min_deadline,
    })
}

/// A task as clients see it.
fn to_proto(task: &Task) -> Result<proto::Task> {
    let settlement = task.settlement.as_ref().map(|s| proto::Settlement {
        price: s.price.to_string(),
        worker: s.worker.to_string(),
        owner: s.owner.to_string(),
        parent: s.parent.to_string(),
        burned: s.burned.to_string(),
        community: s.community.to_string(),
        levy: s.levy.to_string(),
        returned: s.returned.to_string(),
    });
    let price = match task.receipt {
        Some(_) => pay::price(task)?.total.to_string(),
        None => String::new(),
    };
    Ok(proto::Task {
        id: task.id,
        creator: task.creator.to_string(),
        request: Some(task.request()?),
        input_tokens: task.input_tokens,
        inline_input: task.inline_input.clone(),
        escrow: task.escrow.to_string(),
        unit_price: task.unit_price.to_string(),
        class: task.class.clone(),
        submitted_height: task.submitted_height,
        deadline: task.deadline,
        status: status(task.status).into(),
        worker: task.worker.map(|w| w.to_string()).unwrap_or_default(),
        earlier: task.earlier.iter().map(|e| e.worker.to_string()).collect(),
        assigned_height: task.assigned_height,
        accepted_height: task.accepted_height,
        receipt_height: task.receipt_height,
        seed: task.seed.map(|s| s.to_vec()).unwrap_or_default(),
        receipt: task.receipt.as_ref().map(|r| receipt::to_proto(task, r)),
        receipt_digest: task.receipt.as_ref().map(|r| r.digest.to_vec()).unwrap_or_default(),
        cu: task.cu,
        audit_chance: task.audit_chance.to_string(),
        drawn: task.drawn,
        settlement,
        price,
    })
}

fn status(status: Status) -> proto::TaskStatus {
    match status {
        Status::Open => proto::TaskStatus::Open,
        Status::Assigned => proto::TaskStatus::Assigned,
        Status::Accepted => proto::TaskStatus::Accepted,
        Status::Submitted => proto::TaskStatus::Submitted,
        Status::Settled => proto::TaskStatus::Settled,
        Status::Refunded => proto::TaskStatus::Refunded,
        Status::Cancelled => proto::TaskStatus::Cancelled,
        Status::Convicted => proto::TaskStatus::Convicted,
        Status::Void => proto::TaskStatus::Void,
    }
}
