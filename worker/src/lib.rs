//! The worker of DeepNode: a bit-exact inference engine and the programs around it.

pub mod blobs;
pub mod canon;
pub mod chain;
pub mod cli;
pub mod cpu;
pub mod cuda;
pub mod engine;
pub mod gateway;
pub mod journal;
pub mod metrics;
pub mod model;
pub mod recheck;
pub mod request;
pub mod run;
pub mod serving;
pub mod verify;
