use super::{check_private, KeyringError};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Fewest characters of a passphrase that locks a key, as in the Cosmos SDK.
pub const MIN_PASSPHRASE: usize = 8;

/// Where the passphrase comes from.
#[derive(Clone)]
pub enum Passphrase {
    /// Asked for on the terminal, twice when a key is locked.
    Prompt,
    /// The first line of a file that only its owner can read.
    File(PathBuf),
    Text(Zeroizing<String>),
}

impl Passphrase {
    pub(super) fn unlocking(&self, name: &str) -> Result<Zeroizing<String>, KeyringError> {
        self.get(&format!("Passphrase of the key {name:?}: "))
    }

    pub(super) fn locking(&self, name: &str) -> Result<Zeroizing<String>, KeyringError> {
        let first = self.get(&format!("New passphrase for the key {name:?}: "))?;
        if first.chars().count() < MIN_PASSPHRASE {
            return Err(KeyringError::ShortPassphrase);
        }
        if matches!(self, Self::Prompt) && *self.get("The same again: ")? != *first {
            return Err(KeyringError::PassphrasesDiffer);
        }
        Ok(first)
    }

    fn get(&self, prompt: &str) -> Result<Zeroizing<String>, KeyringError> {
        match self {
            Self::Prompt => rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .map_err(|source| KeyringError::Io { path: "the terminal".into(), source }),
            Self::File(path) => first_line(path),
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, KeyringError> {
    check_private(path)?;
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| KeyringError::Io { path: path.into(), source })?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// Never shows the text.
impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prompt => f.write_str("Prompt"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}
