//! Models, workers, tasks and their audits.

use deepnode_modules::tasks::{self, Status, Task};
use deepnode_modules::{models, workers};
use deepnode_proto::deepnode::audits::v1::*;
use deepnode_proto::deepnode::models::v1::{ModelStatus, MsgCommitModel, MsgRegisterModel, MsgSetStatus};
use deepnode_proto::deepnode::tasks::v1::*;
use deepnode_proto::deepnode::workers::v1::*;
use deepnode_store::Snapshot;
use deepnode_tx::{Address, SigningKey};
use rand::seq::SliceRandom;
use rand::Rng;

use super::seen::{Audit, Phase};
use super::{udn, Traffic, Wish};
use crate::chain::DN;
use crate::world::{architecture, Manifest, CLASS};

/// Models that are registered besides that of genesis, by tag.
const MODELS: std::ops::Range<u8> = 1..4;

impl Traffic {
    /// What all who compute want to send now.
    pub(super) fn work(&mut self, state: &Snapshot) -> Vec<Wish> {
        let mut wishes = Vec::new();
        self.auditors(&mut wishes);
        self.models(state, &mut wishes);
        for n in 0..self.world.workers.len() {
            self.worker(n, state, &mut wishes);
        }
        for _ in 0..self.rng.gen_range(0..3) {
            wishes.push(self.request());
        }
        for id in self.seen.tasks.clone() {
            let task = tasks::get(state, id).unwrap().unwrap();
            wishes.extend(self.task(&task));
        }
        for (id, audit) in self.seen.audits.clone() {
            self.audit(state, id, &audit, &mut wishes);
        }
        wishes
    }

    /// Every operator wants its auditor registered; some retire for a while, some add to the deposit.
    fn auditors(&mut self, wishes: &mut Vec<Wish>) {
        for n in 0..self.world.operators.len() {
            if !self.rng.gen_bool(0.12) {
                continue;
            }
            let operator = &self.world.operators[n];
            let classes = match self.rng.gen_range(0..30) {
                0 => Vec::new(),
                1 => vec!["none".into()],
                2 => vec![CLASS.into(), CLASS.into()],
                _ => vec![CLASS.into(), "llm-3b".into()],
            };
            let deposit = [0, DN, 60 * DN, 150 * DN].choose(&mut self.rng).copied().unwrap();
            let message = MsgRegisterAuditor {
                operator: operator.address().to_string(),
                auditor: self.world.auditors[n].address().to_string(),
                classes,
                deposit: Some(udn(deposit)),
            };
            wishes.push(Wish::new(&self.world.operators[n], message));
        }
    }

    /// The owner commits to models, registers them, and deprecates one now and then.
    fn models(&mut self, state: &Snapshot, wishes: &mut Vec<Wish>) {
        let owner = self.world.owner.clone();
        let address = owner.address();
        for tag in MODELS {
            let manifest = Manifest::new(tag);
            let known = models::get(state, &manifest.id()).unwrap();
            if known.as_ref().is_some_and(|model| model.is_active()) {
                if self.rng.gen_bool(0.01) {
                    let status = ModelStatus::Deprecated.into();
                    let signer = address.to_string();
                    let message = MsgSetStatus { signer, model_id: manifest.id().to_vec(), status };
                    wishes.push(Wish::new(&owner, message));
                }
                continue;
            }
            if !self.rng.gen_bool(0.1) {
                continue;
            }
            if self.rng.gen_bool(0.5) {
                let commitment = models::commitment(&manifest.id(), &address, b"salt").to_vec();
                wishes.push(Wish::new(&owner, MsgCommitModel { owner: address.to_string(), commitment }));
                continue;
            }
            let child = tag > 1;
            let parent = if child { Manifest::new(tag - 1).id().to_vec() } else { Vec::new() };
            wishes.push(Wish::new(
                &owner,
                MsgRegisterModel {
                    owner: address.to_string(),
                    model_id: manifest.id().to_vec(),
                    salt: b"salt".to_vec(),
                    name: format!("model-{tag}"),
                    licence: "MIT".into(),
                    architecture: architecture().encode(),
                    architecture_path: manifest.path(),
                    manifest_leaves: manifest.leaves(),
                    royalty_ppm: 150_000,
                    parent,
                    parent_part_ppm: if child { 250_000 } else { 0 },
                },
            ));
        }
    }

    /// A worker registers, asks for a validator, serves models, and moves bond.
    fn worker(&mut self, n: usize, state: &Snapshot, wishes: &mut Vec<Wish>) {
        let key = self.world.workers[n].clone();
        let worker = key.address().to_string();
        let validator = self.world.operators[self.rng.gen_range(0..4)].address().to_operator();
        let endpoint = format!("https://worker{n}.example:9443");
        let Some(known) = workers::get(state, &key.address()).unwrap() else {
            if self.rng.gen_bool(0.4) {
                let bond = if self.rng.gen_bool(0.1) { DN } else { self.rng.gen_range(150..400) * DN };
                let declared = self.rng.gen_range(1_000..50_000);
                let hardware = "cpu".into();
                let bond = Some(udn(bond));
                let message = MsgRegisterWorker { worker, bond, validator, endpoint, hardware, declared };
                wishes.push(Wish::new(&key, message));
            }
            return;
        };
        if let Some(asked) = known.next.filter(|next| next.epoch.is_none()) {
            let operator = self.world.operators.iter().find(|o| o.address() == asked.validator).unwrap();
            if self.rng.gen_bool(0.4) {
                let operator_address = operator.address().to_string();
                wishes.push(Wish::new(
                    operator,
                    MsgApproveWorker { operator: operator_address, worker: worker.clone() },
                ));
            }
        }
        if !known.is_active() && self.rng.gen_bool(0.4) {
            let amount = Some(udn(200 * DN));
            wishes.push(Wish::new(&key, MsgAddBond { worker: worker.clone(), amount }));
        }
        match self.rng.gen_range(0..60) {
            0..=11 => wishes.push(Wish::new(&key, MsgHeartbeat { worker })),
            12..=17 => {
                let mut ids: Vec<[u8; 32]> = self.seen.active_models.iter().copied().collect();
                ids.push(Manifest::new(if self.rng.gen_bool(0.9) { 0 } else { 9 }).id());
                let model_ids = ids.into_iter().map(|id| id.to_vec()).collect();
                wishes.push(Wish::new(&key, MsgServeModels { worker, model_ids }));
            }
            18 => {
                let amount = Some(udn(self.rng.gen_range(1..60) * DN));
                wishes.push(Wish::new(&key, MsgUnbond { worker, amount }));
            }
            19 | 20 => {
                let amount = Some(udn(self.rng.gen_range(1..60) * DN));
                wishes.push(Wish::new(&key, MsgAddBond { worker, amount }));
            }
            21 => wishes.push(Wish::new(&key, MsgBackValidator { worker, validator })),
            22 => {
                let declared = self.rng.gen_range(1_000..50_000);
                let message = MsgUpdateWorker { worker, endpoint, hardware: "gpu".into(), declared };
                wishes.push(Wish::new(&key, message));
            }
            _ => {}
        }
    }

    /// A user asks for something, for too little money now and then.
    fn request(&mut self) -> Wish {
        let users = self.world.users.clone();
        let key = self.pick(&users).clone();
        let mut ids: Vec<[u8; 32]> = self.seen.active_models.iter().copied().collect();
        ids.push(Manifest::new(0).id());
        let tokens = self.rng.gen_range(1..40u32);
        let input = input(tokens);
        let sampling = match self.rng.gen_range(0..3) {
            0 => Some(SamplingParams { temperature: 700_000, top_p: 900_000, top_k: 40, seed: Vec::new() }),
            1 => Some(SamplingParams { temperature: 1_000_000, top_p: 0, top_k: 0, seed: vec![7; 32] }),
            _ => None,
        };
        let request = Request {
            model_id: ids.choose(&mut self.rng).unwrap().to_vec(),
            input_kind: InputKind::Tokens.into(),
            input_digest: blake3::hash(&input).as_bytes().to_vec(),
            max_output: self.rng.gen_range(1..30),
            sampling,
            stop: if self.rng.gen_bool(0.3) { vec!["end".into()] } else { Vec::new() },
        };
        let max_price = if self.rng.gen_bool(0.05) { 1 } else { self.rng.gen_range(300..100_000) };
        Wish::new(
            &key,
            MsgSubmitTask {
                creator: key.address().to_string(),
                request: Some(request),
                input_tokens: tokens,
                inline_input: if self.rng.gen_bool(0.5) { input } else { Vec::new() },
                max_price: Some(udn(max_price)),
                deadline: if self.rng.gen_bool(0.3) { 6 } else { 0 },
            },
        )
    }

    /// What user and worker of an open task do: nothing, at times.
    fn task(&mut self, task: &Task) -> Option<Wish> {
        let user = || self.world.users.iter().find(|key| key.address() == task.creator).cloned();
        if matches!(task.status, Status::Open | Status::Assigned) && self.rng.gen_bool(0.02) {
            let key = user()?;
            let message = MsgCancelTask { creator: key.address().to_string(), task_id: task.id };
            return Some(Wish::new(&key, message));
        }
        let key = self.world.workers.iter().find(|key| Some(key.address()) == task.worker)?.clone();
        let (worker, task_id) = (key.address().to_string(), task.id);
        match task.status {
            Status::Assigned if self.rng.gen_bool(0.7) => {
                Some(Wish::new(&key, MsgAcceptTask { worker, task_id }))
            }
            Status::Assigned if self.rng.gen_bool(0.1) => {
                let reason = "too many tokens".into();
                Some(Wish::new(&key, MsgDeclineTask { worker, task_id, reason }))
            }
            Status::Accepted if self.rng.gen_bool(0.5) => {
                let mut receipt = receipt(task);
                match self.rng.gen_range(0..60) {
                    0 => receipt.canon = 2,
                    1 => receipt.output_tokens += 100,
                    2 => receipt.request_digest = vec![0; 32],
                    _ => {}
                }
                Some(Wish::new(&key, MsgSubmitReceipt { worker, receipt: Some(receipt) }))
            }
            _ => None,
        }
    }

    /// What auditors and worker of an audit do.
    fn audit(&mut self, state: &Snapshot, id: u64, audit: &Audit, wishes: &mut Vec<Wish>) {
        let task = audit.task.map(|task| tasks::get(state, task).unwrap().unwrap());
        if audit.phase == Phase::Missing {
            let worker = self.world.workers.iter().find(|key| Some(key.address()) == audit.worker);
            if let (Some(key), Some(task)) = (worker.cloned(), &task) {
                if !withholds(task.id) && self.rng.gen_bool(0.5) {
                    wishes.push(Wish::new(&key, shown(&key, id, task)));
                }
            }
            return;
        }
        for address in &audit.auditors {
            let Some(key) = self.world.auditors.iter().find(|key| key.address() == *address).cloned() else {
                continue;
            };
            let (verdict, digest) = opinion(id, audit, task.as_ref(), address);
            let salt =
                blake3::hash(&[id.to_le_bytes().as_slice(), address.as_bytes()].concat()).as_bytes().to_vec();
            let auditor = address.to_string();
            match audit.phase {
                Phase::Commit if !audit.committed.contains(address) => {
                    if task.as_ref().is_some_and(|task| withholds(task.id)) && self.rng.gen_bool(0.5)
                        || self.rng.gen_bool(0.02)
                    {
                        wishes.push(Wish::new(&key, MsgReportMissing { auditor, audit_id: id }));
                    } else if self.rng.gen_bool(0.6) {
                        let commitment =
                            deepnode_modules::audits::commitment(address, verdict, &digest, &salt).to_vec();
                        wishes.push(Wish::new(&key, MsgCommitVerdict { auditor, audit_id: id, commitment }));
                    }
                }
                Phase::Reveal
                    if audit.committed.contains(address)
                        && !audit.revealed.contains(address)
                        && self.rng.gen_bool(0.7) =>
                {
                    // Not what it committed to, now and then.
                    let digest = if self.rng.gen_bool(0.03) { vec![9; 32] } else { digest.to_vec() };
                    let verdict = verdict.into();
                    wishes.push(Wish::new(
                        &key,
                        MsgRevealVerdict { auditor, audit_id: id, verdict, digest, salt },
                    ));
                }
                _ => {}
            }
        }
    }
}

/// Token ids of an input.
fn input(tokens: u32) -> Vec<u8> {
    (0..tokens).flat_map(|n| (n + tokens).to_le_bytes()).collect()
}

/// A number below `n` that follows from a task.
fn dice(what: &str, task: u64, n: u8) -> u8 {
    blake3::hash(format!("{what}{task}").as_bytes()).as_bytes()[0] % n
}

/// Whether the worker's result is wrong, and whether it keeps it to itself.
fn cheats(task: u64) -> bool {
    dice("cheats", task, 5) == 0
}

fn withholds(task: u64) -> bool {
    dice("withholds", task, 12) == 0
}

fn output(task: &Task) -> Vec<u8> {
    let tokens = (task.max_output / 2).max(1);
    (0..tokens).flat_map(|n| (n + 5).to_le_bytes()).collect()
}

/// What a worker says about a task.
pub fn receipt(task: &Task) -> Receipt {
    let output = output(task);
    Receipt {
        task_id: task.id,
        model_id: task.model.to_vec(),
        request_digest: task.request_digest.to_vec(),
        input_digest: task.request().unwrap().input_digest,
        input_tokens: task.input_tokens,
        result_digest: blake3::hash(&output).as_bytes().to_vec(),
        output_tokens: output.len() as u32 / 4,
        finish: Finish::Eos.into(),
        trace_root: vec![if cheats(task.id) { 1 } else { 0 }; 32],
        canon: tasks::CANON,
    }
}

/// What a worker shows on chain of what an auditor misses.
pub fn shown(key: &SigningKey, audit_id: u64, task: &Task) -> MsgShowBlobs {
    let input = if task.inline_input.is_empty() { input(task.input_tokens) } else { Vec::new() };
    MsgShowBlobs { worker: key.address().to_string(), audit_id, input, output: output(task) }
}

/// What an auditor finds. Most find the truth; each errs in its own way at times.
fn opinion(id: u64, audit: &Audit, task: Option<&Task>, auditor: &Address) -> (Verdict, [u8; 32]) {
    let truth = *blake3::hash(format!("{id}/{}", audit.draw).as_bytes()).as_bytes();
    // Who errs about an audit does so in every draw of it.
    let errs = blake3::hash(&[&id.to_le_bytes()[..], auditor.as_bytes()].concat()).as_bytes()[0];
    match (errs, task) {
        (0..=14, _) => (Verdict::Right, *blake3::hash(auditor.as_bytes()).as_bytes()),
        (15..=35, Some(_)) => (Verdict::Wrong, truth),
        (_, Some(task)) if withholds(task.id) && errs < 160 => (Verdict::Unavailable, truth),
        (_, Some(task)) if cheats(task.id) => (Verdict::Wrong, truth),
        _ => (Verdict::Right, truth),
    }
}
