//! A worker's journal: one line a step of a task. The receipt is in it before it is sent, and only once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::log::{JournalError, Log};
use crate::canon::Digest;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Entry {
    /// The first line: whose journal it is.
    Journal { chain_id: String, worker: String },
    /// The input is on disk.
    Input {
        task: u64,
        #[serde(with = "hex::serde")]
        request: Digest,
        #[serde(with = "hex::serde")]
        input: Digest,
    },
    /// The chain took the acceptance.
    Accepted { task: u64 },
    /// The receipt, before it is sent, and the digest of the input's token ids; these and the output are on disk.
    Receipt {
        task: u64,
        #[serde(with = "hex::serde")]
        request: Digest,
        #[serde(with = "hex::serde")]
        receipt: Vec<u8>,
        #[serde(with = "hex::serde")]
        prompt: Digest,
        #[serde(with = "hex::serde")]
        output: Digest,
    },
    /// The chain has the receipt.
    Submitted { task: u64 },
    /// The task was found final at this height, or taken away.
    Final { task: u64, height: u64 },
    /// Nobody may ask for the blobs any more.
    Closed { task: u64 },
}

/// What the journal knows of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    /// Request digest: a task's number alone would be that of another one on a chain that began anew.
    pub request: Digest,
    /// Digest of the input as the user sent it.
    pub input: Option<Digest>,
    pub accepted: bool,
    /// The receipt's bytes.
    pub receipt: Option<Vec<u8>>,
    /// Digests of the token ids.
    pub prompt: Option<Digest>,
    pub output: Option<Digest>,
    pub submitted: bool,
    pub final_height: Option<u64>,
}

impl TaskState {
    /// The digests of its blobs.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        [self.input, self.prompt, self.output].into_iter().flatten()
    }
}

/// The open journal.
#[derive(Debug)]
pub struct TaskJournal {
    log: Log<Entry>,
    tasks: BTreeMap<u64, TaskState>,
}

impl TaskJournal {
    /// Opens or begins the journal of one worker on one chain. Fails where another process has it open.
    pub fn open(path: &Path, chain_id: &str, worker: &str) -> Result<Self, JournalError> {
        let (mut log, mut entries) = Log::open(path)?;
        let header = Entry::Journal { chain_id: chain_id.into(), worker: worker.into() };
        match entries.first() {
            None => log.append(&header)?,
            Some(found) if *found == header => {}
            Some(found) => {
                let text = |e: &Entry| match e {
                    Entry::Journal { chain_id, worker } => format!("{worker} on {chain_id}"),
                    _ => "nobody (its first line is missing)".into(),
                };
                return Err(JournalError::Foreign {
                    path: path.into(),
                    found: text(found),
                    expected: text(&header),
                });
            }
        }
        let closed: BTreeSet<u64> = entries
            .iter()
            .filter_map(|e| if let Entry::Closed { task } = e { Some(*task) } else { None })
            .collect();
        if !closed.is_empty() {
            entries.retain(|e| e.task().is_none_or(|task| !closed.contains(&task)));
            log.rewrite(entries.iter())?;
        }
        let mut journal = Self { log, tasks: BTreeMap::new() };
        for entry in &entries {
            journal.apply(entry);
        }
        Ok(journal)
    }

    pub fn get(&self, task: u64) -> Option<&TaskState> {
        self.tasks.get(&task)
    }

    /// Every task that is not closed.
    pub fn tasks(&self) -> &BTreeMap<u64, TaskState> {
        &self.tasks
    }

    /// Fails if the journal has another request under this task's number.
    pub fn check(&self, task: u64, request: &Digest) -> Result<(), JournalError> {
        match self.get(task) {
            Some(state) if state.request != *request => Err(JournalError::Request { task }),
            _ => Ok(()),
        }
    }

    /// The input, which is on disk.
    pub fn input(&mut self, task: u64, request: Digest, input: Digest) -> Result<(), JournalError> {
        self.check(task, &request)?;
        if self.get(task).is_some_and(|t| t.input == Some(input)) {
            return Ok(());
        }
        self.record(Entry::Input { task, request, input })
    }

    pub fn accepted(&mut self, task: u64) -> Result<(), JournalError> {
        match self.get(task) {
            None => Err(JournalError::Unknown(task)),
            Some(state) if state.accepted => Ok(()),
            Some(_) => self.record(Entry::Accepted { task }),
        }
    }

    /// Records a receipt; answers the one to send. That is the first one recorded for the task, whatever comes later:
    /// a second receipt of one task bars a worker for ever.
    pub fn receipt(
        &mut self,
        task: u64,
        request: Digest,
        receipt: Vec<u8>,
        prompt: Digest,
        output: Digest,
    ) -> Result<Vec<u8>, JournalError> {
        self.check(task, &request)?;
        if let Some(first) = self.get(task).and_then(|t| t.receipt.clone()) {
            return Ok(first);
        }
        self.record(Entry::Receipt { task, request, receipt: receipt.clone(), prompt, output })?;
        Ok(receipt)
    }

    pub fn submitted(&mut self, task: u64) -> Result<(), JournalError> {
        match self.get(task) {
            Some(state) if !state.submitted => self.record(Entry::Submitted { task }),
            _ => Ok(()),
        }
    }

    /// The chain is done with the task, at this height or before.
    pub fn finished(&mut self, task: u64, height: u64) -> Result<(), JournalError> {
        match self.get(task) {
            Some(state) if state.final_height.is_none() => self.record(Entry::Final { task, height }),
            _ => Ok(()),
        }
    }

    /// Forgets a task. Answers the blobs that no other task has.
    pub fn close(&mut self, task: u64) -> Result<Vec<Digest>, JournalError> {
        let Some(state) = self.tasks.get(&task).cloned() else {
            return Ok(Vec::new());
        };
        self.record(Entry::Closed { task })?;
        let kept: BTreeSet<Digest> = self.tasks.values().flat_map(TaskState::blobs).collect();
        Ok(state.blobs().filter(|blob| !kept.contains(blob)).collect())
    }

    fn record(&mut self, entry: Entry) -> Result<(), JournalError> {
        self.log.append(&entry)?;
        self.apply(&entry);
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) {
        if let Entry::Closed { task } = entry {
            self.tasks.remove(task);
            return;
        }
        let Some(task) = entry.task() else {
            return;
        };
        let state = self.tasks.entry(task).or_default();
        match entry {
            Entry::Journal { .. } | Entry::Closed { .. } => {}
            Entry::Input { request, input, .. } => {
                state.request = *request;
                state.input = Some(*input);
            }
            Entry::Accepted { .. } => state.accepted = true,
            Entry::Receipt { request, receipt, prompt, output, .. } => {
                state.request = *request;
                state.receipt.get_or_insert_with(|| receipt.clone());
                state.prompt.get_or_insert(*prompt);
                state.output.get_or_insert(*output);
            }
            Entry::Submitted { .. } => state.submitted = true,
            Entry::Final { height, .. } => state.final_height = Some(*height),
        }
    }
}

impl Entry {
    fn task(&self) -> Option<u64> {
        match self {
            Self::Journal { .. } => None,
            Self::Input { task, .. }
            | Self::Accepted { task }
            | Self::Receipt { task, .. }
            | Self::Submitted { task }
            | Self::Final { task, .. }
            | Self::Closed { task } => Some(*task),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_journal_belongs_to_one_worker_on_one_chain() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("w.journal");
        drop(TaskJournal::open(&path, "dn-1", "dn1a").unwrap());
        assert!(TaskJournal::open(&path, "dn-1", "dn1a").is_ok());
        for (chain, worker) in [("dn-2", "dn1a"), ("dn-1", "dn1b")] {
            let error = TaskJournal::open(&path, chain, worker).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is of dn1a on dn-1, not of {worker} on {chain}")), "{error}");
        }
        let mut journal = TaskJournal::open(&path, "dn-1", "dn1a").unwrap();
        journal.input(1, [1; 32], [2; 32]).unwrap();
        assert!(matches!(journal.input(1, [9; 32], [2; 32]), Err(JournalError::Request { task: 1 })));
        assert!(journal.receipt(1, [9; 32], vec![1], [2; 32], [3; 32]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever steps happen, and wherever crashes cut the file, a receipt that was answered for sending is the
        /// only one of its task for ever.
        #[test]
        fn never_two_receipts(
            steps in prop::collection::vec((0u64..3, 0u8..5, any::<u8>()), 1..40),
            crashes in prop::collection::vec(0usize..40, 0..6),
        ) {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("w.journal");
            let open = || TaskJournal::open(&path, "dn-1", "dn1a").unwrap();
            let mut journal = open();
            let mut sent: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for (n, (task, step, byte)) in steps.into_iter().enumerate() {
                let request = [task as u8; 32];
                match step {
                    0 => journal.input(task, request, [byte; 32]).unwrap(),
                    1 => drop(journal.accepted(task)),
                    2 => {
                        let answered =
                            journal.receipt(task, request, vec![byte], [byte; 32], [byte; 32]).unwrap();
                        let first = sent.entry(task).or_insert_with(|| answered.clone());
                        prop_assert_eq!(&answered, first);
                    }
                    3 => journal.submitted(task).unwrap(),
                    _ => journal.finished(task, n as u64).unwrap(),
                }
                if crashes.contains(&n) {
                    let before = journal.tasks.clone();
                    drop(journal);
                    // A line that was being written when the power went.
                    use std::io::Write;
                    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(b"{\"step\":\"receipt\",\"task\":0,\"rec").unwrap();
                    journal = open();
                    prop_assert_eq!(&journal.tasks, &before);
                }
            }
            for task in 0..3 {
                journal.close(task).unwrap();
            }
            drop(journal);
            prop_assert!(open().tasks.is_empty());
        }
    }
}
