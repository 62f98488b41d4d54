//! Composition: which modules there are, in which order, and how a block runs through them.

pub mod ante;
