//! Governance changes a parameter of PoWR.

use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use deepnode_client::Client;
use deepnode_proto::cosmos::gov::v1::query_client::QueryClient as Gov;
use deepnode_proto::cosmos::gov::v1::{
    MsgSubmitProposal, MsgSubmitProposalResponse, MsgVote, ProposalStatus, QueryParamsRequest,
    QueryProposalRequest, VoteOption,
};
use deepnode_proto::deepnode::powr::v1::MsgUpdateParams;
use deepnode_proto::{Any, AnyExt};

use super::{next_epoch, options, PATIENCE, POLL};
use crate::chain;
use crate::network::{short, Network};
use crate::print::{line, step};

/// A proposal raises the collateral factor of PoWR; the validators vote, and the next epoch's terms follow it.
pub async fn changes_a_parameter(network: &mut Network, client: &Client) -> Result<()> {
    step("a proposal: PoWR's collateral factor from 2 to 3");
    let mut gov = Gov::new(client.channel());
    let params = gov.params(QueryParamsRequest { params_type: "deposit".into() }).await?.into_inner().params;
    let deposit = params.context("gov has parameters")?.min_deposit;
    let mut params = chain::powr_params(client).await?;
    params.collateral = 3;
    let authority = deepnode_tx::Address::module("gov").to_string();
    let submit = MsgSubmitProposal {
        messages: vec![Any::pack(&MsgUpdateParams { authority, params: Some(params) })],
        initial_deposit: deposit,
        proposer: network.users[0].address().to_string(),
        title: "Collateral factor 3".into(),
        summary: "Power may be up to three times the share of stake.".into(),
        ..MsgSubmitProposal::default()
    };
    let sent = client.send(&network.users[0], vec![Any::pack(&submit)], options()).await?;
    let id = chain::response::<MsgSubmitProposalResponse>(&sent)?.proposal_id;
    line("proposal", format!("{id}, transaction {}", sent.txhash));
    for validator in &network.validators {
        let vote = MsgVote {
            proposal_id: id,
            voter: validator.operator.address().to_string(),
            option: VoteOption::Yes.into(),
            metadata: String::new(),
        };
        client.send(&validator.operator, vec![Any::pack(&vote)], options()).await?;
        line(&validator.name, "votes yes");
    }
    let begin = Instant::now();
    loop {
        network.check().await?;
        let found = gov.proposal(QueryProposalRequest { proposal_id: id }).await?.into_inner().proposal;
        let found = found.context("the proposal exists")?;
        match found.status() {
            ProposalStatus::Passed => break,
            ProposalStatus::Rejected | ProposalStatus::Failed => {
                bail!("the proposal ended as {}: {}", found.status().as_str_name(), found.failed_reason)
            }
            _ if begin.elapsed() > PATIENCE => {
                bail!("the proposal is not decided after {} s", PATIENCE.as_secs())
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
    let collateral = chain::powr_params(client).await?.collateral;
    line("executed", format!("the collateral factor is {collateral}"));
    ensure!(collateral == 3, "the proposal passed and the factor is {collateral}");
    next_epoch(network, client).await?;
    for term in chain::terms(client).await? {
        line("collateral bound", format!("{} of {}", term.collateral, short(&term.validator.parse()?)));
        ensure!(
            term.collateral == 75_000_000,
            "with equal stakes three shares are 75000000, not {}",
            term.collateral
        );
    }
    Ok(())
}
