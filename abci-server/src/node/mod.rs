//! A node as its clients see it: every method of the chain by path, over gRPC and REST.

pub mod grpc;
pub mod rest;
pub mod services;

use deepnode_app::App;
use deepnode_core::query::{Code, Status};

use crate::comet::Rpc;

/// Answers any method: those of the modules from the state, those about blocks and transactions from CometBFT.
#[derive(Clone)]
pub struct Node {
    pub app: App,
    pub rpc: Rpc,
    /// Least gas prices, as the operator wrote them.
    pub min_gas_prices: String,
}

/// An answer and the height that it belongs to.
pub type Answer = Result<(u64, Vec<u8>), Status>;

impl Node {
    /// Answers `path` (`/package.Service/Method`) at a kept height, or at the latest if `height` is 0.
    pub async fn call(&self, path: &str, height: u64, request: Vec<u8>) -> Answer {
        if let Some(answer) = services::call(self, path, &request).await {
            return Ok((self.app.height(), answer?));
        }
        let (app, path) = (self.app.clone(), path.to_owned());
        let run = move || app.query(&path, height, &request);
        tokio::task::spawn_blocking(run)
            .await
            .unwrap_or_else(|e| Err(Status::new(Code::Internal, format!("the query failed: {e}"))))
    }

    /// All methods that [`Node::call`] answers.
    pub fn paths(&self) -> Vec<&'static str> {
        let mut paths: Vec<_> = self.app.modules().queries.paths().chain(services::PATHS).collect();
        paths.sort_unstable();
        paths
    }
}
