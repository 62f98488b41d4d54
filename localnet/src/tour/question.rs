//! One question, from its words to the last udn of its price.

use anyhow::{bail, ensure, Context, Result};
use deepnode_client::ask::Question;
use deepnode_client::Client;
use deepnode_proto::deepnode::audits::v1::Verdict;
use deepnode_proto::deepnode::tasks::v1::{Settlement, Task, TaskStatus};

use super::{ask_aloud, final_tasks, next_epoch, CAPABILITY};
use crate::chain;
use crate::network::Network;
use crate::print::{decimal, line, step, udn};

/// Asks `text` and shows what became of it.
pub async fn show(network: &mut Network, client: &Client, text: &str) -> Result<()> {
    step("a question");
    let mut before = Vec::new();
    for worker in &network.workers {
        before.push(chain::reputation(client, &worker.key.address().to_string(), CAPABILITY).await?);
    }
    line("question", text);
    let question = Question::new(hex::encode(network.model), text, 48);
    let answered = ask_aloud(client, &network.users[0], &question, &mut |_| ()).await?;
    line("first answer", format!("{} s after the start", network.started.elapsed().as_secs()));
    let task = final_tasks(network, client, &[answered.id]).await?.remove(0);
    if task.status() != TaskStatus::Settled {
        bail!("task {} ended as {}", task.id, task.status().as_str_name());
    }
    receipt(&task)?;
    step("audit");
    audits(client, task.id).await?;
    money(task.settlement.as_ref().context("a settled task has a settlement")?)?;
    step("reputation of the worker");
    let index = network.worker(&task.worker)?;
    line("before", decimal(&before[index]));
    // Within an epoch R stays as it is.
    next_epoch(network, client).await?;
    line("now", decimal(&chain::reputation(client, &task.worker, CAPABILITY).await?));
    Ok(())
}

/// What the worker signed.
fn receipt(task: &Task) -> Result<()> {
    step("receipt");
    let receipt = task.receipt.as_ref().context("a settled task has a receipt")?;
    line("worker", &task.worker);
    line("receipt digest", hex::encode(&task.receipt_digest));
    line("trace root", hex::encode(&receipt.trace_root));
    line(
        "tokens",
        format!(
            "{} in, {} out, {}",
            receipt.input_tokens,
            receipt.output_tokens,
            receipt.finish().as_str_name()
        ),
    );
    line("compute", format!("{} CU", task.cu));
    line("chance of an audit", &task.audit_chance);
    line("drawn", if task.drawn { "yes" } else { "no" });
    Ok(())
}

/// Who audited a task, and what they found.
pub async fn audits(client: &Client, task: u64) -> Result<()> {
    for audit in chain::audits(client, task).await? {
        line("audit", format!("{}, {}", audit.id, audit.outcome().as_str_name()));
        for member in &audit.members {
            let verdict = match member.verdict() {
                Verdict::Right => "right",
                Verdict::Wrong => "wrong",
                Verdict::Unavailable => "unavailable",
                Verdict::Unspecified => "did not speak",
            };
            let digest: String = hex::encode(&member.digest).chars().take(16).collect();
            let by = format!("{} (draw {})", member.auditor, member.draw + 1);
            line("auditor", format!("{by}: {verdict}, layer digest {digest}…"));
        }
    }
    Ok(())
}

/// Where the price went; the parts must sum to it.
fn money(s: &Settlement) -> Result<()> {
    step("where the price went");
    let parts = [
        ("worker", &s.worker),
        ("model's owner", &s.owner),
        ("parent model", &s.parent),
        ("burned", &s.burned),
        ("community pool", &s.community),
        ("auditors' pool", &s.levy),
    ];
    let mut sum = 0u128;
    for (name, amount) in parts {
        line(name, udn(amount));
        sum += amount.parse::<u128>().unwrap_or(0);
    }
    line("price", udn(&s.price));
    line("returned to the user", udn(&s.returned));
    ensure!(sum.to_string() == s.price, "the parts sum to {sum} udn, the price is {} udn", s.price);
    Ok(())
}
