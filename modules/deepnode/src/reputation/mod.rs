//! Reputation: what a subject has shown, a number from 0 to below 1.

pub mod math;
