use deepnode_tx::Address;
use std::time::Duration;

/// Why a request to a node or a transaction did not succeed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClientError {
    #[error("{0}")]
    Input(String),
    #[error("endpoint {endpoint:?}: {reason}, expected host:port or http://host:port of a node's gRPC")]
    Endpoint { endpoint: String, reason: String },
    #[error(
        "no node answers at {endpoint}: {reason} (is deepnoded running, with its gRPC at that address?)"
    )]
    Unreachable { endpoint: String, reason: String },
    #[error("no worker answers at {endpoint}: {reason}")]
    NoWorker { endpoint: String, reason: String },
    #[error("blob {digest}: {reason}")]
    Blob { digest: String, reason: String },
    #[error("task {task} ended as {status}: the escrow is returned{}", if trouble.is_empty() { String::new() } else { format!(" ({trouble})") })]
    Ended { task: u64, status: String, trouble: String },
    #[error("the answer to task {task} is not good: {reason}")]
    Answer { task: u64, reason: String },
    #[error("{what}: {message} ({code})")]
    Query { what: &'static str, code: tonic::Code, message: String },
    #[error("the node is of chain {got:?}, expected {expected:?}")]
    WrongChain { got: String, expected: String },
    #[error("account {address} does not exist on {chain_id}: it needs to receive coins first")]
    NoAccount { address: Address, chain_id: String },
    /// Refused before a block, or failed in one (`height` above 0: the fee for `gas_wanted` is paid).
    #[error("transaction {hash} {}: {log} (code {code}, codespace {codespace})", if *height > 0 { format!("failed at height {height}") } else { "was refused".into() })]
    Transaction { hash: String, height: i64, code: u32, codespace: String, log: String, gas_wanted: i64 },
    #[error("transaction {hash} is in no block after {waited:?}; it may still be included")]
    Timeout { hash: String, waited: Duration },
    /// It was given to a node, and after that something went wrong that says nothing about the transaction.
    #[error(
        "transaction {hash} was sent, and what became of it is not known: {reason}; it may still be included"
    )]
    Sent { hash: String, reason: String },
}

impl ClientError {
    pub(crate) fn query(what: &'static str) -> impl Fn(tonic::Status) -> Self {
        move |status| Self::Query { what, code: status.code(), message: status.message().into() }
    }

    /// Whether the node did not answer: it may be away for a while, and said nothing about what was asked.
    pub fn is_away(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Unreachable { .. } => true,
            // A request that took too long is cancelled here.
            Self::Query { code, .. } => {
                matches!(code, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded)
            }
            _ => false,
        }
    }

    /// Whether the transaction may be in a block all the same, now or later: to send it anew may pay twice.
    pub fn may_be_included(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Sent { .. })
    }
}
