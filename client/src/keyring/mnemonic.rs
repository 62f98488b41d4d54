//! BIP-39 words to a BIP-32 key.

use super::KeyringError;
use bip39::{Language, Mnemonic};
use deepnode_tx::SigningKey;
use zeroize::Zeroizing;

/// Cosmos's coin type, first account: where every Cosmos wallet looks.
pub const HD_PATH: &str = "m/44'/118'/0'/0/0";

/// 24 new words from the system's randomness.
pub fn generate() -> Result<Zeroizing<String>, KeyringError> {
    let mut entropy = Zeroizing::new([0u8; 32]);
    getrandom::getrandom(&mut *entropy).map_err(|e| KeyringError::Random(e.to_string()))?;
    let mnemonic = Mnemonic::from_entropy_in(Language::English, &*entropy)
        .expect("32 bytes are the entropy of 24 words");
    Ok(Zeroizing::new(mnemonic.to_string()))
}

/// The key at [`HD_PATH`] of 12 or 24 English words.
pub fn derive(phrase: &str) -> Result<SigningKey, KeyringError> {
    let error = |reason: String| KeyringError::Mnemonic(reason);
    let words = Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
    let count = words.split(' ').filter(|w| !w.is_empty()).count();
    if count != 12 && count != 24 {
        return Err(error(format!("it has {count} words, expected 12 or 24")));
    }
    // The library's own text may hold a word of the phrase: positions only.
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|e| {
        error(match e {
            bip39::Error::UnknownWord(i) => format!("word {} is not in the English word list", i + 1),
            bip39::Error::InvalidChecksum => "its checksum is wrong: a word is mistyped or misplaced".into(),
            other => other.to_string(),
        })
    })?;
    let seed = Zeroizing::new(mnemonic.to_seed_normalized(""));
    let path = HD_PATH.parse().expect("the path is valid");
    let derived = bip32::XPrv::derive_from_path(seed.as_slice(), &path).map_err(|e| error(e.to_string()))?;
    let secret = Zeroizing::new(derived.to_bytes());
    SigningKey::new(&secret).ok_or_else(|| error("it derives no valid key".into()))
}
