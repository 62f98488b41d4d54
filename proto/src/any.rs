use prost::Name;
pub use prost_types::Any;

/// Why an [`Any`] did not hold what was asked of it.
#[derive(Debug, Clone, PartialEq)]
pub enum UnpackError {
    /// Another type.
    Type { expected: String, got: String },
    /// The right type, but its bytes do not decode.
    Decode { type_url: String, source: prost::DecodeError },
}

impl std::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type { expected, got } => write!(f, "expected an Any of type {expected}, got {got:?}"),
            Self::Decode { type_url, source } => write!(f, "cannot decode {type_url}: {source}"),
        }
    }
}

impl std::error::Error for UnpackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Type { .. } => None,
            Self::Decode { source, .. } => Some(source),
        }
    }
}

/// Packing by the Cosmos convention: the type URL is `/` and the message's full name, and nothing else is accepted.
pub trait AnyExt: Sized {
    fn pack<M: Name>(message: &M) -> Self;
    /// True if this holds an `M`; its bytes may still fail to decode.
    fn is<M: Name>(&self) -> bool;
    fn unpack<M: Name + Default>(&self) -> Result<M, UnpackError>;
}

impl AnyExt for Any {
    fn pack<M: Name>(message: &M) -> Self {
        Any { type_url: M::type_url(), value: message.encode_to_vec() }
    }

    fn is<M: Name>(&self) -> bool {
        self.type_url == M::type_url()
    }

    fn unpack<M: Name + Default>(&self) -> Result<M, UnpackError> {
        if !self.is::<M>() {
            return Err(UnpackError::Type { expected: M::type_url(), got: self.type_url.clone() });
        }
        M::decode(&*self.value)
            .map_err(|source| UnpackError::Decode { type_url: self.type_url.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosmos::bank::v1beta1::{MsgMultiSend, MsgSend};

    #[test]
    fn only_the_type_that_was_packed_comes_out() {
        let send = MsgSend { from_address: "dn1a".into(), ..Default::default() };
        let mut any = Any::pack(&send);
        assert_eq!(any.type_url, "/cosmos.bank.v1beta1.MsgSend");
        assert_eq!(any.unpack::<MsgSend>(), Ok(send));
        assert!(matches!(any.unpack::<MsgMultiSend>(), Err(UnpackError::Type { .. })));
        any.value.push(0);
        assert!(matches!(any.unpack::<MsgSend>(), Err(UnpackError::Decode { .. })));
        any.type_url = "type.googleapis.com/cosmos.bank.v1beta1.MsgSend".into();
        assert!(!any.is::<MsgSend>());
    }
}
