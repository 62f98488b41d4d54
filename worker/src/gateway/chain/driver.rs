//! The tasks of a request, from their estimate to what they cost.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deepnode_client::task::{self, token_digest, Answer, Follower, Offer, Step, Submitted};
use deepnode_client::ClientError;
use deepnode_proto::deepnode::tasks::v1::{InputKind, Request, SamplingParams, Task, TaskStatus};
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{OverBudget, Place, Proof, Shared, Told};
use crate::canon;
use crate::gateway::errors::{ApiError, Result};
use crate::gateway::scheduler::Job;
use crate::metrics::Metrics as Gauges;
use crate::request::{finish_from_proto, token_bytes};

/// The price of a class moves from block to block; this much more than the estimate is locked, and what is not used
/// returns.
const MARGIN_PERCENT: u128 = 10;
/// How often a task is looked at that nobody waits for any more.
const LOOK: Duration = Duration::from_secs(2);

/// The longest pause between looks at a task whose receipt is not final yet.
const LONG_LOOK: Duration = Duration::from_secs(60);

/// Tells of one choice.
struct Sender {
    choice: u32,
    events: mpsc::UnboundedSender<(u32, Told)>,
}

impl Sender {
    fn send(&self, told: Told) {
        let _ = self.events.send((self.choice, told));
    }
}

/// Runs a job to its end, all of its tasks at once. `started` hears of the tasks, `events` of the answers; when nobody
/// listens any more, tasks are taken back that no worker accepted yet.
pub(super) async fn drive(
    place: Place,
    job: Job,
    started: oneshot::Sender<Result<Vec<Option<Proof>>>>,
    events: mpsc::UnboundedSender<(u32, Told)>,
) {
    let shared = place.shared.clone();
    let queued = Gauges::raise(&shared.metrics.queued);
    let mut aborted = shared.aborted.subscribe();
    let turn = tokio::select! {
        turn = shared.turns.clone().acquire_owned() => turn,
        () = events.closed() => return,
        _ = aborted.wait_for(|aborted| *aborted) => return,
    };
    drop(queued);
    let running = Gauges::raise(&shared.metrics.running);
    let began = Instant::now();
    let submitted = match Paid::submit(&place, &job).await {
        Ok(submitted) => submitted,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let proof = |task: &Paid| Proof::new(&task.submitted, task.max_price);
    let proofs = submitted.iter().map(|task| task.as_ref().ok().map(proof)).collect();
    let _ = started.send(Ok(proofs));
    let mut tasks = Vec::new();
    for (choice, task) in (0..).zip(submitted) {
        let sender = Sender { choice, events: events.clone() };
        match task {
            Ok(task) => tasks.push((task, sender)),
            // The others go on.
            Err(error) => sender.send(Told::Failed(error)),
        }
    }
    let answered = join_all(tasks.iter().map(|(task, sender)| async {
        let mut aborted = shared.aborted.subscribe();
        let ended = tokio::select! {
            ended = follow(task, &job, proof(task), sender) => Some(ended),
            () = sender.events.closed() => None,
            _ = aborted.wait_for(|aborted| *aborted) => None,
        };
        shared.metrics.busy(began.elapsed());
        let given_up = ended.is_none();
        match ended {
            Some(Ok(())) => Gauges::add(&shared.metrics.finished, 1),
            Some(Err(error)) => sender.send(Told::Failed(error)),
            None => Gauges::add(&shared.metrics.cancelled, 1),
        }
        given_up
    }));
    let given_up = answered.await;
    // Nothing is to be waited for by others while this is found out.
    drop((events, running, turn, place));
    join_all(tasks.into_iter().zip(given_up).map(|((task, _), given_up)| task.account(given_up))).await;
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
    /// Submits a task for each choice, if there is money for all of them. An error is of all, or where all have the
    /// same fate.
    async fn submit(place: &Place, job: &Job) -> Result<Vec<Result<Self>>> {
        let shared = &place.shared;
        let (model_id, input_tokens) = (shared.model.id(), job.prompt.len() as u32);
        let estimate = task::estimate(&shared.terms.client, &model_id, input_tokens, job.max_output)
            .await
            .map_err(before)?;
        let fee: u128 = estimate.fee.parse().map_err(ApiError::internal)?;
        let max_price = fee.saturating_add(fee.saturating_mul(MARGIN_PERCENT).div_ceil(100));
        let locked = u64::try_from(max_price).unwrap_or(u64::MAX);
        let count = job.choices.len() as u64;
        let locks = shared
            .ledger
            .lock(&place.caller, locked, count)
            .map_err(|over| refused(over, locked.saturating_mul(count)))?;
        let each = locks.iter().zip(&job.choices);
        let each =
            each.map(|(lock, params)| Self::submit_one(shared, job, params, max_price, (*lock, locked)));
        let mut submitted = join_all(each).await;
        match submitted.iter().all(Result::is_err) {
            true => {
                Err(submitted.pop().and_then(Result::err).unwrap_or_else(|| ApiError::internal("no task")))
            }
            false => Ok(submitted),
        }
    }

    async fn submit_one(
        shared: &Arc<Shared>,
        job: &Job,
        params: &canon::SamplingParams,
        max_price: u128,
        (lock, locked): (u64, u64),
    ) -> Result<Self> {
        let greedy = params.temperature_micros == 0;
        let offer = Offer {
            request: Request {
                model_id: shared.model.id().to_vec(),
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
            input: token_bytes(&job.prompt),
            input_tokens: job.prompt.len() as u32,
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

    /// Finds out what the task cost, and writes it down; when its receipt is convicted later, what returned is there to
    /// be spent again. With `give_up` it is taken back first, if that is possible.
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
        // What the budget holds for it, and the receipt's price once that is known.
        let (mut held, mut paid, mut pause) = (self.locked, None, LOOK);
        loop {
            let task = task::task(client, id).await.ok();
            let status = task.as_ref().map(Task::status);
            let price = match status {
                Some(TaskStatus::Submitted | TaskStatus::Settled) => task.and_then(|t| t.price.parse().ok()),
                None | Some(TaskStatus::Open | TaskStatus::Assigned | TaskStatus::Accepted) => None,
                Some(_) => Some(0),
            };
            if let Some(price) = price.filter(|price| paid != Some(*price)) {
                let cost = fees.saturating_add(price);
                self.shared.ledger.pay(self.lock, held, cost);
                match paid.replace(price) {
                    None => Gauges::add(&self.shared.spent, cost),
                    Some(before) => {
                        tracing::warn!(
                            task = id,
                            udn = before,
                            "the receipt did not stand; its price returned"
                        );
                        Gauges::add(&self.shared.refunded, before.saturating_sub(price));
                    }
                }
                held = cost;
            }
            // A receipt may be convicted until it is settled.
            if price.is_some() && status != Some(TaskStatus::Submitted) {
                return;
            }
            tokio::time::sleep(pause).await;
            if paid.is_some() {
                pause = pause.saturating_mul(2).min(LONG_LOOK);
            }
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
    events.send(Told::Token(token));
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
    events.send(Told::Finished(finish, Box::new(proof.answered(&answer))));
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
