//! CometBFT's ABCI 2.0 socket protocol, server side.
//!
//! [`transport`] moves frames and owns threads and sockets; [`policy`] decides what CometBFT hears when a call fails.
//! The application is a [`tendermint_abci::Application`] that is also a [`Prefetch`]:
//!
//! ```no_run
//! # use deepnode_abci_server::abci::*;
//! # fn run(app: impl tendermint_abci::Application + Prefetch) -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind(&"unix:///run/deepnode/abci.sock".parse()?)?;
//! let server = Server::start(listener, app, |fault| {
//!     eprintln!("{fault}");
//!     std::process::abort();
//! })?;
//! // ... until asked to end
//! server.stop(std::time::Duration::from_secs(10))?;
//! # Ok(()) }
//! ```

mod address;
pub mod frame;
pub mod policy;
pub mod transport;

pub use address::{Address, AddressError, Listener};
pub use policy::Fault;
pub use transport::{Prefetch, Server, Still, CONNECTIONS};

#[cfg(test)]
mod tests;
