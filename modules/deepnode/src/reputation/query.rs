//! Queries. What they show is as of now: folded and decayed, and stored nowhere.

use deepnode_core::query::paginate;
use deepnode_core::{Address, Queries, QueryCtx, QueryResult, Result, Status};
use deepnode_proto::deepnode::reputation::v1::{
    self as proto, QueryParamsRequest, QueryParamsResponse, QueryRecordRequest, QueryRecordResponse,
    QueryRecordsRequest, QueryRecordsResponse,
};

use super::math::Record;
use super::state::{PARAMS, RECORDS};
use crate::fields;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.reputation.v1.Query/Params", params)
        .on("/deepnode.reputation.v1.Query/Record", record)
        .on("/deepnode.reputation.v1.Query/Records", records);
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(super::params::to_proto(&PARAMS.load(cx.state)?)?) })
}

/// An account or an operator address.
fn subject(text: &str) -> QueryResult<Address> {
    Ok(Address::parse_operator(text).or_else(|_| fields::account("subject", text))?)
}

fn record(cx: QueryCtx<'_>, q: QueryRecordRequest) -> QueryResult<QueryRecordResponse> {
    let subject = subject(&q.subject)?;
    if !RECORDS.has(cx.state, &(subject, q.capability.clone()))? {
        return Err(Status::not_found(format!(
            "no record of {subject} in capability {:?}",
            fields::excerpt(&q.capability)
        )));
    }
    let record = super::record(cx.state, &subject, &q.capability)?;
    Ok(QueryRecordResponse { record: Some(to_proto(cx, &subject, q.capability, &record)?) })
}

fn records(cx: QueryCtx<'_>, q: QueryRecordsRequest) -> QueryResult<QueryRecordsResponse> {
    let subject = subject(&q.subject)?;
    let (entries, page) =
        paginate(q.pagination, |k| RECORDS.raw_key(k), |walk| RECORDS.iter_from(cx.state, &subject, walk))?;
    let show = |((_, capability), _): ((Address, String), Record)| {
        let record = super::record(cx.state, &subject, &capability)?;
        to_proto(cx, &subject, capability, &record)
    };
    let records = entries.into_iter().map(show).collect::<Result<_>>()?;
    Ok(QueryRecordsResponse { records, pagination: Some(page) })
}

fn to_proto(
    cx: QueryCtx<'_>,
    subject: &Address,
    capability: String,
    record: &Record,
) -> Result<proto::Record> {
    let duty = capability == super::DUTY;
    let reputation =
        if duty { super::duty(cx.state, subject)? } else { record.score(&PARAMS.load(cx.state)?)? };
    Ok(proto::Record {
        subject: if duty { subject.to_operator() } else { subject.to_string() },
        capability,
        passes: record.passes.to_string(),
        soft: record.soft.to_string(),
        wrong: record.wrong.to_string(),
        new_passes: record.fresh.passes.to_string(),
        new_late: record.fresh.late.to_string(),
        new_unavailable: record.fresh.unavailable.to_string(),
        // A conviction counts at once: none waits.
        new_wrong: "0".into(),
        epoch: record.epoch,
        reputation: reputation.to_wire(),
    })
}
