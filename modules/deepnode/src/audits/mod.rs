//! Audits: who recomputes which result, and what follows from their verdicts.

pub mod math;
