//! Queries of cosmos.gov.v1.

use deepnode_core::query::{paginate, Code};
use deepnode_core::{Address, Coins, Queries, QueryCtx, QueryResult, Status as Refusal};
use deepnode_proto::cosmos::gov::v1::{self as proto, *};

use super::state::{Proposal, Status, Tally, Vote, CONSTITUTION, DEPOSITS, PROPOSALS, RUNNING, VOTES};
use super::{events, params, proposals as keeper};

/// Votes, with their delegations, that a query counts; a larger vote has its result when it is over.
const WORK_A_QUERY: usize = 20_000;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/cosmos.gov.v1.Query/Constitution", constitution)
        .on("/cosmos.gov.v1.Query/Proposal", proposal)
        .on("/cosmos.gov.v1.Query/Proposals", proposals)
        .on("/cosmos.gov.v1.Query/Vote", vote)
        .on("/cosmos.gov.v1.Query/Votes", votes)
        .on("/cosmos.gov.v1.Query/Params", parameters)
        .on("/cosmos.gov.v1.Query/Deposit", deposit)
        .on("/cosmos.gov.v1.Query/Deposits", deposits)
        .on("/cosmos.gov.v1.Query/TallyResult", tally_result);
}

fn constitution(cx: QueryCtx<'_>, _: QueryConstitutionRequest) -> QueryResult<QueryConstitutionResponse> {
    Ok(QueryConstitutionResponse { constitution: CONSTITUTION.get(cx.state)?.unwrap_or_default() })
}

pub(super) fn proposal(cx: QueryCtx<'_>, q: QueryProposalRequest) -> QueryResult<QueryProposalResponse> {
    let proposal = required(cx, q.proposal_id)?;
    Ok(QueryProposalResponse { proposal: Some(to_proto(q.proposal_id, &proposal)) })
}

pub(super) fn proposals(cx: QueryCtx<'_>, q: QueryProposalsRequest) -> QueryResult<QueryProposalsResponse> {
    let wanted = ProposalStatus::try_from(q.proposal_status)
        .map_err(|_| Refusal::invalid(format!("invalid proposal status {}", q.proposal_status)))?;
    let named = |field, text: &str| (!text.is_empty()).then(|| account(field, text)).transpose();
    let (voter, depositor) = (named("voter", &q.voter)?, named("depositor", &q.depositor)?);
    let (page, pagination) = paginate(
        q.pagination,
        |k| PROPOSALS.raw_key(k),
        |walk| {
            PROPOSALS.iter(cx.state, walk).filter_map(move |entry| {
                let matches = |id: u64, p: &Proposal| {
                    Ok((wanted == ProposalStatus::Unspecified || wanted == status(p.status))
                        && voter.map_or(Ok(true), |v| VOTES.has(cx.state, &(id, v)))?
                        && depositor.map_or(Ok(true), |d| DEPOSITS.has(cx.state, &(id, d)))?)
                };
                match entry {
                    Ok((id, p)) => match matches(id, &p) {
                        Ok(true) => Some(Ok((id, p))),
                        Ok(false) => None,
                        Err(e) => Some(Err(e)),
                    },
                    Err(e) => Some(Err(e)),
                }
            })
        },
    )?;
    let proposals = page.iter().map(|(id, p)| to_proto(*id, p)).collect();
    Ok(QueryProposalsResponse { proposals, pagination: Some(pagination) })
}

pub(super) fn vote(cx: QueryCtx<'_>, q: QueryVoteRequest) -> QueryResult<QueryVoteResponse> {
    let voter = account("voter", &q.voter)?;
    let vote = VOTES.get(cx.state, &(q.proposal_id, voter))?.ok_or_else(|| {
        Refusal::invalid(format!("voter: {voter} not found for proposal: {}", q.proposal_id))
    })?;
    Ok(QueryVoteResponse { vote: Some(vote_to_proto(q.proposal_id, &voter, vote)) })
}

pub(super) fn votes(cx: QueryCtx<'_>, q: QueryVotesRequest) -> QueryResult<QueryVotesResponse> {
    let (page, pagination) =
        paginate(q.pagination, |k| VOTES.raw_key(k), |walk| VOTES.iter_from(cx.state, &q.proposal_id, walk))?;
    let votes = page.into_iter().map(|((id, voter), vote)| vote_to_proto(id, &voter, vote)).collect();
    Ok(QueryVotesResponse { votes, pagination: Some(pagination) })
}

/// The deprecated parts too, for the type that was asked for.
#[allow(deprecated)]
pub(super) fn parameters(cx: QueryCtx<'_>, q: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    let params = params(cx.state)?.to_proto();
    let mut response = QueryParamsResponse { params: Some(params.clone()), ..Default::default() };
    match q.params_type.as_str() {
        "" => {}
        "deposit" => {
            response.deposit_params = Some(DepositParams {
                min_deposit: params.min_deposit,
                max_deposit_period: params.max_deposit_period,
            });
        }
        "voting" => response.voting_params = Some(VotingParams { voting_period: params.voting_period }),
        "tallying" => {
            response.tally_params = Some(TallyParams {
                quorum: params.quorum,
                threshold: params.threshold,
                veto_threshold: params.veto_threshold,
            });
        }
        other => {
            let shown: String = other.chars().take(40).collect();
            return Err(Refusal::invalid(format!("{shown} is not a valid parameter type")));
        }
    }
    Ok(response)
}

pub(super) fn deposit(cx: QueryCtx<'_>, q: QueryDepositRequest) -> QueryResult<QueryDepositResponse> {
    let depositor = account("depositor", &q.depositor)?;
    let amount = DEPOSITS.get(cx.state, &(q.proposal_id, depositor))?.ok_or_else(|| {
        Refusal::invalid(format!("depositor: {depositor} not found for proposal: {}", q.proposal_id))
    })?;
    Ok(QueryDepositResponse { deposit: Some(deposit_to_proto(q.proposal_id, &depositor, &amount)) })
}

pub(super) fn deposits(cx: QueryCtx<'_>, q: QueryDepositsRequest) -> QueryResult<QueryDepositsResponse> {
    let (page, pagination) = paginate(
        q.pagination,
        |k| DEPOSITS.raw_key(k),
        |walk| DEPOSITS.iter_from(cx.state, &q.proposal_id, walk),
    )?;
    let deposits = page.iter().map(|((id, who), amount)| deposit_to_proto(*id, who, amount)).collect();
    Ok(QueryDepositsResponse { deposits, pagination: Some(pagination) })
}

/// The result, or while the vote goes on what it would be now.
pub(super) fn tally_result(
    cx: QueryCtx<'_>,
    q: QueryTallyResultRequest,
) -> QueryResult<QueryTallyResultResponse> {
    let proposal = required(cx, q.proposal_id)?;
    let mut result = proposal.result;
    if proposal.status == Status::VotingPeriod {
        let mut tally = match RUNNING.get(cx.state)?.filter(|t| t.proposal == q.proposal_id) {
            Some(tally) => tally,
            None => Tally::begin(cx.state, q.proposal_id)?,
        };
        let mut budget = WORK_A_QUERY;
        if !tally.count(cx.state, &mut budget)?.1 {
            return Err(Refusal::new(
                Code::FailedPrecondition,
                format!("proposal {} has too many votes to count in a query", q.proposal_id),
            ));
        }
        result = tally.finish(&params(cx.state)?)?.1;
    }
    Ok(QueryTallyResultResponse { tally: Some(result_to_proto(result)) })
}

fn required(cx: QueryCtx<'_>, id: u64) -> QueryResult<Proposal> {
    if id == 0 {
        return Err(Refusal::invalid("proposal id can not be 0"));
    }
    keeper::proposal(cx.state, id)?.ok_or_else(|| Refusal::not_found(format!("proposal {id} doesn't exist")))
}

fn account(field: &str, text: &str) -> QueryResult<Address> {
    Address::parse(text).map_err(|e| Refusal::invalid(format!("{field}: {e}")))
}

fn status(status: Status) -> ProposalStatus {
    match status {
        Status::DepositPeriod => ProposalStatus::DepositPeriod,
        Status::VotingPeriod => ProposalStatus::VotingPeriod,
        Status::Passed => ProposalStatus::Passed,
        Status::Rejected => ProposalStatus::Rejected,
        Status::Failed => ProposalStatus::Failed,
    }
}

fn to_proto(id: u64, p: &Proposal) -> proto::Proposal {
    proto::Proposal {
        id,
        messages: p.messages.iter().map(Into::into).collect(),
        status: status(p.status).into(),
        final_tally_result: Some(result_to_proto(p.result)),
        submit_time: Some(p.submitted.to_proto()),
        deposit_end_time: Some(p.deposit_end.to_proto()),
        total_deposit: p.deposit.to_proto(),
        voting_start_time: p.voting.map(|(start, _)| start.to_proto()),
        voting_end_time: p.voting.map(|(_, end)| end.to_proto()),
        metadata: p.metadata.clone(),
        title: p.title.clone(),
        summary: p.summary.clone(),
        proposer: p.proposer.to_string(),
        expedited: false,
        failed_reason: p.failed_reason.clone(),
    }
}

fn result_to_proto([yes, abstain, no, veto]: [u128; 4]) -> TallyResult {
    TallyResult {
        yes_count: yes.to_string(),
        abstain_count: abstain.to_string(),
        no_count: no.to_string(),
        no_with_veto_count: veto.to_string(),
    }
}

fn vote_to_proto(id: u64, voter: &Address, vote: Vote) -> proto::Vote {
    let options = vote.options.iter().map(|(choice, weight)| WeightedVoteOption {
        option: events::number(*choice),
        weight: weight.to_string(),
    });
    proto::Vote {
        proposal_id: id,
        voter: voter.to_string(),
        options: options.collect(),
        metadata: vote.metadata,
    }
}

fn deposit_to_proto(id: u64, depositor: &Address, amount: &Coins) -> proto::Deposit {
    proto::Deposit { proposal_id: id, depositor: depositor.to_string(), amount: amount.to_proto() }
}
