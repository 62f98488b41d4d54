use std::fmt::Display;

use crate::canon::sample::ParamError;
use crate::canon::DeviceError;
use crate::cpu::Isa;
use crate::model::ModelError;

/// Why an engine will not compute.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{field} is {value}, must be {bound}")]
    Invalid { field: &'static str, value: String, bound: String },
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("this processor has no {0:?}")]
    NoInstructionSet(Isa),
    #[error("no memory or no threads: {0}")]
    Io(#[from] std::io::Error),
    /// Every page of keys and values is in use.
    #[error("{wanted} pages of keys and values are wanted, of {total} fewer are free")]
    NoPages { wanted: usize, total: usize },
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A fault of the program; what is asked next is computed all the same.
    #[error("the engine crashed")]
    Crashed,
    #[error("cancelled")]
    Cancelled,
}

impl EngineError {
    pub(super) fn invalid(field: &'static str, value: impl Display, bound: impl Display) -> Self {
        Self::Invalid { field, value: value.to_string(), bound: bound.to_string() }
    }
}
