//! One transaction: addresses, strict decoding, signers, sign bytes and signatures. Synchronous, deterministic; knows no
//! module.
#![deny(clippy::float_arithmetic, clippy::disallowed_types, clippy::disallowed_methods)]

pub mod address;
pub mod builder;
pub mod decode;
pub mod error;
pub mod key;
pub mod sign;
pub mod signers;
mod wire;

pub use address::{Address, AddressError};
pub use builder::TxBuilder;
pub use decode::{hash, Tx, MAX_TX_BYTES};
pub use error::TxError;
pub use key::{PublicKey, SigningKey};
pub use sign::{sign_bytes, SignerData};
pub use signers::signers;
