//! The gateway in front of a chain: OpenAI's API over tasks that real workers answer and one key pays.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use deepnode_client::Client;
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::tasks::v1::{QueryTasksRequest, QueryTasksResponse, Task, TaskStatus};
use deepnode_proto::{Any, AnyExt};
use deepnode_testkit::network::{engine_options, Blocks, Network, Node, Setup};
use deepnode_tx::SigningKey;
use deepnode_worker::canon::{Digest, SamplingParams};
use deepnode_worker::chain::Order;
use deepnode_worker::engine::{Embedder, Engine, EngineError, Finish, Generation};
use deepnode_worker::gateway::{ApiKeys, Embeddings, Gateway, Ledger, Settings, Terms};
use deepnode_worker::model::{import, synthetic, EncoderModel, Model};
use deepnode_worker::run::{Engines, Executor};
use reqwest::{Response, StatusCode};
use serde_json::{json, Value};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const CHAT: &str = "/v1/chat/completions";
/// udn that everything here may cost together.
const BUDGET: u64 = 1_000_000_000;

struct Door {
    base: String,
    client: reqwest::Client,
    gateway: Arc<Gateway>,
    stop: watch::Sender<bool>,
    served: JoinHandle<std::io::Result<()>>,
    _node: Option<Node>,
}

impl Door {
    async fn open(gateway: Arc<Gateway>, node: Option<Node>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(gateway.clone().serve(listener, stopped));
        Self {
            base,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            gateway,
            stop,
            served,
            _node: node,
        }
    }

    /// A gateway whose tasks this key pays, and which computes an encoder's vectors itself.
    async fn to(network: &Network, payer: &SigningKey, settings: Settings) -> Self {
        Self::waiting(network, payer, settings, Duration::from_secs(60)).await
    }

    /// As [`to`](Self::to), for at most so long for the block of a task.
    async fn waiting(network: &Network, payer: &SigningKey, settings: Settings, inclusion: Duration) -> Self {
        let node = network.node().await;
        let terms = Terms {
            client: Client::connect(&node.address.to_string()).await.unwrap(),
            signer: payer.clone(),
            gas_price: "0.001udn".parse().ok(),
            default_output: 16,
            inclusion,
        };
        let ledger = network.folder("gateway").join(format!("{}.journal", payer.address()));
        let ledger = Ledger::open(&ledger, BUDGET, None).unwrap();
        let settings = Settings { name: Some("test".into()), ..settings };
        let encoder = encoder(&network.folder("encoder"));
        let embedder = Embedder::new(encoder.clone(), engine_options()).unwrap();
        let named = Settings { name: Some("encoder".into()), ..settings.clone() };
        let embeddings = Some(Embeddings::new(encoder, embedder, &named).unwrap());
        let model = network.model().clone();
        let gateway = Gateway::to_chain(model, settings, terms, ledger, embeddings).await.unwrap();
        Self::open(gateway, Some(node)).await
    }

    async fn send_as(&self, key: &str, body: &Value) -> Response {
        self.post_as(key, CHAT, body).await
    }

    async fn post_as(&self, key: &str, path: &str, body: &Value) -> Response {
        self.client
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {key}"))
            .body(body.to_string())
            .send()
            .await
            .unwrap()
    }

    async fn send(&self, body: &Value) -> Response {
        self.send_as("none", body).await
    }

    /// Of the gateway, also when it serves no more.
    async fn metric(&self, name: &str) -> f64 {
        let text = self.gateway.metrics();
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("deepnode_worker_gateway_{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }
}

fn encoder(folder: &Path) -> Arc<EncoderModel> {
    synthetic::write_encoder(folder, &synthetic::small_encoder(), 7).unwrap();
    let imported = import(folder, &folder.join("models"), &|_| {}).unwrap();
    Arc::new(EncoderModel::open(&imported.path).unwrap())
}

async fn json_of(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

fn chat(more: Value) -> Value {
    let mut body =
        json!({ "model": "test", "messages": [{ "role": "user", "content": "Tell me of the sea." }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).unwrap_or_else(|| panic!("{name}")).to_str().unwrap().into()
}

/// The events of a stream, without the `[DONE]`.
fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> =
        text.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    if events.last() == Some(&"[DONE]") {
        events.pop();
    }
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn text_of(events: &[Value]) -> String {
    events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
}

fn tasks_of(network: &Network, key: &SigningKey) -> Vec<Task> {
    let request = QueryTasksRequest { creator: key.address().to_string(), ..Default::default() };
    let answer: QueryTasksResponse = network.ask("tasks", 0, &request).unwrap();
    answer.tasks
}

fn network(setup: Setup) -> (Network, Blocks) {
    let network = Network::start(setup);
    let blocks = network.blocks(Duration::from_millis(10));
    (network, blocks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_answers_as_one_machine_does() {
    let (network, _blocks) = network(Setup::default());
    let _auditors = network.audit_all();
    let worker = network.work(0, 0, network.engines()).await;
    let payer = &network.users()[0];
    let before = network.balance(&payer.address(), 0);
    let door = Door::to(&network, payer, Settings::default()).await;
    let engine = Engine::new(network.model().clone(), engine_options()).unwrap();
    let settings = Settings { name: Some("test".into()), ..Settings::default() };
    let local = Door::open(Gateway::new(network.model().clone(), engine, settings).unwrap(), None).await;

    let request = chat(json!({ "temperature": 0.9, "seed": 5, "max_tokens": 12, "stop": ["never this"] }));
    let whole = door.send(&request).await;
    assert_eq!(whole.status(), StatusCode::OK, "{}", whole.text().await.unwrap());
    let id: u64 = header(&whole, "x-deepnode-task").parse().unwrap();
    let price: u64 = header(&whole, "x-deepnode-price-udn").parse().unwrap();
    assert!(price > 0 && price <= header(&whole, "x-deepnode-max-price-udn").parse().unwrap());
    assert_eq!(header(&whole, "x-deepnode-worker"), worker.address.to_string());
    let receipt = header(&whole, "x-deepnode-receipt");
    let whole = json_of(whole).await;
    assert_eq!(whole["deepnode"]["receipt_digest"], receipt);
    let here = json_of(local.send(&request).await).await;
    assert_eq!(whole["choices"], here["choices"]);
    assert_eq!(whole["usage"], here["usage"]);
    assert!(here.get("deepnode").is_none());

    let mut streamed = request.clone();
    streamed["stream"] = json!(true);
    let response = door.send(&streamed).await;
    assert_eq!(header(&response, "x-deepnode-task").parse::<u64>().unwrap(), id + 1);
    assert!(response.headers().get("x-deepnode-price-udn").is_none());
    let text = response.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let events = events(&text);
    assert_eq!(here["choices"][0]["message"]["content"], text_of(&events));
    let last = events.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], here["choices"][0]["finish_reason"]);
    assert_eq!(last["deepnode"]["price_udn"], price.to_string());
    assert_eq!(last["deepnode"]["result_digest"], whole["deepnode"]["result_digest"]);

    // What it says is what the chain says, and what was taken.
    let (one, two) = (network.ended(id).await, network.ended(id + 1).await);
    assert_eq!((one.status(), two.status()), (TaskStatus::Settled, TaskStatus::Settled));
    assert_eq!(one.settlement.unwrap().price, price.to_string());
    assert_eq!(hex::encode(&one.receipt_digest), receipt);
    let paid = before - network.balance(&payer.address(), 0);
    let spent = network.until("both are paid", || async {
        let spent = door.metric("spent_udn_total").await;
        (spent >= 2.0 * price as f64).then_some(spent)
    });
    assert_eq!(spent.await, paid as f64);
    assert_eq!(door.metric("budget_left_udn").await, (u128::from(BUDGET) - paid) as f64);
    network.invariants();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_refused_before_it_costs() {
    let (network, _blocks) = network(Setup::default());
    let payer = &network.users()[0];
    let keys = "sk-of-a-rich-one name=rich\nsk-of-a-poor-one name=poor udn_per_day=10\nsk-of-a-quick-one name=quick requests_per_minute=1";
    let keys = ApiKeys::parse(keys).unwrap();
    let door =
        Door::to(&network, payer, Settings { keys, parallel: 1, queue: 1, ..Settings::default() }).await;
    let rich = "sk-of-a-rich-one";
    for (more, param) in [
        (json!({ "n": 9 }), "n"),
        (json!({ "logprobs": true }), "logprobs"),
        (json!({ "stop": ["x".repeat(65)] }), "stop"),
        (json!({ "max_tokens": 10_000 }), "max_tokens"),
    ] {
        let response = door.send_as(rich, &chat(more)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let error = json_of(response).await;
        assert_eq!(error["error"]["param"], param, "{error}");
        assert!(error["error"]["code"].is_string());
    }
    let poor = door.send_as("sk-of-a-poor-one", &chat(json!({}))).await;
    assert_eq!(poor.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&poor, "x-should-retry"), "false");
    assert!(header(&poor, "retry-after").parse::<u32>().unwrap() <= 86_400);
    let error = json_of(poor).await;
    assert_eq!(error["error"]["code"], "insufficient_quota");
    assert!(error["error"]["message"].as_str().unwrap().contains("has 10 left today"), "{error}");

    let quick = "sk-of-a-quick-one";
    assert_eq!(door.send_as(quick, &chat(json!({ "n": 9 }))).await.status(), StatusCode::BAD_REQUEST);
    let again = door.send_as(quick, &chat(json!({ "n": 9 }))).await;
    assert_eq!(again.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!((1..=60).contains(&header(&again, "retry-after").parse::<u32>().unwrap()));
    assert!(tasks_of(&network, payer).is_empty());

    // Nobody works here: one task waits on the chain, one request for its turn, a third has no place.
    let body = chat(json!({ "stream": true }));
    let first = door.send_as(rich, &body).await;
    assert_eq!(first.status(), StatusCode::OK);
    let waiting = {
        let (client, base, body) = (door.client.clone(), door.base.clone(), body.to_string());
        tokio::spawn(async move {
            let request = client.post(format!("{base}{CHAT}")).header("content-type", "application/json");
            request.header("authorization", format!("Bearer {rich}")).body(body).send().await
        })
    };
    network.until("one waits", || async { (door.metric("queued").await == 1.0).then_some(()) }).await;
    let third = door.send_as(rich, &body).await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(json_of(third).await["error"]["code"], "rate_limit_exceeded");

    // Who goes away takes the task back, as long as nobody accepted it: the price returns.
    let id: u64 = header(&first, "x-deepnode-task").parse().unwrap();
    drop(first);
    let task = network.ended(id).await;
    assert_eq!((task.status(), task.escrow.as_str()), (TaskStatus::Cancelled, "0"));
    // And makes room for the one that waits.
    let second = waiting.await.unwrap().unwrap();
    assert_eq!(second.status(), StatusCode::OK);
    assert_eq!(header(&second, "x-deepnode-task").parse::<u64>().unwrap(), id + 1);
    network.invariants();
}

/// Each choice is a task, all of them at once, and what one machine answers; the budget has to have enough for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn choices_are_tasks_at_once() {
    let (network, _blocks) = network(Setup { audit_chance_ppm: 0, ..Setup::default() });
    let _workers = [network.work(0, 0, network.engines()).await, network.work(1, 1, network.engines()).await];
    let payer = &network.users()[0];
    let keys = ApiKeys::parse("sk-of-a-rich-one\nsk-of-a-poor-one name=poor udn_per_day=150000").unwrap();
    let door = Door::to(&network, payer, Settings { keys, ..Settings::default() }).await;
    let engine = Engine::new(network.model().clone(), engine_options()).unwrap();
    let settings = Settings { name: Some("test".into()), ..Settings::default() };
    let local = Door::open(Gateway::new(network.model().clone(), engine, settings).unwrap(), None).await;

    let request = chat(json!({ "temperature": 0.9, "seed": 5, "max_tokens": 12, "n": 3 }));
    let response = door.send_as("sk-of-a-rich-one", &request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let tasks = header(&response, "x-deepnode-task");
    let most: u64 =
        header(&response, "x-deepnode-max-price-udn").split(", ").next().unwrap().parse().unwrap();
    let whole = json_of(response).await;
    let here = json_of(local.send(&request).await).await;
    assert_eq!(whole["usage"], here["usage"]);
    let mut ids = Vec::new();
    for (choice, expected) in
        whole["choices"].as_array().unwrap().iter().zip(here["choices"].as_array().unwrap())
    {
        assert_eq!(choice["message"], expected["message"], "{choice}");
        let id = choice["deepnode"]["task"].as_u64().unwrap();
        assert_eq!(hex::encode(network.task(id).receipt_digest), choice["deepnode"]["receipt_digest"]);
        ids.push(id.to_string());
    }
    assert_eq!(ids.join(", "), tasks);
    assert_eq!((ids.len(), tasks_of(&network, payer).len()), (3, 3));

    // A stream has the chunks of all, each with its task at its end.
    let mut streamed = request.clone();
    streamed["stream"] = json!(true);
    let text = door.send_as("sk-of-a-rich-one", &streamed).await.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    for (index, expected) in here["choices"].as_array().unwrap().iter().enumerate() {
        let mine: Vec<Value> =
            events(&text).into_iter().filter(|event| event["choices"][0]["index"] == index).collect();
        assert_eq!(expected["message"]["content"], text_of(&mine), "{mine:?}");
        assert!(mine.last().unwrap()["deepnode"]["receipt_digest"].is_string());
    }

    // Enough for one and not for all: none is bought.
    assert!(most <= 150_000 && 3 * most > 150_000, "{most}");
    let poor = door.send_as("sk-of-a-poor-one", &request).await;
    assert_eq!(poor.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(tasks_of(&network, payer).len(), 6);
}

/// A receipt that an audit convicts after the answer was given: the price is there to be spent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_conviction_returns_is_there_again() {
    let (network, _blocks) = network(Setup { audit_chance_ppm: 1_000_000, ..Setup::default() });
    let bent = Strange { engines: network.engines(), then: Then::Say("The sea is dry.") };
    let _worker = network.work(0, 0, bent).await;
    let payer = &network.users()[0];
    let before = network.balance(&payer.address(), 0);
    let door = Door::to(&network, payer, Settings::default()).await;
    let response = door.send(&chat(json!({ "temperature": 0, "max_tokens": 100 }))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let id: u64 = header(&response, "x-deepnode-task").parse().unwrap();
    let price: u64 = header(&response, "x-deepnode-price-udn").parse().unwrap();
    let _auditors = network.audit_all();
    assert_eq!(network.ended(id).await.status(), TaskStatus::Convicted);
    let back = network.until("the price is back", || async {
        let refunded = door.metric("refunded_udn_total").await;
        (refunded > 0.0).then_some(refunded)
    });
    assert_eq!(back.await, price as f64);
    let spent = before - network.balance(&payer.address(), 0);
    assert_eq!(door.metric("budget_left_udn").await, (u128::from(BUDGET) - spent) as f64);
    assert_eq!(door.metric("spent_udn_total").await - price as f64, spent as f64);
}

/// What is whole when the time is over is told and was paid; the others say what happened to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_choices_outlive_the_deadline() {
    let changes = json!({ "tasks": { "params": { "min_deadline": "20000" } } });
    let (network, _blocks) = network(Setup { changes, audit_chance_ppm: 0, ..Setup::default() });
    let _worker = network.work(0, 0, Strange { engines: network.engines(), then: Then::HangOnEven }).await;
    let settings = Settings { timeout: Duration::from_secs(10), ..Settings::default() };
    let door = Door::to(&network, &network.users()[0], settings).await;
    let request = chat(json!({ "temperature": 0.9, "seed": 5, "max_tokens": 12, "n": 2 }));

    let response = door.send(&request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let row = |name: &str| header(&response, name).split(", ").map(String::from).collect::<Vec<_>>();
    let tasks: Vec<u64> = row("x-deepnode-task").iter().map(|id| id.parse().unwrap()).collect();
    let hung = tasks.iter().position(|id| id % 2 == 0).unwrap();
    for name in ["x-deepnode-worker", "x-deepnode-price-udn", "x-deepnode-receipt"] {
        let row = row(name);
        assert_eq!(row.len(), 2, "{name}");
        assert!(row[hung] == "-" && row[1 - hung] != "-", "{name}: {row:?}");
    }
    let whole = json_of(response).await;
    let (lost, told) = (&whole["choices"][hung], &whole["choices"][1 - hung]);
    assert_eq!(lost["finish_reason"], "error", "{whole}");
    assert_eq!(lost["error"]["code"], "timeout");
    assert_ne!(told["finish_reason"], "error");
    assert!(!told["message"]["content"].as_str().unwrap().is_empty());
    assert!(told["deepnode"]["receipt_digest"].is_string() && lost["deepnode"]["receipt_digest"].is_null());

    // A stream says the same in its chunks, and ends as one that was answered.
    let mut streamed = request.clone();
    streamed["stream"] = json!(true);
    let text = door.send(&streamed).await.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let ends: Vec<Value> =
        events(&text).into_iter().filter(|e| !e["choices"][0]["finish_reason"].is_null()).collect();
    let lost = ends.iter().find(|e| e["choices"][0]["finish_reason"] == "error").unwrap();
    assert_eq!(lost["choices"][0]["error"]["code"], "timeout");
    assert_eq!(ends.len(), 2);
    assert!(ends.iter().any(|e| e["deepnode"]["receipt_digest"].is_string()));
}

/// A transaction that no block takes in time may still cost: what it locks stays locked, and nobody is told to try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_included_stays_set_aside() {
    let network = Network::start(Setup::default());
    let payer = &network.users()[0];
    let inclusion = Duration::from_secs(2);
    let door = Door::waiting(&network, payer, Settings::default(), inclusion).await;
    let response = door.send(&chat(json!({ "n": 2 }))).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(header(&response, "x-should-retry"), "false");
    let error = json_of(response).await;
    assert_eq!(error["error"]["code"], "chain_timeout");
    assert!(error["error"]["message"].as_str().unwrap().contains("may still be included"), "{error}");
    let left = door.metric("budget_left_udn").await;
    network.block();
    let tasks = tasks_of(&network, payer);
    let locked: u64 = tasks.iter().map(|task| task.escrow.parse::<u64>().unwrap()).sum();
    // Fees are set aside too, of a million gas for each of a task's two transactions.
    assert_eq!((tasks.len(), left), (2, (BUDGET - locked - 2 * 2 * 1_000) as f64));
}

/// The account is emptied in the same block, before the task: it fails there, and its fee alone is spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_in_its_block_costs_its_fee() {
    let network = Network::start(Setup::default());
    let (payer, other) = (network.users()[0].clone(), network.users()[1].address().to_string());
    let door = Door::to(&network, &payer, Settings::default()).await;
    let left = network.balance(&payer.address(), 0) - 20_000;
    let all = MsgSend {
        from_address: payer.address().to_string(),
        to_address: other,
        amount: vec![Coin { denom: "udn".into(), amount: left.to_string() }],
    };
    let (sender, key) = (network.clone(), payer.clone());
    let emptied =
        tokio::spawn(async move { sender.send(&key, vec![Any::pack(&all)], Order::Sequence).await });
    network.until("the transfer waits", || async { (network.waiting() == 1).then_some(()) }).await;
    let (client, base) = (door.client.clone(), door.base.clone());
    let asking = tokio::spawn(async move {
        let request = client.post(format!("{base}{CHAT}")).header("content-type", "application/json");
        request.body(chat(json!({ "max_tokens": 100 })).to_string()).send().await.unwrap()
    });
    network.until("the task waits for its block", || async { (network.waiting() == 2).then_some(()) }).await;
    network.block();
    emptied.await.unwrap().unwrap();
    let response = asking.await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_of(response).await["error"]["code"], "insufficient_funds");
    let fee = 20_000 - network.balance(&payer.address(), 0);
    assert!(fee > 0);
    assert_eq!(door.metric("spent_udn_total").await, fee as f64);
    assert_eq!(door.metric("budget_left_udn").await, (u128::from(BUDGET) - fee) as f64);
    assert!(tasks_of(&network, &payer).is_empty());
}

/// At the end of the drain what is under way is told so, tasks that nobody accepted are taken back, and the budget knows
/// what all of it cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_knows_what_was_spent() {
    let (network, _blocks) = network(Setup::default());
    let payer = &network.users()[0];
    let before = network.balance(&payer.address(), 0);
    let settings = Settings { parallel: 1, queue: 1, drain: Duration::ZERO, ..Settings::default() };
    let door = Door::to(&network, payer, settings).await;
    let body = chat(json!({ "stream": true }));
    let first = door.send(&body).await;
    assert_eq!(first.status(), StatusCode::OK);
    let id: u64 = header(&first, "x-deepnode-task").parse().unwrap();
    let second = async {
        let stopping = async {
            network.until("one waits", || async { (door.metric("queued").await == 1.0).then_some(()) }).await;
            door.stop.send_replace(true);
        };
        tokio::join!(door.send(&body), stopping).0
    };
    let second = second.await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_of(second).await["error"]["code"], "stopping");
    let text = first.text().await.unwrap();
    assert!(text.contains("stopping") && !text.contains("[DONE]"), "{text}");
    let Door { served, gateway, .. } = door;
    served.await.unwrap().unwrap();
    assert_eq!(network.task(id).status(), TaskStatus::Cancelled);
    let spent = before - network.balance(&payer.address(), 0);
    let left = u128::from(BUDGET) - spent;
    assert!(
        gateway.metrics().contains(&format!("budget_left_udn {left}\n")),
        "{left}: {}",
        gateway.metrics()
    );
}

/// Vectors are computed on the user's side: no task, and nothing is paid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_cost_nothing() {
    let (network, _blocks) = network(Setup::default());
    let user = &network.users()[0];
    let door = Door::to(&network, user, Settings::default()).await;
    let before = network.balance(&user.address(), 0);
    let ask = json!({ "model": "encoder", "input": ["the sea", "the sky", "the sea"] });
    let response = door.post_as("none", "/v1/embeddings", &ask).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("x-deepnode-task"));
    let answer = json_of(response).await;
    let vectors: Vec<_> = answer["data"].as_array().unwrap().iter().map(|v| &v["embedding"]).collect();
    assert_eq!(vectors[0].as_array().unwrap().len(), synthetic::small_encoder().width as usize);
    assert!(vectors[0] == vectors[2] && vectors[0] != vectors[1]);
    assert_eq!(door.metric("spent_udn_total").await, 0.0);
    assert_eq!(network.balance(&user.address(), 0), before);

    // Each model has its own endpoints.
    let other = json!({ "model": "test", "input": "the sea" });
    assert_eq!(door.post_as("none", "/v1/embeddings", &other).await.status(), StatusCode::NOT_FOUND);
    let response = door.send(&chat(json!({ "model": "encoder" }))).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

/// OpenAI's own SDKs, which tools/test-openai.sh has fetched, against a gateway in front of a chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-openai runs it"]
async fn unmodified_sdks_buy_answers() {
    let (network, _blocks) = network(Setup { audit_chance_ppm: 0, ..Setup::default() });
    let _workers = [network.work(0, 0, network.engines()).await, network.work(1, 1, network.engines()).await];
    let keys = ApiKeys::parse("sk-of-a-rich-one\nsk-of-a-poor-one name=poor udn_per_day=10").unwrap();
    let settings = Settings { keys, ..Settings::default() };
    let door = Door::to(&network, &network.users()[0], settings).await;
    for variable in ["DEEPNODE_SDK_PYTHON", "DEEPNODE_SDK_NODE"] {
        let script = std::env::var(variable).expect(variable);
        let (program, script) = script.split_once(' ').expect("PROGRAM SCRIPT");
        let mut command = tokio::process::Command::new(program);
        let ended = command.arg(script).arg(format!("{}/v1", door.base)).kill_on_drop(true).status();
        let ended = tokio::time::timeout(Duration::from_secs(120), ended).await.expect("it ends").unwrap();
        assert!(ended.success(), "{script}: {ended}");
    }
    network.invariants();
}

/// Does with an answer as `then` says, after as many of its first tokens.
struct Strange {
    engines: Engines,
    then: Then,
}

enum Then {
    /// Tells this many, says so, and never ends.
    Hang(usize, mpsc::UnboundedSender<()>, AtomicBool),
    /// Streams other tokens than its receipt has.
    Lie,
    /// Says this text whatever is asked.
    Say(&'static str),
    /// Never answers a task with an even number.
    HangOnEven,
}

impl Executor for Strange {
    fn models(&self) -> Vec<Digest> {
        self.engines.models()
    }

    fn model(&self, id: &Digest) -> Option<Arc<Model>> {
        self.engines.model(id)
    }

    fn generate(
        &self,
        task: &Task,
        prompt: &[u32],
        params: &SamplingParams,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let mut told = 0;
        let mut strange = |token: u32| match &self.then {
            Then::Hang(after, hangs, stuck) => {
                on_token(token);
                told += 1;
                while told == *after && !cancel.load(Ordering::Relaxed) {
                    if !stuck.swap(true, Ordering::Relaxed) {
                        let _ = hangs.send(());
                    }
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            }
            Then::Lie => on_token((token + 1) % 256),
            Then::Say(_) => {}
            Then::HangOnEven => {
                while task.id.is_multiple_of(2) && !cancel.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                on_token(token);
            }
        };
        let mut generation = self.engines.generate(task, prompt, params, &mut strange, cancel)?;
        if let Then::Say(text) = self.then {
            generation.tokens = network_tokens(&self.engines, task, text);
            generation.finish = Finish::Eos;
            generation.tokens.iter().for_each(|token| on_token(*token));
        }
        Ok(generation)
    }
}

/// A text as tokens, with the one that ends a turn.
fn network_tokens(engines: &Engines, task: &Task, text: &str) -> Vec<u32> {
    let id = task.request.as_ref().unwrap().model_id.as_slice().try_into().unwrap();
    let model = engines.model(&id).unwrap();
    let mut tokens = model.tokenizer().encode(text).unwrap();
    tokens.push(model.arch().eos[0]);
    tokens
}

/// A worker dies in the middle of a stream; another goes on where it stopped, since the seed is fixed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_worker() {
    let changes = json!({ "tasks": { "params": { "min_deadline": "100" } } });
    let (network, _blocks) = network(Setup { changes, ..Setup::default() });
    let (sender, mut hangs) = mpsc::unbounded_channel();
    let then = Then::Hang(3, sender, AtomicBool::new(false));
    let doomed = network.work(0, 0, Strange { engines: network.engines(), then }).await;
    let payer = &network.users()[0];
    let door = Door::to(&network, payer, Settings::default()).await;
    let request = chat(json!({ "temperature": 0.8, "seed": 3, "max_tokens": 10, "stream": true }));
    let response = door.send(&request).await;
    let id: u64 = header(&response, "x-deepnode-task").parse().unwrap();
    let reading = tokio::spawn(response.text());
    hangs.recv().await.unwrap();
    drop(doomed);
    let other = network.work(1, 1, network.engines()).await;
    let text = reading.await.unwrap().unwrap();
    let events = events(&text);
    let end = &events.last().unwrap()["deepnode"];
    assert_eq!(end["worker"], other.address.to_string(), "{text}");
    assert_eq!(network.task(id).earlier.len(), 1);
    assert_eq!(door.metric("reassigned_total").await, 1.0);

    let engine = Engine::new(network.model().clone(), engine_options()).unwrap();
    let settings = Settings { name: Some("test".into()), ..Settings::default() };
    let local = Door::open(Gateway::new(network.model().clone(), engine, settings).unwrap(), None).await;
    let here = local.send(&request).await.text().await.unwrap();
    assert_eq!(text_of(&events), text_of(&self::events(&here)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_no_receipt_is_about_are_an_error() {
    let (network, _blocks) = network(Setup::default());
    let _liar = network.work(0, 0, Strange { engines: network.engines(), then: Then::Lie }).await;
    let door = Door::to(&network, &network.users()[0], Settings::default()).await;
    let whole = door.send(&chat(json!({ "temperature": 0 }))).await;
    assert_eq!(whole.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(header(&whole, "x-should-retry"), "false");
    assert_eq!(json_of(whole).await["error"]["code"], "answer_mismatch");
    let text = door.send(&chat(json!({ "temperature": 0, "stream": true }))).await.text().await.unwrap();
    assert!(!text.contains("[DONE]") && text.contains("answer_mismatch"), "{text}");
}

const TOOL_TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}<tool_call></tool_call>{% endif %}{% for m in messages %}{{ m.role + ':' + m.content + ';' }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}{% endfor %}";

/// A model of the Qwen family, as far as its template says, calls a tool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_call_is_told_as_one() {
    let setup = Setup { template: Some(TOOL_TEMPLATE), audit_chance_ppm: 0, ..Setup::default() };
    let (network, _blocks) = network(setup);
    let says = "So.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    let _worker = network.work(0, 0, Strange { engines: network.engines(), then: Then::Say(says) }).await;
    let door = Door::to(&network, &network.users()[0], Settings::default()).await;
    let tools = json!([{ "type": "function", "function": { "name": "weather" } }]);
    let request = chat(json!({ "tools": tools, "max_tokens": 100, "temperature": 0 }));
    let whole = json_of(door.send(&request).await).await;
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("So.")),
        "{whole}"
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({ "name": "weather", "arguments": "{\"city\":\"Oslo\"}" }));
    assert!(call["id"].as_str().unwrap().starts_with("call_"));

    // The conversation goes on with the call and what came of it.
    let mut more = request.clone();
    more["stream"] = json!(true);
    let messages = more["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "rain" }));
    let events = events(&door.send(&more).await.text().await.unwrap());
    let deltas: Vec<&Value> =
        events.iter().filter_map(|e| e["choices"][0]["delta"].get("tool_calls")).collect();
    assert_eq!(deltas.len(), 1, "{events:?}");
    assert_eq!((&deltas[0][0]["index"], &deltas[0][0]["function"]), (&json!(0), &call["function"]));
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // Without tools it is text.
    let plain = json_of(door.send(&chat(json!({ "max_tokens": 100, "temperature": 0 }))).await).await;
    assert_eq!(plain["choices"][0]["message"]["content"], says);
}
