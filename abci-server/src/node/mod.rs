//! A node as its clients see it: every method of the chain by path, over gRPC, REST and ABCI.

pub mod grpc;
pub mod metrics;
pub mod refused;
pub mod rest;
mod services;

use std::sync::Arc;

use deepnode_app::App;
use deepnode_core::query::{Code, Status};
use tendermint_proto::v0_38::abci::{RequestQuery, ResponseQuery};

use crate::comet::Rpc;
use metrics::Metrics;

/// Answers any method: those of the modules from the state, those about blocks and transactions from CometBFT.
#[derive(Clone)]
pub struct Node {
    pub app: App,
    pub rpc: Rpc,
    /// Least gas prices, as the operator wrote them.
    pub min_gas_prices: String,
    pub metrics: Arc<Metrics>,
}

/// An answer and the height that it belongs to.
pub type Answer = Result<(u64, Vec<u8>), Status>;

impl Node {
    pub fn new(app: App, rpc: Rpc, min_gas_prices: String) -> Self {
        Node { app, rpc, min_gas_prices, metrics: Arc::default() }
    }

    /// Answers `path` (`/package.Service/Method`) at a kept height, or at the latest if `height` is 0.
    pub async fn call(&self, path: &str, height: u64, request: Vec<u8>) -> Answer {
        let answer = match services::call(self, path, &request).await {
            Some(answer) => answer.map(|bytes| (self.app.height(), bytes)),
            None => {
                let (node, path) = (self.clone(), path.to_owned());
                tokio::task::spawn_blocking(move || node.query(&path, height, &request))
                    .await
                    .unwrap_or_else(|e| Err(Status::new(Code::Internal, format!("the query failed: {e}"))))
            }
        };
        self.metrics.query(answer.is_ok());
        answer
    }

    /// A method of a module, or the reason for which nobody serves it.
    fn query(&self, path: &str, height: u64, request: &[u8]) -> Answer {
        self.app.query(path, height, request).map_err(|status| match refused::reason(path) {
            Some(reason) if status.code == Code::Unimplemented => {
                Status::new(Code::Unimplemented, format!("{path} is not served: {reason}"))
            }
            _ => status,
        })
    }

    /// ABCI's Query: the application's own paths, and every method. Runs on a thread that may block, not on `runtime`.
    pub fn abci_query(&self, request: &RequestQuery, runtime: &tokio::runtime::Handle) -> ResponseQuery {
        let answer = self.app.abci_query_with(request, |path, height, data| {
            match services::call_blocking(self, runtime, path, data) {
                Some(answer) => answer.map(|bytes| (self.app.height(), bytes)),
                None => self.query(path, height, data),
            }
        });
        self.metrics.query(answer.code == 0);
        answer
    }

    /// Whether the method at `path` is served.
    pub fn serves(&self, path: &str) -> bool {
        services::has(path) || self.app.modules().queries.has(path)
    }
}
