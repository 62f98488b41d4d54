//! `ask`: a question to a model, from the estimate to what it cost.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use deepnode_client::ask::{ask, Event, Question};

use super::tx::SendingArgs;

#[derive(Args)]
pub struct Ask {
    /// Model: its id in hex, or its name.
    model: String,
    /// The question.
    question: String,
    /// Key that pays.
    #[arg(long, default_value = "me")]
    from: String,
    /// Greatest number of tokens of the answer.
    #[arg(long, default_value_t = 128)]
    max_output: u32,
    /// 0 is the most likely answer, always the same; higher is more varied.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Instructions before the question.
    #[arg(long)]
    system: Option<String>,
    /// Put the question into the transaction, where everybody can read it, instead of handing it to the worker.
    #[arg(long)]
    inline: bool,
    /// Save the receipt as JSON.
    #[arg(long)]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    sending: SendingArgs,
}

impl Ask {
    pub async fn run(self, home: &Path) -> Result<()> {
        let client = self.sending.node.connect().await?;
        let signer = self.sending.keyring.open(home)?.signer(&self.from)?;
        if self.inline {
            eprintln!("note: --inline makes the question public");
        }
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(("system".to_owned(), system.clone()));
        }
        messages.push(("user".to_owned(), self.question.clone()));
        let question = Question {
            model: self.model.clone(),
            messages,
            max_output: self.max_output,
            temperature_micros: micros(self.temperature)?,
            inline: self.inline,
        };
        let task = ask(&client, &signer, &question, &self.sending.options(), &mut |event| match event {
            Event::Estimated { fee, cu } => eprintln!("at most {fee} udn for {cu} CU"),
            Event::Submitted { task, hash } => eprintln!("task {task} in transaction {hash}"),
            Event::Assigned { worker, endpoint } => eprintln!("assigned to {worker} at {endpoint}\n"),
            Event::Text(text) => {
                print!("{text}");
                let _ = std::io::stdout().flush();
            }
            Event::Reassigned => eprintln!("\nthe worker did not answer; waiting for another"),
        })
        .await?;
        println!();
        let receipt = task.receipt.as_ref().context("the task has no receipt")?;
        eprintln!(
            "\n{} tokens in, {} out; price {} udn, final after audit or window (deepnoded query tasks task {})",
            receipt.input_tokens, receipt.output_tokens, task.price, task.id
        );
        if let Some(path) = &self.receipt {
            let json = crate::json::to_json(
                crate::json::message("deepnode.tasks.v1.Receipt").context("no descriptor")?,
                &deepnode_proto::Message::encode_to_vec(receipt),
            )?;
            std::fs::write(path, format!("{json:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn micros(temperature: f64) -> Result<u32> {
    if temperature == 0.0 {
        return Ok(0);
    }
    anyhow::ensure!(
        (0.01..=100.0).contains(&temperature),
        "--temperature {temperature} must be 0 or 0.01 to 100"
    );
    Ok((temperature * 1e6).round() as u32)
}
