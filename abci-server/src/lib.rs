//! The node's edge: everything with a socket, a process or a clock lives here, and no business rule.
//!
//! - [`abci`] serves a [`tendermint_abci::Application`] to CometBFT over a socket.
//! - [`comet`] finds, configures, supervises and asks the CometBFT process beside us.

pub mod abci;
pub mod application;
pub mod cli;
pub mod comet;
pub mod json;
pub mod node;
