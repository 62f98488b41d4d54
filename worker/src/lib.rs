//! The worker of DeepNode: a bit-exact inference engine and the programs around it.

pub mod canon;
pub mod cpu;
pub mod engine;
pub mod model;
