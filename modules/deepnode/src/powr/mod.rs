//! Proof of Work & Reputation: voting power follows verified compute and long-term reputation, bounded by stake.

pub mod math;
