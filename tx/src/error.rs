use crate::address::AddressError;

/// Codespace of [`TxError::code`].
pub const CODESPACE: &str = "sdk";

/// Why a transaction is refused before any module sees it. Texts end with the Cosmos SDK's wording of the root error,
/// which clients match on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TxError {
    #[error("{0}: tx parse error")]
    Decode(String),
    #[error("tx has {size} bytes, at most {max} are allowed: tx too large")]
    TooLarge { size: usize, max: usize },
    #[error("{message}: {source}: invalid address")]
    Address { message: String, source: AddressError },
    #[error("{0}: invalid pubkey")]
    PublicKey(String),
    #[error("{0}: unauthorized")]
    Unauthorized(String),
    #[error("{0}: feature not supported")]
    NotSupported(String),
}

impl TxError {
    /// The ABCI code, in the codespace `sdk`.
    pub fn code(&self) -> u32 {
        match self {
            Self::Decode(_) => 2,
            Self::Unauthorized(_) => 4,
            Self::Address { .. } => 7,
            Self::PublicKey(_) => 8,
            Self::TooLarge { .. } => 21,
            Self::NotSupported(_) => 37,
        }
    }
}
