//! Processes that die without a word: a worker in the middle of a task, validators in the middle of blocks.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use deepnode_client::ask::{Event, Question};
use deepnode_client::Client;

use super::{ask_aloud, PATIENCE, POLL};
use crate::chain;
use crate::network::Network;
use crate::print::{line, step};

/// Kills the worker of a long answer at its first words; another worker gives the whole answer.
pub async fn of_a_worker(network: &mut Network, client: &Client) -> Result<()> {
    step("a worker dies in the middle of its answer");
    let user = network.users[0].clone();
    let question = Question::new(hex::encode(network.model), "Tell a long story about a lighthouse.", 96);
    let (mut first, mut killed) = (String::new(), None);
    let workers = &mut network.workers;
    let answered = ask_aloud(client, &user, &question, &mut |event| match event {
        Event::Assigned { worker, .. } if first.is_empty() => first.clone_from(worker),
        Event::Text(_) if killed.is_none() => {
            killed = workers.iter().position(|w| w.key.address().to_string() == first);
            if let Some(index) = killed {
                workers[index].process.kill();
            }
        }
        _ => {}
    })
    .await?;
    let index = killed.context("no worker of this network began to answer")?;
    network.workers[index].process.start()?;
    let task = deepnode_client::ask::task(client, answered.id).await?;
    line("killed", format!("{first} after its first words; started again"));
    line("answered by", &task.worker);
    line("which had it before", task.earlier.join(", "));
    ensure!(task.worker != first && task.earlier.contains(&first), "the task was not given to another");
    ensure!(!answered.text.is_empty() && task.receipt.is_some(), "the task was not answered");
    Ok(())
}

/// Kills one validator's application, another's CometBFT, and both of a third; all come back with one app hash.
pub async fn of_validators(network: &mut Network) -> Result<()> {
    step("kill -9 of an application, of a CometBFT, and of both");
    for index in [3, 2, 1] {
        let comet = chain::cometbft_pid(network.validators[index].node.pid());
        if index != 3 {
            let pid = comet.context("CometBFT runs")?;
            // SAFETY: the process is a child of ours, found by its parent's pid a moment ago.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let validator = &mut network.validators[index];
        if index != 2 {
            validator.node.kill();
            validator.node.start()?;
        }
        let what = ["", "both", "its CometBFT", "its application"][index];
        line(&validator.name, format!("lost {what}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let begin = Instant::now();
    let height = network.heights().await[0];
    ensure!(height > 0, "validator0 does not answer");
    let target = height + 4;
    loop {
        network.check().await?;
        if network.heights().await.iter().all(|height| *height > target) {
            break;
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "not all validators are back; see {}",
            network.validators[1].node.log.display()
        );
        tokio::time::sleep(POLL).await;
    }
    let hashes = chain::app_hashes(network, target).await?;
    for (validator, hash) in network.validators.iter().zip(&hashes) {
        line(&validator.name, format!("app hash at {target}: {hash}"));
    }
    ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "the app hashes differ");
    Ok(())
}
