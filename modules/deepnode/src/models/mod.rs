//! Models: what the chain knows of a model and what running it costs.

pub mod math;
