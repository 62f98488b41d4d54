//! The methods that are not a module's: about transactions, blocks, the node and what it speaks. One table, served over
//! gRPC, REST and ABCI as the modules' queries are.
//!
//! Those about blocks and transactions ask CometBFT: while it is down they answer Unavailable, and everything else keeps
//! working.

mod blocks;
mod node;
mod reflection;
mod tx;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use deepnode_core::query::{Code, Status};
use prost::Message;

use super::Node;
use crate::comet::RpcError;

type Result<T> = std::result::Result<T, Status>;
type Local = Box<dyn Fn(&Node, &[u8]) -> Result<Vec<u8>> + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;
type Asking = Box<dyn Fn(Node, &[u8]) -> Answering + Send + Sync>;

/// How long an ABCI query may wait for CometBFT: one thread answers all of them.
const ABCI_PATIENCE: Duration = Duration::from_secs(5);

enum Handler {
    /// Needs the application alone.
    Local(Local),
    /// Asks CometBFT.
    Asking(Asking),
}

/// The methods by their paths.
#[derive(Default)]
struct Services(BTreeMap<&'static str, Handler>);

impl Services {
    /// Registers a method that the application answers.
    fn on<Q, R>(&mut self, path: &'static str, run: fn(&Node, Q) -> Result<R>) -> &mut Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let run: Local = Box::new(move |node, request| Ok(run(node, decode(request)?)?.encode_to_vec()));
        self.add(path, Handler::Local(run))
    }

    /// Registers a method that asks CometBFT.
    fn asking<Q, R, F>(&mut self, path: &'static str, run: fn(Node, Q) -> F) -> &mut Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let run: Asking = Box::new(move |node, request| {
            let answer = decode(request).map(|request| run(node, request));
            Box::pin(async move { Ok(answer?.await?.encode_to_vec()) })
        });
        self.add(path, Handler::Asking(run))
    }

    fn add(&mut self, path: &'static str, handler: Handler) -> &mut Self {
        assert!(self.0.insert(path, handler).is_none(), "{path} has two handlers");
        self
    }
}

fn services() -> &'static Services {
    static SERVICES: OnceLock<Services> = OnceLock::new();
    SERVICES.get_or_init(|| {
        let mut services = Services::default();
        tx::register(&mut services);
        blocks::register(&mut services);
        node::register(&mut services);
        reflection::register(&mut services);
        services
    })
}

/// Whether the method at `path` is one of these.
pub fn has(path: &str) -> bool {
    services().0.contains_key(path)
}

/// Answers `path` if it is one of these.
pub async fn call(node: &Node, path: &str, request: &[u8]) -> Option<Result<Vec<u8>>> {
    Some(match services().0.get(path)? {
        Handler::Asking(run) => run(node.clone(), request).await,
        Handler::Local(run) => {
            let (node, request) = (node.clone(), request.to_vec());
            tokio::task::spawn_blocking(move || run(&node, &request))
                .await
                .unwrap_or_else(|e| Err(Status::new(Code::Internal, format!("the query failed: {e}"))))
        }
    })
}

/// The same from the thread that answers ABCI's queries, which must not wait for long.
pub fn call_blocking(
    node: &Node,
    runtime: &tokio::runtime::Handle,
    path: &str,
    request: &[u8],
) -> Option<Result<Vec<u8>>> {
    if path == tx::BROADCAST {
        let text = "a transaction cannot be broadcast by an ABCI query: use CometBFT's broadcast_tx_sync, gRPC or REST";
        return Some(Err(Status::new(Code::FailedPrecondition, text)));
    }
    Some(match services().0.get(path)? {
        Handler::Local(run) => run(node, request),
        Handler::Asking(run) => {
            let answer = run(node.clone(), request);
            let answer = runtime.block_on(async { tokio::time::timeout(ABCI_PATIENCE, answer).await });
            answer.unwrap_or_else(|_| {
                let seconds = ABCI_PATIENCE.as_secs();
                Err(Status::new(Code::Unavailable, format!("CometBFT did not answer within {seconds} s")))
            })
        }
    })
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|e| Status::invalid(format!("request: {e}")))
}

impl From<RpcError> for Status {
    fn from(e: RpcError) -> Self {
        match e {
            RpcError::Unavailable { .. } => Status::new(Code::Unavailable, e),
            RpcError::Rejected(why) if why.contains("not found") => Status::not_found(why),
            RpcError::Rejected(why) => Status::invalid(why),
            RpcError::Malformed(_) => Status::new(Code::Internal, e),
        }
    }
}
