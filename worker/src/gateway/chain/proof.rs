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

    /// What is known goes into the response's head: of a stream the tasks, of whole answers the rest too. Those of
    /// several choices stand side by side, with `-` for what a choice has not.
    pub fn headers(proofs: &[Option<Self>]) -> Vec<(&'static str, String)> {
        let known: Vec<_> =
            proofs.iter().map(|proof| proof.as_ref().map(Self::header).unwrap_or_default()).collect();
        let Some(most) = known.iter().max_by_key(|headers| headers.len()) else { return Vec::new() };
        let of_all = |at: usize| {
            let values = known.iter().map(|headers| headers.get(at).map_or("-", |(_, value)| value));
            values.collect::<Vec<_>>().join(", ")
        };
        most.iter().enumerate().map(|(at, (name, _))| (*name, of_all(at))).collect()
    }

    /// Always in this order; an answer's are the last ones.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_several_choices_line_up() {
        let asked = |task| Proof { task, transaction: format!("T{task}"), max_price: 9, answer: None };
        let answered = Proof {
            answer: Some(Answered {
                worker: "w".into(),
                price: "7".into(),
                receipt_digest: "r".into(),
                result_digest: String::new(),
                trace_root: String::new(),
                height: 1,
                seed: String::new(),
            }),
            ..asked(3)
        };
        let headers = Proof::headers(&[None, Some(asked(2)), Some(answered.clone())]);
        let of = |name| headers.iter().find(|(known, _)| *known == name).unwrap().1.as_str();
        assert_eq!(headers.len(), 6);
        assert_eq!(of("x-deepnode-task"), "-, 2, 3");
        assert_eq!(of("x-deepnode-price-udn"), "-, -, 7");
        assert_eq!(Proof::headers(&[Some(answered)])[0], ("x-deepnode-task", "3".into()));
        assert!(Proof::headers(&[]).is_empty());
    }
}
