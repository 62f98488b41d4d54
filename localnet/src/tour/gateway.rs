//! The same question through OpenAI's API: a gateway makes a task of it, pays, and says what it cost.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use deepnode_client::{task, Client};
use reqwest::header::HeaderMap;
use serde_json::{json, Value};

use super::{PATIENCE, POLL};
use crate::network::Network;
use crate::print::{line, step, udn};

/// Sends `text` to the gateway; price and receipt in its answer are those on the chain.
pub async fn sells_an_answer(network: &mut Network, client: &Client, text: &str) -> Result<()> {
    step("the same question through OpenAI's API");
    network.gateway.process.start()?;
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let base = format!("http://{}", network.gateway.listen);
    let begin = Instant::now();
    while http.get(format!("{base}/health")).send().await.is_err() {
        network.check().await?;
        ensure!(begin.elapsed() < Duration::from_secs(30), "see {}", network.gateway.process.log.display());
        tokio::time::sleep(POLL).await;
    }
    let model = hex::encode(network.model);
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": text }], "max_tokens": 48, "temperature": 0 });
    let request = http.post(format!("{base}/v1/chat/completions")).header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let answer: Value = serde_json::from_str(&answer.text().await?)?;
    if !status.is_success() {
        bail!("{status}: {answer}");
    }
    let said = answer["choices"][0]["message"]["content"].as_str().context("the answer has a text")?;
    line("POST", format!("{base}/v1/chat/completions"));
    line("answer", said.replace('\n', " "));
    let header = |name: &str| header(&headers, name);
    let (price, receipt) = (header("x-deepnode-price-udn")?, header("x-deepnode-receipt")?);
    let found = task::task(client, header("x-deepnode-task")?.parse()?).await?;
    line("task", format!("{}, answered by {}", found.id, header("x-deepnode-worker")?));
    line("price", format!("{} of at most {}", udn(&price), udn(&header("x-deepnode-max-price-udn")?)));
    line("receipt", &receipt);
    ensure!(
        found.price == price && hex::encode(&found.receipt_digest) == receipt,
        "the chain says otherwise"
    );
    Ok(())
}

fn header(headers: &HeaderMap, name: &str) -> Result<String> {
    let value = headers.get(name).with_context(|| format!("the answer has no {name}"))?;
    Ok(value.to_str()?.to_owned())
}
