//! The tasks of a request, from their estimate to what they cost.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use deepnode_client::task::{self, token_digest, Answer, Follower, Offer, Step};
use deepnode_client::ClientError;
use deepnode_proto::deepnode::tasks::v1::{InputKind, Request, SamplingParams};
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{Bill, Lock, OverBudget, Place, Proof, Shared, Told};
use crate::canon;
use crate::gateway::errors::{ApiError, Result};
use crate::gateway::scheduler::Job;
use crate::metrics::Metrics as Gauges;
use crate::request::{finish_from_proto, token_bytes};

/// The price of a class moves from block to block; this much more than the estimate is locked, and what is not used
/// returns.
const MARGIN_PERCENT: u128 = 10;
/// Gas of a transaction, at most, for whose fee money is set aside.
const MOST_GAS: i64 = 1_000_000;

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

/// Runs a job to its end, all of its tasks at once. `started` hears of the tasks when each is in a block or refused,
/// `events` of the answers; when nobody listens any more, tasks are taken back that no worker accepted yet.
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
        _ = aborted.wait_for(|aborted| *aborted) => {
            let _ = started.send(Err(ApiError::stopping()));
            return;
        }
    };
    drop(queued);
    let running = Gauges::raise(&shared.metrics.running);
    let began = Instant::now();
    let (locks, max_price) = match set_aside(&place, &job).await {
        Ok(locked) => locked,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let (begun, beginnings) = mpsc::unbounded_channel();
    let answers = (0..).zip(locks).zip(&job.choices).map(|((choice, lock), params)| {
        let (sender, begun) = (Sender { choice, events: events.clone() }, begun.clone());
        let (shared, job) = (&shared, &job);
        async move {
            let task = Paid::submit(shared, job, params, max_price, lock, &sender).await;
            let beginning = task.as_ref().map(|task| task.proof.clone());
            let _ = begun.send((choice, beginning.map_err(ApiError::clone)));
            drop(begun);
            match task {
                Ok(task) => {
                    let given_up = task.answer(job, &sender, began).await;
                    Some((task, given_up))
                }
                Err(error) => {
                    sender.send(Told::Failed(error));
                    None
                }
            }
        }
    });
    let answers: Vec<_> = answers.collect();
    drop(begun);
    let (answered, ()) =
        tokio::join!(join_all(answers), tell_started(started, beginnings, job.choices.len()));
    // Nothing is to be waited for by others while this is found out.
    drop((events, running, turn, place));
    join_all(answered.into_iter().flatten().map(|(task, given_up)| task.account(given_up))).await;
}

/// Tells of the tasks when each has begun or will not. An error is of all of them.
async fn tell_started(
    started: oneshot::Sender<Result<Vec<Option<Proof>>>>,
    mut beginnings: mpsc::UnboundedReceiver<(u32, Result<Proof>)>,
    choices: usize,
) {
    let (mut proofs, mut errors) = (vec![None; choices], Vec::new());
    while let Some((choice, beginning)) = beginnings.recv().await {
        match beginning {
            Ok(proof) => proofs[choice as usize] = Some(proof),
            Err(error) => errors.push(error),
        }
    }
    let error = errors.into_iter().reduce(ApiError::graver);
    let _ = started.send(match error.filter(|_| proofs.iter().all(Option::is_none)) {
        Some(error) => Err(error),
        None => Ok(proofs),
    });
}

/// Sets aside what a task for each choice may cost, if there is money for all of them; answers the greatest price of
/// each besides.
async fn set_aside(place: &Place, job: &Job) -> Result<(Vec<Lock>, u128)> {
    let shared = &place.shared;
    let (model_id, input_tokens) = (shared.model.id(), job.prompt.len() as u32);
    let estimate = task::estimate(&shared.terms.client, &model_id, input_tokens, job.max_output)
        .await
        .map_err(before)?;
    let fee: u128 = estimate.fee.parse().map_err(ApiError::internal)?;
    let max_price = fee.saturating_add(fee.saturating_mul(MARGIN_PERCENT).div_ceil(100));
    // What submits a task, and what takes it back.
    let fees = shared.fee(MOST_GAS).saturating_mul(2);
    let udn = u64::try_from(max_price).unwrap_or(u64::MAX).saturating_add(fees);
    let count = job.choices.len() as u64;
    let locks = shared.bills.lock(&place.caller, udn, count);
    let locks = locks.map_err(|over| refused(over, udn.saturating_mul(count)))?;
    Ok((locks, max_price))
}

/// A task whose price is set aside.
struct Paid {
    shared: Arc<Shared>,
    id: u64,
    /// Until it is answered.
    proof: Proof,
    lock: Lock,
    /// udn of the transaction that submitted it.
    fee: u64,
}

impl Paid {
    async fn submit(
        shared: &Arc<Shared>,
        job: &Job,
        params: &canon::SamplingParams,
        max_price: u128,
        lock: Lock,
        sender: &Sender,
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
        // One at a time, as their sequences are; who went away meanwhile buys nothing.
        let turn = shared.broadcasts.lock().await;
        if sender.events.is_closed() || *shared.aborted.borrow() {
            shared.bills.no_task(lock, 0);
            return Err(ApiError::stopping());
        }
        let sent = task::broadcast(client, signer, &offer, &shared.sending()).await;
        drop(turn);
        let submitted = match sent {
            Ok(hash) => task::included(client, &hash, shared.terms.inclusion).await,
            Err(error) => Err(error),
        };
        let submitted = match submitted {
            Ok(submitted) => submitted,
            Err(error) => {
                // Else all of it stays set aside.
                if !error.may_be_included() {
                    shared.bills.no_task(lock, shared.fee_of_failed(&error));
                }
                return Err(before(error));
            }
        };
        Gauges::add(&shared.metrics.prompt_tokens, job.prompt.len() as u64);
        let fee = shared.fee(submitted.tx.gas_wanted);
        let (id, proof) = (submitted.task, Proof::new(&submitted, max_price));
        Ok(Self { shared: shared.clone(), id, proof, lock, fee })
    }

    /// Passes the answer on, as long as somebody listens; answers whether it was given up.
    async fn answer(&self, job: &Job, sender: &Sender, began: Instant) -> bool {
        let metrics = &self.shared.metrics;
        let mut aborted = self.shared.aborted.subscribe();
        let ended = tokio::select! {
            ended = follow(self, job, sender) => Some(ended),
            () = sender.events.closed() => None,
            _ = aborted.wait_for(|aborted| *aborted) => None,
        };
        metrics.busy(began.elapsed());
        let given_up = ended.is_none();
        match ended {
            Some(Ok(())) => Gauges::add(&metrics.finished, 1),
            Some(Err(error)) => sender.send(Told::Failed(error)),
            None => Gauges::add(&metrics.cancelled, 1),
        }
        given_up
    }

    /// Hands the bill on. With `give_up` the task is taken back first, if that is possible.
    async fn account(self, give_up: bool) {
        let (shared, id) = (&self.shared, self.id);
        let mut fees = self.fee;
        if give_up {
            let (client, signer) = (&shared.terms.client, &shared.terms.signer);
            let fee = match task::cancel(client, signer, id, &shared.sending()).await {
                Ok(tx) => shared.fee(tx.gas_wanted),
                Err(error) => {
                    tracing::debug!(task = id, %error, "not taken back");
                    match error.may_be_included() {
                        // Nobody knows; the fee of a submission is more than that.
                        true => self.fee,
                        false => shared.fee_of_failed(&error),
                    }
                }
            };
            fees = fees.saturating_add(fee);
        }
        // The receiver lives as long as what is shared.
        let _ = shared.due.send(Bill::new(id, self.lock, fees));
    }
}

/// Passes the answer on as it comes. Tokens of a worker that failed later stay: the seed is fixed, so another worker
/// says the same, or one of them lied, which ends the answer with an error.
async fn follow(task: &Paid, job: &Job, events: &Sender) -> Result<()> {
    let (shared, id) = (&task.shared, task.id);
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
            Step::Answered(answer) => return finish(shared, job, &told, *answer, &task.proof, events),
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
    match error {
        error if error.is_away() => ApiError::chain_away(error),
        error if error.may_be_included() => ApiError::maybe_included(error),
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
