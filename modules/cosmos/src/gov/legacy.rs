//! gov v1beta1, which older wallets speak: the same votes, deposits and proposals in its words. A proposal shows as a
//! text proposal of its title and summary. Submitting is for v1 alone.

use deepnode_core::{Ctx, Dec, Messages, Queries, QueryCtx, QueryResult, Result};
use deepnode_proto::cosmos::gov::v1;
use deepnode_proto::cosmos::gov::v1beta1::*;
use deepnode_proto::{Any, AnyExt};

use super::{errors, msgs, params, query};

pub(super) fn register_messages(messages: &mut Messages) {
    messages.on(vote).on(vote_weighted).on(deposit);
}

pub(super) fn register_queries(queries: &mut Queries) {
    queries
        .on("/cosmos.gov.v1beta1.Query/Proposal", proposal)
        .on("/cosmos.gov.v1beta1.Query/Proposals", proposals)
        .on("/cosmos.gov.v1beta1.Query/Vote", vote_of)
        .on("/cosmos.gov.v1beta1.Query/Votes", votes)
        .on("/cosmos.gov.v1beta1.Query/Params", parameters)
        .on("/cosmos.gov.v1beta1.Query/Deposit", deposit_of)
        .on("/cosmos.gov.v1beta1.Query/Deposits", deposits)
        .on("/cosmos.gov.v1beta1.Query/TallyResult", tally_result);
}

fn vote(cx: &mut Ctx<'_>, m: MsgVote) -> Result<MsgVoteResponse> {
    let MsgVote { proposal_id, voter, option } = m;
    msgs::vote(cx, v1::MsgVote { proposal_id, voter, option, metadata: String::new() })?;
    Ok(MsgVoteResponse {})
}

fn vote_weighted(cx: &mut Ctx<'_>, m: MsgVoteWeighted) -> Result<MsgVoteWeightedResponse> {
    let options = m
        .options
        .into_iter()
        .map(|o| {
            // v1beta1 writes decimals without their point.
            let weight = Dec::from_wire(&o.weight)
                .map_err(|e| errors::invalid_vote(format!("options.weight: {e}")))?;
            Ok(v1::WeightedVoteOption { option: o.option, weight: weight.to_string() })
        })
        .collect::<Result<_>>()?;
    let (proposal_id, voter) = (m.proposal_id, m.voter);
    msgs::vote_weighted(cx, v1::MsgVoteWeighted { proposal_id, voter, options, metadata: String::new() })?;
    Ok(MsgVoteWeightedResponse {})
}

fn deposit(cx: &mut Ctx<'_>, m: MsgDeposit) -> Result<MsgDepositResponse> {
    let MsgDeposit { proposal_id, depositor, amount } = m;
    msgs::deposit(cx, v1::MsgDeposit { proposal_id, depositor, amount })?;
    Ok(MsgDepositResponse {})
}

fn proposal(cx: QueryCtx<'_>, q: QueryProposalRequest) -> QueryResult<QueryProposalResponse> {
    let found = query::proposal(cx, v1::QueryProposalRequest { proposal_id: q.proposal_id })?;
    Ok(QueryProposalResponse { proposal: found.proposal.map(old_proposal) })
}

fn proposals(cx: QueryCtx<'_>, q: QueryProposalsRequest) -> QueryResult<QueryProposalsResponse> {
    let QueryProposalsRequest { proposal_status, voter, depositor, pagination } = q;
    let found =
        query::proposals(cx, v1::QueryProposalsRequest { proposal_status, voter, depositor, pagination })?;
    let proposals = found.proposals.into_iter().map(old_proposal).collect();
    Ok(QueryProposalsResponse { proposals, pagination: found.pagination })
}

fn vote_of(cx: QueryCtx<'_>, q: QueryVoteRequest) -> QueryResult<QueryVoteResponse> {
    let found = query::vote(cx, v1::QueryVoteRequest { proposal_id: q.proposal_id, voter: q.voter })?;
    Ok(QueryVoteResponse { vote: found.vote.map(old_vote) })
}

fn votes(cx: QueryCtx<'_>, q: QueryVotesRequest) -> QueryResult<QueryVotesResponse> {
    let QueryVotesRequest { proposal_id, pagination } = q;
    let found = query::votes(cx, v1::QueryVotesRequest { proposal_id, pagination })?;
    let votes = found.votes.into_iter().map(old_vote).collect();
    Ok(QueryVotesResponse { votes, pagination: found.pagination })
}

/// All three parts, whichever was asked for. Its decimals are bytes: the digits without their point.
fn parameters(cx: QueryCtx<'_>, q: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    query::parameters(cx, v1::QueryParamsRequest { params_type: q.params_type })?;
    let found = params(cx.state)?;
    let shown = found.to_proto();
    Ok(QueryParamsResponse {
        voting_params: Some(VotingParams { voting_period: shown.voting_period }),
        deposit_params: Some(DepositParams {
            min_deposit: shown.min_deposit,
            max_deposit_period: shown.max_deposit_period,
        }),
        tally_params: Some(TallyParams {
            quorum: found.quorum.to_wire().into_bytes(),
            threshold: found.threshold.to_wire().into_bytes(),
            veto_threshold: found.veto_threshold.to_wire().into_bytes(),
        }),
    })
}

fn deposit_of(cx: QueryCtx<'_>, q: QueryDepositRequest) -> QueryResult<QueryDepositResponse> {
    let QueryDepositRequest { proposal_id, depositor } = q;
    let found = query::deposit(cx, v1::QueryDepositRequest { proposal_id, depositor })?;
    Ok(QueryDepositResponse { deposit: found.deposit.map(old_deposit) })
}

fn deposits(cx: QueryCtx<'_>, q: QueryDepositsRequest) -> QueryResult<QueryDepositsResponse> {
    let QueryDepositsRequest { proposal_id, pagination } = q;
    let found = query::deposits(cx, v1::QueryDepositsRequest { proposal_id, pagination })?;
    let deposits = found.deposits.into_iter().map(old_deposit).collect();
    Ok(QueryDepositsResponse { deposits, pagination: found.pagination })
}

fn tally_result(cx: QueryCtx<'_>, q: QueryTallyResultRequest) -> QueryResult<QueryTallyResultResponse> {
    let found = query::tally_result(cx, v1::QueryTallyResultRequest { proposal_id: q.proposal_id })?;
    Ok(QueryTallyResultResponse { tally: found.tally.map(old_result) })
}

fn old_proposal(p: v1::Proposal) -> Proposal {
    Proposal {
        proposal_id: p.id,
        content: Some(Any::pack(&TextProposal { title: p.title, description: p.summary })),
        status: p.status,
        final_tally_result: p.final_tally_result.map(old_result),
        submit_time: p.submit_time,
        deposit_end_time: p.deposit_end_time,
        total_deposit: p.total_deposit,
        voting_start_time: p.voting_start_time,
        voting_end_time: p.voting_end_time,
    }
}

fn old_result(r: v1::TallyResult) -> TallyResult {
    TallyResult {
        yes: r.yes_count,
        abstain: r.abstain_count,
        no: r.no_count,
        no_with_veto: r.no_with_veto_count,
    }
}

/// `option` is deprecated and still set for a vote that is not split, as in the SDK.
#[allow(deprecated)]
fn old_vote(v: v1::Vote) -> Vote {
    let option = match v.options.as_slice() {
        [only] => only.option,
        _ => 0,
    };
    let options = v.options.into_iter().map(|o| WeightedVoteOption {
        option: o.option,
        weight: o.weight.parse::<Dec>().unwrap_or_default().to_wire(),
    });
    Vote { proposal_id: v.proposal_id, voter: v.voter, option, options: options.collect() }
}

fn old_deposit(d: v1::Deposit) -> Deposit {
    Deposit { proposal_id: d.proposal_id, depositor: d.depositor, amount: d.amount }
}
