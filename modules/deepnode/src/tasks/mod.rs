//! Tasks and sessions: requests, their fees and how these are split.

pub mod math;
