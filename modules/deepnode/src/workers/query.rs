//! Queries. Workers are shown as of now.

use deepnode_core::query::paginate;
use deepnode_core::{Address, KvRead, Queries, QueryCtx, QueryResult, Result, Status as QueryStatus};
use deepnode_proto::deepnode::workers::v1::{
    self as proto, QueryParamsRequest, QueryParamsResponse, QueryWorkerRequest, QueryWorkerResponse,
    QueryWorkersRequest, QueryWorkersResponse, WorkerStatus,
};

use super::state::*;
use crate::fields;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.workers.v1.Query/Params", params)
        .on("/deepnode.workers.v1.Query/Worker", worker)
        .on("/deepnode.workers.v1.Query/Workers", workers);
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(PARAMS.load(cx.state)?.to_proto()) })
}

fn worker(cx: QueryCtx<'_>, q: QueryWorkerRequest) -> QueryResult<QueryWorkerResponse> {
    let address = fields::account("address", &q.address)?;
    if !WORKERS.has(cx.state, &address)? {
        return Err(QueryStatus::not_found(format!("worker {address} not found")));
    }
    Ok(QueryWorkerResponse { worker: Some(show(cx.state, &address)?) })
}

fn workers(cx: QueryCtx<'_>, q: QueryWorkersRequest) -> QueryResult<QueryWorkersResponse> {
    let (addresses, page): (Vec<Address>, _) = if q.model_id.is_empty() {
        let (entries, page) =
            paginate(q.pagination, |k| WORKERS.raw_key(k), |walk| WORKERS.iter(cx.state, walk))?;
        (entries.into_iter().map(|(address, _)| address).collect(), page)
    } else {
        let model = fields::hex_digest("model_id", &q.model_id)?;
        let (entries, page) = paginate(
            q.pagination,
            |k| SERVING.raw_key(k),
            |walk| SERVING.iter_from(cx.state, &model, walk).map(|entry| Ok((entry?, ()))),
        )?;
        (entries.into_iter().map(|((_, address), ())| address).collect(), page)
    };
    let workers = addresses.iter().map(|address| show(cx.state, address)).collect::<Result<_>>()?;
    Ok(QueryWorkersResponse { workers, pagination: Some(page) })
}

fn show(kv: &dyn KvRead, address: &Address) -> Result<proto::Worker> {
    let worker = super::existing(kv, address)?;
    let profile = super::profile(kv, address)?;
    let operator = |validator: Option<Address>| validator.map(|v| v.to_operator()).unwrap_or_default();
    let status = match worker.status {
        Status::Active => WorkerStatus::Active,
        Status::Inactive => WorkerStatus::Inactive,
        Status::Barred => WorkerStatus::Barred,
    };
    Ok(proto::Worker {
        address: address.to_string(),
        bond: worker.bond.to_string(),
        leaving: worker.leaving.to_string(),
        leaving_height: worker.leaving_height,
        validator: operator(worker.validator),
        next_validator: operator(worker.next.map(|next| next.validator)),
        next_epoch: worker.next.and_then(|next| next.epoch).unwrap_or(0),
        endpoint: profile.endpoint,
        hardware: profile.hardware,
        declared: worker.declared,
        proven: worker.proven,
        models: profile.models.iter().map(|model| model.to_vec()).collect(),
        status: status.into(),
        last_seen_epoch: worker.last_seen,
        open_tasks: worker.open_tasks,
        registered_height: worker.registered_height,
        pending_pay: worker.pending_pay.to_string(),
    })
}
