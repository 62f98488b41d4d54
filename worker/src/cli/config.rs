//! `worker.toml`, in the home folder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use deepnode_client::keyring::{Backend, Passphrase};
use deepnode_client::{Client, GasPrice, Keyring};
use deepnode_tx::{Address, SigningKey};
use serde::{Deserialize, Serialize};

use super::device::Device;
use crate::canon::Digest;
use crate::chain::GrpcChain;
use crate::engine::{Limits, Options};
use crate::model::{self, AnyModel};

/// File name of the configuration.
const FILE: &str = "worker.toml";
const ABOUT: &str = "# Of deepnode-worker, for `run` and `verify`. Restart it after a change.\n\n";

/// The configuration. Every field may be left out but the first three.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub chain_id: String,
    /// A node's gRPC, host:port.
    pub node: String,
    /// That node's CometBFT, such as "http://127.0.0.1:26657", which tells of new blocks; empty looks by the clock.
    #[serde(default)]
    pub comet: String,
    /// Name of the key that signs, in the keyring of the home folder.
    pub key: String,
    /// "file" (a passphrase locks it) or "test".
    #[serde(default = "file")]
    pub keyring_backend: String,
    /// Price of gas, such as "0.025udn"; empty offers no fee.
    #[serde(default)]
    pub gas_price: String,
    /// Models to load, by id; none stands for all that were imported.
    #[serde(default)]
    pub models: Vec<String>,
    /// "auto" (the first card that can, else the processor), "cpu", "cuda" or "cuda:NUMBER".
    #[serde(default)]
    pub device: Device,
    /// Threads that compute; 0 stands for every core.
    #[serde(default)]
    pub threads: usize,
    /// Copies the weights into huge pages: faster, and not shared with other processes.
    #[serde(default)]
    pub huge_pages: bool,
    /// Lowers the process' priority, 0 to 19.
    #[serde(default)]
    pub nice: i32,
    /// Of `run` only.
    #[serde(default)]
    pub worker: WorkerConfig,
}

/// What `run` needs besides.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Operator address of the validator to back.
    pub validator: String,
    /// udn that are bonded when the worker registers.
    pub bond: u64,
    /// Where users and auditors reach this worker, http://host:port.
    pub endpoint: String,
    /// Where the service listens.
    pub listen: SocketAddr,
    /// Where Prometheus reads /metrics; empty for nowhere.
    pub metrics: String,
    /// Free capacity in CU a block; 0 stands for the speed of the class of the largest model.
    pub declared: u64,
    pub hardware: String,
    /// Seconds that tasks under way get when the worker is told to stop.
    pub drain_seconds: u64,
    /// Tasks that generate at once.
    pub parallel: u32,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            validator: String::new(),
            bond: 100_000_000,
            endpoint: "http://127.0.0.1:7070".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            metrics: "127.0.0.1:7071".into(),
            declared: 0,
            hardware: format!("cpu/{}", std::env::consts::ARCH),
            drain_seconds: 60,
            parallel: 64,
        }
    }
}

fn file() -> String {
    "file".into()
}

/// The home folder with its configuration.
#[derive(Clone, Debug)]
pub struct Home {
    pub dir: PathBuf,
    pub config: Config,
}

impl Home {
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: run `deepnode-worker init --home {}` first", path.display(), dir.display())
        })?;
        let config: Config = toml::from_str(&text).with_context(|| path.display().to_string())?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(Self { dir: dir.into(), config })
    }

    /// Writes the configuration of a new home, for its owner only.
    pub fn create(dir: &Path, config: Config) -> anyhow::Result<Self> {
        use std::io::Write;
        use std::os::unix::fs::DirBuilderExt;
        config.check()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(dir.display().to_string())?;
        let path = dir.join(FILE);
        let text = format!("{ABOUT}{}", toml::to_string(&config)?);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| path.display().to_string())?;
        Ok(Self { dir: dir.into(), config })
    }

    pub fn keyring(&self, passphrase: Passphrase) -> anyhow::Result<Keyring> {
        let backend: Backend = self.config.keyring_backend.parse()?;
        Ok(Keyring::open(&self.dir, backend, passphrase)?)
    }

    pub fn models_folder(&self) -> PathBuf {
        self.dir.join("models")
    }

    pub fn blobs_folder(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// The journal of `run` or `verify`; the lock beside it keeps a second process from the same key.
    pub fn journal(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{what}-{}.journal", self.config.key))
    }

    /// The models to load. Tasks carry language models alone: encoders in the folder are passed over.
    pub fn models(&self) -> anyhow::Result<Vec<Digest>> {
        if !self.config.models.is_empty() {
            return self.config.models.iter().map(|id| model_id(id)).collect();
        }
        let mut ids = Vec::new();
        for listing in model::list(&self.models_folder())? {
            match listing.model.with_context(|| listing.path.display().to_string())? {
                AnyModel::Decoder(model) => ids.push(model.id()),
                AnyModel::Encoder(_) => {}
            }
        }
        if ids.is_empty() {
            bail!("no language model is imported: run `deepnode-worker models import FILE.gguf` first");
        }
        Ok(ids)
    }

    pub fn engine_options(&self) -> Options {
        let default = Options::default();
        let threads = if self.config.threads == 0 { default.threads } else { self.config.threads };
        Options { threads, huge_pages: self.config.huge_pages, ..default }
    }

    /// Connects to the node, and sees to it that it is of the configured chain.
    pub async fn chain(&self, signer: SigningKey) -> anyhow::Result<GrpcChain> {
        let client = Client::connect(&self.config.node).await?.expect_chain(&self.config.chain_id)?;
        let comet = Some(self.config.comet.clone()).filter(|comet| !comet.is_empty());
        Ok(GrpcChain::new(client, signer, self.config.gas_price()?, comet))
    }
}

impl Config {
    fn check(&self) -> anyhow::Result<()> {
        if self.chain_id.is_empty() {
            bail!("chain_id is empty");
        }
        self.keyring_backend.parse::<Backend>()?;
        self.gas_price()?;
        if !self.comet.is_empty() && !self.comet.starts_with("http://") {
            bail!("comet is {:?}, must be as http://127.0.0.1:26657", self.comet);
        }
        if !(0..=19).contains(&self.nice) {
            bail!("nice is {}, must be 0 to 19", self.nice);
        }
        if !self.worker.validator.is_empty() {
            Address::parse_operator(&self.worker.validator).context("worker.validator")?;
        }
        if !self.worker.endpoint.starts_with("http://") {
            bail!("worker.endpoint is {:?}, must be as http://host:port", self.worker.endpoint);
        }
        let most = Limits::default().running;
        if !(1..=most).contains(&(self.worker.parallel as usize)) {
            bail!("worker.parallel is {}, must be 1 to {most}", self.worker.parallel);
        }
        self.worker.metrics()?;
        self.models.iter().try_for_each(|id| model_id(id).map(|_| ()))
    }

    pub fn gas_price(&self) -> anyhow::Result<Option<GasPrice>> {
        Ok(if self.gas_price.is_empty() { None } else { Some(self.gas_price.parse()?) })
    }
}

impl WorkerConfig {
    /// Where /metrics answers. Loopback only: it has no credentials.
    pub fn metrics(&self) -> anyhow::Result<Option<SocketAddr>> {
        if self.metrics.is_empty() {
            return Ok(None);
        }
        let address: SocketAddr = self.metrics.parse().with_context(|| {
            format!("worker.metrics is {:?}, must be an address and a port", self.metrics)
        })?;
        if !address.ip().is_loopback() {
            bail!("worker.metrics is {address}, must be on loopback, as 127.0.0.1:7071");
        }
        Ok(Some(address))
    }
}

fn model_id(text: &str) -> anyhow::Result<Digest> {
    let mut id = [0; 32];
    hex::decode_to_slice(text, &mut id)
        .with_context(|| format!("models: {text:?} is not a model id, which has 64 hex digits"))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        toml::from_str("chain_id = \"dn-1\"\nnode = \"127.0.0.1:9090\"\nkey = \"w\"\n").unwrap()
    }

    #[test]
    fn what_init_writes_reads_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("w");
        Home::create(&dir, config()).unwrap();
        let mode = fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(toml::to_string(&Home::open(&dir).unwrap().config), toml::to_string(&config()));
        let error = format!("{:#}", Home::create(&dir, config()).unwrap_err());
        assert!(error.contains("exists"), "{error}");
    }

    #[test]
    fn bad_values_are_named() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            format!("{:#}", config.check().unwrap_err())
        };
        assert_eq!(refused(&|c| c.nice = 20), "nice is 20, must be 0 to 19");
        assert_eq!(
            refused(&|c| c.comet = "h:1".into()),
            "comet is \"h:1\", must be as http://127.0.0.1:26657"
        );
        assert!(refused(&|c| c.worker.metrics = "0.0.0.0:1".into()).contains("must be on loopback"));
        assert!(refused(&|c| c.worker.validator = "dn1x".into()).starts_with("worker.validator"));
        assert!(refused(&|c| c.worker.endpoint = "h:1".into()).ends_with("must be as http://host:port"));
        assert!(refused(&|c| c.models = vec!["12".into()]).contains("\"12\" is not a model id"));
        assert!(toml::from_str::<Config>("chain_id = \"a\"\nnode = \"b\"\nkey = \"c\"\nnise = 3\n").is_err());
    }
}
