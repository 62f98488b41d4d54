//! Keys on disk, one file each (mode 0600) in a folder of their own (mode 0700).

pub mod mnemonic;
mod passphrase;
mod seal;

pub use passphrase::{Passphrase, MIN_PASSPHRASE};

use deepnode_tx::{Address, PublicKey, SigningKey};
use seal::Sealed;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Once;
use zeroize::Zeroizing;

/// How the keys of a keyring are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Locked by a passphrase.
    File,
    /// In the open; for test networks only.
    Test,
}

impl FromStr for Backend {
    type Err = KeyringError;

    fn from_str(text: &str) -> Result<Self, KeyringError> {
        match text {
            "file" => Ok(Self::File),
            "test" => Ok(Self::Test),
            other => Err(KeyringError::Backend(other.into())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("keyring backend {0:?} is unknown, expected \"file\" or \"test\"")]
    Backend(String),
    #[error(
        "key name {0:?}: expected 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
    )]
    Name(String),
    #[error("there is no key {name:?} in {}", dir.display())]
    NotFound { name: String, dir: PathBuf },
    #[error("there is already a key {name:?} in {}; delete it first or choose another name", dir.display())]
    Exists { name: String, dir: PathBuf },
    #[error("mnemonic: {0}")]
    Mnemonic(String),
    #[error("wrong passphrase, or a damaged key file")]
    WrongPassphrase,
    #[error("the passphrase has fewer than {MIN_PASSPHRASE} characters")]
    ShortPassphrase,
    #[error("the passphrases differ")]
    PassphrasesDiffer,
    #[error("key file: {0}")]
    Malformed(String),
    #[error("{} is open to other users (mode {mode:o}): chmod it to {expected:o}", path.display())]
    Permissions { path: PathBuf, mode: u32, expected: u32 },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the system gives no randomness: {0}")]
    Random(String),
}

/// What is public about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    pub name: String,
    #[serde(serialize_with = "display")]
    pub address: Address,
    /// Compressed secp256k1 key.
    #[serde(with = "hex::serde")]
    pub public_key: [u8; 33],
}

fn display<S: serde::Serializer>(value: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A key file; also what export writes and import reads.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u32,
    /// For people; it is derived from the public key, and checked when the file is read.
    address: String,
    #[serde(with = "hex::serde")]
    public_key: [u8; 33],
    #[serde(flatten)]
    sealed: Sealed,
}

const VERSION: u32 = 1;

impl KeyFile {
    fn new(
        key: &SigningKey,
        seal: impl FnOnce(&[u8]) -> Result<Sealed, KeyringError>,
    ) -> Result<Self, KeyringError> {
        let PublicKey::Secp256k1(public) = key.public_key();
        let public_key = public.serialize();
        let sealed = seal(&public_key)?;
        Ok(Self { version: VERSION, address: key.address().to_string(), public_key, sealed })
    }

    fn parse(text: &str) -> Result<Self, KeyringError> {
        let file: Self = serde_json::from_str(text).map_err(|e| KeyringError::Malformed(e.to_string()))?;
        if file.version != VERSION {
            let error = format!("version {}, this program reads {VERSION}", file.version);
            return Err(KeyringError::Malformed(error));
        }
        let address = Address::from_secp256k1(&file.public_key);
        // Whatever its prefix: a key is good for every chain.
        if Address::parse_any_prefix(&file.address) != Some(address) {
            let error = format!("address {:?} is not that of the public key, {address}", file.address);
            return Err(KeyringError::Malformed(error));
        }
        Ok(file)
    }

    fn write(&self) -> Zeroizing<String> {
        Zeroizing::new(serde_json::to_string_pretty(self).expect("a key file is plain JSON") + "\n")
    }

    fn info(&self, name: &str) -> KeyInfo {
        KeyInfo {
            name: name.into(),
            address: Address::from_secp256k1(&self.public_key),
            public_key: self.public_key,
        }
    }

    fn unlock(
        &self,
        passphrase: impl FnOnce() -> Result<Zeroizing<String>, KeyringError>,
    ) -> Result<SigningKey, KeyringError> {
        let secret = self.sealed.open(&self.public_key, passphrase)?;
        let key =
            SigningKey::new(&secret).ok_or_else(|| KeyringError::Malformed("not a secret key".into()))?;
        if key.address() != Address::from_secp256k1(&self.public_key) {
            return Err(KeyringError::Malformed("the secret is not that of the public key".into()));
        }
        Ok(key)
    }
}

/// A folder of keys. Nothing is cached: each use of a locked key asks for its passphrase.
#[derive(Debug, Clone)]
pub struct Keyring {
    dir: PathBuf,
    backend: Backend,
    passphrase: Passphrase,
}

impl Keyring {
    /// The keyring `keyring-file` or `keyring-test` under `home`; the folder is made if it is missing.
    pub fn open(home: &Path, backend: Backend, passphrase: Passphrase) -> Result<Self, KeyringError> {
        let dir = home.join(match backend {
            Backend::File => "keyring-file",
            Backend::Test => "keyring-test",
        });
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io(&dir))?;
        check_private(&dir)?;
        if backend == Backend::Test {
            static WARN: Once = Once::new();
            WARN.call_once(|| {
                eprintln!(
                    "warning: the keyring backend \"test\" is insecure: keys are not encrypted ({})",
                    dir.display()
                );
            });
        }
        Ok(Self { dir, backend, passphrase })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every key, by name.
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeyringError> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io(&self.dir))? {
            let file = entry.map_err(io(&self.dir))?.file_name();
            if let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".json")) {
                if check_name(name).is_ok() {
                    keys.push(self.show(name)?);
                }
            }
        }
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(keys)
    }

    /// Needs no passphrase.
    pub fn show(&self, name: &str) -> Result<KeyInfo, KeyringError> {
        Ok(self.read(name)?.info(name))
    }

    /// Makes a key; the 24 words that restore it are kept nowhere else.
    pub fn add(&self, name: &str) -> Result<(KeyInfo, Zeroizing<String>), KeyringError> {
        let phrase = mnemonic::generate()?;
        Ok((self.recover(name, &phrase)?, phrase))
    }

    /// Restores a key from its 12 or 24 words.
    pub fn recover(&self, name: &str, phrase: &str) -> Result<KeyInfo, KeyringError> {
        self.store(name, &mnemonic::derive(phrase)?)
    }

    /// Stores a secret that came from elsewhere.
    pub fn store(&self, name: &str, key: &SigningKey) -> Result<KeyInfo, KeyringError> {
        let path = self.path(name)?;
        if path.exists() {
            return Err(KeyringError::Exists { name: name.into(), dir: self.dir.clone() });
        }
        let file = KeyFile::new(key, |about| match self.backend {
            Backend::Test => Ok(Sealed::Open { secret: key.secret().clone() }),
            Backend::File => Sealed::lock(key.secret(), about, &self.passphrase.locking(name)?),
        })?;
        self.write_new(name, &path, &file.write())?;
        Ok(file.info(name))
    }

    /// Unlocks a key for signing.
    pub fn signer(&self, name: &str) -> Result<SigningKey, KeyringError> {
        self.read(name)?.unlock(|| self.passphrase.unlocking(name))
    }

    /// The text of a key file locked by `passphrase`, for [`import`](Self::import) elsewhere.
    pub fn export(&self, name: &str, passphrase: &Passphrase) -> Result<Zeroizing<String>, KeyringError> {
        let key = self.signer(name)?;
        let file = KeyFile::new(&key, |about| Sealed::lock(key.secret(), about, &passphrase.locking(name)?))?;
        Ok(file.write())
    }

    /// Stores a key that [`export`](Self::export) wrote, under this keyring's own protection.
    pub fn import(&self, name: &str, text: &str, passphrase: &Passphrase) -> Result<KeyInfo, KeyringError> {
        self.store(name, &KeyFile::parse(text)?.unlock(|| passphrase.unlocking(name))?)
    }

    /// Removes the file. Without the words or an export, what the key holds is lost.
    pub fn delete(&self, name: &str) -> Result<(), KeyringError> {
        let path = self.path(name)?;
        fs::remove_file(&path).map_err(|e| self.missing(name, &path, e))
    }

    fn path(&self, name: &str) -> Result<PathBuf, KeyringError> {
        check_name(name)?;
        Ok(self.dir.join(format!("{name}.json")))
    }

    fn read(&self, name: &str) -> Result<KeyFile, KeyringError> {
        let path = self.path(name)?;
        let text = fs::read_to_string(&path).map(Zeroizing::new).map_err(|e| self.missing(name, &path, e))?;
        check_private(&path)?;
        KeyFile::parse(&text)
    }

    fn missing(&self, name: &str, path: &Path, error: std::io::Error) -> KeyringError {
        match error.kind() {
            ErrorKind::NotFound => KeyringError::NotFound { name: name.into(), dir: self.dir.clone() },
            _ => io(path)(error),
        }
    }

    /// Whole or not at all, and never over another key: written aside, synced, then linked under its name.
    fn write_new(&self, name: &str, path: &Path, text: &str) -> Result<(), KeyringError> {
        let aside = self.dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::hard_link(&aside, path));
        let _ = fs::remove_file(&aside);
        written.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => KeyringError::Exists { name: name.into(), dir: self.dir.clone() },
            _ => io(path)(e),
        })?;
        fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io(&self.dir))
    }
}

/// A name is a file name, so it stays in the folder.
fn check_name(name: &str) -> Result<(), KeyringError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=64).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    good.then_some(()).ok_or_else(|| KeyringError::Name(name.chars().take(80).collect()))
}

/// Refuses a file or folder that others may read or enter.
fn check_private(path: &Path) -> Result<(), KeyringError> {
    let metadata = fs::metadata(path).map_err(io(path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        return Err(KeyringError::Permissions { path: path.into(), mode, expected });
    }
    Ok(())
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KeyringError + '_ {
    move |source| KeyringError::Io { path: path.into(), source }
}
