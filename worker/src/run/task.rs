//! One task, from its assignment to its receipt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use deepnode_proto::deepnode::tasks::v1::{
    MsgAcceptTask, MsgDeclineTask, MsgSubmitReceipt, Receipt, Request, Task, TaskStatus,
};
use deepnode_proto::Message;

use super::Worker;
use crate::canon::SamplingParams;
use crate::engine::Generation;
use crate::metrics::Metrics;
use crate::model::{Model, TextStream};
use crate::request::{self, InputError};

/// Greatest reason to decline, bytes.
const MAX_REASON: usize = 200;

impl Worker {
    /// Takes a task as far as it goes. An error is tried again later, from the chain's state then.
    pub(super) async fn drive(self: &Arc<Self>, task: Task) -> anyhow::Result<()> {
        let id = task.id;
        let ask = task.request.clone().context("the task has no request")?;
        self.journal.lock().check(id, &request::message_digest(&ask))?;
        let recorded = self.journal.lock().get(id).and_then(|t| t.receipt.clone());
        if let Some(receipt) = recorded {
            return self.submit(&task, Receipt::decode(&*receipt)?).await;
        }

        let model = request::digest(&ask.model_id).and_then(|id| self.executor.model(&id));
        let Some(model) = model else {
            return self.decline(&task, "the model is not loaded".into()).await;
        };
        let Some(input) = self.input(&task).await? else {
            return match self.gives_back(&task) {
                Some(reason) => self.decline(&task, reason.into()).await,
                None => self.lost(id),
            };
        };
        let prompt = match self.read(&task, &ask, &model, input).await? {
            Ok(prompt) => prompt,
            Err(reason) => return self.decline(&task, reason).await,
        };
        if let Some(reason) = self.gives_back(&task) {
            return self.decline(&task, reason.into()).await;
        }
        let Some(task) = self.accept(task).await? else {
            return self.lost(id);
        };
        let Some(task) = self.seeded(task).await? else {
            return self.lost(id);
        };
        let params = request::sampling(&task).map_err(anyhow::Error::msg)?;
        match self.generate(&task, ask, model, prompt, params).await? {
            Some(receipt) => self.submit(&task, receipt).await,
            None => self.lost(id),
        }
    }

    /// The task as it is now, if it still waits for this worker.
    async fn still_ours(&self, id: u64) -> anyhow::Result<Option<Task>> {
        let task = self.chain.task(id).await?;
        let ours = |t: &Task| {
            t.worker == self.address().to_string()
                && matches!(t.status(), TaskStatus::Assigned | TaskStatus::Accepted)
        };
        Ok(task.filter(ours))
    }

    /// Why a task is not to be accepted any more: another worker can still do it in time.
    fn gives_back(&self, task: &Task) -> Option<&'static str> {
        self.stopping().filter(|_| task.status() == TaskStatus::Assigned)
    }

    /// The input, when it has come: with the task, or from the user. None if the task was taken away, or is given back.
    async fn input(&self, task: &Task) -> anyhow::Result<Option<Vec<u8>>> {
        if !task.inline_input.is_empty() {
            return Ok(Some(task.inline_input.clone()));
        }
        let mut looked = Instant::now();
        loop {
            let came = self.inputs.notified();
            let digest = self.journal.lock().get(task.id).and_then(|t| t.input);
            if let Some(input) = digest.map(|d| self.blobs.get(&d)).transpose()?.flatten() {
                return Ok(Some(input));
            }
            if self.gives_back(task).is_some() {
                return Ok(None);
            }
            let _ = tokio::time::timeout(self.pace.poll, came).await;
            self.check_cancelled()?;
            if looked.elapsed() >= self.pace.retry {
                if self.still_ours(task.id).await?.is_none() {
                    return Ok(None);
                }
                looked = Instant::now();
            }
        }
    }

    /// The prompt of an input, on disk with the input; or why the task is to be declined.
    async fn read(
        self: &Arc<Self>,
        task: &Task,
        ask: &Request,
        model: &Arc<Model>,
        input: Vec<u8>,
    ) -> anyhow::Result<Result<Vec<u32>, String>> {
        let (worker, task, ask) = (self.clone(), task.clone(), ask.clone());
        let read = move |model: &Model| {
            let prompt = match request::prompt(model, ask.input_kind(), &input) {
                Ok(prompt) => request::check_prompt(model, &task, &ask, &prompt).map(|()| prompt),
                Err(InputError::Unreadable(reason)) => Err(reason),
                // That may pass, and is tried again.
                Err(InputError::Unknown(error)) => return Err(error.into()),
            };
            if let Ok(prompt) = &prompt {
                let digest = worker.blobs.put(&input)?;
                worker.blobs.put(&request::token_bytes(prompt))?;
                worker.journal.lock().input(task.id, request::message_digest(&ask), digest)?;
            }
            Ok(prompt)
        };
        model.reading(read).await?
    }

    /// Accepts the task, if that is still to be done. None if it was taken away.
    async fn accept(&self, task: Task) -> anyhow::Result<Option<Task>> {
        if task.status() == TaskStatus::Accepted {
            self.journal.lock().accepted(task.id)?;
            return Ok(Some(task));
        }
        let message = MsgAcceptTask { worker: self.address().to_string(), task_id: task.id };
        let sent = self.chain.tell(&message).await;
        // Whatever was answered, the chain's state tells.
        match self.still_ours(task.id).await? {
            Some(task) if task.status() == TaskStatus::Accepted => {
                self.journal.lock().accepted(task.id)?;
                tracing::info!(task = task.id, "accepted");
                Ok(Some(task))
            }
            Some(task) => {
                sent.context("accepting the task")?;
                anyhow::bail!("task {} is not accepted though the chain took the message", task.id)
            }
            None => Ok(None),
        }
    }

    /// Waits until the sampler's seed is fixed, which temperature 0 does not need. None if the task was taken away.
    async fn seeded(&self, task: Task) -> anyhow::Result<Option<Task>> {
        let mut task = Some(task);
        while let Some(waiting) = task.as_ref().filter(|t| request::waits_for_seed(t)) {
            let id = waiting.id;
            tokio::select! {
                () = tokio::time::sleep(self.pace.poll) => {}
                () = self.chain.next_block() => {}
            }
            self.check_cancelled()?;
            task = self.still_ours(id).await?;
        }
        Ok(task)
    }

    /// Generates together with other tasks, when it is this task's turn; answers the receipt, which is in the journal.
    /// None if the task was taken away meanwhile.
    async fn generate(
        self: &Arc<Self>,
        task: &Task,
        ask: Request,
        model: Arc<Model>,
        prompt: Vec<u32>,
        params: SamplingParams,
    ) -> anyhow::Result<Option<Receipt>> {
        let queued = Metrics::raise(&self.metrics.queued);
        let turn = self.turns.acquire().await?;
        drop(queued);
        let live = self.live(task)?.context("the answer is over")?;
        live.begin();
        let (worker, task, id) = (self.clone(), task.clone(), task.id);
        let cancel = Arc::new(AtomicBool::new(false));
        let cancelled = cancel.clone();
        let mut computed = tokio::task::spawn_blocking(move || -> anyhow::Result<Receipt> {
            let _running = Metrics::raise(&worker.metrics.running);
            let started = Instant::now();
            let mut text = TextStream::default();
            let mut on_token = |token| live.push(token, text.push(model.tokenizer(), token));
            let generation = worker.executor.generate(&task, &prompt, &params, &mut on_token, &cancelled)?;
            let spent = started.elapsed();
            Metrics::add(&worker.metrics.output_tokens, generation.tokens.len() as u64);
            Metrics::add(&worker.metrics.busy_millis, spent.as_millis() as u64);
            let receipt = worker.record(&task, &ask, &prompt, &generation)?;
            tracing::info!(
                task = task.id,
                input = prompt.len(),
                output = generation.tokens.len(),
                finish = ?generation.finish,
                seconds = spent.as_secs_f32(),
                "generated"
            );
            live.finish(text.finish(), receipt.clone());
            Ok(receipt)
        });
        let receipt = tokio::select! {
            receipt = &mut computed => receipt?.map(Some),
            stops = self.in_vain(id) => {
                cancel.store(true, Ordering::Relaxed);
                match computed.await? {
                    // It was done all the same.
                    Ok(receipt) => Ok(Some(receipt)),
                    Err(_) if !stops => Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        drop(turn);
        receipt
    }

    /// Returns when it makes no sense to generate any longer: whether because the process stops, or else because the
    /// task was taken away.
    async fn in_vain(&self, id: u64) -> bool {
        let stops = async {
            while !self.cancelled() {
                tokio::time::sleep(self.pace.poll).await;
            }
        };
        let taken_away = async {
            tokio::time::sleep(self.pace.retry).await;
            // A node that does not answer says nothing about the task.
            while !matches!(self.still_ours(id).await, Ok(None)) {
                tokio::time::sleep(self.pace.retry).await;
            }
        };
        tokio::select! {
            () = stops => true,
            () = taken_away => false,
        }
    }

    /// Puts output and receipt on disk, before anything of them is sent.
    fn record(
        &self,
        task: &Task,
        ask: &Request,
        prompt: &[u32],
        generation: &Generation,
    ) -> anyhow::Result<Receipt> {
        let output = self.blobs.put(&request::token_bytes(&generation.tokens))?;
        let input = self.blobs.put(&request::token_bytes(prompt))?;
        let receipt = request::receipt(task.id, ask, prompt, generation);
        let digest = request::message_digest(ask);
        let bytes = self.journal.lock().receipt(task.id, digest, receipt.encode_to_vec(), input, output)?;
        Ok(Receipt::decode(&*bytes)?)
    }

    async fn submit(&self, task: &Task, receipt: Receipt) -> anyhow::Result<()> {
        let message = MsgSubmitReceipt { worker: self.address().to_string(), receipt: Some(receipt.clone()) };
        let sent = self.chain.tell(&message).await;
        let now = self.chain.task(task.id).await?;
        if now.as_ref().is_some_and(|t| t.receipt.as_ref() == Some(&receipt)) {
            self.journal.lock().submitted(task.id)?;
            Metrics::add(&self.metrics.submitted, 1);
            tracing::info!(task = task.id, "receipt submitted");
            return Ok(());
        }
        if self.still_ours(task.id).await?.is_none() {
            return self.lost(task.id);
        }
        sent.context("submitting the receipt")?;
        anyhow::bail!("task {} has no receipt though the chain took the message", task.id)
    }

    async fn decline(&self, task: &Task, reason: String) -> anyhow::Result<()> {
        self.end_live(task.id, &format!("the worker declined: {reason}"));
        if task.status() != TaskStatus::Assigned {
            anyhow::bail!("task {} is accepted and cannot be done: {reason}", task.id);
        }
        tracing::warn!(task = task.id, %reason, "declined");
        let end = reason.floor_char_boundary(MAX_REASON.min(reason.len()));
        let message = MsgDeclineTask {
            worker: self.address().to_string(),
            task_id: task.id,
            reason: reason[..end].into(),
        };
        self.chain.tell(&message).await.context("declining the task")?;
        Metrics::add(&self.metrics.declined, 1);
        Ok(())
    }

    /// The chain gave the task to another, or ended it.
    fn lost(&self, id: u64) -> anyhow::Result<()> {
        tracing::warn!(task = id, "taken away");
        Metrics::add(&self.metrics.lost, 1);
        self.end_live(id, "the task was taken from this worker");
        Ok(())
    }

    fn end_live(&self, id: u64, reason: &str) {
        if let Some(live) = self.lives.lock().remove(&id).filter(|live| !live.ended()) {
            live.fail(reason);
        }
    }

    /// What is left is for the next process.
    fn check_cancelled(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.cancelled(), "the worker stops");
        Ok(())
    }

    /// Whether the process is on its way out.
    pub(super) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}
