//! A chain in memory: as much of the tasks' and audits' rules as the programs can notice.

use std::collections::BTreeMap;
use std::sync::Arc;

use deepnode_client::ClientError;
use deepnode_proto::deepnode::audits::v1::*;
use deepnode_proto::deepnode::models::v1::{Model, ModelStatus};
use deepnode_proto::deepnode::tasks::v1::*;
use deepnode_proto::deepnode::workers::v1::*;
use deepnode_proto::{Any, AnyExt, Message};
use deepnode_tx::{Address, SigningKey};
use deepnode_worker::canon::Digest;
use deepnode_worker::chain::{Chain, Head, Order, Result};
use parking_lot::Mutex;

pub const CHAIN_ID: &str = "dn-test-1";
pub const RETENTION: u64 = 5;

#[derive(Default)]
pub struct State {
    pub head: u64,
    pub epoch: u64,
    pub workers: BTreeMap<String, Worker>,
    pub active: Vec<Digest>,
    pub tasks: BTreeMap<u64, Task>,
    pub audits: BTreeMap<u64, Audit>,
    pub declined: BTreeMap<u64, String>,
    pub heartbeats: Vec<u64>,
    /// Every receipt that was sent, whether it arrived or not.
    pub receipts: Vec<Vec<u8>>,
    /// Blobs that the worker shows for another auditor's report just before the next report comes.
    pub shown_meanwhile: Option<(Vec<u8>, Vec<u8>)>,
    /// Loses the next so many receipts on their way.
    pub lose_receipts: u32,
}

#[derive(Clone)]
pub struct FakeChain {
    pub state: Arc<Mutex<State>>,
    signer: SigningKey,
}

pub fn key(byte: u8) -> SigningKey {
    SigningKey::new(&[byte; 32]).unwrap()
}

pub fn digest_of(message: &impl Message) -> Digest {
    *blake3::hash(&message.encode_to_vec()).as_bytes()
}

impl FakeChain {
    pub fn new(signer: SigningKey) -> Self {
        let state = State { head: 10, epoch: 1, ..Default::default() };
        Self { state: Arc::new(Mutex::new(state)), signer }
    }

    /// The same chain for another key.
    pub fn of(&self, signer: SigningKey) -> Self {
        Self { state: self.state.clone(), signer }
    }

    /// A task assigned to the worker. An empty `inline` input is to be handed in.
    pub fn assign(
        &self,
        worker: &Address,
        creator: &Address,
        request: Request,
        tokens: u32,
        inline: &[u8],
    ) -> u64 {
        let mut state = self.state.lock();
        let id = state.tasks.len() as u64 + 1;
        let seed = request.sampling.as_ref().map(|s| s.seed.clone()).unwrap_or_default();
        let task = Task {
            id,
            creator: creator.to_string(),
            request: Some(request),
            input_tokens: tokens,
            inline_input: inline.to_vec(),
            status: TaskStatus::Assigned.into(),
            worker: worker.to_string(),
            seed,
            ..Default::default()
        };
        state.tasks.insert(id, task);
        id
    }

    /// Opens an audit of a task's receipt for these auditors' keys.
    pub fn audit_receipt(&self, task: u64, auditors: &[Address], beacon: Digest) -> u64 {
        let mut state = self.state.lock();
        let t = state.tasks.get_mut(&task).unwrap();
        t.drawn = true;
        let audit = Audit {
            subject: Subject::Receipt.into(),
            task_id: task,
            model_id: t.request.as_ref().unwrap().model_id.clone(),
            receipt_digest: t.receipt_digest.clone(),
            worker: t.worker.clone(),
            ..Default::default()
        };
        state.open(audit, auditors, beacon)
    }

    pub fn audit_vector(&self, model: Digest, auditors: &[Address], beacon: Digest) -> u64 {
        let audit = Audit { subject: Subject::Vector.into(), model_id: model.to_vec(), ..Default::default() };
        self.state.lock().open(audit, auditors, beacon)
    }

    /// One block: seeds that wait are fixed.
    pub fn block(&self) {
        let mut state = self.state.lock();
        state.head += 1;
        for task in state.tasks.values_mut() {
            let sampled = task.request.as_ref().unwrap().sampling.as_ref().is_some_and(|s| s.temperature > 0);
            if task.status() == TaskStatus::Accepted && sampled && task.seed.is_empty() {
                task.seed = blake3::hash(&task.id.to_be_bytes()).as_bytes().to_vec();
            }
        }
    }

    pub fn task_now(&self, id: u64) -> Task {
        self.state.lock().tasks[&id].clone()
    }

    pub fn audit_now(&self, id: u64) -> Audit {
        self.state.lock().audits[&id].clone()
    }
}

impl State {
    fn open(&mut self, mut audit: Audit, auditors: &[Address], beacon: Digest) -> u64 {
        audit.id = self.audits.len() as u64 + 1;
        audit.phase = Phase::Commit.into();
        audit.draws = vec![Draw { height: self.head, beacon: beacon.to_vec() }];
        audit.members =
            auditors.iter().map(|a| Member { auditor: a.to_string(), ..Default::default() }).collect();
        let id = audit.id;
        self.audits.insert(id, audit);
        id
    }

    fn refuse(&self, log: impl Into<String>) -> ClientError {
        ClientError::Transaction {
            hash: String::new(),
            height: self.head as i64,
            code: 1,
            codespace: "test".into(),
            log: log.into(),
            gas_wanted: 0,
        }
    }

    fn assigned(&mut self, id: u64, signer: &str, status: TaskStatus) -> Result<&mut Task> {
        let found = self.tasks.get(&id).is_some_and(|t| t.worker == signer && t.status() == status);
        if !found {
            return Err(self.refuse(format!("task {id} is not {status:?} for {signer}")));
        }
        Ok(self.tasks.get_mut(&id).unwrap())
    }

    fn in_phase(&mut self, id: u64, phase: Phase) -> Result<&mut Audit> {
        if self.audits[&id].phase() != phase {
            return Err(self.refuse(format!("audit {id} is not in {phase:?}")));
        }
        Ok(self.audits.get_mut(&id).unwrap())
    }

    fn deliver(&mut self, any: &Any, signer: &SigningKey) -> Result<()> {
        let me = signer.address().to_string();
        if let Ok(m) = any.unpack::<MsgRegisterWorker>() {
            assert!(m.endpoint.starts_with("http://") && m.declared > 0);
            let worker = Worker {
                address: m.worker.clone(),
                bond: m.bond.unwrap().amount,
                endpoint: m.endpoint,
                hardware: m.hardware,
                declared: m.declared,
                status: WorkerStatus::Active.into(),
                ..Default::default()
            };
            self.workers.insert(m.worker, worker);
        } else if let Ok(m) = any.unpack::<MsgUpdateWorker>() {
            let worker = self.workers.get_mut(&m.worker).unwrap();
            (worker.endpoint, worker.hardware, worker.declared) = (m.endpoint, m.hardware, m.declared);
        } else if let Ok(m) = any.unpack::<MsgServeModels>() {
            self.workers.get_mut(&m.worker).unwrap().models = m.model_ids;
        } else if let Ok(m) = any.unpack::<MsgHeartbeat>() {
            let epoch = self.epoch;
            self.workers.get_mut(&m.worker).unwrap().last_seen_epoch = epoch;
            self.heartbeats.push(epoch);
        } else if let Ok(m) = any.unpack::<MsgAcceptTask>() {
            self.assigned(m.task_id, &me, TaskStatus::Assigned)?.set_status(TaskStatus::Accepted);
        } else if let Ok(m) = any.unpack::<MsgDeclineTask>() {
            let task = self.assigned(m.task_id, &me, TaskStatus::Assigned)?;
            task.set_status(TaskStatus::Open);
            task.worker.clear();
            self.declined.insert(m.task_id, m.reason);
        } else if let Ok(m) = any.unpack::<MsgSubmitReceipt>() {
            let receipt = m.receipt.unwrap();
            self.receipts.push(receipt.encode_to_vec());
            if self.lose_receipts > 0 {
                self.lose_receipts -= 1;
                return Err(ClientError::Timeout { hash: "00".into(), waited: Default::default() });
            }
            let task = self.assigned(receipt.task_id, &me, TaskStatus::Accepted)?;
            task.receipt_digest = digest_of(&receipt).to_vec();
            task.receipt = Some(receipt);
            task.set_status(TaskStatus::Submitted);
        } else if let Ok(m) = any.unpack::<MsgCommitVerdict>() {
            let audit = self.in_phase(m.audit_id, Phase::Commit)?;
            let member = audit.members.iter_mut().find(|x| x.auditor == me).unwrap();
            assert!(member.commitment.is_empty(), "committed twice");
            member.commitment = m.commitment;
            if audit.members.iter().all(|x| !x.commitment.is_empty()) {
                audit.set_phase(Phase::Reveal);
            }
        } else if let Ok(m) = any.unpack::<MsgRevealVerdict>() {
            let audit = self.in_phase(m.audit_id, Phase::Reveal)?;
            let member = audit.members.iter_mut().find(|x| x.auditor == me).unwrap();
            let hidden = [&signer.address().as_bytes()[..], &[m.verdict as u8], &m.digest, &m.salt].concat();
            assert_eq!(
                member.commitment,
                blake3::hash(&hidden).as_bytes(),
                "the reveal is not what was committed"
            );
            member.verdict = m.verdict;
            member.digest = m.digest;
            if audit.members.iter().all(|x| x.verdict != 0) {
                audit.set_phase(Phase::Closed);
            }
        } else if let Ok(m) = any.unpack::<MsgReportMissing>() {
            let shown = self.shown_meanwhile.take();
            let audit = self.in_phase(m.audit_id, Phase::Commit)?;
            if let Some((input, output)) = shown {
                (audit.shown_input, audit.shown_output, audit.phase_end) = (input, output, 99);
            }
            if audit.phase_end == 99 {
                return Err(self.refuse("the worker was asked for its blobs before"));
            }
            audit.phase_end = 99;
            audit.set_phase(Phase::Missing);
        } else if let Ok(m) = any.unpack::<MsgShowBlobs>() {
            let audit = self.in_phase(m.audit_id, Phase::Missing)?;
            (audit.shown_input, audit.shown_output) = (m.input, m.output);
            audit.set_phase(Phase::Commit);
        } else {
            panic!("unexpected message {}", any.type_url);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Chain for FakeChain {
    fn chain_id(&self) -> &str {
        CHAIN_ID
    }

    fn signer(&self) -> &SigningKey {
        &self.signer
    }

    async fn head(&self) -> Result<Head> {
        let state = self.state.lock();
        Ok(Head { height: state.head, epoch: state.epoch })
    }

    async fn worker(&self, address: &Address) -> Result<Option<Worker>> {
        Ok(self.state.lock().workers.get(&address.to_string()).cloned())
    }

    async fn model(&self, id: &Digest) -> Result<Option<Model>> {
        let active = self.state.lock().active.contains(id);
        let model =
            Model { status: ModelStatus::Active.into(), class: "llm-test".into(), ..Default::default() };
        Ok(active.then_some(model))
    }

    async fn class_speed(&self, class: &str) -> Result<u64> {
        assert_eq!(class, "llm-test");
        Ok(42)
    }

    async fn tasks_of(&self, worker: &Address) -> Result<Vec<Task>> {
        let worker = worker.to_string();
        Ok(self.state.lock().tasks.values().filter(|t| t.worker == worker).cloned().collect())
    }

    async fn task(&self, id: u64) -> Result<Option<Task>> {
        Ok(self.state.lock().tasks.get(&id).cloned())
    }

    async fn audits_of_task(&self, task: u64) -> Result<Vec<Audit>> {
        Ok(self.state.lock().audits.values().filter(|a| a.task_id == task).cloned().collect())
    }

    async fn audits_drawn(&self, auditor: &Address) -> Result<Vec<Audit>> {
        let auditor = auditor.to_string();
        let state = self.state.lock();
        let open = state.audits.values().filter(|a| a.phase() != Phase::Closed);
        Ok(open.filter(|a| a.members.iter().any(|m| m.auditor == auditor)).cloned().collect())
    }

    async fn audit(&self, id: u64) -> Result<Option<Audit>> {
        Ok(self.state.lock().audits.get(&id).cloned())
    }

    async fn retention(&self) -> Result<u64> {
        Ok(RETENTION)
    }

    async fn send(&self, message: Any, order: Order) -> Result<()> {
        assert_eq!(order == Order::Unordered, message.is::<MsgHeartbeat>());
        self.state.lock().deliver(&message, &self.signer)
    }
}
