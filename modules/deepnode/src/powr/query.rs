//! Queries of deepnode.powr.v1.

use deepnode_core::{Address, Dec, Queries, QueryCtx, QueryResult, Result, Status as Refusal, Walk};
use deepnode_proto::deepnode::powr::v1::{self as proto, *};

use super::state::{Terms, RHO, TERMS, TERMS_EPOCH};
use super::{params, scores};
use crate::{fields, workers};

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.powr.v1.Query/Params", parameters)
        .on("/deepnode.powr.v1.Query/Terms", terms)
        .on("/deepnode.powr.v1.Query/WorkerScore", worker_score);
}

fn parameters(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(params(cx.state)?.to_proto()) })
}

/// The validator by account or operator address; all if empty. There are at most as many as the bonded set holds.
fn terms(cx: QueryCtx<'_>, q: QueryTermsRequest) -> QueryResult<QueryTermsResponse> {
    let terms = match q.validator.as_str() {
        "" => TERMS
            .iter(cx.state, Walk::FORWARD)
            .map(|entry| entry.map(|(operator, terms)| to_proto(&operator, &terms)))
            .collect::<Result<_>>()?,
        text => {
            let operator = Address::parse(text).or_else(|_| fields::operator("validator", text))?;
            let terms = TERMS.get(cx.state, &operator)?.ok_or_else(|| {
                Refusal::not_found(format!("validator {text} was not bonded at the last epoch's end"))
            })?;
            vec![to_proto(&operator, &terms)]
        }
    };
    Ok(QueryTermsResponse {
        epoch: TERMS_EPOCH.get(cx.state)?.unwrap_or(0),
        rho_ppm: ppm(RHO.get(cx.state)?.unwrap_or(Dec::ONE)),
        terms,
    })
}

fn worker_score(cx: QueryCtx<'_>, q: QueryWorkerScoreRequest) -> QueryResult<QueryWorkerScoreResponse> {
    let worker = fields::account("worker", &q.worker)?;
    if workers::get(cx.state, &worker)?.is_none() {
        return Err(Refusal::not_found(format!("worker {} does not exist", q.worker)));
    }
    let score = scores::score(cx.state, &worker)?;
    Ok(QueryWorkerScoreResponse {
        score: score.value.to_string(),
        validator: score.validator.map(|v| v.to_string()).unwrap_or_default(),
    })
}

fn to_proto(operator: &Address, t: &Terms) -> proto::Terms {
    proto::Terms {
        validator: operator.to_string(),
        epoch: t.epoch,
        stake: t.stake.to_string(),
        work: t.work.to_string(),
        audit_work: t.audit_work.to_string(),
        reputation: t.reputation.to_string(),
        score: t.score.to_string(),
        q: Dec::from_atomics(t.q).to_string(),
        collateral: t.collateral,
        cap: t.cap,
        old: t.old,
        low: t.low,
        high: t.high,
        power: t.power,
        signed: t.signing.signed,
        due: t.signing.due,
        rho_ppm: ppm(t.rho),
    }
}

fn ppm(part: Dec) -> u32 {
    u32::try_from(part.atomics() / (Dec::SCALE / 1_000_000)).unwrap_or(u32::MAX)
}
