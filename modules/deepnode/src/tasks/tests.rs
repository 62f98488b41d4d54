use deepnode_core::testing::TestState;
use deepnode_core::{Address, Event, Time};
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;
use deepnode_proto::deepnode::tasks::v1::{
    self as proto, InputKind, MsgAcceptTask, MsgAcceptTaskResponse, MsgCancelTask, MsgCancelTaskResponse,
    MsgDeclineTask, MsgDeclineTaskResponse, MsgSubmitReceipt, MsgSubmitReceiptResponse, MsgSubmitTask,
    MsgSubmitTaskResponse, MsgUpdateParams, MsgUpdateParamsResponse, QueryEstimateTaskRequest,
    QueryEstimateTaskResponse, QueryParamsRequest, QueryParamsResponse, QueryTaskRequest, QueryTaskResponse,
    QueryTasksRequest, QueryTasksResponse, Request, SamplingParams, TaskStatus,
};
use deepnode_proto::{Message, Name};
use proptest::prelude::*;

use super::*;
use crate::beacon::BeaconModule;
use crate::models::{self, Architecture, Class, ModelsModule};
use crate::reputation::ReputationModule;
use crate::workers;
use deepnode_cosmos::bank;

const MODEL: [u8; 32] = [1; 32];
const CHILD: [u8; 32] = [2; 32];
const DN: u128 = 1_000_000;

fn user(n: u8) -> Address {
    Address([n; 20])
}

fn worker(n: u8) -> Address {
    Address([100 + n; 20])
}

fn owner(n: u8) -> Address {
    Address([200 + n; 20])
}

/// SmolLM2-135M: 256 tokens in and 256 out are 132,042 CU.
fn architecture() -> Architecture {
    Architecture { context: 2_048, ..models::small() }
}

struct Chain {
    state: TestState,
    messages: Messages,
    queries: Queries,
    /// Events since they were last looked at.
    events: Vec<Event>,
}

impl Chain {
    /// Workers 1..=n serve a model and its child, whose royalty is 10%, a quarter of it the parent's; users have
    /// 1,000 DN each. Bonds of 1,000 DN.
    fn new(n: u8) -> Chain {
        let mut state = TestState::new();
        state.block.time = Time(1_700_000_000_000_000_000);
        state.run(|cx| genesis(cx, n)).unwrap();
        let (mut messages, mut queries) = (Messages::default(), Queries::default());
        TasksModule.messages(&mut messages);
        TasksModule.queries(&mut queries);
        let mut chain = Chain { state, messages, queries, events: Vec::new() };
        chain.begin();
        chain
    }

    fn begin(&mut self) {
        self.state.block.hash = *blake3::hash(&self.state.block.height.to_le_bytes()).as_bytes();
        self.state.run(|cx| BeaconModule.pre_block(cx)).unwrap();
    }

    /// Ends `n` blocks and begins the next; the invariants hold after each.
    fn blocks(&mut self, n: u64) {
        for _ in 0..n {
            self.state.run(|cx| TasksModule.end_block(cx)).unwrap();
            self.events.append(&mut self.state.events);
            self.check();
            self.state.block.height += 1;
            self.begin();
        }
    }

    fn check(&self) {
        self.state.query(|cx| TasksModule.invariants(cx.state)).unwrap();
    }

    fn send<M: Message + Name, R: Message + Default>(&mut self, msg: M) -> Result<R> {
        let handler = self.messages.get(&M::type_url()).unwrap();
        let answer = self.state.run(|cx| handler.run(cx, &msg.encode_to_vec()));
        self.events.append(&mut self.state.events);
        answer.map(|any| R::decode(any.value.as_slice()).unwrap())
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        let answer = self.state.run(f).unwrap();
        self.events.append(&mut self.state.events);
        answer
    }

    fn submit(&mut self, msg: MsgSubmitTask) -> Result<u64> {
        self.send(msg).map(|r: MsgSubmitTaskResponse| r.task_id)
    }

    fn accept(&mut self, worker: &Address, task_id: u64) -> Result<()> {
        self.send(MsgAcceptTask { worker: worker.to_string(), task_id }).map(|_: MsgAcceptTaskResponse| ())
    }

    fn decline(&mut self, worker: &Address, task_id: u64) -> Result<()> {
        let msg = MsgDeclineTask { worker: worker.to_string(), task_id, reason: "too many tokens".into() };
        self.send(msg).map(|_: MsgDeclineTaskResponse| ())
    }

    fn cancel(&mut self, creator: &Address, task_id: u64) -> Result<()> {
        self.send(MsgCancelTask { creator: creator.to_string(), task_id }).map(|_: MsgCancelTaskResponse| ())
    }

    fn deliver(&mut self, worker: &Address, receipt: proto::Receipt) -> Result<u128> {
        let msg = MsgSubmitReceipt { worker: worker.to_string(), receipt: Some(receipt) };
        self.send(msg).map(|r: MsgSubmitReceiptResponse| r.price.parse().unwrap())
    }

    fn task(&self, id: u64) -> Task {
        self.state.query(|cx| get(cx.state, id)).unwrap().unwrap()
    }

    fn balance(&self, who: &Address) -> u128 {
        self.state.query(|cx| bank::balance_udn(cx.state, who)).unwrap()
    }

    fn supply(&self) -> u128 {
        self.state.query(|cx| bank::supply(cx.state, "udn")).unwrap()
    }

    fn query<Q: Message, R: Message + Default>(&self, method: &str, request: Q) -> R {
        let path = format!("/deepnode.tasks.v1.Query/{method}");
        let bytes = self.state.query(|cx| self.queries.run(&path, cx, &request.encode_to_vec())).unwrap();
        R::decode(bytes.as_slice()).unwrap()
    }

    /// Values of `key` in the events of this kind since the last call that asked for it.
    fn told(&mut self, kind: &str, key: &str) -> Vec<String> {
        let (told, rest): (Vec<Event>, _) = self.events.drain(..).partition(|e| e.kind == kind);
        self.events = rest;
        let value = |e: Event| e.attributes.into_iter().find(|(k, _)| *k == key).map(|(_, v)| v);
        told.into_iter().filter_map(value).collect()
    }

    /// Submits, waits for the draw; the task and its worker.
    fn assigned(&mut self, msg: MsgSubmitTask) -> (u64, Address) {
        let id = self.submit(msg).unwrap();
        self.blocks(3);
        (id, self.task(id).worker.unwrap())
    }
}

fn request() -> Request {
    Request {
        model_id: MODEL.to_vec(),
        input_kind: InputKind::Text.into(),
        input_digest: blake3::hash(b"Why?").as_bytes().to_vec(),
        max_output: 256,
        sampling: None,
        stop: Vec::new(),
    }
}

fn ask(request: Request) -> MsgSubmitTask {
    MsgSubmitTask {
        creator: user(1).to_string(),
        request: Some(request),
        input_tokens: 256,
        inline_input: b"Why?".to_vec(),
        max_price: Some(ProtoCoin { denom: "udn".into(), amount: "5000".into() }),
        deadline: 0,
    }
}

fn sampled() -> Request {
    let sampling = SamplingParams { temperature: 700_000, top_p: 950_000, top_k: 40, seed: Vec::new() };
    Request { sampling: Some(sampling), stop: vec!["\n".into()], ..request() }
}

/// What an honest worker answers: 200 tokens read, 100 made.
fn answer(task: &Task) -> proto::Receipt {
    proto::Receipt {
        task_id: task.id,
        model_id: task.model.to_vec(),
        request_digest: blake3::hash(&task.request).as_bytes().to_vec(),
        input_digest: vec![3; 32],
        input_tokens: 200,
        result_digest: vec![4; 32],
        output_tokens: 100,
        finish: proto::Finish::Eos.into(),
        trace_root: vec![5; 32],
        canon: 1,
    }
}

fn text(e: Error) -> String {
    e.to_string()
}

#[test]
fn from_escrow_to_settlement_every_udn_is_accounted_for() {
    let mut chain = Chain::new(3);
    let supply = chain.supply();
    let (id, who) = chain.assigned(ask(Request { model_id: CHILD.to_vec(), ..sampled() }));
    assert_eq!((chain.task(id).draw_height, chain.task(id).assigned_height), (3, 3));
    assert_eq!((chain.task(id).workers_in_draw, chain.task(id).validators_in_draw), (3, 3));
    assert_eq!(chain.balance(&escrow_account()), 5_000);
    assert_eq!(chain.told("task_assigned", "worker"), [who.to_string()]);
    chain.accept(&who, id).unwrap();
    let early = chain.deliver(&who, answer(&chain.task(id))).unwrap_err();
    assert!(text(early).contains("its seed is fixed after block 6"));
    chain.blocks(3);
    let beacon = chain.state.query(|cx| beacon::value(cx.state, 6)).unwrap().unwrap();
    let seed = blake3::hash(&[beacon.as_slice(), &id.to_be_bytes()].concat());
    assert_eq!(chain.told("task_seeded", "seed"), [seed.to_hex().to_string()]);

    let price = chain.deliver(&who, answer(&chain.task(id))).unwrap();
    let task = chain.task(id);
    let pending =
        |chain: &Chain| chain.state.query(|cx| workers::get(cx.state, &who)).unwrap().unwrap().pending_pay;
    assert!(chain.run(|cx| take_due(cx, 10)).is_empty());
    chain.blocks(2);
    assert_eq!(chain.run(|cx| take_due(cx, 10)), [id]);
    assert!(chain.run(|cx| take_due(cx, 10)).is_empty());
    // The class asks 14,000 udn for 10^6 CU.
    let compute = (u128::from(task.cu) * 14_000).div_ceil(1_000_000);
    assert_eq!((price, pending(&chain)), (compute + compute / 10, compute));
    chain.run(|cx| {
        set_audit(cx, id, Dec::percent(25), false)?;
        settle(cx, id)
    });
    chain.blocks(1);

    let s = chain.task(id).settlement.unwrap();
    // A chance of 25% with two auditors at half the price is a levy of 25%; burn 15%, community 5%, worker the rest.
    assert_eq!((s.price, s.returned), (price, 5_000 - price));
    assert_eq!((s.worker, s.levy, s.community), (compute * 55 / 100, compute / 4, compute / 20));
    assert_eq!((s.owner, s.parent), (compute / 10 * 3 / 4, compute / 10 / 4));
    assert_eq!(s.worker + s.owner + s.parent + s.burned + s.community + s.levy, price);
    let paid = [(worker_of(&chain, id), s.worker), (owner(2), s.owner), (owner(1), s.parent)];
    for (who, part) in paid {
        assert_eq!(chain.balance(&who), part);
    }
    assert_eq!(chain.balance(&Address::module("audits")), s.levy);
    assert_eq!(chain.balance(&Address::module("distribution")), s.community);
    assert_eq!(chain.balance(&user(1)), 1_000 * DN - price);
    assert_eq!((chain.supply(), chain.balance(&escrow_account())), (supply - s.burned, 0));
    assert_eq!(pending(&chain), 0);
    assert_eq!(chain.told("task_settled", "levy"), [s.levy.to_string()]);
    let shown: QueryTaskResponse = chain.query("Task", QueryTaskRequest { id });
    let shown = shown.task.unwrap();
    assert_eq!(shown.status(), TaskStatus::Settled);
    assert_eq!(shown.receipt.unwrap().encode_to_vec(), answer(&task).encode_to_vec());
    assert_eq!(shown.settlement.unwrap().burned, s.burned.to_string());
    assert!(chain.state.run(|cx| settle(cx, id)).unwrap_err().to_string().contains("Settled"));
}

fn worker_of(chain: &Chain, id: u64) -> Address {
    chain.task(id).worker.unwrap()
}

#[test]
fn greedy_and_seeded_requests_wait_for_no_beacon() {
    for seed in [None, Some([9u8; 32])] {
        let mut chain = Chain::new(1);
        let request = match seed {
            None => request(),
            Some(seed) => {
                let sampling = SamplingParams { seed: seed.to_vec(), ..sampled().sampling.unwrap() };
                Request { sampling: Some(sampling), ..request() }
            }
        };
        let (id, who) = chain.assigned(ask(request));
        chain.accept(&who, id).unwrap();
        assert_eq!(chain.task(id).seed, seed);
        chain.deliver(&who, answer(&chain.task(id))).unwrap();
        chain.blocks(1);
        let twice = chain.deliver(&who, answer(&chain.task(id))).unwrap_err();
        assert!(text(twice).contains("is Submitted, it must be Accepted"));
    }
}

#[test]
fn what_is_asked_wrongly_is_refused_by_name() {
    let mut chain = Chain::new(1);
    let with = |f: fn(&mut Request)| {
        let mut request = sampled();
        f(&mut request);
        ask(request)
    };
    let sampling = |f: fn(&mut SamplingParams)| {
        let mut params = sampled().sampling.unwrap();
        f(&mut params);
        ask(Request { sampling: Some(params), ..sampled() })
    };
    let coin = |amount: &str| Some(ProtoCoin { denom: "udn".into(), amount: amount.into() });
    let cases = [
        (MsgSubmitTask { request: None, ..ask(request()) }, "request is missing"),
        (with(|r| r.input_kind = 9), "request.input_kind is 9"),
        (with(|r| r.input_digest.truncate(31)), "request.input_digest has 31 bytes"),
        (with(|r| r.input_digest[0] ^= 1), "BLAKE3 of inline_input"),
        (with(|r| r.model_id = vec![8; 32]), "0808 does not exist"),
        (with(|r| r.max_output = 0), "request.max_output is 0"),
        (with(|r| r.max_output = 1_800), "input_tokens + max_output is 2056, allowed are 2 to 2048"),
        (with(|r| r.stop = vec!["x".into(); 9]), "number of request.stop is 9, allowed are 0 to 8"),
        (with(|r| r.stop = vec!["x".repeat(65)]), "length of request.stop is 65"),
        (with(|r| r.stop = vec![String::new()]), "length of request.stop is 0"),
        (with(|r| r.input_kind = InputKind::Tokens.into()), "256 token ids of 4 bytes"),
        (sampling(|s| s.temperature = 9_999), "request.sampling.temperature is 9999"),
        (sampling(|s| s.top_p = 1_000_001), "request.sampling.top_p is 1000001"),
        (sampling(|s| s.top_k = 65), "request.sampling.top_k is 65"),
        (sampling(|s| s.seed = vec![0; 31]), "request.sampling.seed has 31 bytes"),
        (MsgSubmitTask { input_tokens: 0, ..ask(request()) }, "input_tokens is 0"),
        (
            MsgSubmitTask { inline_input: vec![b'x'; 4_097], ..ask(request()) },
            "length of inline_input is 4097",
        ),
        (MsgSubmitTask { max_price: coin("1848"), ..ask(request()) }, "max_price is 1848udn, the fee"),
        (MsgSubmitTask { max_price: coin("2000000000"), ..ask(request()) }, "insufficient funds"),
        (MsgSubmitTask { deadline: 9, ..ask(request()) }, "deadline is 9"),
        (MsgSubmitTask { deadline: 20_001, ..ask(request()) }, "deadline is 20001"),
    ];
    for (msg, expected) in cases {
        let refused = text(chain.submit(msg).unwrap_err());
        assert!(refused.contains(expected), "{refused:?} does not say {expected:?}");
    }
    assert_eq!(chain.balance(&user(1)), 1_000 * DN);
    let estimate: QueryEstimateTaskResponse = chain.query(
        "EstimateTask",
        QueryEstimateTaskRequest { model_id: hex::encode(MODEL), input_tokens: 256, max_output: 256 },
    );
    let exact = MsgSubmitTask { max_price: coin(&estimate.fee), ..ask(request()) };
    assert_eq!((estimate.cu, estimate.fee.as_str(), estimate.royalty.as_str()), (132_042, "1849", "0"));
    chain.submit(exact).unwrap();
}

#[test]
fn a_receipt_must_answer_the_request() {
    let mut chain = Chain::new(1);
    let (id, who) = chain.assigned(ask(request()));
    let outsider = text(chain.accept(&worker(9), id).unwrap_err());
    assert!(outsider.contains("is not its worker"));
    let unaccepted = chain.deliver(&who, answer(&chain.task(id))).unwrap_err();
    assert!(text(unaccepted).contains("is Assigned, it must be Accepted"));
    chain.accept(&who, id).unwrap();
    let honest = answer(&chain.task(id));
    let with = |f: fn(&mut proto::Receipt)| {
        let mut receipt = honest.clone();
        f(&mut receipt);
        receipt
    };
    let cases = [
        (with(|r| r.model_id = CHILD.to_vec()), "receipt.model_id is 0202"),
        (with(|r| r.request_digest[0] ^= 1), "receipt.request_digest is"),
        (with(|r| r.canon = 2), "receipt.canon is 2, allowed are 1 to 1"),
        (with(|r| r.input_tokens = 257), "receipt.input_tokens is 257, allowed are 1 to 256"),
        (with(|r| r.input_tokens = 0), "receipt.input_tokens is 0"),
        (with(|r| r.output_tokens = 257), "receipt.output_tokens of finish Eos is 257"),
        (with(|r| r.output_tokens = 0), "receipt.output_tokens of finish Eos is 0"),
        (
            with(|r| r.finish = proto::Finish::Length.into()),
            "of finish Length is 100, allowed are 256 to 256",
        ),
        (with(|r| r.finish = proto::Finish::Stop.into()), "the request has no stop strings"),
        (with(|r| r.finish = 0), "receipt.finish is 0"),
        (with(|r| r.result_digest.clear()), "receipt.result_digest has 0 bytes"),
        (with(|r| r.trace_root.push(0)), "receipt.trace_root has 33 bytes"),
        (
            with(|r| (r.finish, r.output_tokens) = (proto::Finish::Numeric.into(), 256)),
            "of finish Numeric is 256, allowed are 0 to 255",
        ),
    ];
    for (receipt, expected) in cases {
        let refused = text(chain.deliver(&who, receipt).unwrap_err());
        assert!(refused.contains(expected), "{refused:?} does not say {expected:?}");
    }
    let other = text(chain.deliver(&worker(9), answer(&chain.task(id))).unwrap_err());
    assert!(other.contains("is not its worker"));
    // A number out of range at the first position is a canonical result, and paid so far.
    let numeric = with(|r| (r.finish, r.output_tokens) = (proto::Finish::Numeric.into(), 0));
    assert!(chain.deliver(&who, numeric).unwrap() > 0);
}

#[test]
fn silence_is_a_fault_only_if_another_accepts() {
    let mut chain = Chain::new(3);
    let (id, silent) = chain.assigned(ask(request()));
    chain.blocks(10);
    assert_eq!(chain.told("task_lost", "reason"), ["not accepted"]);
    let late = text(chain.accept(&silent, id).unwrap_err());
    assert!(late.contains("is not its worker"));
    chain.blocks(3);
    let second = worker_of(&chain, id);
    assert_ne!(second, silent);
    chain.decline(&second, id).unwrap();
    assert_eq!(chain.told("task_late", "worker"), Vec::<String>::new());
    chain.blocks(3);
    let third = worker_of(&chain, id);
    assert!(third != silent && third != second);
    chain.accept(&third, id).unwrap();
    assert_eq!(chain.told("task_late", "worker"), [silent.to_string()]);
    let held: QueryTasksResponse =
        chain.query("Tasks", QueryTasksRequest { worker: third.to_string(), ..Default::default() });
    assert_eq!(held.tasks[0].earlier, [silent.to_string(), second.to_string()]);
    assert_eq!(held.tasks.len(), 1);
}

#[test]
fn missed_deadlines_are_late_and_refunded_in_the_end() {
    let mut chain = Chain::new(5);
    let (id, first) = chain.assigned(ask(sampled()));
    let mut missed = Vec::new();
    for _ in 0..3 {
        let who = worker_of(&chain, id);
        missed.push(who.to_string());
        chain.accept(&who, id).unwrap();
        let deadline = chain.task(id).deadline;
        chain.blocks(deadline);
        assert_eq!(chain.task(id).status, Status::Accepted);
        chain.blocks(1);
        let too_late = chain.deliver(&who, answer(&chain.task(id))).unwrap_err();
        assert!(
            text(too_late).contains(&format!("is too late, the last was {}", chain.task(id).deadline_height))
        );
        if chain.task(id).status == Status::Open {
            chain.blocks(3);
        }
    }
    assert_eq!(missed[0], first.to_string());
    assert_eq!(chain.told("task_late", "worker"), missed);
    assert_eq!((chain.task(id).status, chain.balance(&user(1))), (Status::Refunded, 1_000 * DN));
    assert_eq!(chain.told("task_refunded", "amount"), ["5000"]);
}

#[test]
fn nobody_to_draw_means_a_refund() {
    let mut chain = Chain::new(0);
    let id = chain.submit(ask(request())).unwrap();
    chain.blocks(3 + 20);
    assert_eq!(chain.task(id).status, Status::Refunded);
    assert_eq!(chain.balance(&user(1)), 1_000 * DN);
}

#[test]
fn users_cancel_until_a_worker_accepts() {
    let mut chain = Chain::new(1);
    let open = chain.submit(ask(request())).unwrap();
    assert!(text(chain.cancel(&user(2), open).unwrap_err()).contains("is not its creator"));
    chain.cancel(&user(1), open).unwrap();
    let (assigned, _) = chain.assigned(ask(request()));
    chain.cancel(&user(1), assigned).unwrap();
    let (accepted, who) = chain.assigned(ask(request()));
    chain.accept(&who, accepted).unwrap();
    assert!(text(chain.cancel(&user(1), accepted).unwrap_err()).contains("must be Open or Assigned"));
    chain.blocks(1);
    assert_eq!(chain.told("task_cancelled", "task_id"), [open.to_string(), assigned.to_string()]);
    assert_eq!(chain.balance(&user(1)), 1_000 * DN - 5_000);
}

#[test]
fn verdicts_return_the_whole_escrow() {
    for (end, status) in
        [(convict as fn(&mut Ctx<'_>, u64) -> Result<()>, Status::Convicted), (void, Status::Void)]
    {
        let mut chain = Chain::new(1);
        let (id, who) = chain.assigned(ask(request()));
        assert!(chain.state.run(|cx| end(cx, id)).is_err());
        chain.accept(&who, id).unwrap();
        chain.deliver(&who, answer(&chain.task(id))).unwrap();
        chain.run(|cx| end(cx, id));
        chain.blocks(3);
        assert_eq!((chain.task(id).status, chain.balance(&user(1))), (status, 1_000 * DN));
        assert_eq!(chain.balance(&who), 0);
        assert!(chain.run(|cx| take_due(cx, 9)).is_empty());
    }
}

#[test]
fn a_chain_goes_on_from_its_export() {
    let mut chain = Chain::new(3);
    let (first, who) = chain.assigned(ask(sampled()));
    chain.accept(&who, first).unwrap();
    let (second, who) = chain.assigned(ask(request()));
    chain.accept(&who, second).unwrap();
    chain.deliver(&who, answer(&chain.task(second))).unwrap();
    let third = chain.submit(ask(request())).unwrap();
    let exported = chain.state.query(|cx| TasksModule.export_genesis(cx.state)).unwrap();

    let mut next = Chain::new(3);
    next.state.block.height = chain.state.block.height;
    next.run(|cx| {
        bank::send_udn(cx, &user(1), &escrow_account(), 15_000)?;
        // What the workers' section brings.
        for task in [first, second].map(|id| chain.task(id)) {
            let worker = task.worker.unwrap();
            workers::task_opened(cx, &worker)?;
            if task.status == Status::Submitted {
                workers::add_pending(cx, &worker, price(&task)?.compute)?;
            }
        }
        TasksModule.init_genesis(cx, &exported)
    });
    assert_eq!(next.state.query(|cx| TasksModule.export_genesis(cx.state)).unwrap(), exported);
    next.blocks(1);
    for id in [first, second, third] {
        assert_eq!(next.task(id).creator, user(1));
    }
    assert_eq!(next.submit(ask(request())).unwrap(), third + 1);
    // Escrow that is not there is refused.
    let poor = Chain::new(3).state.run(|cx| TasksModule.init_genesis(cx, &exported)).unwrap_err();
    assert!(text(poor).contains("open escrow is 15000udn"));
}

#[test]
fn parameters_have_bounds_and_belong_to_governance() {
    let mut chain = Chain::new(0);
    let set = |chain: &mut Chain, authority: Address, params: Params| {
        let msg = MsgUpdateParams { authority: authority.to_string(), params: Some(params.to_proto()) };
        chain.send(msg).map(|_: MsgUpdateParamsResponse| ())
    };
    let gov = deepnode_core::authority();
    assert!(set(&mut chain, user(1), Params::default()).is_err());
    let greedy = Params { levy_max_ppm: 900_000, ..Params::default() };
    assert!(text(set(&mut chain, gov, greedy).unwrap_err()).contains("fee.levy_max is 1.1"));
    set(&mut chain, gov, Params::localnet()).unwrap();
    let shown: QueryParamsResponse = chain.query("Params", QueryParamsRequest {});
    assert_eq!(shown.params, Some(Params::localnet().to_proto()));
    Params::default().check().unwrap();
}

/// What happens in a random chain.
#[derive(Clone, Debug)]
enum Op {
    Submit { sampled: bool, child: bool },
    Cancel(prop::sample::Index),
    Accept(prop::sample::Index),
    Decline(prop::sample::Index),
    Deliver(prop::sample::Index),
    Settle(prop::sample::Index, u64),
    Convict(prop::sample::Index),
    Void(prop::sample::Index),
    TakeDue,
    Blocks(u64),
}

fn op() -> impl Strategy<Value = Op> {
    use prop::sample::Index;
    prop_oneof![
        3 => any::<(bool, bool)>().prop_map(|(sampled, child)| Op::Submit { sampled, child }),
        1 => any::<Index>().prop_map(Op::Cancel),
        6 => any::<Index>().prop_map(Op::Accept),
        1 => any::<Index>().prop_map(Op::Decline),
        6 => any::<Index>().prop_map(Op::Deliver),
        3 => (any::<Index>(), 0u64..=100).prop_map(|(task, p)| Op::Settle(task, p)),
        1 => any::<Index>().prop_map(Op::Convict),
        1 => any::<Index>().prop_map(Op::Void),
        1 => Just(Op::TakeDue),
        6 => (1u64..6).prop_map(Op::Blocks),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever users, workers and auditors do: escrow is that of open tasks, and no udn comes from nowhere.
    #[test]
    fn escrow_is_that_of_open_tasks(ops in proptest::collection::vec(op(), 1..60)) {
        let mut chain = Chain::new(4);
        let supply = chain.supply();
        let (mut last, mut burned) = (0u64, 0u128);
        for op in ops {
            let pick = |at: prop::sample::Index| (last > 0).then(|| at.index(last as usize) as u64 + 1);
            match op {
                Op::Submit { sampled: s, child } => {
                    let model_id = if child { CHILD } else { MODEL }.to_vec();
                    last = chain.submit(ask(Request { model_id, ..if s { sampled() } else { request() } })).unwrap();
                }
                Op::Cancel(at) => drop(pick(at).map(|id| chain.cancel(&user(1), id))),
                Op::Accept(at) => drop(pick(at).map(|id| {
                    let who = chain.task(id).worker.unwrap_or(worker(1));
                    chain.accept(&who, id)
                })),
                Op::Decline(at) => drop(pick(at).map(|id| {
                    let who = chain.task(id).worker.unwrap_or(worker(1));
                    chain.decline(&who, id)
                })),
                Op::Deliver(at) => drop(pick(at).map(|id| {
                    let task = chain.task(id);
                    chain.deliver(&task.worker.unwrap_or(worker(1)), answer(&task))
                })),
                Op::Settle(at, p) => drop(pick(at).map(|id| {
                    let settled = chain.state.run(|cx| {
                        set_audit(cx, id, Dec::percent(p), false)?;
                        settle(cx, id)
                    });
                    if settled.is_ok() {
                        burned += chain.task(id).settlement.unwrap().burned;
                    }
                })),
                Op::Convict(at) => drop(pick(at).map(|id| chain.state.run(|cx| convict(cx, id)))),
                Op::Void(at) => drop(pick(at).map(|id| chain.state.run(|cx| void(cx, id)))),
                Op::TakeDue => drop(chain.run(|cx| take_due(cx, 2))),
                Op::Blocks(n) => chain.blocks(n),
            }
            chain.check();
            prop_assert_eq!(chain.supply(), supply - burned);
        }
        // Left alone, every task ends, but those that have a receipt and wait for a verdict.
        for _ in 0..12 {
            chain.blocks(25);
        }
        for id in 1..=last {
            let task = chain.task(id);
            prop_assert!(!task.status.is_open() || task.status == Status::Submitted, "{:?}", task.status);
        }
    }
}

/// The state before the first block.
fn genesis(cx: &mut Ctx<'_>, workers: u8) -> Result<()> {
    for account in 1..=3 {
        bank::mint_udn(cx, &user(account), 1_000 * DN)?;
    }
    BeaconModule.init_genesis(cx, &BeaconModule.default_genesis())?;
    let mut section = models::genesis::Genesis::new(&models::Params::default(), Class::localnet());
    let model = |id: [u8; 32], n: u8, parent: String| models::genesis::ModelJson {
        id: hex::encode(id),
        owner: owner(n),
        name: format!("model-{n}"),
        architecture: hex::encode(architecture().encode()),
        royalty_ppm: if parent.is_empty() { 0 } else { 100_000 },
        parent_part_ppm: if parent.is_empty() { 0 } else { 250_000 },
        parent,
        status: "MODEL_STATUS_ACTIVE".into(),
        ..Default::default()
    };
    section.models = vec![model(MODEL, 1, String::new()), model(CHILD, 2, hex::encode(MODEL))];
    ModelsModule.init_genesis(cx, &serde_json::json!(section))?;
    ReputationModule.init_genesis(cx, &ReputationModule.default_genesis())?;
    for n in 1..=workers {
        serve(cx, n)?;
    }
    TasksModule.init_genesis(cx, &TasksModule.default_genesis())
}

fn serve(cx: &mut Ctx<'_>, n: u8) -> Result<()> {
    let state = workers::Worker {
        bond: 1_000 * DN,
        declared: 2_000,
        validator: Some(Address([50 + n; 20])),
        ..Default::default()
    };
    workers::place(cx, &worker(n), state, &[MODEL, CHILD])
}
