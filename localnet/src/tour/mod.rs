//! The tour: what happens to questions, workers and validators, with figures read back from the chain.

mod deaths;
mod dishonest;
mod gateway;
mod power;
mod proposal;
mod question;
mod setup;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use deepnode_client::ask::{self, Answered, Event, Question};
use deepnode_client::{Client, Gas, Options};
use deepnode_proto::deepnode::tasks::v1::{Task, TaskStatus};
use deepnode_tx::SigningKey;

pub use setup::import;

use crate::network::{Network, Powers};
use crate::print::{line, step, udn};

/// How long one step of the tour may take.
const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(400);
/// Class of SmolLM2-135M.
const CLASS: &str = "llm-300m";
/// What reputation is kept by.
const CAPABILITY: &str = "llm/llm-300m";

/// The whole tour.
pub async fn run(network: &mut Network, text: &str) -> Result<()> {
    let client = network.client().await?;
    setup::start(network, &client).await?;
    step("voting power at the start");
    let start = network.powers().await?;
    power::print(network, &start, None);
    question::show(network, &client, text).await?;
    gateway::sells_an_answer(network, &client, text).await?;
    power::follows_work(network, &client, &start).await?;
    dishonest::is_convicted(network, &client).await?;
    proposal::changes_a_parameter(network, &client).await?;
    deaths::of_a_worker(network, &client).await?;
    deaths::of_validators(network).await
}

fn options() -> Options {
    Options { gas: Gas::default(), gas_price: "0.025udn".parse().ok(), ..Options::default() }
}

/// Asks, and prints the answer as it comes. `on` hears of everything before it is printed.
async fn ask_aloud(
    client: &Client,
    user: &SigningKey,
    question: &Question,
    on: &mut dyn FnMut(&Event),
) -> Result<Answered> {
    let answered = ask::ask(client, user, question, &options(), &mut |event| {
        on(&event);
        match event {
            Event::Estimated { fee, cu } => line("estimate", format!("at most {} for {cu} CU", udn(&fee))),
            Event::Submitted { task, hash } => line("task", format!("{task}, transaction {hash}")),
            Event::Assigned { worker, endpoint } => {
                line("assigned to", format!("{worker} at {endpoint}"));
                print!("   {:<24} ", "answer");
            }
            Event::Text(piece) => print!("{}", piece.replace('\n', " ")),
            Event::Reassigned => println!("\n   (the worker failed: another one answers)"),
        }
        let _ = std::io::stdout().flush();
    })
    .await?;
    println!();
    Ok(answered)
}

/// A question that was answered.
struct Asked {
    /// As it was when the answer came.
    task: Task,
    /// Of the transaction that submitted it.
    hash: String,
}

/// Each user asks something short, all at once.
async fn round(network: &mut Network, client: &Client, round: usize) -> Result<Vec<Asked>> {
    network.check().await?;
    let model = hex::encode(network.model);
    let asked = network.users.iter().enumerate().map(|(index, user)| {
        let text = format!("Name a colour, number {}.", round * 10 + index);
        let question = Question::new(&model, text, 8);
        async move {
            let mut submitted = String::new();
            let mut on = |event| {
                if let Event::Submitted { hash, .. } = event {
                    submitted = hash;
                }
            };
            let answered = ask::ask(client, user, &question, &options(), &mut on).await?;
            Ok(Asked { task: ask::task(client, answered.id).await?, hash: submitted })
        }
    });
    futures::future::try_join_all(asked).await
}

/// Whether nothing will happen to a task any more.
fn is_final(task: &Task) -> bool {
    use TaskStatus::{Accepted, Assigned, Open, Submitted};
    !matches!(task.status(), Open | Assigned | Accepted | Submitted)
}

/// Waits until these tasks are final, and answers them.
async fn final_tasks(network: &mut Network, client: &Client, ids: &[u64]) -> Result<Vec<Task>> {
    let begin = Instant::now();
    loop {
        network.check().await?;
        let tasks = futures::future::try_join_all(ids.iter().map(|id| ask::task(client, *id))).await?;
        match tasks.iter().find(|task| !is_final(task)) {
            None => return Ok(tasks),
            Some(task) if begin.elapsed() > PATIENCE => {
                bail!("task {} is not final after {} s", task.id, PATIENCE.as_secs())
            }
            Some(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Waits for the first block of a later epoch.
async fn next_epoch(network: &mut Network, client: &Client) -> Result<()> {
    let epoch = crate::chain::epoch(client).await?;
    while crate::chain::epoch(client).await? <= epoch {
        network.check().await?;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Share of one validator in hundredths of a percent.
fn share(powers: &Powers, index: usize) -> u64 {
    let total: u64 = powers.iter().sum();
    powers[index] * 10_000 / total.max(1)
}
