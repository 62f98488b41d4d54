//! CometBFT's home folder: keys, genesis and `config/config.toml`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tendermint::{node, PublicKey};
use tendermint_config::{NodeKey, PrivValidatorKey};
use toml_edit::{DocumentMut, Value};

use super::Binary;

/// A home folder that has been initialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cometbft init failed: {0}")]
    Init(String),
    #[error("{}: {cause}", path.display())]
    Malformed { path: PathBuf, cause: String },
    #[error("{}: there is no setting {key:?}", path.display())]
    NoSuchSetting { path: PathBuf, key: String },
}

/// What we decide about a node. Every other setting stays as `cometbft init` or the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's name among its peers.
    pub moniker: String,
    /// The application's address, as [`crate::abci::Address`] prints it.
    pub proxy_app: String,
    /// RPC has no authentication: leave it on loopback, or put a proxy in front.
    pub rpc_laddr: SocketAddr,
    /// Where peers connect. A public node listens on `0.0.0.0:26656`.
    pub p2p_laddr: SocketAddr,
    /// What peers are told to dial, `host:port`; empty means `p2p_laddr`.
    pub external_address: String,
    /// `node_id@host:port` each.
    pub persistent_peers: Vec<String>,
    pub timeouts: Timeouts,
    /// Deadlines and epochs count blocks: an idle chain must make them too.
    pub create_empty_blocks: bool,
    /// Transactions that may wait.
    pub mempool_size: u32,
    /// Whether transactions and block events are indexed for `tx_search`.
    pub tx_index: bool,
    /// `debug`, `info`, `error`, `none`, or `module:level` pairs.
    pub log_level: String,
    /// Off where peers have private addresses: then the address book keeps them too.
    pub addr_book_strict: bool,
    /// On where several nodes share an address.
    pub allow_duplicate_ip: bool,
}

/// How long a round waits, before what each further round adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub propose: Duration,
    pub prevote: Duration,
    pub precommit: Duration,
    /// From a commit to the next proposal: on a quiet network, the block time.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { propose: 3 * second, prevote: second, precommit: second, commit: second }
    }
}

impl Default for Config {
    /// A node of a real network that nobody reaches yet.
    fn default() -> Self {
        Self {
            moniker: "deepnode".into(),
            proxy_app: "tcp://127.0.0.1:26658".into(),
            rpc_laddr: ([127, 0, 0, 1], 26657).into(),
            p2p_laddr: ([127, 0, 0, 1], 26656).into(),
            external_address: String::new(),
            persistent_peers: Vec::new(),
            timeouts: Timeouts::default(),
            create_empty_blocks: true,
            mempool_size: 5000,
            tx_index: true,
            log_level: "info".into(),
            addr_book_strict: true,
            allow_duplicate_ip: false,
        }
    }
}

impl Config {
    fn settings(&self) -> Vec<(&'static str, Value)> {
        let tcp = |addr: SocketAddr| format!("tcp://{addr}");
        let time = |d: Duration| format!("{}ms", d.as_millis());
        vec![
            ("moniker", self.moniker.as_str().into()),
            ("proxy_app", self.proxy_app.as_str().into()),
            ("abci", "socket".into()),
            ("log_level", self.log_level.as_str().into()),
            ("rpc.laddr", tcp(self.rpc_laddr).into()),
            ("rpc.pprof_laddr", "".into()),
            ("rpc.unsafe", false.into()),
            // The default of a megabyte does not let the largest transaction pass in base64.
            ("rpc.max_body_bytes", (2 * deepnode_tx::MAX_TX_BYTES as i64).into()),
            ("p2p.laddr", tcp(self.p2p_laddr).into()),
            ("p2p.external_address", self.external_address.as_str().into()),
            ("p2p.persistent_peers", self.persistent_peers.join(",").into()),
            ("p2p.addr_book_strict", self.addr_book_strict.into()),
            ("p2p.allow_duplicate_ip", self.allow_duplicate_ip.into()),
            ("mempool.max_tx_bytes", (deepnode_tx::MAX_TX_BYTES as i64).into()),
            ("mempool.size", i64::from(self.mempool_size).into()),
            ("consensus.timeout_propose", time(self.timeouts.propose).into()),
            ("consensus.timeout_prevote", time(self.timeouts.prevote).into()),
            ("consensus.timeout_precommit", time(self.timeouts.precommit).into()),
            ("consensus.timeout_commit", time(self.timeouts.commit).into()),
            ("consensus.create_empty_blocks", self.create_empty_blocks.into()),
            ("tx_index.indexer", if self.tx_index { "kv" } else { "null" }.into()),
        ]
    }
}

impl Home {
    /// Runs `cometbft init`, which writes configuration, keys and genesis where they are missing, and opens `dir`.
    pub fn init(binary: &Binary, dir: impl Into<PathBuf>) -> Result<Self, HomeError> {
        let dir = dir.into();
        let out = Command::new(binary.path())
            .args(["init", "--log_level", "error", "--home"])
            .arg(&dir)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| HomeError::Init(e.to_string()))?;
        if !out.status.success() {
            return Err(HomeError::Init(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
        }
        Self::open(dir)
    }

    /// Opens a home folder that exists.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, HomeError> {
        let home = Self { dir: dir.into() };
        home.document()?;
        Ok(home)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `config` into `config.toml`.
    pub fn configure(&self, config: &Config) -> Result<(), HomeError> {
        self.set(config.settings())
    }

    /// Sets `section.key` in `config.toml`, keeping the rest with its comments. A key that is not there is an error: it is
    /// misspelt, or of another version.
    pub fn set<'a>(&self, settings: impl IntoIterator<Item = (&'a str, Value)>) -> Result<(), HomeError> {
        let mut document = self.document()?;
        for (key, value) in settings {
            let item = match key.split_once('.') {
                Some((section, key)) => document.get_mut(section).and_then(|s| s.get_mut(key)),
                None => document.get_mut(key),
            };
            let Some(old) = item.and_then(|item| item.as_value_mut()) else {
                return Err(HomeError::NoSuchSetting { path: self.config_path(), key: key.to_owned() });
            };
            *old = value.decorated(" ", "");
        }
        self.write(self.config_path(), document.to_string().as_bytes())
    }

    /// Where RPC answers, as an `http://` URL.
    pub fn rpc_url(&self) -> Result<String, HomeError> {
        let document = self.document()?;
        let laddr = document.get("rpc").and_then(|rpc| rpc.get("laddr")).and_then(|l| l.as_str());
        match laddr.and_then(|l| l.strip_prefix("tcp://")) {
            Some(addr) => Ok(format!("http://{}", addr.replace("0.0.0.0", "127.0.0.1"))),
            None => Err(HomeError::NoSuchSetting { path: self.config_path(), key: "rpc.laddr".into() }),
        }
    }

    /// The node's name among its peers.
    pub fn moniker(&self) -> Result<String, HomeError> {
        let document = self.document()?;
        let moniker = document.get("moniker").and_then(|m| m.as_str());
        moniker
            .map(str::to_owned)
            .ok_or_else(|| HomeError::NoSuchSetting { path: self.config_path(), key: "moniker".into() })
    }

    /// What peers know the node by: `node_id@host:port`.
    pub fn node_id(&self) -> Result<node::Id, HomeError> {
        Ok(self.json::<NodeKey>("config/node_key.json")?.node_id())
    }

    /// The key that signs votes.
    pub fn validator_key(&self) -> Result<PublicKey, HomeError> {
        Ok(self.json::<PrivValidatorKey>("config/priv_validator_key.json")?.pub_key)
    }

    pub fn genesis(&self) -> Result<Json, HomeError> {
        self.json("config/genesis.json")
    }

    /// Every node of a chain must be given the same genesis.
    pub fn set_genesis(&self, genesis: &Json) -> Result<(), HomeError> {
        let path = self.dir.join("config/genesis.json");
        self.write(path, format!("{genesis:#}\n").as_bytes())
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("config/config.toml")
    }

    fn document(&self) -> Result<DocumentMut, HomeError> {
        let path = self.config_path();
        let text = read(&path)?;
        text.parse().map_err(|e: toml_edit::TomlError| HomeError::Malformed { path, cause: e.to_string() })
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, HomeError> {
        let path = self.dir.join(name);
        let text = read(&path)?;
        serde_json::from_str(&text).map_err(|e| HomeError::Malformed { path, cause: e.to_string() })
    }

    /// Replaces a file in one step.
    fn write(&self, path: PathBuf, content: &[u8]) -> Result<(), HomeError> {
        let new = path.with_extension("new");
        fs::write(&new, content)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| HomeError::Io { path, source })
    }
}

fn read(path: &Path) -> Result<String, HomeError> {
    fs::read_to_string(path).map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config.toml as CometBFT writes it, down to the keys that matter here.
    fn home(dir: &Path) -> Home {
        fs::create_dir_all(dir.join("config")).unwrap();
        let text =
            "# top\nproxy_app = \"x\"\n\n[rpc]\n# where\nladdr = \"tcp://0.0.0.0:1\" # RPC\nunsafe = true\n";
        fs::write(dir.join("config/config.toml"), text).unwrap();
        Home::open(dir).unwrap()
    }

    #[test]
    fn settings_change_in_place_and_only_if_they_exist() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        assert_eq!(home.rpc_url().unwrap(), "http://127.0.0.1:1");
        home.set([("proxy_app", "unix:///s".into()), ("rpc.laddr", "tcp://127.0.0.1:2".into())]).unwrap();
        let before = read(&home.config_path()).unwrap();
        assert_eq!(
            before,
            "# top\nproxy_app = \"unix:///s\"\n\n[rpc]\n# where\nladdr = \"tcp://127.0.0.1:2\"\nunsafe = true\n"
        );
        for wrong in ["rpc.ladr", "rcp.laddr", "rpc", "nothing"] {
            let error = home.set([("rpc.unsafe", false.into()), (wrong, 1.into())]).unwrap_err();
            assert!(matches!(error, HomeError::NoSuchSetting { .. }), "{wrong}: {error}");
        }
        assert_eq!(read(&home.config_path()).unwrap(), before, "all or nothing");
        assert!(Home::open(dir.path().join("nowhere")).is_err());
    }
}
