//! For programs that talk to the chain: a keyring on disk, and a client that signs, sends and waits.

pub mod ask;
mod client;
mod error;
mod gas;
pub mod keyring;
pub mod serving;
pub mod task;

pub use client::{Client, Options};
pub use error::ClientError;
pub use gas::{Gas, GasPrice};
pub use keyring::{KeyInfo, Keyring, KeyringError};
pub use serving::Serving;
