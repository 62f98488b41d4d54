//! The modules of DeepNode: models, workers, tasks, audits, reputation, PoWR.

pub mod audits;
pub mod models;
pub mod params;
pub mod powr;
pub mod reputation;
pub mod tasks;
