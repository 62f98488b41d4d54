use std::fmt;

/// Why a number could not be read or an operation has no result. Each names the value and the bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NumError {
    #[error("{kind}: empty, at least one digit is required")]
    Empty { kind: &'static str },
    #[error("{kind} {text:?}: a sign is not allowed")]
    Sign { kind: &'static str, text: Excerpt },
    #[error("{kind} {text:?}: leading zeros are not allowed")]
    LeadingZero { kind: &'static str, text: Excerpt },
    #[error("{kind} {text:?}: only decimal digits are allowed{}", if *.point { " around one point" } else { "" })]
    NotDigits { kind: &'static str, text: Excerpt, point: bool },
    #[error("{kind} {text:?}: {found} decimals, at most {max} are allowed")]
    TooManyDecimals { kind: &'static str, text: Excerpt, found: usize, max: usize },
    #[error("{kind} {text:?} exceeds the maximum {max}")]
    TooLarge { kind: &'static str, text: Excerpt, max: String },
    #[error("{expression} exceeds the maximum {max}")]
    Overflow { expression: String, max: String },
    #[error("{expression} is below 0")]
    Negative { expression: String },
    #[error("{field} is {value}, allowed are {min} to {max}")]
    OutOfRange { field: &'static str, value: String, min: String, max: String },
    #[error("{expression} divides by zero")]
    DivisionByZero { expression: String },
}

impl NumError {
    /// `Ok` if min <= value <= max, else the error that names the field, its value and both bounds.
    pub fn in_range<T: PartialOrd + ToString>(
        field: &'static str,
        value: T,
        min: T,
        max: T,
    ) -> Result<(), Self> {
        if min <= value && value <= max {
            return Ok(());
        }
        let (value, min, max) = (value.to_string(), min.to_string(), max.to_string());
        Err(NumError::OutOfRange { field, value, min, max })
    }
}

/// The beginning of a text that somebody sent: an error never grows with its input.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    const CHARS: usize = 64;

    pub(crate) fn of(text: &str) -> Excerpt {
        let mut chars = text.chars();
        let mut kept: String = chars.by_ref().take(Self::CHARS).collect();
        if chars.next().is_some() {
            kept.push_str("...");
        }
        Excerpt(kept)
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
