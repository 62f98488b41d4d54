//! What the chain says of an answer, for who wants to check it.

use deepnode_client::task::{Answer, Submitted};
use serde_json::{json, Value};

/// The task, and when it is answered its price and receipt.
#[derive(Clone, Debug)]
pub struct Proof {
    task: u64,
    transaction: String,
    /// udn that were locked.
    max_price: u128,
    answer: Option<Answered>,
}

#[derive(Clone, Debug)]
struct Answered {
    worker: String,
    /// udn that the receipt is worth; final after the audit or the window.
    price: String,
    receipt_digest: String,
    result_digest: String,
    trace_root: String,
    height: u64,
    seed: String,
}

impl Proof {
    pub fn new(submitted: &Submitted, max_price: u128) -> Self {
        let transaction = submitted.tx.txhash.clone();
        Self { task: submitted.task, transaction, max_price, answer: None }
    }

    pub fn answered(&self, answer: &Answer) -> Self {
        let (task, receipt) = (&answer.task, &answer.receipt);
        let answer = Some(Answered {
            worker: task.worker.clone(),
            price: task.price.clone(),
            receipt_digest: hex::encode(&task.receipt_digest),
            result_digest: hex::encode(&receipt.result_digest),
            trace_root: hex::encode(&receipt.trace_root),
            height: task.receipt_height,
            seed: hex::encode(&task.seed),
        });
        Self { answer, ..self.clone() }
    }

    /// What is known goes into the response's head: of a stream the tasks, of whole answers the rest too. Several
    /// stand side by side.
    pub fn headers<'a>(proofs: impl Iterator<Item = &'a Self>) -> Vec<(&'static str, String)> {
        let mut headers: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in proofs.flat_map(Self::header) {
            match headers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => *values = format!("{values}, {value}"),
                None => headers.push((name, value)),
            }
        }
        headers
    }

    fn header(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("x-deepnode-task", self.task.to_string()),
            ("x-deepnode-transaction", self.transaction.clone()),
            ("x-deepnode-max-price-udn", self.max_price.to_string()),
        ];
        if let Some(answer) = &self.answer {
            headers.push(("x-deepnode-worker", answer.worker.clone()));
            headers.push(("x-deepnode-price-udn", answer.price.clone()));
            headers.push(("x-deepnode-receipt", answer.receipt_digest.clone()));
        }
        headers
    }

    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "task": self.task,
            "transaction": self.transaction,
            "max_price_udn": self.max_price.to_string(),
        });
        if let Some(answer) = &self.answer {
            json["worker"] = json!(answer.worker);
            json["price_udn"] = json!(answer.price);
            json["receipt_digest"] = json!(answer.receipt_digest);
            json["result_digest"] = json!(answer.result_digest);
            json["trace_root"] = json!(answer.trace_root);
            json["receipt_height"] = json!(answer.height);
            json["seed"] = json!(answer.seed);
        }
        json
    }
}
