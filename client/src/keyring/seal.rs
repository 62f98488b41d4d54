//! How a secret stands in its file: in the open (backend `test`), or sealed by argon2id and XChaCha20-Poly1305.

use super::KeyringError;
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Costs for new files: 64 MiB and three passes, about a fifth of a second.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// A file from elsewhere may not ask for more than this.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 16;

/// The protected form of a secret of 32 bytes.
#[derive(Serialize, Deserialize)]
#[serde(tag = "protection", deny_unknown_fields)]
pub(super) enum Sealed {
    #[serde(rename = "none")]
    Open {
        #[serde(with = "secret_hex")]
        secret: Zeroizing<[u8; 32]>,
    },
    #[serde(rename = "argon2id-xchacha20poly1305")]
    Locked {
        memory_kib: u32,
        passes: u32,
        #[serde(with = "hex::serde")]
        salt: [u8; 16],
        #[serde(with = "hex::serde")]
        nonce: [u8; 24],
        #[serde(with = "hex::serde")]
        ciphertext: Vec<u8>,
    },
}

impl Sealed {
    /// `about` is bound to the ciphertext: a file whose public part was changed does not open.
    pub fn lock(secret: &[u8; 32], about: &[u8], passphrase: &str) -> Result<Self, KeyringError> {
        let mut salt = [0; 16];
        let mut nonce = [0; 24];
        for bytes in [&mut salt[..], &mut nonce[..]] {
            getrandom::getrandom(bytes).map_err(|e| KeyringError::Random(e.to_string()))?;
        }
        let cipher = cipher(passphrase, &salt, MEMORY_KIB, PASSES)?;
        let ciphertext = cipher
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: secret, aad: about })
            .expect("32 bytes can be sealed");
        Ok(Self::Locked { memory_kib: MEMORY_KIB, passes: PASSES, salt, nonce, ciphertext })
    }

    /// Asks for the passphrase only if there is a lock.
    pub fn open(
        &self,
        about: &[u8],
        passphrase: impl FnOnce() -> Result<Zeroizing<String>, KeyringError>,
    ) -> Result<Zeroizing<[u8; 32]>, KeyringError> {
        match self {
            Self::Open { secret } => Ok(secret.clone()),
            Self::Locked { memory_kib, passes, salt, nonce, ciphertext } => {
                let cipher = cipher(&passphrase()?, salt, *memory_kib, *passes)?;
                let payload = Payload { msg: ciphertext, aad: about };
                let plain = cipher
                    .decrypt(XNonce::from_slice(nonce), payload)
                    .map(Zeroizing::new)
                    .map_err(|_| KeyringError::WrongPassphrase)?;
                let secret: [u8; 32] = plain.as_slice().try_into().map_err(|_| {
                    KeyringError::Malformed(format!("secret of {} bytes, expected 32", plain.len()))
                })?;
                Ok(Zeroizing::new(secret))
            }
        }
    }
}

fn cipher(
    passphrase: &str,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Result<XChaCha20Poly1305, KeyringError> {
    if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES {
        return Err(KeyringError::Malformed(format!(
            "it asks for {memory_kib} KiB and {passes} passes, at most {MAX_MEMORY_KIB} and {MAX_PASSES} are allowed"
        )));
    }
    let params = Params::new(memory_kib, passes, 1, Some(32))
        .map_err(|e| KeyringError::Malformed(format!("argon2id parameters: {e}")))?;
    let mut key = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|e| KeyringError::Malformed(format!("argon2id: {e}")))?;
    Ok(XChaCha20Poly1305::new((&*key).into()))
}

mod secret_hex {
    use serde::{Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub fn serialize<S: Serializer>(secret: &Zeroizing<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        hex::serde::serialize(**secret, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<[u8; 32]>, D::Error> {
        hex::serde::deserialize(deserializer).map(Zeroizing::new)
    }
}
