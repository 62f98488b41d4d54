//! Voting power follows the work.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use deepnode_client::Client;
use deepnode_proto::deepnode::powr::v1::Terms;

use super::{round, share, PATIENCE, POLL};
use crate::chain;
use crate::network::{Network, Powers, Validator};
use crate::print::{line, percent, step};

/// Power and share of each validator, beside what it was.
pub fn print(network: &Network, powers: &Powers, before: Option<&Powers>) {
    for (index, (validator, power)) in network.validators.iter().zip(powers).enumerate() {
        let now = percent(share(powers, index), 10_000);
        let was = before.map(|b| format!("  (was {})", percent(share(b, index), 10_000)));
        line(&validator.name, format!("{power:>10}  {now:>7}{}", was.unwrap_or_default()));
    }
}

/// The terms of one validator.
fn term<'a>(terms: &'a [Terms], validator: &Validator) -> Option<&'a Terms> {
    let operator = validator.operator.address().to_string();
    terms.iter().find(|t| t.validator == operator)
}

/// What PoWR reckoned at the last epoch's end, a line a validator.
pub fn print_terms(network: &Network, terms: &[Terms]) {
    for validator in &network.validators {
        if let Some(t) = term(terms, validator) {
            line(&validator.name, why(t));
        }
    }
}

/// Credit of a validator's workers, micro-CU an epoch.
fn work(t: &Terms) -> u128 {
    t.work.parse().unwrap_or(0)
}

fn why(t: &Terms) -> String {
    format!(
        "epoch {}: work {} + audits {} at R {} = score {}; q {}; bounds {}..{} (was {}), collateral {}; power {}",
        t.epoch, t.work, t.audit_work, t.reputation, t.score, t.q, t.low, t.high, t.old, t.collateral, t.power
    )
}

/// The last terms, and the powers in force, once these are those: an update counts two blocks later.
pub async fn in_force(network: &mut Network, client: &Client) -> Result<(Vec<Terms>, Powers)> {
    let begin = Instant::now();
    loop {
        network.check().await?;
        let (terms, powers) = (chain::terms(client).await?, network.powers().await?);
        let reckoned: Powers =
            network.validators.iter().map(|v| term(&terms, v).map_or(0, |t| t.power)).collect();
        if reckoned == powers {
            return Ok((terms, powers));
        }
        ensure!(begin.elapsed() < PATIENCE, "CometBFT has {powers:?} as powers, the chain {reckoned:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Gives work until two epochs are over in which it was credited: R is 0 in a worker's first, so that one is not.
pub async fn follows_work(network: &mut Network, client: &Client, start: &Powers) -> Result<()> {
    step("two epochs of work");
    let begin = Instant::now();
    let (mut rounds, mut credited) = (0, BTreeSet::new());
    while credited.len() < 2 {
        ensure!(begin.elapsed() < PATIENCE, "no validator got credit for work in {} s", PATIENCE.as_secs());
        rounds += 1;
        let answered = round(network, client, rounds).await?;
        line("answered", format!("{} more, now in epoch {}", answered.len(), chain::epoch(client).await?));
        let terms = chain::terms(client).await?;
        credited.extend(terms.iter().filter(|t| work(t) > 0).map(|t| t.epoch));
    }
    step("voting power after the work, and why");
    let (terms, now) = in_force(network, client).await?;
    print(network, &now, Some(start));
    print_terms(network, &terms);
    // Which of them had the work is the beacon's choice.
    let busiest = terms.iter().max_by_key(|t| work(t)).map(|t| t.validator.clone()).unwrap_or_default();
    let position = network.validators.iter().position(|v| v.operator.address().to_string() == busiest);
    let index = position.context("no validator had work")?;
    line("most work", &network.validators[index].name);
    let (before, after) = (share(start, index), share(&now, index));
    ensure!(
        after > before + 100,
        "the working validator's share went from {before} to {after} hundredths of a percent; \
         expected more than a point"
    );
    Ok(())
}
