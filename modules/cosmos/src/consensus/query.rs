//! Queries: cosmos.consensus.v1.

use deepnode_core::{Queries, QueryCtx, QueryResult};
use deepnode_proto::cosmos::consensus::v1::{QueryParamsRequest, QueryParamsResponse};

pub fn register(queries: &mut Queries) {
    queries.on("/cosmos.consensus.v1.Query/Params", params);
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    let params = super::params(cx.state)?.to_proto(super::app_version(cx.state)?);
    Ok(QueryParamsResponse { params: Some(params) })
}
