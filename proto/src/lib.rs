//! The wire types of DeepNode, generated from the `.proto` files of this crate: Cosmos SDK 0.53's public packages
//! under [`cosmos`], ours under `deepnode`. CometBFT's `tendermint.*` messages are those of [`tendermint_proto`], so that
//! a block or a vote is one type from the ABCI socket to a query's answer.
//!
//! No logic lives here. gRPC stubs need the features `client` and `server`; without them the crate is free of async.

mod any;
#[cfg(feature = "reflect")]
mod reflect;

pub use any::{Any, AnyExt, UnpackError};
pub use prost::{self, Message, Name};
pub use prost_types::{Duration, Timestamp};
#[cfg(feature = "reflect")]
pub use reflect::pool;
pub use tendermint_proto;

/// Every file under `proto/` with its imports, encoded as `google.protobuf.FileDescriptorSet`; custom options are kept.
pub static FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[allow(clippy::all, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
pub use generated::*;
