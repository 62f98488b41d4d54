//! A worker that was honest changes one weight of its model, and is found out.

use std::time::Instant;

use anyhow::{ensure, Context, Result};
use deepnode_client::Client;
use deepnode_proto::deepnode::audits::v1::Outcome;
use deepnode_proto::deepnode::tasks::v1::TaskStatus;
use deepnode_tx::SigningKey;
use futures::future::try_join_all;

use super::{final_tasks, next_epoch, power, question, round, share, CAPABILITY, PATIENCE};
use crate::chain;
use crate::network::Network;
use crate::print::{decimal, line, step, udn};

/// What the chain says about a worker.
#[derive(Debug, Clone, PartialEq)]
struct Standing {
    /// udn.
    bond: u128,
    /// S, micro-CU an epoch.
    score: u128,
    /// R, 18 decimals.
    reputation: String,
}

impl Standing {
    async fn of(client: &Client, worker: &str) -> Result<Self> {
        Ok(Standing {
            bond: chain::worker(client, worker).await?.bond.parse()?,
            score: chain::score(client, worker).await?,
            reputation: chain::reputation(client, worker, CAPABILITY).await?,
        })
    }
}

/// The whole course from the first flipped sign to the validator's power.
pub async fn is_convicted(network: &mut Network, client: &Client) -> Result<()> {
    step("a worker turns dishonest");
    let index = best(network, client).await?;
    let (worker, backs) = (network.workers[index].key.address().to_string(), network.workers[index].backs);
    network.switch_worker(index, "dishonest-worker", &["--cheat", "weight", "--honest-epochs", "0"])?;
    line("worker", format!("{worker}, the one with the greatest score"));
    line("what it does", "the sign of one weight of a middle layer's down_proj is flipped");
    let begin = Instant::now();
    let mut rounds = 100;

    // What earlier questions return would be mixed up with what this one does.
    let earlier = chain::tasks(client).await?;
    final_tasks(network, client, &earlier).await?;
    let (convicted, standing, refund) = loop {
        ensure!(begin.elapsed() < PATIENCE, "no conviction in {} s", PATIENCE.as_secs());
        rounds += 1;
        let before = balances(network, client).await?;
        let asked = round(network, client, rounds).await?;
        let standing = Standing::of(client, &worker).await?;
        let ids: Vec<u64> = asked.iter().map(|asked| asked.task.id).collect();
        let ends = final_tasks(network, client, &ids).await?;
        for end in &ends {
            let by = if end.worker == worker { "it" } else { "another" };
            line("answered by", format!("{by}, task {}: {}", end.id, end.status().as_str_name()));
        }
        if let Some(index) = ends.iter().position(|end| end.status() == TaskStatus::Convicted) {
            let (fee, escrow) = (chain::fee(client, &asked[index].hash).await?, &asked[index].task.escrow);
            let refund = Refund { before: before[index], fee, escrow: escrow.parse()? };
            break (ends[index].clone(), standing, refund);
        }
    };

    step("the audit that found it");
    question::audits(client, convicted.id).await?;
    let audits = chain::audits(client, convicted.id).await?;
    let audit = audits.first().context("a convicted task has an audit")?;
    ensure!(audit.outcome() == Outcome::Wrong, "the audit ended as {}", audit.outcome().as_str_name());
    let widened = audit.members.iter().any(|member| member.draw > 0);
    ensure!(widened, "the first auditors decided alone");

    step("what it cost");
    let now = Standing::of(client, &worker).await?;
    line("bond", format!("{} -> {}", udn(&standing.bond.to_string()), udn(&now.bond.to_string())));
    line("score", format!("{} -> {} micro-CU an epoch", standing.score, now.score));
    line("reputation", format!("{} -> {}", decimal(&standing.reputation), decimal(&now.reputation)));
    ensure!(now.bond < standing.bond, "the bond was not slashed");
    ensure!(now.score < standing.score / 2, "the score did not fall at once");
    refund.check(chain::balance(client, &convicted.creator).await?)?;

    let before = network.powers().await?;
    next_epoch(network, client).await?;
    let (terms, after) = power::in_force(network, client).await?;
    step("voting power at the epoch's end");
    power::print(network, &after, Some(&before));
    power::print_terms(network, &terms);
    let name = &network.validators[backs].name;
    ensure!(
        share(&after, backs) < share(&before, backs),
        "the share of {name}, which it backs, did not fall"
    );
    network.switch_worker(index, "deepnode-worker", &[])
}

/// The worker with the greatest score: it has been honest for as long as the network runs.
async fn best(network: &Network, client: &Client) -> Result<usize> {
    let mut scores = Vec::new();
    for worker in &network.workers {
        scores.push(chain::score(client, &worker.key.address().to_string()).await?);
    }
    let (index, score) = scores.iter().enumerate().max_by_key(|(_, s)| **s).context("there are workers")?;
    ensure!(*score > 0, "no worker has a score");
    Ok(index)
}

/// udn of each user.
async fn balances(network: &Network, client: &Client) -> Result<Vec<u128>> {
    let of = |user: &SigningKey| user.address().to_string();
    try_join_all(network.users.iter().map(|u| async move { chain::balance(client, &of(u)).await })).await
}

/// What a user had before the question, and what the question took, udn.
struct Refund {
    before: u128,
    fee: u128,
    escrow: u128,
}

impl Refund {
    /// The user paid for the transaction and nothing else.
    fn check(&self, now: u128) -> Result<()> {
        line("escrow returned", udn(&self.escrow.to_string()));
        line("the user paid", format!("{} for the transaction", udn(&self.fee.to_string())));
        let expected = self.before.checked_sub(self.fee).context("a fee is part of what one had")?;
        ensure!(now == expected, "the user has {now} udn and should have {expected}");
        Ok(())
    }
}
