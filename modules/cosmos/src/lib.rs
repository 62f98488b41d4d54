//! The modules that a Cosmos user expects. One folder each; a module may call those before it in genesis order only.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic))]

pub mod auth;
pub mod bank;
pub mod consensus;
pub mod gov;
pub mod staking;
