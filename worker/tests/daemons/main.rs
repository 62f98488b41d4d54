//! Worker and auditor against a chain in memory, over real connections, with a small real model.

mod chain;
mod devices;
#[path = "../failing/mod.rs"]
mod failing;
mod together;
mod verdicts;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chain::{key, FakeChain, CHAIN_ID, RETENTION};
use deepnode_client::{ClientError, Serving};
use deepnode_proto::deepnode::audits::v1::{Phase, Verdict};
use deepnode_proto::deepnode::tasks::v1::{InputKind, Receipt, Request, Task, TaskStatus};
use deepnode_tx::Address;
use deepnode_worker::blobs::Blobs;
use deepnode_worker::canon::commit::token_digest;
use deepnode_worker::canon::{DeviceError, Digest, SamplingParams};
use deepnode_worker::chain::Chain;
use deepnode_worker::engine::{self, EngineError, Generation};
use deepnode_worker::journal::{AuditJournal, JournalError, TaskJournal};
use deepnode_worker::model::{dequant::Encoding, import, synthetic, Model, Sandbox};
use deepnode_worker::run::{Engines, Executor, Pace, Registration, Worker};
use deepnode_worker::verify::{self, Verifier};
use deepnode_worker::{request, serving};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::StreamExt;
use tonic::Code;

const WORKER: u8 = 2;
const USER: u8 = 3;
const AUDITOR: u8 = 4;
const STRANGER: u8 = 5;
const TEXT: &str = "Tell me of the sea.";

pub fn options() -> engine::Options {
    engine::Options { threads: 1, huge_pages: false, ..Default::default() }
}

/// Chat templates run in the program as a user has it.
pub fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_deepnode-worker").into())
}

/// A small model with generated weights.
pub fn small_model(folder: &Path) -> Arc<Model> {
    model_of(folder, &synthetic::gguf(&synthetic::small(), Encoding::F16, 7))
}

pub fn model_of(folder: &Path, gguf: &[u8]) -> Arc<Model> {
    let path = folder.join("small.gguf");
    std::fs::write(&path, gguf).unwrap();
    let model = Model::open(&import(&path, folder, &|_| {}).unwrap().path).unwrap();
    Arc::new(model.with_sandbox(sandbox()))
}

pub fn engines(model: &Arc<Model>) -> Engines {
    let mut engines = Engines::default();
    engines.add(model.clone(), options()).unwrap();
    engines
}

pub fn ask(model: &Model, input: &[u8], kind: InputKind, temperature: u32) -> Request {
    Request {
        model_id: model.id().to_vec(),
        input_kind: kind.into(),
        input_digest: blake3::hash(input).as_bytes().to_vec(),
        max_output: 12,
        sampling: Some(deepnode_proto::deepnode::tasks::v1::SamplingParams {
            temperature,
            top_p: 950_000,
            top_k: 40,
            seed: Vec::new(),
        }),
        stop: vec!["never this".into()],
    }
}

/// What verifiers logged, of all tests here.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Writes to [`LOG`].
struct Log;

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Blocks every few milliseconds for as long as it lives.
struct Blocks(JoinHandle<()>);

impl Blocks {
    fn of(chain: &FakeChain) -> Self {
        let chain = chain.clone();
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                chain.block();
            }
        }))
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A worker that runs, with its service.
struct Running {
    endpoint: String,
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), DeviceError>>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

fn journal(home: &Path) -> Result<TaskJournal, JournalError> {
    TaskJournal::open(&home.join("run.journal"), CHAIN_ID, &key(WORKER).address().to_string())
}

/// Opens a journal as soon as what is left of the last process has let go of it.
async fn unlocked<T>(open: impl Fn() -> Result<T, JournalError>) -> T {
    let mut opened = open();
    for _ in 0..1000 {
        if !matches!(opened, Err(JournalError::Locked { .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        opened = open();
    }
    opened.unwrap()
}

impl Running {
    /// `reachable`: whether the chain knows where the service really is.
    async fn start(chain: &FakeChain, home: &Path, executor: impl Executor, reachable: bool) -> Self {
        Self::draining(chain, home, executor, reachable, Duration::from_secs(30)).await
    }

    /// One that has so long to end what it accepted, once it is told to stop.
    async fn draining(
        chain: &FakeChain,
        home: &Path,
        executor: impl Executor,
        reachable: bool,
        drain: Duration,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let registration = Registration {
            bond: 100,
            validator: key(9).address().to_operator(),
            endpoint: if reachable { endpoint.clone() } else { "http://127.0.0.1:1".into() },
            hardware: "test".into(),
            declared: 0,
        };
        let pace = Pace {
            poll: Duration::from_millis(10),
            housekeeping: Duration::from_millis(20),
            retry: Duration::from_millis(30),
            drain,
            ..Pace::default()
        };
        let chain: Arc<dyn Chain> = Arc::new(chain.of(key(WORKER)));
        let blobs = Blobs::open(&home.join("blobs")).unwrap();
        let journal = unlocked(|| journal(home)).await;
        let worker = Worker::new(chain, Arc::new(executor), journal, blobs, registration, pace);
        let server = tonic::transport::Server::builder()
            .add_service(serving::service(worker.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let (stop, stopped) = watch::channel(false);
        Self { endpoint, stop, running: tokio::spawn(worker.run(stopped)), serving: tokio::spawn(server) }
    }

    async fn client(&self, who: u8) -> Serving {
        Serving::connect(&self.endpoint, CHAIN_ID, key(WORKER).address(), &key(who)).await.unwrap()
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
        self.serving.abort();
        let _ = self.serving.await;
    }
}

struct Auditing {
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), DeviceError>>,
}

impl Auditing {
    async fn start(chain: &FakeChain, home: &Path, who: u8, engines: Engines) -> Self {
        let path = home.join(format!("verify-{who}.journal"));
        let journal = unlocked(|| AuditJournal::open(&path)).await;
        let pace =
            verify::Pace { poll: Duration::from_millis(10), attempts: 2, retry: Duration::from_millis(10) };
        let verifier = Verifier::new(Arc::new(chain.of(key(who))), engines, journal, pace);
        let (stop, stopped) = watch::channel(false);
        Self { stop, running: tokio::spawn(verifier.run(stopped)) }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
    }
}

fn code(error: ClientError) -> Code {
    match error {
        ClientError::Query { code, .. } => code,
        other => panic!("not an answer of the service: {other}"),
    }
}

fn addresses() -> (Address, Address, Address) {
    (key(WORKER).address(), key(USER).address(), key(AUDITOR).address())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_from_its_input_to_its_verdict() {
    let log = tracing_subscriber::fmt().with_env_filter("deepnode_worker::verify=info");
    log.with_ansi(false).with_writer(|| Log).init();
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    chain.state.lock().active.push(model.id());
    let _blocks = Blocks::of(&chain);
    let (worker, user, auditor) = addresses();
    let running = Running::start(&chain, home.path(), engines(&model), true).await;

    until("the worker is registered and serves its model", || {
        chain.state.lock().workers.get(&worker.to_string()).is_some_and(|w| {
            w.models == [model.id().to_vec()] && w.declared == 42 && w.bond == "100" && w.last_seen_epoch == 1
        })
    })
    .await;
    let status = deepnode_client::serving::status(&running.endpoint).await.unwrap();
    assert_eq!((status.worker, status.models), (worker.to_string(), vec![model.id().to_vec()]));

    // Only its user may hand in the input, and only that input.
    let id = chain.assign(&worker, &user, ask(&model, TEXT.as_bytes(), InputKind::Text, 800_000), 40, b"");
    let mut mine = running.client(USER).await;
    let mut other = running.client(STRANGER).await;
    assert_eq!(code(other.put_input(id, TEXT.into()).await.unwrap_err()), Code::PermissionDenied);
    assert_eq!(code(other.stream(id).await.unwrap_err()), Code::PermissionDenied);
    assert_eq!(code(mine.put_input(id, b"else".into()).await.unwrap_err()), Code::InvalidArgument);
    assert_eq!(code(mine.put_input(id + 1, TEXT.into()).await.unwrap_err()), Code::NotFound);
    let foreign = Serving::connect(&running.endpoint, "dn-other-1", worker, &key(USER)).await;
    assert_eq!(code(foreign.unwrap().put_input(id, TEXT.into()).await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(chain.task_now(id).status(), TaskStatus::Assigned);

    let stream = mine.stream(id).await.unwrap();
    let prompt = model.tokenizer().encode_prompt(TEXT).unwrap();
    assert_eq!(mine.put_input(id, TEXT.into()).await.unwrap(), prompt.len() as u32);
    let messages: Vec<_> = stream.collect::<Result<_, _>>().await.unwrap();
    let tokens: Vec<u32> = messages.iter().flat_map(|m| m.tokens.clone()).collect();
    let text: String = messages.iter().map(|m| m.text.as_str()).collect();
    let receipt = messages.last().unwrap().receipt.clone().unwrap();
    assert_eq!(text, model.tokenizer().decode(&tokens));
    assert_eq!(receipt.result_digest, token_digest(&tokens));
    assert_eq!(receipt.input_digest, token_digest(&prompt));
    until("the chain has the receipt", || chain.task_now(id).receipt.is_some()).await;
    assert_eq!(chain.task_now(id).receipt, Some(receipt.clone()));

    // Blobs go to the user and to who is drawn.
    let output: Digest = receipt.result_digest.clone().try_into().unwrap();
    let input = *blake3::hash(TEXT.as_bytes()).as_bytes();
    assert_eq!(mine.blob(id, &output, 1000).await.unwrap(), request::token_bytes(&tokens));
    let mut seat = running.client(AUDITOR).await;
    assert_eq!(code(seat.blob(id, &input, 1000).await.unwrap_err()), Code::PermissionDenied);
    let audit = chain.audit_receipt(id, &[auditor], [8; 32]);
    assert_eq!(seat.blob(id, &input, 1000).await.unwrap(), TEXT.as_bytes());
    assert_eq!(code(seat.blob(id, &[7; 32], 1000).await.unwrap_err()), Code::NotFound);
    assert!(matches!(seat.blob(id, &input, 3).await, Err(ClientError::Blob { .. })));
    assert_eq!(code(other.blob(id, &input, 1000).await.unwrap_err()), Code::PermissionDenied);

    let auditing = Auditing::start(&chain, home.path(), AUDITOR, engines(&model)).await;
    until("the audit is over", || chain.audit_now(audit).phase() == Phase::Closed).await;
    let member = chain.audit_now(audit).members[0].clone();
    assert_eq!(member.verdict(), Verdict::Right);
    let told = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let cost = format!("recomputed receipts=1 tokens={} milliseconds=", prompt.len() + tokens.len());
    assert!(told.contains(&cost), "{told}");
    let params = request::sampling(&chain.task_now(id)).unwrap();
    let ask = chain.task_now(id).request.unwrap();
    let claim = engine::Claim {
        request: engine::Request {
            prompt: &prompt,
            params: &params,
            max_output: 12,
            stop: request::stop(&model, &ask),
        },
        output: &tokens,
        finish: request::finish_from_proto(receipt.finish()).unwrap(),
        trace_root: receipt.trace_root.clone().try_into().unwrap(),
        leaves: None,
    };
    let reference = engine::Engine::reference(model.clone()).unwrap();
    let question = engine::Question { claim, beacon: [8; 32], receipt: chain::digest_of(&receipt) };
    let expected = reference.audit(&question, &AtomicBool::new(false)).unwrap();
    assert_eq!(member.digest, expected.layer_digest);

    // Once a task is final for long enough, its blobs are gone.
    let files = || std::fs::read_dir(home.path().join("blobs")).unwrap().count();
    assert_eq!(files(), 3);
    chain.state.lock().tasks.get_mut(&id).unwrap().set_status(TaskStatus::Settled);
    let settled = chain.state.lock().head;
    until("blobs are removed", || files() == 0).await;
    assert!(chain.state.lock().head > settled + RETENTION);

    chain.state.lock().epoch = 2;
    until("there is a heartbeat of the second epoch", || chain.state.lock().heartbeats == [1, 2]).await;
    auditing.stop().await;
    running.stop().await;
}

/// Answers something else than its model would.
struct Bent<F>(Engines, F);

impl<F: Fn(&mut Generation) + Send + Sync + 'static> Executor for Bent<F> {
    fn models(&self) -> Vec<Digest> {
        self.0.models()
    }

    fn model(&self, id: &Digest) -> Option<Arc<Model>> {
        self.0.model(id)
    }

    fn generate(
        &self,
        task: &Task,
        prompt: &[u32],
        params: &SamplingParams,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let mut generation = self.0.generate(task, prompt, params, on_token, cancel)?;
        (self.1)(&mut generation);
        Ok(generation)
    }
}

/// Told to stop, a worker ends what it accepted and gives back what it did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_gives_back_what_is_not_accepted() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, _) = addresses();
    let slowly = |_: &mut Generation| std::thread::sleep(Duration::from_millis(150));
    let running = Running::start(&chain, home.path(), Bent(engines(&model), slowly), true).await;
    let ask = || ask(&model, TEXT.as_bytes(), InputKind::Text, 0);
    let accepted = chain.assign(&worker, &user, ask(), 40, TEXT.as_bytes());
    until("it is accepted", || chain.task_now(accepted).status() == TaskStatus::Accepted).await;
    // Its input has not come.
    let waiting = chain.assign(&worker, &user, ask(), 40, b"");
    running.stop().await;
    assert_eq!(chain.task_now(accepted).status(), TaskStatus::Submitted);
    assert_eq!(chain.task_now(waiting).status(), TaskStatus::Open);
    assert_eq!(chain.state.lock().declined[&waiting], "the worker is stopping");
}

/// The receipt is lost on its way, the worker is killed and comes back computing something else: it sends the same
/// receipt, and no other one. A second process with its journal does not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_sends_the_very_same_receipt() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    chain.state.lock().lose_receipts = u32::MAX;
    let _blocks = Blocks::of(&chain);
    let (worker, user, _) = addresses();
    let id =
        chain.assign(&worker, &user, ask(&model, TEXT.as_bytes(), InputKind::Text, 0), 40, TEXT.as_bytes());

    let running = Running::start(&chain, home.path(), engines(&model), true).await;
    until("receipts are lost", || chain.state.lock().receipts.len() >= 2).await;
    assert!(matches!(journal(home.path()), Err(JournalError::Locked { .. })));
    running.stop().await;
    assert_eq!(chain.task_now(id).status(), TaskStatus::Accepted);

    chain.state.lock().lose_receipts = 0;
    let other = Bent(engines(&model), |g: &mut Generation| g.trace_root = [9; 32]);
    let running = Running::start(&chain, home.path(), other, true).await;
    until("the chain has the receipt", || chain.task_now(id).status() == TaskStatus::Submitted).await;
    let receipts = chain.state.lock().receipts.clone();
    assert!(receipts.len() >= 3 && receipts.iter().all(|r| *r == receipts[0]));

    // The answer is still there for its user.
    let stream = running.client(USER).await.stream(id).await.unwrap();
    let messages: Vec<_> = stream.collect::<Result<_, _>>().await.unwrap();
    assert_eq!(messages.last().unwrap().receipt, chain.task_now(id).receipt);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_declined() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let (worker, user, _) = addresses();
    let tokens = request::token_bytes(&[1, 2, 288]);
    let long = "x".repeat(250);
    let cases: [(&[u8], InputKind, u32, &str); 6] = [
        (TEXT.as_bytes(), InputKind::Text, 3, "tokens, must be 1 to 3"),
        (long.as_bytes(), InputKind::Text, 256, "262 tokens, the context is 256"),
        (&tokens, InputKind::Tokens, 3, "token 288 is not below the vocabulary of 288"),
        (&tokens[..5], InputKind::Tokens, 3, "input has 5 bytes"),
        (b"[{\"role\":1}]", InputKind::Chat, 30, "not chat messages"),
        (b"\xff", InputKind::Text, 30, "not UTF-8"),
    ];
    for (input, kind, declared, _) in cases {
        chain.assign(&worker, &user, ask(&model, input, kind, 0), declared, input);
    }
    let mut unknown = ask(&model, b"x", InputKind::Text, 0);
    unknown.model_id = vec![7; 32];
    chain.assign(&worker, &user, unknown, 30, b"x");
    let running = Running::start(&chain, home.path(), engines(&model), true).await;
    until("all are declined", || chain.state.lock().declined.len() == cases.len() + 1).await;
    let declined = chain.state.lock().declined.clone();
    for ((_, _, _, reason), (id, found)) in cases.iter().zip(&declined) {
        assert!(found.contains(reason), "task {id}: {found}");
    }
    assert_eq!(declined[&7], "the model is not loaded");
    running.stop().await;
}

/// A worker that lies is found wrong; a worker that nobody can reach shows its blobs on the chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auditors_tell_right_from_wrong_and_from_unreachable() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, auditor) = addresses();
    let second = key(6).address();
    let request = || ask(&model, TEXT.as_bytes(), InputKind::Text, 0);
    for (bent, reachable, verdict) in
        [(true, true, Verdict::Wrong), (false, false, Verdict::Right), (true, false, Verdict::Wrong)]
    {
        let id = chain.assign(&worker, &user, request(), 40, b"");
        let executor = Bent(engines(&model), move |g: &mut Generation| {
            if bent {
                *g.tokens.last_mut().unwrap() ^= 1;
            }
        });
        let running = Running::start(&chain, home.path(), executor, reachable).await;
        until("the worker has registered", || {
            let at = chain.state.lock().workers.get(&worker.to_string()).map(|w| w.endpoint.clone());
            at.is_some_and(|at| (at == running.endpoint) == reachable)
        })
        .await;
        running.client(USER).await.put_input(id, TEXT.into()).await.unwrap();
        until("the receipt is there", || chain.task_now(id).receipt.is_some()).await;
        let audit = chain.audit_receipt(id, &[auditor, second], [8; 32]);
        // Each auditor is killed after its commitment, and reveals after its restart.
        let auditing = Auditing::start(&chain, home.path(), AUDITOR, engines(&model)).await;
        until("the first committed", || !chain.audit_now(audit).members[0].commitment.is_empty()).await;
        auditing.stop().await;
        let other = Auditing::start(&chain, home.path(), 6, engines(&model)).await;
        until("the second revealed", || chain.audit_now(audit).members[1].verdict != 0).await;
        let auditing = Auditing::start(&chain, home.path(), AUDITOR, engines(&model)).await;
        until("the audit is over", || chain.audit_now(audit).phase() == Phase::Closed).await;
        let found = chain.audit_now(audit);
        assert_eq!(found.members[0].digest, found.members[1].digest);
        assert!(found.members.iter().all(|m| m.verdict() == verdict), "{bent} {reachable}: {found:?}");
        assert_eq!(!reachable, !found.shown_output.is_empty());
        auditing.stop().await;
        other.stop().await;
        running.stop().await;
    }
    // A worker that shows nothing: the second draw's auditors say unavailable, since nobody may ask twice.
    let id = chain.assign(&worker, &user, request(), 40, b"");
    {
        let mut state = chain.state.lock();
        let receipt = state.tasks[&1].receipt.clone().map(|r| Receipt { task_id: id, ..r });
        let task = state.tasks.get_mut(&id).unwrap();
        task.receipt_digest = chain::digest_of(receipt.as_ref().unwrap()).to_vec();
        task.receipt = receipt;
        task.set_status(TaskStatus::Submitted);
    }
    let audit = chain.audit_receipt(id, &[auditor], [8; 32]);
    chain.state.lock().audits.get_mut(&audit).unwrap().phase_end = 99;
    let auditing = Auditing::start(&chain, home.path(), AUDITOR, engines(&model)).await;
    until("the audit is over", || chain.audit_now(audit).phase() == Phase::Closed).await;
    assert_eq!(chain.audit_now(audit).members[0].verdict(), Verdict::Unavailable);

    // And a test vector: auditors agree on one root.
    let other = Auditing::start(&chain, home.path(), 6, engines(&model)).await;
    let audit = chain.audit_vector(model.id(), &[auditor, second], [5; 32]);
    until("the vector is computed", || chain.audit_now(audit).phase() == Phase::Closed).await;
    let members = chain.audit_now(audit).members;
    assert!(members.iter().all(|m| m.verdict() == Verdict::Right));
    assert!(members[0].digest == members[1].digest && members[0].digest != [0; 32]);
    auditing.stop().await;
    other.stop().await;
}

/// An auditor that could not reach the worker finds that another one's report was answered while it tried: it looks at
/// what was shown, instead of calling it unavailable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_shown_for_another_are_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, auditor) = addresses();
    let request = ask(&model, TEXT.as_bytes(), InputKind::Text, 0);
    let id = chain.assign(&worker, &user, request.clone(), 40, b"");
    let (prompt, generation) =
        verdicts::answer(&engines(&model), &model, &chain.task_now(id), TEXT.as_bytes());
    let receipt = request::receipt(id, &request, &prompt, &generation);
    {
        let mut state = chain.state.lock();
        let task = state.tasks.get_mut(&id).unwrap();
        task.receipt_digest = chain::digest_of(&receipt).to_vec();
        task.receipt = Some(receipt);
        task.set_status(TaskStatus::Submitted);
        state.shown_meanwhile = Some((TEXT.into(), request::token_bytes(&generation.tokens)));
    }
    let audit = chain.audit_receipt(id, &[auditor], [8; 32]);
    let auditing = Auditing::start(&chain, home.path(), AUDITOR, engines(&model)).await;
    until("the audit is over", || chain.audit_now(audit).phase() == Phase::Closed).await;
    assert_eq!(chain.audit_now(audit).members[0].verdict(), Verdict::Right);
    assert!(chain.state.lock().shown_meanwhile.is_none(), "it did report");
    auditing.stop().await;
}
