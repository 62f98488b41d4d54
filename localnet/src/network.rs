//! The network: its folders, keys and genesis, and its processes.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use deepnode_abci_server::cli::genesis::{add_account, add_validator};
use deepnode_abci_server::cli::init::MAX_BLOCK_GAS;
use deepnode_abci_server::comet::{Binary, Config, Home, Rpc, Timeouts};
use deepnode_client::keyring::{Backend, Passphrase};
use deepnode_client::{Client, Keyring};
use deepnode_tx::{Address, SigningKey};
use futures::future::join_all;
use serde_json::{json, Value};

use crate::process::Process;

pub const CHAIN_ID: &str = "deepnode-local-1";
pub const VALIDATORS: usize = 4;
pub const WORKERS: usize = 3;
/// Users that ask at the same time.
const USERS: usize = 3;
/// A millionth of a DN.
const DN: u128 = 1_000_000;
/// Time between blocks when nothing else takes longer.
const BLOCK: Duration = Duration::from_millis(700);
/// Processes that compute give way to those that make blocks.
const NICE: i32 = 10;
/// Longest time without a block.
const STUCK: Duration = Duration::from_secs(60);
/// How often it is looked whether there are blocks.
const LOOK: Duration = Duration::from_secs(2);
/// How long a CometBFT may take to say its height.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ports of one kind, one a node.
struct Ports {
    rpc: u16,
    p2p: u16,
    grpc: u16,
    rest: u16,
    serving: u16,
    gateway: u16,
}

const PORTS: Ports =
    Ports { rpc: 26_657, p2p: 26_757, grpc: 9_090, rest: 1_317, serving: 7_070, gateway: 8_080 };

fn local(base: u16, index: usize) -> SocketAddr {
    ([127, 0, 0, 1], base + index as u16).into()
}

/// Where the programs, the model and the state are.
pub struct Paths {
    /// State of the network; deleted at each start.
    pub dir: PathBuf,
    /// Folder of `deepnoded` and `deepnode-worker`.
    pub bin: PathBuf,
    /// Folder of imported models, kept between starts.
    pub models: PathBuf,
    pub gguf: PathBuf,
}

/// Voting power as CometBFT has it, by validator of the network.
pub type Powers = Vec<u64>;

/// A network that runs until it is dropped.
pub struct Network {
    pub paths: Paths,
    pub validators: Vec<Validator>,
    pub workers: Vec<Worker>,
    pub gateway: Gateway,
    pub users: Vec<SigningKey>,
    pub model: [u8; 32],
    /// When the program began.
    pub started: Instant,
    progress: Progress,
}

/// How far the chain was seen to come.
struct Progress {
    height: u64,
    /// When that height was new.
    since: Instant,
    looked: Instant,
}

/// A validator: one process that supervises CometBFT, and one that audits.
pub struct Validator {
    pub name: String,
    pub operator: SigningKey,
    pub auditor: SigningKey,
    pub home: PathBuf,
    pub grpc: SocketAddr,
    pub rpc: SocketAddr,
    pub node: Process,
    pub verifier: Process,
}

/// OpenAI's API in front of the network, and its process.
pub struct Gateway {
    pub key: SigningKey,
    pub listen: SocketAddr,
    pub process: Process,
}

/// A worker and its process.
pub struct Worker {
    pub name: String,
    pub key: SigningKey,
    pub endpoint: SocketAddr,
    /// The validator that it backs.
    pub backs: usize,
    pub process: Process,
}

impl Network {
    /// Makes folders, keys and genesis. Nothing runs yet.
    pub fn create(paths: Paths, model: [u8; 32], model_entry: Value, started: Instant) -> Result<Self> {
        free_ports()?;
        let _ = std::fs::remove_dir_all(&paths.dir);
        std::fs::create_dir_all(paths.dir.join("logs"))
            .with_context(|| format!("{}", paths.dir.display()))?;
        let comet = Binary::find(None)?;
        let keys = Keyring::open(&paths.dir, Backend::Test, Passphrase::Prompt)?;
        let key = |name: &str| -> Result<SigningKey> {
            keys.add(name)?;
            Ok(keys.signer(name)?)
        };
        let mut homes = Vec::new();
        for index in 0..VALIDATORS {
            homes.push(Home::init(&comet, paths.dir.join(format!("validator{index}")))?);
        }
        let mut validators = Vec::new();
        for (index, home) in homes.iter().enumerate() {
            let name = format!("validator{index}");
            let (grpc, rpc) = (local(PORTS.grpc, index), local(PORTS.rpc, index));
            let peers = homes.iter().enumerate().filter(|(other, _)| *other != index);
            let peers =
                peers.map(|(other, peer)| Ok(format!("{}@{}", peer.node_id()?, local(PORTS.p2p, other))));
            home.configure(&Config {
                moniker: name.clone(),
                rpc_laddr: rpc,
                p2p_laddr: local(PORTS.p2p, index),
                persistent_peers: peers.collect::<Result<_>>()?,
                timeouts: Timeouts { commit: BLOCK, ..Timeouts::default() },
                addr_book_strict: false,
                allow_duplicate_ip: true,
                ..Config::default()
            })?;
            let args = vec![
                "--home".into(),
                home.dir().display().to_string(),
                "start".into(),
                "--with-cometbft".into(),
                "--cometbft".into(),
                comet.path().display().to_string(),
                "--grpc".into(),
                grpc.to_string(),
                "--rest".into(),
                local(PORTS.rest, index).to_string(),
                "--cache-mb".into(),
                "64".into(),
            ];
            let node = Process::new(&name, &paths.bin.join("deepnoded"), args, log(&paths, &name), 0);
            let operator = key(&name)?;
            let verifier_name = format!("verifier{index}");
            let comet = format!("http://{rpc}");
            let settings = [("--node", grpc.to_string()), ("--comet", comet), ("--metrics", String::new())];
            let (auditor, verifier) = agent(&paths, &verifier_name, "verify", &settings)?;
            validators.push(Validator {
                name,
                operator,
                auditor,
                home: home.dir().to_owned(),
                grpc,
                rpc,
                node,
                verifier,
            });
        }
        let mut workers = Vec::new();
        for index in 0..WORKERS {
            workers.push(worker(&paths, &format!("worker{index}"), index, &validators)?);
        }
        let gateway = gateway(&paths, &model, &validators[0])?;
        let users = (0..USERS).map(|index| key(&format!("user{index}"))).collect::<Result<_>>()?;
        let now = Instant::now();
        let progress = Progress { height: 0, since: now, looked: now };
        let mut network = Network { paths, validators, workers, gateway, users, model, started, progress };
        network.write_genesis(&homes, model_entry)?;
        Ok(network)
    }

    fn write_genesis(&mut self, homes: &[Home], model: Value) -> Result<()> {
        let mut genesis = homes[0].genesis()?;
        genesis["chain_id"] = CHAIN_ID.into();
        genesis["validators"] = json!([]);
        genesis["consensus_params"]["block"]["max_gas"] = MAX_BLOCK_GAS.to_string().into();
        let mut state = deepnode_app::default_genesis();
        merge(&mut state, parameters())?;
        state["models"]["models"] = json!([model]);
        for class in state["models"]["classes"].as_array_mut().context("genesis has no classes")? {
            let numbers =
                json!({ "speed": "2000", "cu_ref": "10000", "ref_price": "14000.0", "price": "14000.0" });
            merge(class, numbers)?;
        }
        genesis["app_state"] = state;
        for (validator, home) in self.validators.iter().zip(homes) {
            let operator = validator.operator.address();
            add_account(&mut genesis, &operator, 100_000 * DN)?;
            add_account(&mut genesis, &validator.auditor.address(), 1_000 * DN)?;
            let key = home.validator_key()?.to_bytes();
            add_validator(&mut genesis, &operator, &key, &validator.name, 10_000 * DN)?;
        }
        for worker in &self.workers {
            add_account(&mut genesis, &worker.key.address(), 10_000 * DN)?;
        }
        add_account(&mut genesis, &self.gateway.key.address(), 1_000 * DN)?;
        for user in &self.users {
            add_account(&mut genesis, &user.address(), 10_000 * DN)?;
        }
        homes.iter().try_for_each(|home| home.set_genesis(&genesis))?;
        Ok(())
    }

    /// Starts the validators and waits for the first blocks.
    pub async fn start_validators(&mut self, patience: Duration) -> Result<()> {
        for validator in &mut self.validators {
            validator.node.start()?;
        }
        let begin = Instant::now();
        loop {
            self.check().await?;
            if self.heights().await.iter().all(|height| *height >= 2) {
                return Ok(());
            }
            if begin.elapsed() > patience {
                let log = &self.validators[0].node.log;
                bail!("no blocks after {} s; see {}", patience.as_secs(), log.display());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Fails if a child ended by itself, or if blocks stopped coming.
    pub async fn check(&mut self) -> Result<()> {
        for validator in &mut self.validators {
            validator.node.check()?;
            validator.verifier.check()?;
        }
        self.workers.iter_mut().try_for_each(|worker| worker.process.check())?;
        self.gateway.process.check()?;
        self.check_progress().await
    }

    async fn check_progress(&mut self) -> Result<()> {
        if self.progress.looked.elapsed() < LOOK {
            return Ok(());
        }
        let height = self.heights().await.into_iter().max().unwrap_or(0);
        let progress = &mut self.progress;
        progress.looked = Instant::now();
        if height > progress.height {
            (progress.height, progress.since) = (height, progress.looked);
        }
        if progress.since.elapsed() > STUCK {
            let (seconds, logs) = (STUCK.as_secs(), self.paths.dir.join("logs"));
            bail!("no block after {} for {seconds} s; the logs are in {}", progress.height, logs.display());
        }
        Ok(())
    }

    /// The height of each validator's CometBFT, 0 where it does not answer.
    pub async fn heights(&self) -> Vec<u64> {
        let height = |validator: &Validator| {
            let rpc = Rpc::with_timeout(&format!("http://{}", validator.rpc), PATIENCE);
            async move {
                let status = rpc.ok()?.status().await.ok()?;
                Some(status.sync_info.latest_block_height.value())
            }
        };
        let heights = join_all(self.validators.iter().map(height)).await;
        heights.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Voting power as CometBFT's /validators has it.
    pub async fn powers(&self) -> Result<Powers> {
        let found = Rpc::new(&format!("http://{}", self.validators[0].rpc))?.validators(None).await?;
        let power = |validator: &Validator| -> Result<u64> {
            let key = Home::open(&validator.home)?.validator_key()?;
            Ok(found.iter().find(|v| v.pub_key == key).map_or(0, |v| v.power.value()))
        };
        self.validators.iter().map(power).collect()
    }

    /// The position of a worker by its address.
    pub fn worker(&self, address: &str) -> Result<usize> {
        let found = self.workers.iter().position(|w| w.key.address().to_string() == address);
        found.with_context(|| format!("{address} is no worker of this network"))
    }

    /// Lets a worker go on with another program, and with more arguments.
    pub fn switch_worker(&mut self, index: usize, program: &str, more: &[&str]) -> Result<()> {
        let process = &mut self.workers[index].process;
        process.stop();
        process.replace(&self.paths.bin.join(program), more);
        process.start()
    }

    /// A connection to the first validator's node.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.validators[0].grpc.to_string()).await?)
    }

    /// Stops everything: those that compute first, then the nodes.
    pub fn stop(&mut self) {
        self.gateway.process.stop();
        let workers = || self.workers.iter().map(|w| &w.process);
        let verifiers = || self.validators.iter().map(|v| &v.verifier);
        workers().chain(verifiers()).for_each(|p| p.signal(libc::SIGTERM));
        self.workers.iter_mut().for_each(|w| w.process.wait());
        self.validators.iter_mut().for_each(|v| v.verifier.wait());
        self.validators.iter().for_each(|v| v.node.signal(libc::SIGTERM));
        self.validators.iter_mut().for_each(|v| v.node.wait());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A worker of this network.
fn worker(paths: &Paths, name: &str, index: usize, validators: &[Validator]) -> Result<Worker> {
    // One each, so that what a worker does shows in one validator's power.
    let backs = index.min(validators.len() - 1);
    let endpoint = local(PORTS.serving, index);
    let settings = [
        ("--node", validators[backs].grpc.to_string()),
        ("--comet", format!("http://{}", validators[backs].rpc)),
        ("--validator", validators[backs].operator.address().to_operator()),
        ("--endpoint", endpoint.to_string()),
        ("--listen", endpoint.to_string()),
        ("--metrics", String::new()),
        ("--bond", (200 * DN).to_string()),
    ];
    let (key, process) = agent(paths, name, "run", &settings)?;
    Ok(Worker { name: name.into(), key, endpoint, backs, process })
}

/// A gateway to this network.
fn gateway(paths: &Paths, model: &[u8; 32], validator: &Validator) -> Result<Gateway> {
    let settings = [
        ("--node", validator.grpc.to_string()),
        ("--comet", format!("http://{}", validator.rpc)),
        ("--metrics", String::new()),
    ];
    let listen = local(PORTS.gateway, 0);
    let (key, mut process) = agent(paths, "gateway", "gateway", &settings)?;
    let (model, listens, budget) = (hex::encode(model), listen.to_string(), (100 * DN).to_string());
    let program = paths.bin.join("deepnode-worker");
    process.replace(&program, &["--model", &model, "--listen", &listens, "--budget-day", &budget]);
    Ok(Gateway { key, listen, process })
}

/// A process of `deepnode-worker`, with its folder and key. All of them map one model file.
fn agent(
    paths: &Paths,
    name: &str,
    command: &str,
    settings: &[(&str, String)],
) -> Result<(SigningKey, Process)> {
    let home = paths.dir.join(name);
    let home_text = home.display().to_string();
    let mut args = vec!["--home", &home_text, "init", "--chain-id", CHAIN_ID, "--key", name];
    args.extend(["--keyring-backend", "test", "--threads", "1", "--gas-price", "0.025udn"]);
    args.extend(settings.iter().flat_map(|(name, value)| [*name, value.as_str()]));
    crate::output(&paths.bin.join("deepnode-worker"), &args)?;
    std::os::unix::fs::symlink(&paths.models, home.join("models"))
        .with_context(|| format!("cannot link {} into {}", paths.models.display(), home.display()))?;
    let key = Keyring::open(&home, Backend::Test, Passphrase::Prompt)?.signer(name)?;
    let args = vec!["--home".into(), home_text, command.into()];
    Ok((key, Process::new(name, &paths.bin.join("deepnode-worker"), args, log(paths, name), NICE)))
}

fn log(paths: &Paths, name: &str) -> PathBuf {
    paths.dir.join("logs").join(format!("{name}.log"))
}

/// Short epochs and windows, so that a tour of minutes sees what takes days on a public network.
fn parameters() -> Value {
    json!({
        "beacon": { "params": { "epoch_blocks": "10", "max_epoch_seconds": "600" } },
        "reputation": { "params": { "kappa": "2", "half_life": "100", "ramp": "2" } },
        "tasks": { "params": { "window_blocks": "10" } },
        "audits": { "params": { "min_chance_ppm": 500_000, "phase_blocks": "20", "missing_blocks": "20", "retention_blocks": "20" } },
        "powr": { "params": {
            "tau": "4", "rho_step_ppm": 100_000, "target_cu": "10000",
            "full_credit_workers": 3, "full_credit_validators": 2
        } },
        "gov": { "params": {
            "voting_period": "20s", "expedited_voting_period": "10s", "max_deposit_period": "60s"
        } },
    })
}

/// Sets what `changes` names; a name that is not there is an error, since it is misspelt.
fn merge(state: &mut Value, changes: Value) -> Result<()> {
    let Value::Object(changes) = changes else {
        *state = changes;
        return Ok(());
    };
    for (name, change) in changes {
        let entry = state.get_mut(&name).with_context(|| format!("genesis has no {name:?}"))?;
        merge(entry, change)?;
    }
    Ok(())
}

/// Says which port is taken, before anything is built on it.
fn free_ports() -> Result<()> {
    for index in 0..VALIDATORS {
        for (what, base) in [
            ("CometBFT's RPC", PORTS.rpc),
            ("CometBFT's peers", PORTS.p2p),
            ("gRPC", PORTS.grpc),
            ("REST", PORTS.rest),
        ] {
            free(what, local(base, index))?;
        }
    }
    free("the gateway", local(PORTS.gateway, 0))?;
    (0..WORKERS).try_for_each(|index| free("a worker", local(PORTS.serving, index)))
}

fn free(what: &str, address: SocketAddr) -> Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| {
        format!(
            "{what} needs {address}, which another program uses: stop it (`ss -ltnp` shows it) and try again"
        )
    })
}

/// An account of the network, for printing.
pub fn short(address: &Address) -> String {
    let text = address.to_string();
    format!("{}…{}", &text[..8], &text[text.len() - 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let error = free("REST", address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("REST needs {address}")) && error.contains("ss -ltnp"), "{error}");
        drop(other);
        free("REST", address).unwrap();
    }

    #[test]
    fn a_misspelt_parameter_is_refused() {
        let mut state = deepnode_app::default_genesis();
        merge(&mut state, parameters()).unwrap();
        let error = merge(&mut state, json!({ "tasks": { "params": { "windows": 1 } } })).unwrap_err();
        assert_eq!(error.to_string(), "genesis has no \"windows\"");
    }
}
