//! What a module sees: context, module trait, errors, numbers, coins, queries.
//!
//! Everything here and above it, up to the application, is deterministic: integers only, no clock, no
//! randomness, no hash-map order.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic))]

pub mod block;
pub mod coin;
pub mod ctx;
pub mod draw;
pub mod errors;
pub mod event;
pub mod gas;
pub mod json;
pub mod merkle;
pub mod module;
pub mod num;
pub mod query;
#[cfg(feature = "testing")]
pub mod testing;

pub use block::{BlockInfo, Time};
pub use coin::{Coin, Coins, UDN};
pub use ctx::{Ctx, Wiring};
pub use deepnode_proto::Any;
pub use deepnode_store::{Error, Fault, Item, KvRead, KvWrite, Map, Result, Sequence, Set, TxError, Walk};
pub use deepnode_tx::Address;
pub use event::Event;
pub use module::{authority, check_authority, Messages, Module, Router, StakingHooks};
pub use num::{Dec, NumError};
pub use query::{Queries, QueryCtx, QueryResult, Status};
