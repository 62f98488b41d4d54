//! Keys that sign transactions, and their signatures.

use crate::address::Address;
use crate::error::TxError;
use deepnode_proto::cosmos::crypto::secp256k1::PubKey as Secp256k1PubKey;
use deepnode_proto::{Any, AnyExt};
use secp256k1::ecdsa::Signature;
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// A key that can sign transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKey {
    /// Compressed, and on the curve.
    Secp256k1(secp256k1::PublicKey),
}

impl PublicKey {
    /// A compressed secp256k1 key.
    pub fn secp256k1(bytes: &[u8]) -> Result<Self, TxError> {
        let bytes: &[u8; 33] = bytes.try_into().map_err(|_| {
            TxError::PublicKey(format!("secp256k1 key has {} bytes, expected 33", bytes.len()))
        })?;
        secp256k1::PublicKey::from_slice(bytes)
            .map(Self::Secp256k1)
            .map_err(|e| TxError::PublicKey(format!("secp256k1 key: {e}")))
    }

    /// The key of a signer info or an account.
    pub fn from_any(any: &Any) -> Result<Self, TxError> {
        if !any.is::<Secp256k1PubKey>() {
            let url: String = any.type_url.chars().take(200).collect();
            return Err(TxError::PublicKey(format!("{url:?} cannot sign transactions")));
        }
        let key: Secp256k1PubKey = any.unpack().map_err(|e| TxError::PublicKey(e.to_string()))?;
        Self::secp256k1(&key.key)
    }

    pub fn to_any(&self) -> Any {
        match self {
            Self::Secp256k1(key) => Any::pack(&Secp256k1PubKey { key: key.serialize().to_vec() }),
        }
    }

    pub fn address(&self) -> Address {
        match self {
            Self::Secp256k1(key) => Address::from_secp256k1(&key.serialize()),
        }
    }

    /// Verifies a 64-byte signature (r and a low s, big-endian) over sha256 of the sign bytes.
    pub fn verify(&self, sign_bytes: &[u8], signature: &[u8]) -> Result<(), TxError> {
        let Self::Secp256k1(key) = self;
        let signature = Signature::from_compact(signature)
            .map_err(|e| TxError::Unauthorized(format!("signature of {} bytes: {e}", signature.len())))?;
        // libsecp256k1 refuses a high s, so that no one but the signer can make a second signature of one.
        let digest = secp256k1::Message::from_digest(Sha256::digest(sign_bytes).into());
        signature.verify(digest, key).map_err(|_| {
            TxError::Unauthorized(format!("signature verification failed for {}", self.address()))
        })
    }
}

/// A secp256k1 secret, wiped when dropped.
#[derive(Clone)]
pub struct SigningKey {
    secret: Zeroizing<[u8; 32]>,
    public: secp256k1::PublicKey,
}

impl SigningKey {
    /// `None` unless the bytes are a number between 1 and the curve's order.
    pub fn new(secret: &[u8; 32]) -> Option<Self> {
        let mut key = secp256k1::SecretKey::from_byte_array(*secret).ok()?;
        let public = key.public_key(secp256k1::SECP256K1);
        key.non_secure_erase();
        Some(Self { secret: Zeroizing::new(*secret), public })
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey::Secp256k1(self.public)
    }

    pub fn address(&self) -> Address {
        self.public_key().address()
    }

    /// The 32 secret bytes, for storing them.
    pub fn secret(&self) -> &Zeroizing<[u8; 32]> {
        &self.secret
    }

    /// A deterministic (RFC 6979) signature over sha256 of the bytes: 64 bytes, low s.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let mut key = secp256k1::SecretKey::from_byte_array(*self.secret).expect("checked when it was made");
        let digest = secp256k1::Message::from_digest(Sha256::digest(bytes).into());
        let signature = key.sign_ecdsa(digest).serialize_compact();
        key.non_secure_erase();
        signature
    }
}

/// Shows the address, never the secret.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.address())
    }
}
