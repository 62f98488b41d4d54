use deepnode_core::testing::TestState;
use deepnode_core::{Address, Dec, Error, Event, Messages, Queries, Time};
use deepnode_cosmos::bank;
use deepnode_cosmos::staking::genesis::{Genesis as StakingGenesis, GenesisValidator};
use deepnode_cosmos::staking::{self, StakingModule};
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;
use deepnode_proto::deepnode::audits::v1::{self as proto, *};
use deepnode_proto::deepnode::tasks::v1 as tasks_proto;
use deepnode_proto::{Message, Name};

use super::state::{Audit, Outcome, Phase};
use super::*;
use crate::beacon::BeaconModule;
use crate::models::{self, Architecture, Class, ModelsModule};
use crate::reputation::{self, ReputationModule};
use crate::tasks::{Status, Task, TasksModule};
use crate::workers::{self, WorkersModule};

const MODEL: [u8; 32] = [1; 32];
const NEW_MODEL: [u8; 32] = [2; 32];
const DN: u128 = 1_000_000;
const BOND: u128 = 1_000 * DN;
const INPUT: &[u8] = b"Why?";
/// 100 tokens.
const OUTPUT: [u8; 400] = [7; 400];

fn user() -> Address {
    Address([9; 20])
}

fn worker() -> Address {
    Address([8; 20])
}

/// Operators; the worker backs the first.
fn op(n: u8) -> Address {
    Address([100 + n; 20])
}

/// Hot keys.
fn key(n: u8) -> Address {
    Address([50 + n; 20])
}

fn architecture() -> Architecture {
    Architecture { context: 2_048, ..models::small() }
}

struct Chain {
    state: TestState,
    messages: Messages,
    events: Vec<Event>,
}

impl Chain {
    /// `validators` of equal stake and power, `auditors` of which audit; one worker that backs the first.
    fn new(validators: u8, auditors: u8) -> Chain {
        Chain::with(validators, auditors, false)
    }

    /// `pending`: a second model waits for its test vector.
    fn with(validators: u8, auditors: u8, pending: bool) -> Chain {
        let mut state = TestState::new();
        state.block.time = Time(1_700_000_000_000_000_000);
        state.run(|cx| genesis(cx, validators, pending)).unwrap();
        let mut messages = Messages::default();
        TasksModule.messages(&mut messages);
        AuditsModule.messages(&mut messages);
        let mut chain = Chain { state, messages, events: Vec::new() };
        chain.begin();
        for n in 1..=auditors {
            chain.send::<_, MsgRegisterAuditorResponse>(registration(n)).unwrap();
        }
        chain
    }

    fn begin(&mut self) {
        self.state.block.hash = *blake3::hash(&self.state.block.height.to_le_bytes()).as_bytes();
        self.state.run(|cx| BeaconModule.pre_block(cx)).unwrap();
    }

    fn blocks(&mut self, n: u64) {
        for _ in 0..n {
            self.run(|cx| {
                TasksModule.end_block(cx)?;
                AuditsModule.end_block(cx)
            });
            self.state.query(|cx| {
                TasksModule.invariants(cx.state).unwrap();
                AuditsModule.invariants(cx.state).unwrap();
            });
            self.state.block.height += 1;
            self.begin();
        }
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        let answer = self.state.run(f).unwrap();
        self.events.append(&mut self.state.events);
        answer
    }

    fn send<M: Message + Name, R: Message + Default>(&mut self, msg: M) -> Result<R> {
        let handler = self.messages.get(&M::type_url()).unwrap();
        let answer = self.state.run(|cx| handler.run(cx, &msg.encode_to_vec()));
        self.events.append(&mut self.state.events);
        answer.map(|any| R::decode(any.value.as_slice()).unwrap())
    }

    /// Submits a task, has it answered, and ends blocks until the beacon has decided about the receipt.
    fn receipt(&mut self, inline: bool) -> u64 {
        let id = self.answered(inline);
        self.blocks(3);
        id
    }

    fn answered(&mut self, inline: bool) -> u64 {
        let msg = tasks_proto::MsgSubmitTask {
            creator: user().to_string(),
            request: Some(tasks_proto::Request {
                model_id: MODEL.to_vec(),
                input_kind: tasks_proto::InputKind::Text.into(),
                input_digest: blake3::hash(INPUT).as_bytes().to_vec(),
                max_output: 256,
                sampling: None,
                stop: Vec::new(),
            }),
            input_tokens: 256,
            inline_input: if inline { INPUT.to_vec() } else { Vec::new() },
            max_price: Some(ProtoCoin { denom: "udn".into(), amount: "5000".into() }),
            deadline: 0,
        };
        let id = self.send::<_, tasks_proto::MsgSubmitTaskResponse>(msg).unwrap().task_id;
        self.blocks(3);
        let accept = tasks_proto::MsgAcceptTask { worker: worker().to_string(), task_id: id };
        self.send::<_, tasks_proto::MsgAcceptTaskResponse>(accept).unwrap();
        let receipt = tasks_proto::Receipt {
            task_id: id,
            model_id: MODEL.to_vec(),
            request_digest: self.task(id).request_digest.to_vec(),
            input_digest: vec![3; 32],
            input_tokens: 200,
            result_digest: blake3::hash(&OUTPUT).as_bytes().to_vec(),
            output_tokens: 100,
            finish: tasks_proto::Finish::Eos.into(),
            trace_root: vec![5; 32],
            canon: 1,
        };
        let msg = tasks_proto::MsgSubmitReceipt { worker: worker().to_string(), receipt: Some(receipt) };
        self.send::<_, tasks_proto::MsgSubmitReceiptResponse>(msg).unwrap();
        id
    }

    fn task(&self, id: u64) -> Task {
        self.state.query(|cx| tasks::get(cx.state, id)).unwrap().unwrap()
    }

    fn audit(&self, id: u64) -> Audit {
        self.state.query(|cx| state::known(cx.state, id)).unwrap()
    }

    fn balance(&self, who: &Address) -> u128 {
        self.state.query(|cx| bank::balance_udn(cx.state, who)).unwrap()
    }

    fn supply(&self) -> u128 {
        self.state.query(|cx| bank::supply(cx.state, "udn")).unwrap()
    }

    fn bond(&self) -> u128 {
        self.state.query(|cx| workers::get(cx.state, &worker())).unwrap().unwrap().bond
    }

    fn deposit(&self, n: u8) -> u128 {
        self.state.query(|cx| state::AUDITORS.get(cx.state, &op(n))).unwrap().unwrap().deposit
    }

    /// Numbers of the auditors of the latest draw.
    fn drawn(&self, audit: u64) -> Vec<u8> {
        self.audit(audit).current().map(|m| m.operator.as_bytes()[0] - 100).collect()
    }

    fn commit(&mut self, audit: u64, n: u8, verdict: Verdict, digest: [u8; 32]) -> Result<()> {
        let commitment = commitment(&key(n), verdict, &digest, &salt(n)).to_vec();
        let msg = MsgCommitVerdict { auditor: key(n).to_string(), audit_id: audit, commitment };
        self.send(msg).map(|_: MsgCommitVerdictResponse| ())
    }

    fn reveal(&mut self, audit: u64, n: u8, verdict: Verdict, digest: [u8; 32]) -> Result<()> {
        let msg = MsgRevealVerdict {
            auditor: key(n).to_string(),
            audit_id: audit,
            verdict: verdict.into(),
            digest: digest.to_vec(),
            salt: salt(n).to_vec(),
        };
        self.send(msg).map(|_: MsgRevealVerdictResponse| ())
    }

    /// All members of the latest draw commit and reveal what `say` has them say; the block ends.
    fn verdicts(&mut self, audit: u64, say: impl Fn(usize, u8) -> (Verdict, [u8; 32])) -> Vec<u8> {
        let drawn = self.drawn(audit);
        for (i, n) in drawn.iter().enumerate() {
            let (verdict, digest) = say(i, *n);
            self.commit(audit, *n, verdict, digest).unwrap();
        }
        for (i, n) in drawn.iter().enumerate() {
            let (verdict, digest) = say(i, *n);
            self.reveal(audit, *n, verdict, digest).unwrap();
        }
        self.blocks(1);
        drawn
    }

    fn report(&mut self, audit: u64, n: u8) -> Result<()> {
        let msg = MsgReportMissing { auditor: key(n).to_string(), audit_id: audit };
        self.send(msg).map(|_: MsgReportMissingResponse| ())
    }

    fn show(&mut self, audit: u64, input: &[u8], output: &[u8]) -> Result<()> {
        let (input, output) = (input.to_vec(), output.to_vec());
        let msg = MsgShowBlobs { worker: worker().to_string(), audit_id: audit, input, output };
        self.send(msg).map(|_: MsgShowBlobsResponse| ())
    }

    /// Values of `attribute` in the events of this kind since the last call that asked for it.
    fn told(&mut self, kind: &str, attribute: &str) -> Vec<String> {
        let (told, rest): (Vec<Event>, _) = self.events.drain(..).partition(|e| e.kind == kind);
        self.events = rest;
        let value = |e: Event| e.attributes.into_iter().find(|(k, _)| *k == attribute).map(|(_, v)| v);
        told.into_iter().filter_map(value).collect()
    }

    fn finals(&mut self) -> Vec<u64> {
        self.run(|cx| take_final(cx, 100)).into_iter().map(|f| f.task).collect()
    }
}

fn salt(n: u8) -> [u8; 32] {
    [n; 32]
}

fn registration(n: u8) -> MsgRegisterAuditor {
    MsgRegisterAuditor {
        operator: op(n).to_string(),
        auditor: key(n).to_string(),
        classes: vec!["llm-300m".into()],
        deposit: Some(ProtoCoin { denom: "udn".into(), amount: (100 * DN).to_string() }),
    }
}

fn right(_: usize, _: u8) -> (Verdict, [u8; 32]) {
    (Verdict::Right, [1; 32])
}

fn wrong(_: usize, _: u8) -> (Verdict, [u8; 32]) {
    (Verdict::Wrong, [2; 32])
}

fn text(e: Error) -> String {
    e.to_string()
}

fn genesis(cx: &mut Ctx<'_>, validators: u8, pending: bool) -> Result<()> {
    bank::mint_udn(cx, &user(), 1_000 * DN)?;
    for n in 1..=validators {
        bank::mint_udn(cx, &op(n), 2_000 * DN)?;
    }
    // What earlier receipts have paid.
    bank::mint_udn(cx, &levies(), 10_000)?;
    let genesis_validators = (1..=validators)
        .map(|n| GenesisValidator {
            moniker: format!("v{n}"),
            operator: op(n),
            consensus_pubkey: [n; 32],
            self_delegation: 1_000 * DN,
            commission_rate: Dec::percent(10),
        })
        .collect();
    let section = StakingGenesis { genesis_validators, ..StakingGenesis::default() };
    StakingModule.init_genesis(cx, &serde_json::json!(section))?;
    for n in 1..=validators {
        staking::set_power(cx, &op(n), 1_000)?;
    }
    BeaconModule.init_genesis(cx, &BeaconModule.default_genesis())?;
    let mut section = models::genesis::Genesis::new(&models::Params::default(), Class::localnet());
    let model = |id: [u8; 32], active: bool| models::genesis::ModelJson {
        id: hex::encode(id),
        owner: op(1),
        name: "model".into(),
        architecture: hex::encode(architecture().encode()),
        status: if active { "MODEL_STATUS_ACTIVE" } else { "MODEL_STATUS_PENDING" }.into(),
        scored: active,
        deposit: if active { 0 } else { 40 * DN },
        ..Default::default()
    };
    section.models = vec![model(MODEL, true)];
    if pending {
        section.models.push(model(NEW_MODEL, false));
        bank::mint_udn(cx, &models::account(), 40 * DN)?;
    }
    ModelsModule.init_genesis(cx, &serde_json::json!(section))?;
    add_worker(cx)?;
    TasksModule.init_genesis(cx, &TasksModule.default_genesis())?;
    let section = genesis::Genesis { params: super::Params::localnet(), ..Default::default() };
    AuditsModule.init_genesis(cx, &serde_json::json!(section))
}

fn add_worker(cx: &mut Ctx<'_>) -> Result<()> {
    bank::mint_udn(cx, &workers::account(), BOND)?;
    let entry = workers::genesis::WorkerJson {
        address: worker(),
        bond: BOND,
        validator: op(1).to_operator(),
        endpoint: "http://127.0.0.1:9200".into(),
        hardware: "cpu".into(),
        declared: 2_000,
        models: vec![hex::encode(MODEL)],
        ..Default::default()
    };
    let section = workers::genesis::Genesis { workers: vec![entry], ..Default::default() };
    WorkersModule.init_genesis(cx, &serde_json::json!(section))?;
    ReputationModule.init_genesis(cx, &ReputationModule.default_genesis())
}

#[test]
fn a_right_result_is_paid_at_the_verdict() {
    let mut chain = Chain::new(4, 4);
    let task = chain.receipt(true);
    // An unknown worker is always audited.
    assert_eq!((chain.task(task).audit_chance, chain.task(task).drawn), (Dec::ONE, true));
    assert_eq!(chain.audit(1).draws[0].height, chain.task(task).receipt_height + 2);
    assert_eq!(chain.told("audit_opened", "task_id"), [task.to_string()]);
    let before: Vec<u128> = (1..=4).map(|n| chain.balance(&op(n))).collect();
    let drawn = chain.verdicts(1, right);
    assert!(!drawn.contains(&1), "the validator that the worker backs is not asked: {drawn:?}");

    assert_eq!(chain.audit(1).outcome, Some(Outcome::Right));
    assert_eq!(chain.task(task).status, Status::Settled);
    assert_eq!(chain.told("audit_closed", "outcome"), ["right"]);
    let fee = tasks::price(&chain.task(task)).unwrap().compute / 2;
    for n in 1..=4u8 {
        let paid = if drawn.contains(&n) { fee } else { 0 };
        let royalty_free = chain.balance(&op(n)) - before[usize::from(n) - 1];
        assert_eq!(royalty_free, paid, "auditor {n}");
    }
    assert_eq!(chain.finals(), [task]);
    let work = chain.run(|cx| take_audit_work(cx, 10));
    assert_eq!(work.iter().map(|w| w.cu).collect::<Vec<_>>(), vec![chain.task(task).cu; drawn.len()]);
    assert_eq!(chain.bond(), BOND);
}

#[test]
fn a_wrong_result_is_refunded_and_slashed_by_a_committee() {
    let mut chain = Chain::new(13, 13);
    let task = chain.receipt(true);
    let escrow = chain.task(task).escrow;
    let (supply, user_before) = (chain.supply(), chain.balance(&user()));
    let first = chain.verdicts(1, wrong);
    // One word convicts nobody.
    assert_eq!((chain.audit(1).phase, chain.bond()), (Phase::Draw, BOND));
    chain.blocks(2);
    let committee = chain.drawn(1);
    assert_eq!(committee.len(), 9);
    assert!(committee.iter().all(|n| *n != 1 && !first.contains(n)));
    let before: Vec<u128> = (1..=13).map(|n| chain.balance(&op(n))).collect();
    let price = tasks::price(&chain.task(task)).unwrap().compute;
    chain.verdicts(1, |i, n| if i < 7 { wrong(i, n) } else { right(i, n) });

    assert_eq!(chain.audit(1).outcome, Some(Outcome::Wrong));
    assert_eq!(chain.task(task).status, Status::Convicted);
    assert_eq!(chain.balance(&user()), user_before + escrow);
    let slashed = BOND / 4;
    assert_eq!(chain.bond(), BOND - slashed);
    let finders = (first.len() + 7) as u128;
    let share = slashed / 2 / finders;
    assert_eq!(chain.supply(), supply - (slashed - share * finders));
    assert_eq!(chain.told("worker_convicted", "slashed"), [slashed.to_string()]);
    for n in first.iter().chain(&committee[..7]) {
        let got = chain.balance(&op(*n)) - before[usize::from(*n) - 1];
        assert_eq!(got, share + price / 2, "auditor {n}");
    }
    for n in &committee[7..] {
        assert_eq!(chain.deposit(*n), 100 * DN - 20 * (price / 2));
        assert_eq!(chain.balance(&op(*n)), before[usize::from(*n) - 1]);
    }
    assert_eq!(chain.told("auditor_overruled", "penalty").len(), 2);
    let convictions = chain.run(|cx| take_convictions(cx, 10));
    assert_eq!(convictions.len(), 1);
    assert!(convictions[0].worker == worker() && convictions[0].after <= convictions[0].before);
    assert!(chain.finals().is_empty());
}

#[test]
fn a_false_accusation_is_overruled() {
    let mut chain = Chain::new(13, 13);
    let task = chain.receipt(true);
    let accusers = chain.verdicts(1, wrong);
    chain.blocks(2);
    chain.verdicts(1, right);
    assert_eq!(chain.audit(1).outcome, Some(Outcome::Right));
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Settled, BOND));
    let fee = tasks::price(&chain.task(task)).unwrap().compute / 2;
    for n in accusers {
        assert_eq!(chain.deposit(n), 100 * DN - 20 * fee);
        // What is left is no whole deposit: it is topped up before this auditor is drawn again.
        let panel = chain.run(|cx| Panel::load(cx));
        assert!(!panel.of_class("llm-300m").any(|s| s.operator == op(n)));
    }
}

#[test]
fn pay_is_frozen_in_a_dispute_and_lost_by_a_conviction() {
    let mut chain = Chain::new(13, 13);
    let first = chain.receipt(true);
    let other = chain.receipt(true);
    chain.verdicts(1, wrong);
    // The other one is found right, but waits for the dispute.
    chain.verdicts(2, right);
    chain.blocks(6);
    assert_eq!((chain.audit(2).outcome, chain.task(other).status), (Some(Outcome::Right), Status::Submitted));
    chain.verdicts(1, wrong);
    chain.blocks(6);
    assert_eq!((chain.task(first).status, chain.task(other).status), (Status::Convicted, Status::Void));
    assert_eq!((chain.balance(&user()), chain.balance(&worker())), (1_000 * DN, 0));
    assert_eq!(chain.bond(), BOND * 3 / 4);

    // Receipts after the verdict are another offence: the whole bond.
    let last = chain.receipt(true);
    let third = chain.task(last).worker.map(|_| 3).unwrap();
    chain.verdicts(third, wrong);
    chain.blocks(2);
    chain.verdicts(third, wrong);
    assert_eq!((chain.task(last).status, chain.bond()), (Status::Convicted, 0));
    let convictions = chain.run(|cx| take_convictions(cx, 10));
    assert_eq!(convictions.last().map(|c| c.after), Some(Dec::ZERO));
}

#[test]
fn only_those_drawn_speak_once_and_keep_to_what_they_committed() {
    let mut chain = Chain::new(4, 4);
    chain.receipt(true);
    let drawn = chain.drawn(1)[0];
    let other = (1..=4).find(|n| !chain.drawn(1).contains(n)).unwrap();
    let refused =
        |e: Result<()>, part: &str| assert!(text(e.as_ref().unwrap_err().clone()).contains(part), "{e:?}");
    refused(chain.commit(1, other, Verdict::Right, [1; 32]), "is not a member of its latest draw");
    refused(chain.report(1, other), "is not a member of its latest draw");
    refused(chain.commit(7, drawn, Verdict::Right, [1; 32]), "audit 7 does not exist");
    refused(chain.reveal(1, drawn, Verdict::Right, [1; 32]), "is in phase Commit");
    refused(chain.show(1, b"", &OUTPUT), "is in phase Commit");
    for n in chain.drawn(1) {
        chain.commit(1, n, Verdict::Right, [1; 32]).unwrap();
    }
    refused(chain.commit(1, drawn, Verdict::Right, [1; 32]), "is in phase Reveal");
    refused(chain.reveal(1, drawn, Verdict::Wrong, [1; 32]), "reveal has digest");
    refused(chain.reveal(1, drawn, Verdict::Right, [2; 32]), "reveal has digest");
    refused(chain.reveal(1, drawn, Verdict::Unspecified, [1; 32]), "verdict is 0");
    let short = MsgRevealVerdict {
        auditor: key(drawn).to_string(),
        audit_id: 1,
        verdict: Verdict::Right.into(),
        digest: vec![1; 32],
        salt: vec![1; 15],
    };
    refused(chain.send(short).map(|_: MsgRevealVerdictResponse| ()), "length of salt is 15");
    chain.reveal(1, drawn, Verdict::Right, [1; 32]).unwrap();
    refused(chain.reveal(1, drawn, Verdict::Right, [1; 32]), "revealed before");
}

#[test]
fn whoever_withholds_blobs_is_convicted() {
    let mut chain = Chain::new(4, 4);
    let task = chain.receipt(false);
    let reporter = chain.drawn(1)[0];
    chain.report(1, reporter).unwrap();
    assert_eq!(chain.audit(1).phase, Phase::Missing);
    chain.blocks(20);
    assert_eq!(chain.task(task).status, Status::Submitted);
    let before = chain.balance(&op(reporter));
    chain.blocks(1);
    assert_eq!(chain.audit(1).outcome, Some(Outcome::Withheld));
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Convicted, BOND * 3 / 4));
    let fee = tasks::price(&chain.task(task)).unwrap().compute / 2;
    assert_eq!(chain.balance(&op(reporter)), before + fee + BOND / 8);
    assert_eq!(chain.told("auditor_missed", "operator"), Vec::<String>::new());
}

#[test]
fn blobs_shown_in_time_reopen_the_audit() {
    let mut chain = Chain::new(4, 4);
    let task = chain.receipt(false);
    let reporter = chain.drawn(1)[0];
    chain.report(1, reporter).unwrap();
    chain.blocks(5);
    let refused =
        |e: Result<()>, part: &str| assert!(text(e.as_ref().unwrap_err().clone()).contains(part), "{e:?}");
    refused(chain.show(1, b"What?", &OUTPUT), "input has digest");
    refused(chain.show(1, INPUT, &OUTPUT[..396]), "output is 396 bytes");
    refused(chain.show(1, INPUT, &[8; 400]), "output has digest");
    refused(chain.show(1, INPUT, &[0; 65_537]), "length of output is 65537");
    chain.show(1, INPUT, &OUTPUT).unwrap();
    let mut queries = Queries::default();
    AuditsModule.queries(&mut queries);
    let ask = QueryAuditRequest { id: 1 }.encode_to_vec();
    let answer = chain.state.query(|cx| queries.run("/deepnode.audits.v1.Query/Audit", cx, &ask)).unwrap();
    let shown = QueryAuditResponse::decode(answer.as_slice()).unwrap().audit.unwrap();
    assert_eq!((shown.shown_input.as_slice(), shown.shown_output.as_slice()), (INPUT, OUTPUT.as_slice()));
    assert_eq!(shown.phase(), proto::Phase::Commit);
    refused(chain.report(1, reporter), "was asked for its blobs before");
    chain.verdicts(1, right);
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Settled, BOND));
}

#[test]
fn without_auditors_nothing_passes() {
    let mut chain = Chain::new(3, 0);
    let task = chain.receipt(true);
    chain.blocks(3 * 20 - 1);
    assert_eq!(chain.task(task).status, Status::Submitted);
    chain.blocks(2);
    assert_eq!(chain.audit(1).outcome, Some(Outcome::Void));
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Void, BOND));
    assert_eq!((chain.balance(&user()), chain.finals()), (1_000 * DN, vec![]));
}

#[test]
fn silence_is_a_missed_duty_and_another_draw() {
    let mut chain = Chain::new(4, 4);
    let task = chain.receipt(true);
    let silent = chain.drawn(1);
    chain.blocks(21);
    assert_eq!(chain.told("auditor_missed", "operator").len(), silent.len());
    chain.blocks(2);
    assert!(chain.drawn(1).iter().all(|n| !silent.contains(n)), "others are asked first");
    chain.verdicts(1, right);
    assert_eq!(chain.task(task).status, Status::Settled);

    let task = chain.receipt(true);
    chain.blocks(4 * 23);
    assert_eq!((chain.audit(2).draws.len(), chain.audit(2).outcome), (4, Some(Outcome::Void)));
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Void, BOND));
}

#[test]
fn a_lone_auditor_passes_alone_and_convicts_by_the_court() {
    let mut chain = Chain::new(1, 1);
    let task = chain.receipt(true);
    assert_eq!(chain.verdicts(1, right), [1], "the exclusion is lifted");
    assert_eq!(chain.task(task).status, Status::Settled);
    let task = chain.receipt(true);
    chain.verdicts(2, wrong);
    assert_eq!(chain.task(task).status, Status::Submitted);
    chain.blocks(2);
    assert_eq!(chain.audit(2).round, state::Round::Court);
    chain.verdicts(2, wrong);
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Convicted, BOND * 3 / 4));
}

#[test]
fn a_small_committee_counts_the_first_and_an_undecided_court_is_void() {
    let mut chain = Chain::new(4, 4);
    let task = chain.receipt(true);
    // Of three eligible, more than two thirds are all three.
    chain.verdicts(1, wrong);
    chain.blocks(2);
    chain.verdicts(1, |i, n| if i == 0 { right(i, n) } else { wrong(i, n) });
    assert_eq!(chain.audit(1).round, state::Round::Court);
    chain.blocks(2);
    assert_eq!(chain.drawn(1).len(), 4, "the court is everybody");
    chain.verdicts(1, |i, n| if i % 2 == 0 { right(i, n) } else { wrong(i, n) });
    assert_eq!(chain.audit(1).outcome, Some(Outcome::Void));
    assert_eq!((chain.task(task).status, chain.bond()), (Status::Void, BOND));
    assert!((1..=4).all(|n| chain.deposit(n) == 100 * DN), "nobody is judged without a decision");
}

#[test]
fn two_digests_of_one_draw_are_dissent() {
    let members = |digests: &[u8]| -> Vec<state::Member> {
        let member = |d: &u8| state::Member {
            operator: op(*d),
            key: key(*d),
            draw: 0,
            weight: 1,
            commitment: None,
            verdict: Some(state::Verdict::Right),
            digest: [*d; 32],
        };
        digests.iter().map(member).collect()
    };
    let count = |digests: &[u8]| tally::tally(members(digests).iter());
    assert_eq!(math::first_round(&tally::reveals(members(&[1, 2]).iter()), 3), math::FirstRound::Dissent);
    assert_eq!((count(&[1, 1, 2]).right, count(&[1, 1, 2]).digest), (2, Some([1; 32])));
    assert_eq!((count(&[1, 2]).right, count(&[1, 2]).digest), (0, None));
}

#[test]
fn auditors_register_top_up_and_retire() {
    let mut chain = Chain::new(3, 2);
    let send = |chain: &mut Chain, msg| chain.send::<_, MsgRegisterAuditorResponse>(msg).map(|_| ());
    let coin = |amount: u128| Some(ProtoCoin { denom: "udn".into(), amount: amount.to_string() });
    for (msg, part) in [
        (MsgRegisterAuditor { operator: user().to_string(), ..registration(3) }, "has no validator"),
        (MsgRegisterAuditor { deposit: coin(99 * DN), ..registration(3) }, "the least is 100000000udn"),
        (MsgRegisterAuditor { auditor: key(1).to_string(), ..registration(3) }, "is the key of operator"),
        (MsgRegisterAuditor { classes: vec!["llm-9".into()], ..registration(3) }, "no class \"llm-9\""),
        (MsgRegisterAuditor { auditor: "dn1".into(), ..registration(3) }, "auditor"),
    ] {
        let refusal = text(send(&mut chain, msg).unwrap_err());
        assert!(refusal.contains(part), "{refusal}");
    }
    // Another key, no more deposit.
    let change = MsgRegisterAuditor { auditor: key(9).to_string(), deposit: None, ..registration(2) };
    send(&mut chain, change).unwrap();
    assert_eq!((chain.deposit(2), chain.balance(&deposits())), (100 * DN, 200 * DN));
    send(&mut chain, MsgRegisterAuditor { auditor: key(2).to_string(), ..registration(3) }).unwrap();

    chain.receipt(true);
    let drawn = chain.drawn(1)[0];
    let retire = |n: u8| MsgRegisterAuditor { classes: vec![], deposit: None, ..registration(n) };
    let refusal = text(send(&mut chain, retire(drawn)).unwrap_err());
    assert!(refusal.contains("cannot retire while it is drawn for audit 1"), "{refusal}");
    send(&mut chain, retire(1)).unwrap();
    assert_eq!(chain.balance(&op(1)), 1_000 * DN);
    chain.blocks(1);
}

#[test]
fn genesis_returns_what_was_exported_in_the_middle_of_an_audit() {
    let mut chain = Chain::new(13, 13);
    chain.receipt(false);
    let reporter = chain.drawn(1)[0];
    chain.report(1, reporter).unwrap();
    chain.show(1, INPUT, &OUTPUT).unwrap();
    chain.receipt(true);
    chain.verdicts(2, wrong);
    let exported = chain.state.query(|cx| AuditsModule.export_genesis(cx.state)).unwrap();
    let mut fresh = TestState::new();
    let again = fresh
        .run(|cx| {
            tasks::TasksModule.init_genesis(cx, &TasksModule.default_genesis())?;
            AuditsModule.init_genesis(cx, &exported)
        })
        .and_then(|()| fresh.query(|cx| AuditsModule.export_genesis(cx.state)))
        .unwrap();
    assert_eq!(again, exported);
    assert!(fresh.query(|cx| state::FROZEN.has(cx.state, &worker())).unwrap());
    let default = AuditsModule.default_genesis();
    assert_eq!(default["params"]["max_draws"], 4);
}

#[test]
fn a_model_is_active_once_its_auditors_agree_on_the_test_vector() {
    let mut chain = Chain::with(5, 5, true);
    chain.blocks(3);
    assert_eq!((chain.audit(1).phase, chain.drawn(1).len()), (Phase::Commit, 4));
    let before: Vec<u128> = (1..=5).map(|n| chain.balance(&op(n))).collect();
    let drawn = chain.verdicts(1, |i, n| if i < 3 { right(i, n) } else { (Verdict::Right, [9; 32]) });
    let model = chain.state.query(|cx| models::get(cx.state, &NEW_MODEL)).unwrap().unwrap();
    assert_eq!((model.is_active(), model.vector_root), (true, Some([1; 32])));
    for (i, n) in drawn.iter().enumerate() {
        let got = chain.balance(&op(*n)) - before[usize::from(*n) - 1];
        assert_eq!(got, if i < 3 { 40 * DN / 3 } else { 0 }, "the deposit goes to those who agreed");
        assert_eq!(chain.deposit(*n), 100 * DN);
    }

    // Half of them is no agreement, three times.
    let mut chain = Chain::with(5, 5, true);
    for audit in 1..=3 {
        chain.blocks(3);
        let model = chain.state.query(|cx| models::get(cx.state, &NEW_MODEL)).unwrap().unwrap();
        assert_eq!(model.status, models::Status::Pending);
        chain.verdicts(audit, |i, n| if i < 2 { right(i, n) } else { (Verdict::Right, [9; 32]) });
    }
    let model = chain.state.query(|cx| models::get(cx.state, &NEW_MODEL)).unwrap().unwrap();
    assert_eq!(model.status, models::Status::Rejected);

    // Nobody to ask: it waits, and is neither active nor rejected.
    let mut chain = Chain::with(2, 0, true);
    chain.blocks(100);
    let model = chain.state.query(|cx| models::get(cx.state, &NEW_MODEL)).unwrap().unwrap();
    assert_eq!(model.status, models::Status::Pending);
}

#[test]
fn a_receipt_that_is_not_drawn_is_paid_after_the_window() {
    let mut chain = Chain::new(4, 4);
    let mut section = reputation::genesis::Genesis::default();
    let record = |cx: &Ctx<'_>| -> Result<reputation::genesis::RecordJson> {
        Ok(reputation::genesis::RecordJson {
            subject: worker(),
            capability: models::class(cx, "llm-300m")?.unwrap().capability(),
            passes: 100_000 * DN,
            soft: 0,
            wrong: 0,
            new_passes: 0,
            new_late: 0,
            new_unavailable: 0,
            epoch: 1,
        })
    };
    chain.run(|cx| {
        section.records = vec![record(cx)?];
        ReputationModule.init_genesis(cx, &serde_json::json!(section))
    });
    let task = chain.receipt(true);
    assert_eq!((chain.task(task).audit_chance, chain.task(task).drawn), (Dec::percent(2), false));
    assert_eq!(chain.told("audit_opened", "task_id"), Vec::<String>::new());
    let window = chain.state.query(|cx| tasks::params(cx.state)).unwrap().window_blocks;
    chain.blocks(window - 3);
    assert_eq!((chain.task(task).status, chain.finals()), (Status::Submitted, vec![]));
    chain.blocks(1);
    assert_eq!((chain.task(task).status, chain.finals()), (Status::Settled, vec![task]));
}

#[test]
fn governance_changes_parameters_within_their_bounds() {
    let mut chain = Chain::new(1, 1);
    let authority = deepnode_core::authority().to_string();
    let params = super::Params { phase_blocks: 7, min_chance_ppm: 500_000, ..super::Params::localnet() };
    let msg = MsgUpdateParams { authority: authority.clone(), params: Some(params.to_proto()) };
    let stranger = MsgUpdateParams { authority: user().to_string(), ..msg.clone() };
    let refusal = text(chain.send::<_, MsgUpdateParamsResponse>(stranger).unwrap_err());
    assert!(refusal.contains("must be the governance account"), "{refusal}");
    let bad = super::Params { quorum: 4, ..params.clone() }.to_proto();
    let refusal = chain.send::<_, MsgUpdateParamsResponse>(MsgUpdateParams { authority, params: Some(bad) });
    assert!(text(refusal.unwrap_err()).contains("audit.committee_decides is 4, allowed are 5 to 9"));
    chain.send::<_, MsgUpdateParamsResponse>(msg).unwrap();
    let (ours, theirs) = chain.state.query(|cx| (params::params(cx.state), tasks::audit_params(cx.state)));
    assert_eq!(ours.unwrap(), params);
    assert_eq!(theirs.unwrap().p_min, Dec::percent(50), "tasks computes the chance with it");
}
