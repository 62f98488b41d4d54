//! The modules of DeepNode. One folder each; a module may call those before it in genesis order only: beacon, models,
//! workers, reputation, tasks, audits, powr.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic))]

pub mod audits;
pub mod beacon;
pub mod fields;
pub mod models;
pub mod params;
pub mod powr;
pub mod reputation;
pub mod tasks;
pub mod workers;
