//! Workers and auditors, as their programs run them: the service on loopback, everything else by the chain. Each has a
//! runtime of its own, so that it can be gone at once, as a process that is killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deepnode_proto::deepnode::workers::v1::MsgApproveWorker;
use deepnode_tx::Address;
use deepnode_worker::blobs::Blobs;
use deepnode_worker::chain::Chain;
use deepnode_worker::engine;
use deepnode_worker::journal::{AuditJournal, TaskJournal};
use deepnode_worker::run::{Engines, Executor, Pace, Registration, Worker};
use deepnode_worker::serving;
use deepnode_worker::verify::{self, Verifier};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

use super::{Network, CHAIN_ID, DN};

/// udn that a worker bonds.
pub const BOND: u128 = 200 * DN;
const POLL: Duration = Duration::from_millis(10);

/// How engines compute here.
pub fn engine_options() -> engine::Options {
    engine::Options { threads: 1, huge_pages: false, ..Default::default() }
}

/// A worker or an auditor, until this is dropped: then it is gone in the middle of whatever it does.
pub struct Agent {
    pub address: Address,
    runtime: Option<Runtime>,
    /// Dropped, it would tell the agent to stop.
    _stop: watch::Sender<bool>,
}

impl Agent {
    fn new(address: Address) -> (Self, watch::Receiver<bool>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (stop, stopped) = watch::channel(false);
        (Self { address, runtime: Some(runtime.expect("a runtime")), _stop: stop }, stopped)
    }

    fn spawn(&self, work: impl std::future::Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().expect("it runs").spawn(work);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Network {
    /// Engines of the network's model.
    pub fn engines(&self) -> Engines {
        let mut engines = Engines::default();
        engines.add(self.model().clone(), engine_options()).expect("the model can be computed");
        engines
    }

    /// Blobs of the worker with this key.
    pub fn blobs(&self, worker: usize) -> Blobs {
        Blobs::open(&self.worker_folder(worker).join("blobs")).expect("a folder for blobs")
    }

    fn worker_folder(&self, worker: usize) -> PathBuf {
        self.folder(&format!("worker{worker}"))
    }

    /// Starts a worker that answers as `executor` does, and waits until it takes tasks. `validator` consents to be
    /// backed by it.
    pub async fn work(&self, worker: usize, validator: usize, executor: impl Executor) -> Agent {
        self.work_at(worker, validator, executor, None).await
    }

    /// As [`Network::work`], under an endpoint that may be another than where the worker listens.
    pub async fn work_at(
        &self,
        worker: usize,
        validator: usize,
        executor: impl Executor,
        endpoint: Option<&str>,
    ) -> Agent {
        let key = &self.workers()[worker];
        let operator = &self.validators()[validator].operator;
        let (agent, stopped) = Agent::new(key.address());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let listens = format!("http://{}", listener.local_addr().expect("its address"));
        let registration = Registration {
            bond: BOND,
            validator: operator.address().to_operator(),
            endpoint: endpoint.unwrap_or(&listens).into(),
            hardware: "test".into(),
            declared: 0,
        };
        let pace = Pace { poll: POLL, housekeeping: POLL, retry: 3 * POLL, drain: POLL, ..Pace::default() };
        let chain: Arc<dyn Chain> = Arc::new(self.account(key));
        let journal = self.worker_folder(worker).join("run.journal");
        let journal = TaskJournal::open(&journal, CHAIN_ID, &agent.address.to_string()).expect("a journal");
        let blobs = self.blobs(worker);
        let worker = Worker::new(chain.clone(), Arc::new(executor), journal, blobs, registration, pace);
        let working = worker.clone().run(stopped);
        agent.spawn(async move { working.await.expect("a device that works") });
        agent.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let server = tonic::transport::Server::builder().add_service(serving::service(worker));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serving");
        });
        let serves = || async {
            let record = chain.worker(&agent.address).await.expect("an answer");
            record.filter(|record| !record.models.is_empty())
        };
        self.until("the worker serves its model", serves).await;
        let message =
            MsgApproveWorker { operator: operator.address().to_string(), worker: agent.address.to_string() };
        self.tell(operator, &message).await.expect("the validator consents");
        agent
    }

    /// Starts the auditor of a validator.
    pub fn audit(&self, validator: usize) -> Agent {
        let key = &self.validators()[validator].auditor;
        let (agent, stopped) = Agent::new(key.address());
        let journal = self.folder(&format!("auditor{validator}")).join("verify.journal");
        let journal = AuditJournal::open(&journal).expect("a journal");
        let pace = verify::Pace { poll: POLL, attempts: 2, retry: POLL };
        let verifier = Verifier::new(Arc::new(self.account(key)), self.engines(), journal, pace);
        agent.spawn(async move { verifier.run(stopped).await.expect("a device that works") });
        agent
    }

    /// Starts the auditors of all validators.
    pub fn audit_all(&self) -> Vec<Agent> {
        (0..self.validators().len()).map(|validator| self.audit(validator)).collect()
    }

    /// Waits for an answer.
    pub async fn until<T, F>(&self, what: &str, mut look: impl FnMut() -> F) -> T
    where
        F: std::future::Future<Output = Option<T>>,
    {
        let begin = std::time::Instant::now();
        loop {
            if let Some(answer) = look().await {
                return answer;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "waited too long until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
