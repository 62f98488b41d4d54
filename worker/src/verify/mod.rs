//! `verify`: the auditor of a validator. It recomputes what its key was drawn for, commits to a verdict, reveals it.

mod check;
mod fetch;

pub use check::{check, vector, vector_input, Finding, VECTOR_INPUT, VECTOR_OUTPUT};
use check::{conclude, Examined, Unexamined};
pub use fetch::{Evidence, Fetcher};

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use deepnode_client::ClientError;
use deepnode_proto::deepnode::audits::v1::{
    Audit, Member, MsgCommitVerdict, MsgReportMissing, MsgRevealVerdict, Phase, Subject, Verdict,
};
use deepnode_tx::Address;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch, Semaphore};

use crate::canon::{DeviceError, Digest};
use crate::chain::Chain;
use crate::engine::{Claim, EngineError};
use crate::journal::{AuditJournal, Sealed};
use crate::model::Model;
use crate::request;
use crate::run::Engines;

/// How the auditor goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often it looks for audits.
    pub poll: Duration,
    /// How often it asks a worker for its blobs, and how long it waits in between.
    pub attempts: u32,
    pub retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { poll: Duration::from_millis(500), attempts: 3, retry: Duration::from_secs(2) }
    }
}

/// One auditor's key at work.
pub struct Verifier {
    chain: Arc<dyn Chain>,
    engines: Engines,
    journal: Mutex<AuditJournal>,
    fetcher: Fetcher,
    pace: Pace,
    /// Audits that are being worked on.
    busy: Mutex<BTreeSet<u64>>,
    /// One computation at a time: all cores work on it.
    turn: Semaphore,
    /// Receipts that wait for it. Whose turn it is recomputes all of them together.
    desk: Mutex<Vec<Waiting>>,
    /// What a device failed with that has no spare one.
    failed: watch::Sender<Option<DeviceError>>,
    cancel: AtomicBool,
}

/// A receipt to be recomputed.
struct Waiting {
    model: Digest,
    examined: Examined,
    finding: oneshot::Sender<anyhow::Result<Finding>>,
}

/// BLAKE3(auditor's 20 bytes, verdict as one byte, digest, salt).
pub fn commitment(auditor: &Address, sealed: &Sealed) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(auditor.as_bytes()).update(&[sealed.verdict as u8]);
    hasher.update(&sealed.digest).update(&sealed.salt);
    *hasher.finalize().as_bytes()
}

impl Verifier {
    pub fn new(chain: Arc<dyn Chain>, engines: Engines, journal: AuditJournal, pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            chain,
            engines,
            journal: Mutex::new(journal),
            fetcher: Fetcher::default(),
            pace,
            busy: Mutex::default(),
            turn: Semaphore::new(1),
            desk: Mutex::default(),
            failed: watch::Sender::new(None),
            cancel: AtomicBool::new(false),
        })
    }

    /// Works until `stop` becomes true, or a device fails that has no spare one: the error. What was not revealed then is
    /// revealed after a restart, if it is not too late.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<(), DeviceError> {
        let mut failed = self.failed.subscribe();
        let mut poll = tokio::time::interval(self.pace.poll);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            tokio::select! {
                _ = poll.tick() => {}
                () = self.chain.next_block() => {}
                _ = stop.wait_for(|stop| *stop) => break,
                _ = failed.wait_for(Option::is_some) => break,
            }
            let error = match self.chain.audits_drawn(&self.chain.address()).await {
                Ok(audits) => {
                    audits.into_iter().for_each(|audit| self.take(audit));
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            if !error.is_empty() && error != told {
                tracing::warn!(error, "cannot ask for audits; trying on");
            }
            told = error;
        }
        self.cancel.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(Duration::from_secs(10), self.turn.acquire()).await;
        let failed = self.failed.borrow().clone();
        failed.map_or(Ok(()), Err)
    }

    /// This key's seat in the audit's latest draw.
    fn seat<'a>(&self, audit: &'a Audit) -> Option<(u32, Digest, &'a Member)> {
        let draw = u32::try_from(audit.draws.len().checked_sub(1)?).ok()?;
        let beacon = request::digest(&audit.draws.last()?.beacon)?;
        let key = self.chain.address().to_string();
        let member = audit.members.iter().find(|m| m.draw == draw && m.auditor == key)?;
        Some((draw, beacon, member))
    }

    /// Begins what an audit waits for from this key, unless that is under way.
    fn take(self: &Arc<Self>, audit: Audit) {
        let Some((_, _, member)) = self.seat(&audit) else {
            return;
        };
        let due = match audit.phase() {
            Phase::Commit => member.commitment.is_empty(),
            Phase::Reveal => !member.commitment.is_empty() && member.verdict() == Verdict::Unspecified,
            _ => false,
        };
        if !due || !self.busy.lock().insert(audit.id) {
            return;
        }
        let verifier = self.clone();
        tokio::spawn(async move {
            let id = audit.id;
            let step = match audit.phase() {
                Phase::Commit => verifier.commit(audit).await,
                _ => verifier.reveal(audit).await,
            };
            if let Err(error) = step {
                tracing::error!(
                    audit = id,
                    error = format!("{error:#}"),
                    "a step failed; it will be tried again"
                );
                match error.downcast_ref() {
                    Some(EngineError::Device(error)) => {
                        verifier.failed.send_replace(Some(error.clone()));
                    }
                    _ => tokio::time::sleep(verifier.pace.retry).await,
                }
            }
            verifier.busy.lock().remove(&id);
        });
    }

    /// Finds the verdict, unless it is in the journal already, and commits to it.
    async fn commit(self: &Arc<Self>, audit: Audit) -> anyhow::Result<()> {
        let (draw, beacon, _) = self.seat(&audit).context("no seat")?;
        let kept = self.journal.lock().get(audit.id, draw, &beacon).cloned();
        let sealed = match kept {
            Some(sealed) => sealed,
            None => {
                let Some(finding) = self.find(&audit, beacon).await? else {
                    return Ok(());
                };
                tracing::info!(
                    audit = audit.id,
                    task = audit.task_id,
                    verdict = finding.verdict.as_str_name(),
                    reason = finding.reason,
                    "found"
                );
                let mut salt = [0; 32];
                getrandom::getrandom(&mut salt)
                    .map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
                self.journal.lock().seal(Sealed {
                    audit: audit.id,
                    draw,
                    beacon,
                    verdict: finding.verdict.into(),
                    digest: finding.digest,
                    salt,
                })?
            }
        };
        let auditor = self.chain.address();
        let message = MsgCommitVerdict {
            auditor: auditor.to_string(),
            audit_id: audit.id,
            commitment: commitment(&auditor, &sealed).to_vec(),
        };
        self.chain.tell(&message).await.context("committing")
    }

    async fn reveal(&self, audit: Audit) -> anyhow::Result<()> {
        let (draw, beacon, member) = self.seat(&audit).context("no seat")?;
        let sealed = self.journal.lock().get(audit.id, draw, &beacon).cloned();
        let sealed = sealed.context("the journal does not have what was committed to; was its file lost?")?;
        let auditor = self.chain.address();
        if commitment(&auditor, &sealed)[..] != member.commitment {
            anyhow::bail!("the commitment on the chain is another; does another process use this key?");
        }
        let message = MsgRevealVerdict {
            auditor: auditor.to_string(),
            audit_id: audit.id,
            verdict: sealed.verdict,
            digest: sealed.digest.to_vec(),
            salt: sealed.salt.to_vec(),
        };
        self.chain.tell(&message).await.context("revealing")?;
        tracing::info!(audit = audit.id, "revealed");
        Ok(())
    }

    /// The verdict; none if the audit first waits for blobs.
    async fn find(self: &Arc<Self>, audit: &Audit, beacon: Digest) -> anyhow::Result<Option<Finding>> {
        let model = request::digest(&audit.model_id).context("the audit names no model")?;
        if self.engines.get(&model).is_none() {
            let id = hex::encode(model);
            anyhow::bail!("model {id} is not loaded: import it and restart, or register without its class");
        }
        if audit.subject() == Subject::Vector {
            let vector = move |verifier: &Self, cancel: &AtomicBool| {
                let (model, engine) = verifier.engines.get(&model).context("the model is loaded")?;
                Ok(check::vector(model, engine, &beacon, cancel)?)
            };
            return self.compute(vector).await.map(Some);
        }
        // Asked for alone, an audit has the blobs that its worker showed.
        let audit = self.chain.audit(audit.id).await?.context("the audit is gone")?;
        let task = self.chain.task(audit.task_id).await?.context("the task is gone")?;
        let receipt = task.receipt.as_ref().map(request::message_digest);
        if receipt.is_none_or(|digest| digest[..] != audit.receipt_digest) {
            anyhow::bail!("task {}: its receipt is not the one under audit", task.id);
        }
        let evidence = match self.fetch(&audit, &task).await {
            Ok(evidence) => evidence,
            Err(reason) => return self.missing(&audit, reason).await,
        };
        let (loaded, _) = self.engines.get(&model).context("the model is loaded")?;
        let examine = move |model: &Model| {
            let Evidence { input, output } = &evidence;
            Examined::new(model, &task, input, output, &beacon)
        };
        match loaded.reading(examine).await? {
            Ok(examined) => self.recompute(model, examined).await.map(Some),
            Err(Unexamined::Wrong(finding)) => Ok(Some(*finding)),
            Err(Unexamined::Unknown(error)) => Err(error.into()),
        }
    }

    /// Recomputes a receipt, together with those that wait at the same time.
    async fn recompute(self: &Arc<Self>, model: Digest, examined: Examined) -> anyhow::Result<Finding> {
        let (finding, mut found) = oneshot::channel();
        self.desk.lock().push(Waiting { model, examined, finding });
        let _turn = tokio::select! {
            biased;
            found = &mut found => return found?,
            turn = self.turn.acquire() => turn?,
        };
        let verifier = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut waiting = std::mem::take(&mut *verifier.desk.lock());
            while let Some(first) = waiting.first().map(|waiting| waiting.model) {
                let (together, others) = waiting.into_iter().partition(|waiting| waiting.model == first);
                verifier.recompute_all(&first, together);
                waiting = others;
            }
        })
        .await?;
        found.await?
    }

    /// Recomputes receipts of one model and answers each.
    fn recompute_all(&self, model: &Digest, waiting: Vec<Waiting>) {
        let Some((model, engine)) = self.engines.get(model) else { return };
        let questions: Vec<_> = waiting.iter().map(|waiting| waiting.examined.question(model)).collect();
        let tokens = |claim: &Claim<'_>| claim.request.prompt.len() + claim.output.len();
        let tokens: usize = questions.iter().map(|question| tokens(&question.claim)).sum();
        let began = Instant::now();
        let answers = engine.audits(&questions, &self.cancel);
        let milliseconds = began.elapsed().as_millis() as u64;
        tracing::info!(receipts = questions.len(), tokens, milliseconds, "recomputed");
        drop(questions);
        match answers {
            Ok(answers) => {
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    // Who went away needs no answer.
                    let _ = waiting.finding.send(conclude(answer).map_err(anyhow::Error::from));
                }
            }
            Err(error) => {
                // Only a device's error must be known as one.
                let copy = || match &error {
                    EngineError::Device(error) => EngineError::Device(error.clone()).into(),
                    other => anyhow::anyhow!("{other}"),
                };
                for waiting in waiting {
                    let _ = waiting.finding.send(Err(copy()));
                }
            }
        }
    }

    async fn compute(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &AtomicBool) -> anyhow::Result<Finding> + Send + 'static,
    ) -> anyhow::Result<Finding> {
        let _turn = self.turn.acquire().await?;
        let verifier = self.clone();
        tokio::task::spawn_blocking(move || work(&verifier, &verifier.cancel)).await?
    }

    async fn fetch(
        &self,
        audit: &Audit,
        task: &deepnode_proto::deepnode::tasks::v1::Task,
    ) -> Result<Evidence, String> {
        let mut attempt = 1;
        loop {
            match self.fetcher.fetch(&*self.chain, audit, task).await {
                Err(reason) if attempt < self.pace.attempts => {
                    tracing::warn!(audit = audit.id, attempt, reason, "blobs cannot be had");
                    tokio::time::sleep(self.pace.retry).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// The worker has to show its blobs on the chain; where it was asked before or they are too large for that, they
    /// are unavailable.
    async fn missing(&self, audit: &Audit, reason: String) -> anyhow::Result<Option<Finding>> {
        tracing::warn!(audit = audit.id, reason, "reporting that blobs are missing");
        let auditor = self.chain.address().to_string();
        match self.chain.tell(&MsgReportMissing { auditor, audit_id: audit.id }).await {
            Ok(()) => Ok(None),
            Err(error @ (ClientError::Transaction { .. } | ClientError::Query { .. })) => {
                // The audit may have moved on meanwhile, or the worker has answered another's report: then another
                // look tells.
                let now = self.chain.audit(audit.id).await?.context("the audit is gone")?;
                let shown = |audit: &Audit| (audit.shown_input.clone(), audit.shown_output.clone());
                if now.phase() != Phase::Commit || shown(&now) != shown(audit) {
                    return Ok(None);
                }
                // A simulation that fails is the chain's word as a failed transaction is; a node that does not answer
                // is none of the worker's fault.
                let refused = match &error {
                    ClientError::Query { what, code, .. } => {
                        *what == "simulation" && *code != tonic::Code::Unavailable
                    }
                    _ => true,
                };
                match refused {
                    true => Ok(Some(Finding::unavailable(format!("{reason}; {error}")))),
                    false => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}
