//! Queries.

use deepnode_core::{KvRead, Queries, QueryCtx, QueryResult, Result, Status};
use deepnode_proto::deepnode::audits::v1::{self as proto, *};

use super::state::{self, Audit, Auditor, Outcome, Phase, Subject, Verdict};
use super::state::{AUDITORS, AUDITS, BY_KEY, BY_TASK, PARAMS, SEATS, SHOWN};
use crate::fields;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.audits.v1.Query/Params", params)
        .on("/deepnode.audits.v1.Query/Auditor", auditor)
        .on("/deepnode.audits.v1.Query/Auditors", auditors)
        .on("/deepnode.audits.v1.Query/Audit", audit)
        .on("/deepnode.audits.v1.Query/Audits", audits);
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(PARAMS.load(cx.state)?.to_proto()) })
}

fn auditor(cx: QueryCtx<'_>, q: QueryAuditorRequest) -> QueryResult<QueryAuditorResponse> {
    let operator = fields::account("validator", &q.validator)?;
    let auditor = AUDITORS
        .get(cx.state, &operator)?
        .ok_or_else(|| Status::not_found(format!("validator {operator} has no auditor")))?;
    Ok(QueryAuditorResponse { auditor: Some(auditor_to_proto(&operator, &auditor)) })
}

fn auditors(cx: QueryCtx<'_>, q: QueryAuditorsRequest) -> QueryResult<QueryAuditorsResponse> {
    let (page, pagination) = deepnode_core::query::paginate(
        q.pagination,
        |key| AUDITORS.raw_key(key),
        |walk| AUDITORS.iter(cx.state, walk),
    )?;
    let auditors = page.iter().map(|(operator, a)| auditor_to_proto(operator, a)).collect();
    Ok(QueryAuditorsResponse { auditors, pagination: Some(pagination) })
}

fn audit(cx: QueryCtx<'_>, q: QueryAuditRequest) -> QueryResult<QueryAuditResponse> {
    let audit = AUDITS
        .get(cx.state, &q.id)?
        .ok_or_else(|| Status::not_found(format!("audit {} does not exist", q.id)))?;
    Ok(QueryAuditResponse { audit: Some(to_proto(cx.state, &audit, true)?) })
}

/// All audits; that of one task; or the open ones for which an auditor's key was drawn. Blobs shown come with the
/// latter two.
fn audits(cx: QueryCtx<'_>, q: QueryAuditsRequest) -> QueryResult<QueryAuditsResponse> {
    let state = cx.state;
    let (found, pagination): (Vec<Audit>, _) = match (q.task_id, q.auditor.as_str()) {
        (0, "") => {
            let (page, pagination) = deepnode_core::query::paginate(
                q.pagination,
                |key| AUDITS.raw_key(key),
                |walk| AUDITS.iter(state, walk),
            )?;
            (page.into_iter().map(|(_, audit)| audit).collect(), Some(pagination))
        }
        (0, key) => {
            let key = fields::account("auditor", key)?;
            let Some(operator) = BY_KEY.get(state, &key)? else {
                return Err(Status::not_found(format!("auditor {key} is not registered")));
            };
            let (page, pagination) = deepnode_core::query::paginate(
                q.pagination,
                |key| SEATS.raw_key(key),
                |walk| SEATS.iter_from(state, &operator, walk),
            )?;
            let ids = page.into_iter().map(|((_, id), _)| state::known(state, id));
            (ids.collect::<Result<_>>()?, Some(pagination))
        }
        (task, "") => {
            let id = BY_TASK.get(state, &task)?;
            (id.map(|id| state::known(state, id)).transpose()?.into_iter().collect(), None)
        }
        (task, _) => {
            return Err(Status::invalid(format!("only one of task_id {task} and auditor may be set")))
        }
    };
    let blobs = q.task_id > 0 || !q.auditor.is_empty();
    let audits = found.iter().map(|audit| to_proto(state, audit, blobs)).collect::<Result<_>>()?;
    Ok(QueryAuditsResponse { audits, pagination })
}

fn auditor_to_proto(operator: &deepnode_core::Address, a: &Auditor) -> proto::Auditor {
    proto::Auditor {
        validator: operator.to_string(),
        auditor: a.key.to_string(),
        classes: a.classes.clone(),
        deposit: a.deposit.to_string(),
        stood: a.stood,
        overruled: a.overruled,
        missed: a.missed,
    }
}

fn to_proto(kv: &dyn KvRead, audit: &Audit, blobs: bool) -> Result<proto::Audit> {
    let shown = if blobs { SHOWN.get(kv, &audit.id)? } else { None };
    let (shown_input, shown_output) = shown.map(|s| (s.input, s.output)).unwrap_or_default();
    let subject = match audit.subject {
        Subject::Receipt(_) => proto::Subject::Receipt,
        Subject::Vector => proto::Subject::Vector,
    };
    let phase = match audit.phase {
        Phase::Draw => proto::Phase::Draw,
        Phase::Commit => proto::Phase::Commit,
        Phase::Reveal => proto::Phase::Reveal,
        Phase::Missing => proto::Phase::Missing,
        Phase::Closed => proto::Phase::Closed,
    };
    let outcome = match audit.outcome {
        None => proto::Outcome::Unspecified,
        Some(Outcome::Right) => proto::Outcome::Right,
        Some(Outcome::Wrong) => proto::Outcome::Wrong,
        Some(Outcome::Withheld) => proto::Outcome::Withheld,
        Some(Outcome::Void) => proto::Outcome::Void,
    };
    let member = |m: &state::Member| proto::Member {
        auditor: m.key.to_string(),
        validator: m.operator.to_string(),
        draw: m.draw,
        commitment: m.commitment.map(Vec::from).unwrap_or_default(),
        verdict: match m.verdict {
            None => proto::Verdict::Unspecified,
            Some(Verdict::Right) => proto::Verdict::Right,
            Some(Verdict::Wrong) => proto::Verdict::Wrong,
            Some(Verdict::Unavailable) => proto::Verdict::Unavailable,
        }
        .into(),
        digest: m.verdict.map(|_| m.digest.to_vec()).unwrap_or_default(),
    };
    let draw = |d: &state::Draw| proto::Draw { height: d.height, beacon: d.beacon.to_vec() };
    Ok(proto::Audit {
        id: audit.id,
        subject: subject.into(),
        task_id: audit.task().unwrap_or(0),
        model_id: audit.model.to_vec(),
        receipt_digest: audit.task().map(|_| audit.digest.to_vec()).unwrap_or_default(),
        worker: audit.worker.map(|w| w.to_string()).unwrap_or_default(),
        class: audit.class.clone(),
        phase: phase.into(),
        phase_end: audit.phase_end,
        draws: audit.draws.iter().map(draw).collect(),
        members: audit.members.iter().map(member).collect(),
        outcome: outcome.into(),
        opened_height: audit.opened_height,
        closed_height: audit.closed_height,
        fee: audit.fee.to_string(),
        shown_input,
        shown_output,
    })
}
