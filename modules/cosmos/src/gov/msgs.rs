//! One handler a message.

use deepnode_core::{check_authority, errors, Address, Coins, Ctx, Dec, Messages, Result};
use deepnode_proto::cosmos::gov::v1::*;

use super::proposals::{self, Draft};
use super::state::{Choice, Vote, PARAMS};
use super::{errors as refusals, Params};

/// Messages of this module that have no handler, deliberately: contents of v1beta1 can be neither proposed nor
/// executed.
pub const UNHANDLED: &[&str] =
    &["/cosmos.gov.v1.MsgExecLegacyContent", "/cosmos.gov.v1beta1.MsgSubmitProposal"];

/// Greatest length of a title and of metadata, in bytes.
const MAX_METADATA: usize = 255;
/// Greatest length of a summary, in bytes.
const MAX_SUMMARY: usize = 40 * MAX_METADATA;

pub(super) fn register(messages: &mut Messages) {
    messages.on(submit_proposal).on(deposit).on(vote).on(vote_weighted).on(cancel_proposal).on(update_params);
}

fn submit_proposal(cx: &mut Ctx<'_>, m: MsgSubmitProposal) -> Result<MsgSubmitProposalResponse> {
    let proposer = account("proposer", &m.proposer)?;
    let deposit = Coins::from_proto("initial_deposit", &m.initial_deposit)?;
    if m.expedited {
        return Err(errors::not_supported("expedited proposals"));
    }
    if m.title.is_empty() {
        return Err(errors::invalid_request("proposal title cannot be empty"));
    }
    if m.summary.is_empty() {
        return Err(errors::invalid_request("proposal summary cannot be empty"));
    }
    for (field, text) in [("title", &m.title), ("metadata", &m.metadata)] {
        if text.len() > MAX_METADATA {
            return Err(refusals::metadata_too_long(format!(
                "{field} has {} bytes, at most {MAX_METADATA} are allowed",
                text.len()
            )));
        }
    }
    if m.summary.len() > MAX_SUMMARY {
        return Err(refusals::summary_too_long(format!(
            "summary has {} bytes, at most {MAX_SUMMARY} are allowed",
            m.summary.len()
        )));
    }
    if m.messages.is_empty() && m.metadata.is_empty() {
        return Err(refusals::no_messages("either metadata or messages must be given"));
    }
    let draft = Draft {
        messages: m.messages.into_iter().map(Into::into).collect(),
        metadata: m.metadata,
        title: m.title,
        summary: m.summary,
    };
    let proposal_id = proposals::submit(cx, proposer, draft, &deposit)?;
    Ok(MsgSubmitProposalResponse { proposal_id })
}

pub(super) fn deposit(cx: &mut Ctx<'_>, m: MsgDeposit) -> Result<MsgDepositResponse> {
    let depositor = account("depositor", &m.depositor)?;
    let amount = Coins::from_proto("amount", &m.amount)?;
    if amount.is_empty() {
        return Err(errors::invalid_coins("amount must not be empty"));
    }
    proposals::pay_in(cx, m.proposal_id, &depositor, &amount)?;
    Ok(MsgDepositResponse {})
}

pub(super) fn vote(cx: &mut Ctx<'_>, m: MsgVote) -> Result<MsgVoteResponse> {
    let voter = account("voter", &m.voter)?;
    let options = vec![(choice(m.option)?, Dec::ONE)];
    cast(cx, m.proposal_id, voter, options, m.metadata)?;
    Ok(MsgVoteResponse {})
}

pub(super) fn vote_weighted(cx: &mut Ctx<'_>, m: MsgVoteWeighted) -> Result<MsgVoteWeightedResponse> {
    let voter = account("voter", &m.voter)?;
    if m.options.is_empty() || m.options.len() > Choice::ALL.len() {
        return Err(errors::invalid_request(format!("{} options, 1 to 4 are allowed", m.options.len())));
    }
    let options = m
        .options
        .iter()
        .map(|o| {
            let weight =
                o.weight.parse().map_err(|e| refusals::invalid_vote(format!("options.weight: {e}")))?;
            Ok((choice(o.option)?, weight))
        })
        .collect::<Result<_>>()?;
    cast(cx, m.proposal_id, voter, options, m.metadata)?;
    Ok(MsgVoteWeightedResponse {})
}

fn cast(
    cx: &mut Ctx<'_>,
    id: u64,
    voter: Address,
    options: Vec<(Choice, Dec)>,
    metadata: String,
) -> Result<()> {
    if metadata.len() > MAX_METADATA {
        return Err(refusals::metadata_too_long(format!(
            "metadata has {} bytes, at most {MAX_METADATA} are allowed",
            metadata.len()
        )));
    }
    proposals::vote(cx, id, &voter, Vote { options, metadata })
}

fn cancel_proposal(cx: &mut Ctx<'_>, m: MsgCancelProposal) -> Result<MsgCancelProposalResponse> {
    let proposer = account("proposer", &m.proposer)?;
    proposals::cancel(cx, m.proposal_id, &proposer)?;
    Ok(MsgCancelProposalResponse {
        proposal_id: m.proposal_id,
        canceled_time: Some(cx.time().to_proto()),
        canceled_height: cx.height(),
    })
}

fn update_params(cx: &mut Ctx<'_>, m: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&m.authority)?;
    let params = m.params.as_ref().ok_or_else(|| errors::invalid_request("params is missing"))?;
    let params = Params::from_proto(params)?;
    params.check()?;
    PARAMS.set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}

fn account(field: &str, text: &str) -> Result<Address> {
    Address::parse(text).map_err(|e| errors::invalid_address(format!("{field}: {e}")))
}

pub(super) fn choice(number: i32) -> Result<Choice> {
    match VoteOption::try_from(number) {
        Ok(VoteOption::Yes) => Ok(Choice::Yes),
        Ok(VoteOption::Abstain) => Ok(Choice::Abstain),
        Ok(VoteOption::No) => Ok(Choice::No),
        Ok(VoteOption::NoWithVeto) => Ok(Choice::NoWithVeto),
        _ => Err(refusals::invalid_vote(number)),
    }
}
