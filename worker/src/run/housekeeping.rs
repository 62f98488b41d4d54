//! What goes on beside the tasks: registration, blobs that an audit misses, blobs that nobody may ask for any more.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use anyhow::Context;
use deepnode_proto::deepnode::audits::v1::{Audit, MsgShowBlobs, Phase};
use deepnode_proto::deepnode::tasks::v1::{Task, TaskStatus};

use super::Worker;
use crate::chain::Head;
use crate::journal::TaskState;

/// Old tasks that are looked at in one round.
const TASKS_A_ROUND: usize = 100;

impl Worker {
    pub(super) async fn keep(self: Arc<Self>) {
        let mut round = tokio::time::interval(self.pace.housekeeping);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was last logged: a fault that stays is told once.
        let mut told = String::new();
        let mut next = 0;
        while !self.cancelled() {
            round.tick().await;
            self.metrics.device_failed.store(self.executor.fell_over().into(), Ordering::Relaxed);
            let error = match self.round(&mut next).await {
                Ok(()) => String::new(),
                Err(error) => format!("{error:#}"),
            };
            if !error.is_empty() && error != told {
                tracing::warn!(error, "housekeeping; trying on");
            }
            told = error;
        }
    }

    /// One round over registration and old tasks, from the task after `next` on.
    async fn round(self: &Arc<Self>, next: &mut u64) -> anyhow::Result<()> {
        let head = self.chain.head().await?;
        let registered = self.keep_registered(head).await;
        let retention = self.chain.retention().await?;
        let tasks: Vec<(u64, TaskState)> = {
            let journal = self.journal.lock();
            let old = journal.tasks().range(*next..).take(TASKS_A_ROUND);
            old.map(|(id, state)| (*id, state.clone())).collect()
        };
        *next = match tasks.last() {
            Some((last, _)) if tasks.len() == TASKS_A_ROUND => last + 1,
            _ => 0,
        };
        for (id, state) in tasks {
            if !self.driven.lock().contains(&id) {
                self.look_after(id, &state, head, retention).await?;
            }
        }
        registered
    }

    /// Looks after a task that is not being driven.
    async fn look_after(
        self: &Arc<Self>,
        id: u64,
        state: &TaskState,
        head: Head,
        retention: u64,
    ) -> anyhow::Result<()> {
        if let Some(height) = state.final_height {
            if head.height > height.saturating_add(retention) {
                self.lives.lock().remove(&id);
                for blob in self.journal.lock().close(id)? {
                    self.blobs.remove(&blob)?;
                }
            }
            return Ok(());
        }
        let task = self.chain.task(id).await?;
        let ours = |t: &Task| t.worker == self.address().to_string();
        match task.filter(ours) {
            Some(task) => match task.status() {
                TaskStatus::Assigned => {}
                // Beyond what the loop asks for at once, as after a restart.
                TaskStatus::Accepted => self.take(task),
                TaskStatus::Submitted => {
                    self.journal.lock().submitted(id)?;
                    if task.drawn {
                        self.show_missing(&task, state).await?;
                    }
                }
                _ => self.journal.lock().finished(id, head.height)?,
            },
            None => self.journal.lock().finished(id, head.height)?,
        }
        Ok(())
    }

    /// Shows input and output on the chain where an audit waits for them.
    async fn show_missing(&self, task: &Task, state: &TaskState) -> anyhow::Result<()> {
        let waits = |a: &Audit| a.phase() == Phase::Missing && a.worker == self.address().to_string();
        for audit in self.chain.audits_of_task(task.id).await?.into_iter().filter(waits) {
            if self.shown.lock().contains(&audit.id) {
                continue;
            }
            let blob = |digest| -> anyhow::Result<Vec<u8>> {
                let digest = Option::context(digest, "not in the journal")?;
                self.blobs.get(&digest)?.context("not on disk")
            };
            let missing = || format!("audit {} asks for blobs of task {}", audit.id, task.id);
            let output = blob(state.output).with_context(missing)?;
            let input = match task.inline_input.is_empty() {
                true => blob(state.input).with_context(missing)?,
                false => Vec::new(),
            };
            let worker = self.address().to_string();
            tracing::warn!(
                audit = audit.id,
                task = task.id,
                "an auditor misses blobs: showing them on the chain"
            );
            self.chain
                .tell(&MsgShowBlobs { worker, audit_id: audit.id, input, output })
                .await
                .context("showing blobs")?;
            self.shown.lock().insert(audit.id);
        }
        Ok(())
    }
}
