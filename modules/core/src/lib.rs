//! What a module sees: context, module trait, errors, fixed-point numbers, draws.

pub mod draw;
pub mod num;
