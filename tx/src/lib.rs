//! One transaction: addresses, strict decoding, sign bytes and signatures. Synchronous, deterministic, knows no module.

pub mod address;

pub use address::{Address, AddressError};
