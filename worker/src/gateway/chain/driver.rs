//! One task from its estimate to what it cost.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deepnode_client::task::{self, token_digest, Answer, Follower, Offer, Step, Submitted};
use deepnode_client::ClientError;
use deepnode_proto::deepnode::tasks::v1::{InputKind, Request, SamplingParams, TaskStatus};
use tokio::sync::{mpsc, oneshot};

use super::{OverBudget, Place, Proof, Shared, Told};
use crate::gateway::errors::{ApiError, Result};
use crate::gateway::scheduler::Job;
use crate::metrics::Metrics as Gauges;
use crate::request::{finish_from_proto, token_bytes};

/// The price of a class moves from block to block; this much more than the estimate is locked, and what is not used
/// returns.
const MARGIN_PERCENT: u128 = 10;
/// How often a task is looked at that nobody waits for any more.
const LOOK: Duration = Duration::from_secs(2);

type Sender = mpsc::UnboundedSender<Result<Told>>;

/// Runs a job to its end. `started` hears of the task, `events` of the answer; when nobody listens any more, the task
/// is taken back if no worker accepted it yet.
pub(super) async fn drive(place: Place, job: Job, started: oneshot::Sender<Result<Proof>>, events: Sender) {
    let shared = place.shared.clone();
    let queued = Gauges::raise(&shared.metrics.queued);
    let mut aborted = shared.aborted.subscribe();
    let turn = tokio::select! {
        turn = shared.turns.clone().acquire_owned() => turn,
        () = events.closed() => return,
        _ = aborted.wait_for(|aborted| *aborted) => return,
    };
    drop(queued);
    let _running = Gauges::raise(&shared.metrics.running);
    let began = Instant::now();
    let task = match Paid::submit(&place, &job).await {
        Ok(task) => task,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let proof = Proof::new(&task.submitted, task.max_price);
    let _ = started.send(Ok(proof.clone()));
    let ended = tokio::select! {
        ended = follow(&task, &job, proof, &events) => Some(ended),
        () = events.closed() => None,
        _ = aborted.wait_for(|aborted| *aborted) => None,
    };
    shared.metrics.busy(began.elapsed());
    let given_up = ended.is_none();
    match ended {
        Some(Ok(())) => Gauges::add(&shared.metrics.finished, 1),
        Some(Err(error)) => {
            let _ = events.send(Err(error));
        }
        None => Gauges::add(&shared.metrics.cancelled, 1),
    }
    // Nothing is to be waited for by others while this is found out.
    drop(turn);
    task.account(given_up).await;
}

/// A task whose price is set aside.
struct Paid {
    shared: Arc<Shared>,
    submitted: Submitted,
    max_price: u128,
    /// The entry of the ledger, and what it holds.
    lock: u64,
    locked: u64,
    /// udn of the transaction that submitted it.
    fee: u64,
}

impl Paid {
    async fn submit(place: &Place, job: &Job) -> Result<Self> {
        let shared = &place.shared;
        let params = job.choices.first().ok_or_else(|| ApiError::internal("a job without an answer"))?;
        let input = token_bytes(&job.prompt);
        let (model_id, input_tokens) = (shared.model.id(), job.prompt.len() as u32);
        let estimate = task::estimate(&shared.terms.client, &model_id, input_tokens, job.max_output)
            .await
            .map_err(before)?;
        let fee: u128 = estimate.fee.parse().map_err(ApiError::internal)?;
        let max_price = fee.saturating_add(fee.saturating_mul(MARGIN_PERCENT).div_ceil(100));
        let locked = u64::try_from(max_price).unwrap_or(u64::MAX);
        let lock = shared.ledger.lock(&place.caller, locked).map_err(|over| refused(over, locked))?;
        let greedy = params.temperature_micros == 0;
        let offer = Offer {
            request: Request {
                model_id: model_id.to_vec(),
                input_kind: InputKind::Tokens.into(),
                input_digest: token_digest(&job.prompt).to_vec(),
                max_output: job.max_output,
                sampling: Some(SamplingParams {
                    temperature: params.temperature_micros,
                    top_p: params.top_p_micros,
                    top_k: params.top_k,
                    // Fixed, so that whichever worker answers says the same.
                    seed: if greedy { Vec::new() } else { params.seed.to_vec() },
                }),
                stop: job.stop.clone(),
            },
            input,
            input_tokens,
            inline: false,
            max_price,
        };
        let (client, signer) = (&shared.terms.client, &shared.terms.signer);
        let submitted = match task::submit(client, signer, &offer, &shared.sending()).await {
            Ok(submitted) => submitted,
            // It may still be included: the price stays set aside.
            Err(error @ ClientError::Timeout { .. }) => return Err(before(error)),
            Err(error) => {
                shared.ledger.pay(lock, locked, 0);
                return Err(before(error));
            }
        };
        Gauges::add(&shared.metrics.prompt_tokens, job.prompt.len() as u64);
        let gas = u64::try_from(submitted.tx.gas_wanted).unwrap_or(0);
        let fee = shared.terms.gas_price.as_ref().and_then(|price| price.fee(gas).ok()).unwrap_or(0);
        let fee = u64::try_from(fee).unwrap_or(u64::MAX);
        Ok(Self { shared: shared.clone(), submitted, max_price, lock, locked, fee })
    }

    /// Finds out what the task cost, and writes it down. With `give_up` it is taken back first, if that is possible.
    async fn account(self, give_up: bool) {
        let (client, signer, id) =
            (&self.shared.terms.client, &self.shared.terms.signer, self.submitted.task);
        let mut fees = self.fee;
        if give_up {
            match task::cancel(client, signer, id, &self.shared.sending()).await {
                Ok(_) => fees = fees.saturating_mul(2),
                Err(error) => tracing::debug!(task = id, %error, "not taken back"),
            }
        }
        loop {
            let cost = match task::task(client, id).await {
                Ok(task) => match task.status() {
                    TaskStatus::Submitted | TaskStatus::Settled => task.price.parse().ok(),
                    TaskStatus::Open | TaskStatus::Assigned | TaskStatus::Accepted => None,
                    _ => Some(0),
                },
                Err(_) => None,
            };
            if let Some(cost) = cost {
                let cost = fees.saturating_add(cost);
                self.shared.ledger.pay(self.lock, self.locked, cost);
                Gauges::add(&self.shared.spent, cost);
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Passes the answer on as it comes. Tokens of a worker that failed later stay: the seed is fixed, so another worker
/// says the same, or one of them lied, which ends the answer with an error.
async fn follow(task: &Paid, job: &Job, proof: Proof, events: &Sender) -> Result<()> {
    let (shared, id) = (&task.shared, task.submitted.task);
    let input = Some(token_bytes(&job.prompt));
    let mut follower = Follower::new(shared.terms.client.clone(), shared.terms.signer.clone(), id, input);
    let (mut told, mut said) = (Vec::new(), 0);
    let mut assigned = false;
    loop {
        match follower.next().await.map_err(after)? {
            Step::Assigned { worker, .. } => {
                tracing::debug!(task = id, worker, "assigned");
                if std::mem::replace(&mut assigned, true) {
                    shared.reassigned.fetch_add(1, Ordering::Relaxed);
                }
                said = 0;
            }
            Step::Piece { tokens, .. } => {
                for token in tokens {
                    check(job, shared, &told, said, token)?;
                    if said == told.len() {
                        told.push(token);
                        tell(shared, events, token);
                    }
                    said += 1;
                }
            }
            Step::Answered(answer) => return finish(shared, job, &told, *answer, &proof, events),
        }
    }
}

/// Whether `token` may be the next one of an answer.
fn check(job: &Job, shared: &Shared, told: &[u32], at: usize, token: u32) -> Result<()> {
    if told.get(at).is_some_and(|before| *before != token) {
        return Err(ApiError::bad_answer("two workers answered differently"));
    }
    if at >= job.max_output as usize || token >= shared.model.arch().vocab {
        return Err(ApiError::bad_answer("the worker said what the request has no room for"));
    }
    Ok(())
}

fn tell(shared: &Shared, events: &Sender, token: u32) {
    Gauges::add(&shared.metrics.output_tokens, 1);
    let _ = events.send(Ok(Told::Token(token)));
}

/// The end: the receipt is about this prompt, and its tokens are those that were told.
fn finish(
    shared: &Shared,
    job: &Job,
    told: &[u32],
    answer: Answer,
    proof: &Proof,
    events: &Sender,
) -> Result<()> {
    if answer.receipt.input_digest != token_digest(&job.prompt) {
        return Err(ApiError::bad_answer("the receipt is about another prompt"));
    }
    if !answer.tokens.starts_with(told) {
        return Err(ApiError::bad_answer("the receipt is about other tokens than were told"));
    }
    for (at, token) in answer.tokens.iter().enumerate().skip(told.len()) {
        check(job, shared, told, at, *token)?;
        tell(shared, events, *token);
    }
    let finish = finish_from_proto(answer.receipt.finish())
        .ok_or_else(|| ApiError::bad_answer("the receipt does not say how the answer ended"))?;
    let _ = events.send(Ok(Told::Finished(finish, Box::new(proof.answered(&answer)))));
    Ok(())
}

/// An error before the task was on the chain.
fn before(error: ClientError) -> ApiError {
    use tonic::Code;
    match error {
        ClientError::Unreachable { .. } | ClientError::Query { code: Code::Unavailable, .. } => {
            ApiError::chain_away(error)
        }
        ClientError::Timeout { .. } => ApiError::not_included(error),
        ClientError::NoAccount { .. } => ApiError::wallet(error),
        ClientError::Transaction { code: 5, ref codespace, .. } if codespace == "sdk" => {
            ApiError::wallet(error)
        }
        ClientError::Query { ref message, .. } if message.contains("insufficient funds") => {
            ApiError::wallet(error)
        }
        error => ApiError::chain(error),
    }
}

/// An error of a task that is on the chain: asking again costs again.
fn after(error: ClientError) -> ApiError {
    match error {
        ClientError::Ended { .. } => ApiError::no_worker(error),
        ClientError::Answer { .. } => ApiError::bad_answer(error),
        error => ApiError::chain_away(error).final_word(),
    }
}

fn refused(over: OverBudget, udn: u64) -> ApiError {
    let asks = format!("this request may cost {udn} udn");
    match over {
        OverBudget::Key { left, retry_after } => {
            ApiError::quota(format!("{asks}, the API key has {left} left today"), Some(retry_after))
        }
        OverBudget::Day { left, retry_after } => {
            ApiError::quota(format!("{asks}, the gateway has {left} left today"), Some(retry_after))
        }
        OverBudget::Process { left } => ApiError::quota(format!("{asks}, the gateway has {left} left"), None),
        OverBudget::Journal(error) => ApiError::internal(format!("the ledger: {error}")),
    }
}
