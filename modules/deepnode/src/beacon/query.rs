//! Queries.

use deepnode_core::{Queries, QueryCtx, QueryResult, Status, Walk};
use deepnode_proto::deepnode::beacon::v1::{self as proto, *};

use super::state::{PARAMS, VALUES};

/// How a value comes about.
const SCHEME: &str = "v0: BLAKE3(previous value, height, block hash)";

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.beacon.v1.Query/Params", params)
        .on("/deepnode.beacon.v1.Query/Value", value)
        .on("/deepnode.beacon.v1.Query/Epoch", epoch);
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(super::params::to_proto(&PARAMS.load(cx.state)?)) })
}

fn value(cx: QueryCtx<'_>, q: QueryValueRequest) -> QueryResult<QueryValueResponse> {
    let found = match q.height {
        0 => VALUES.iter(cx.state, Walk::REVERSE).next().transpose()?,
        height => VALUES.get(cx.state, &height)?.map(|value| (height, value)),
    };
    let Some((height, value)) = found else {
        let oldest = VALUES.iter(cx.state, Walk::FORWARD).next().transpose()?.map_or(0, |(height, _)| height);
        return Err(Status::not_found(format!(
            "no beacon value of height {}: heights {oldest} to {} are kept",
            q.height, cx.block.height
        )));
    };
    Ok(QueryValueResponse { height, value: value.to_vec(), scheme: SCHEME.into(), devnet_only: true })
}

fn epoch(cx: QueryCtx<'_>, _: QueryEpochRequest) -> QueryResult<QueryEpochResponse> {
    let epoch = super::epoch(cx.state)?;
    let epoch = proto::Epoch {
        number: epoch.number,
        start_height: epoch.start_height,
        start_time: Some(epoch.start_time.to_proto()),
    };
    Ok(QueryEpochResponse { epoch: Some(epoch) })
}
