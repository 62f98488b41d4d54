//! The application as a whole chain, without CometBFT: the same blocks give the same bytes in any process, what must
//! hold between blocks holds whatever is sent, and what clients and other nodes rely on is pinned by snapshots.

mod chain;
mod determinism;
mod golden;
mod layers;
mod pinned;
mod proposals;
mod sets;
mod source;
mod traffic;
mod world;
