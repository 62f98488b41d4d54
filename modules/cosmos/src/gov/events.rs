//! Events, in the words of the Cosmos SDK.

use deepnode_core::{Address, Coins, Event};

use super::state::{Choice, Proposal, Vote};

pub(super) fn submit_proposal(id: u64, proposal: &Proposal) -> Event {
    let messages: Vec<&str> = proposal.messages.iter().map(|m| m.type_url.as_str()).collect();
    Event::new("submit_proposal")
        .with("proposal_id", id)
        .with("proposal_messages", messages.join(","))
        .with("proposal_proposer", proposal.proposer)
}

pub(super) fn deposit(id: u64, depositor: &Address, amount: &Coins) -> Event {
    Event::new("proposal_deposit").with("depositor", depositor).with("amount", amount).with("proposal_id", id)
}

pub(super) fn voting_starts(id: u64) -> Event {
    Event::new("proposal_deposit").with("voting_period_start", id)
}

pub(super) fn vote(id: u64, voter: &Address, vote: &Vote) -> Event {
    let options: Vec<String> = vote
        .options
        .iter()
        .map(|(choice, weight)| format!("{{\"option\":{},\"weight\":\"{weight}\"}}", number(*choice)))
        .collect();
    Event::new("proposal_vote")
        .with("voter", voter)
        .with("option", options.join("\n"))
        .with("proposal_id", id)
}

pub(super) fn cancel(id: u64, sender: &Address) -> Event {
    Event::new("cancel_proposal").with("sender", sender).with("proposal_id", id)
}

pub(super) fn dropped(id: u64) -> Event {
    Event::new("inactive_proposal").with("proposal_id", id).with("proposal_result", "proposal_dropped")
}

/// `result` is `proposal_passed`, `proposal_rejected` or `proposal_failed`.
pub(super) fn closed(id: u64, result: &str, log: &str) -> Event {
    Event::new("active_proposal")
        .with("proposal_id", id)
        .with("proposal_result", result)
        .with("proposal_log", log)
}

/// The choice's number in protobuf.
pub(super) fn number(choice: Choice) -> i32 {
    match choice {
        Choice::Yes => 1,
        Choice::Abstain => 2,
        Choice::No => 3,
        Choice::NoWithVeto => 4,
    }
}
