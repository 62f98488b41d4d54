//! The genesis section: cosmos.gov v1's JSON, in which a message is `{type_url, value}` with base64 bytes.

use deepnode_core::{errors, json, Address, Coins, Ctx, Dec, Error, KvRead, Result, Time, Walk};
use serde::{Deserialize, Serialize};

use super::state::*;
use super::{params, tally, Params};

/// The whole section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    #[serde(with = "json::text")]
    pub starting_proposal_id: u64,
    pub deposits: Vec<DepositJson>,
    pub votes: Vec<VoteJson>,
    pub proposals: Vec<ProposalJson>,
    /// Deprecated; always null, as the next two.
    pub deposit_params: (),
    pub voting_params: (),
    pub tally_params: (),
    pub params: Params,
    pub constitution: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepositJson {
    #[serde(with = "json::text")]
    pub proposal_id: u64,
    #[serde(with = "json::text")]
    pub depositor: Address,
    #[serde(with = "json::coins")]
    pub amount: Coins,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoteJson {
    #[serde(with = "json::text")]
    pub proposal_id: u64,
    #[serde(with = "json::text")]
    pub voter: Address,
    pub options: Vec<OptionJson>,
    pub metadata: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionJson {
    pub option: Choice,
    #[serde(with = "json::text")]
    pub weight: Dec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalJson {
    #[serde(with = "json::text")]
    pub id: u64,
    pub messages: Vec<Message>,
    pub status: Status,
    pub final_tally_result: ResultJson,
    #[serde(with = "json::time")]
    pub submit_time: Time,
    #[serde(with = "json::time")]
    pub deposit_end_time: Time,
    #[serde(with = "json::coins")]
    pub total_deposit: Coins,
    /// Null before the vote, as the next one.
    pub voting_start_time: Option<TimeJson>,
    pub voting_end_time: Option<TimeJson>,
    pub metadata: String,
    pub title: String,
    pub summary: String,
    #[serde(with = "json::text")]
    pub proposer: Address,
    pub failed_reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeJson(#[serde(with = "json::time")] pub Time);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultJson {
    #[serde(with = "json::text")]
    pub yes_count: u128,
    #[serde(with = "json::text")]
    pub abstain_count: u128,
    #[serde(with = "json::text")]
    pub no_count: u128,
    #[serde(with = "json::text")]
    pub no_with_veto_count: u128,
}

impl Default for Genesis {
    fn default() -> Self {
        Genesis {
            starting_proposal_id: 1,
            deposits: Vec::new(),
            votes: Vec::new(),
            proposals: Vec::new(),
            deposit_params: (),
            voting_params: (),
            tally_params: (),
            params: Params::default(),
            constitution: String::new(),
        }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    genesis.params.check()?;
    PARAMS.set(cx, &genesis.params)?;
    let last = genesis.starting_proposal_id.checked_sub(1);
    let last = last.ok_or_else(|| refused("starting_proposal_id 0 must be at least 1".into()))?;
    NUMBERS.set(cx, last)?;
    CONSTITUTION.set(cx, &genesis.constitution)?;
    for p in genesis.proposals {
        let (id, proposal) = read_proposal(p);
        if id > last || PROPOSALS.has(cx, &id)? {
            return Err(refused(format!("proposal {id} appears twice or is not below starting_proposal_id")));
        }
        match (proposal.status, proposal.voting) {
            (Status::DepositPeriod, _) => DEPOSIT_QUEUE.insert(cx, &(proposal.deposit_end, id))?,
            (Status::VotingPeriod, Some((_, end))) => VOTING_QUEUE.insert(cx, &(end, id))?,
            (Status::VotingPeriod, None) => {
                return Err(refused(format!("proposal {id} is voted on and has no voting_end_time")));
            }
            _ => {}
        }
        PROPOSALS.set(cx, &id, &proposal)?;
    }
    for d in genesis.deposits {
        DEPOSITS.set(cx, &(d.proposal_id, d.depositor), &d.amount)?;
    }
    for v in genesis.votes {
        let id = v.proposal_id;
        if PROPOSALS.get(cx, &id)?.is_none_or(|p| p.status != Status::VotingPeriod) {
            return Err(refused(format!("votes: proposal {id} is not voted on")));
        }
        let options = v.options.iter().map(|o| (o.option, o.weight)).collect();
        let vote = Vote { options, metadata: v.metadata };
        tally::check_vote(&vote)?;
        VOTES.set(cx, &(id, v.voter), &vote)?;
    }
    super::invariants(cx).map_err(|e| refused(e.to_string()))
}

fn read_proposal(p: ProposalJson) -> (u64, Proposal) {
    let r = p.final_tally_result;
    let proposal = Proposal {
        messages: p.messages,
        status: p.status,
        result: [r.yes_count, r.abstain_count, r.no_count, r.no_with_veto_count],
        submitted: p.submit_time,
        deposit_end: p.deposit_end_time,
        deposit: p.total_deposit,
        voting: p.voting_start_time.zip(p.voting_end_time).map(|(start, end)| (start.0, end.0)),
        metadata: p.metadata,
        title: p.title,
        summary: p.summary,
        proposer: p.proposer,
        failed_reason: p.failed_reason,
    };
    (p.id, proposal)
}

/// Refuses while a count or a settlement takes more than one block: a few blocks later it is over.
pub(super) fn export(kv: &(impl KvRead + ?Sized)) -> Result<Genesis> {
    if RUNNING.get(kv)?.is_some() || SETTLING.iter(kv, Walk::FORWARD).next().is_some() {
        return Err(errors::invalid_request(
            "gov: a vote is being counted or settled, export a later height",
        ));
    }
    let mut genesis = Genesis {
        starting_proposal_id: NUMBERS.current(kv)?.saturating_add(1),
        params: params(kv)?,
        constitution: CONSTITUTION.get(kv)?.unwrap_or_default(),
        ..Genesis::default()
    };
    for entry in PROPOSALS.iter(kv, Walk::FORWARD) {
        let (id, p) = entry?;
        genesis.proposals.push(write_proposal(id, p));
    }
    for entry in DEPOSITS.iter(kv, Walk::FORWARD) {
        let ((proposal_id, depositor), amount) = entry?;
        genesis.deposits.push(DepositJson { proposal_id, depositor, amount });
    }
    for entry in VOTES.iter(kv, Walk::FORWARD) {
        let ((proposal_id, voter), vote) = entry?;
        let options =
            vote.options.iter().map(|(option, weight)| OptionJson { option: *option, weight: *weight });
        let options = options.collect();
        genesis.votes.push(VoteJson { proposal_id, voter, options, metadata: vote.metadata });
    }
    Ok(genesis)
}

fn write_proposal(id: u64, p: Proposal) -> ProposalJson {
    let [yes_count, abstain_count, no_count, no_with_veto_count] = p.result;
    ProposalJson {
        id,
        messages: p.messages,
        status: p.status,
        final_tally_result: ResultJson { yes_count, abstain_count, no_count, no_with_veto_count },
        submit_time: p.submitted,
        deposit_end_time: p.deposit_end,
        total_deposit: p.deposit,
        voting_start_time: p.voting.map(|(start, _)| TimeJson(start)),
        voting_end_time: p.voting.map(|(_, end)| TimeJson(end)),
        metadata: p.metadata,
        title: p.title,
        summary: p.summary,
        proposer: p.proposer,
        failed_reason: p.failed_reason,
    }
}

fn refused(text: String) -> Error {
    errors::invalid_request(format!("genesis of gov: {text}"))
}
