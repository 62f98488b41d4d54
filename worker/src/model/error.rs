use std::fmt::Display;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, ModelError>;

/// Why a model cannot be imported, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{field} is {value}: {bound}")]
    Invalid { field: String, value: String, bound: String },
    #[error("{field} is missing")]
    Missing { field: String },
    #[error("tensor {tensor}, row {row}, column {column}: {value} is not a finite half")]
    Weight { tensor: String, row: usize, column: usize, value: f64 },
    #[error("{what}: digest {found}, the manifest says {expected}")]
    Digest { what: String, found: String, expected: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// What the template says of these messages, on every machine.
    #[error("chat template: {0}")]
    Template(String),
    /// The template took more room than its sandbox gives. An audit's gives more than a worker's.
    #[error("chat template: {0}")]
    Stopped(String),
    /// The template could not be run here: that says nothing of it.
    #[error("chat template: {0}")]
    Sandbox(String),
}

impl ModelError {
    /// Whether it is this machine's fault, and says nothing of the model or the text.
    pub fn is_of_this_machine(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Sandbox(_))
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError + '_ {
        move |error| ModelError::Io { path: path.to_path_buf(), error }
    }

    pub(crate) fn missing(field: impl Display) -> ModelError {
        ModelError::Missing { field: field.to_string() }
    }
}

/// The error of a field whose value is outside its bound.
pub(crate) fn invalid(field: impl Display, value: impl Display, bound: impl Display) -> ModelError {
    ModelError::Invalid { field: field.to_string(), value: value.to_string(), bound: bound.to_string() }
}

/// Refuses `value` unless `min <= value <= max`.
pub(crate) fn within(field: impl Display, value: u64, min: u64, max: u64) -> Result<u64> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(invalid(field, value, format!("must be {min} to {max}")))
    }
}
