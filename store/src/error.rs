//! The two ways in which anything on the chain can fail.

use std::fmt;

/// A result of reading, writing or executing.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Either the transaction is refused, or the node must not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A deterministic refusal: every node returns the same code for the same transaction.
    Tx(TxError),
    /// Disk or database damage, or a broken invariant: the process ends before it can answer wrongly.
    Fault(Fault),
}

/// A refusal as ABCI reports it. `code` is consensus; `log` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxError {
    pub codespace: &'static str,
    pub code: u32,
    pub log: String,
}

/// Why a node must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl Error {
    /// A fault with a message.
    pub fn fault(message: impl fmt::Display) -> Self {
        Error::Fault(Fault(message.to_string()))
    }
}

impl From<TxError> for Error {
    fn from(e: TxError) -> Self {
        Error::Tx(e)
    }
}

impl From<Fault> for Error {
    fn from(e: Fault) -> Self {
        Error::Fault(e)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Tx(e) => e.fmt(f),
            Error::Fault(e) => e.fmt(f),
        }
    }
}

impl fmt::Display for TxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.log)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault: {}", self.0)
    }
}

impl std::error::Error for Error {}
impl std::error::Error for TxError {}
impl std::error::Error for Fault {}
