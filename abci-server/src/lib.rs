//! The node's edge: everything with a socket, a process or a clock lives here, and no business rule.
//!
//! - [`abci`] serves a [`tendermint_abci::Application`] to CometBFT over a socket.

pub mod abci;
