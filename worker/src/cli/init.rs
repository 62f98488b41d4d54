//! `init`

use std::net::SocketAddr;

use clap::Args;
use deepnode_client::KeyringError;

use super::{Config, Device, Global, Home, WorkerConfig};

#[derive(Debug, Args)]
pub(super) struct Init {
    #[arg(long)]
    chain_id: String,
    /// Name of the key; it is made if there is none.
    #[arg(long, default_value = "worker")]
    key: String,
    /// Operator address of the validator to back (dnvaloper1...); it has to consent.
    #[arg(long, default_value = "")]
    validator: String,
    /// Where users and auditors reach this worker, host:port.
    #[arg(long, default_value = "127.0.0.1:7070")]
    endpoint: String,
    /// Where the service listens.
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Where Prometheus reads /metrics, on loopback; empty for nowhere.
    #[arg(long, default_value = "127.0.0.1:7071")]
    metrics: String,
    /// A node's gRPC, host:port.
    #[arg(long, default_value = "127.0.0.1:9090")]
    node: String,
    /// That node's CometBFT, which tells of new blocks; empty looks by the clock.
    #[arg(long, default_value = "http://127.0.0.1:26657")]
    comet: String,
    /// "file" (a passphrase locks the key) or "test".
    #[arg(long, default_value = "file")]
    keyring_backend: String,
    /// Price of gas, such as 0.025udn.
    #[arg(long, default_value = "")]
    gas_price: String,
    /// udn to bond.
    #[arg(long, default_value_t = WorkerConfig::default().bond)]
    bond: u64,
    /// What computes: auto, cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    /// Threads that compute; 0 for every core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Lowers the process' priority, 0 to 19.
    #[arg(long, default_value_t = 0)]
    nice: i32,
}

impl Init {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        let config = Config {
            chain_id: self.chain_id,
            node: self.node,
            comet: self.comet,
            key: self.key,
            keyring_backend: self.keyring_backend,
            gas_price: self.gas_price,
            models: Vec::new(),
            device: self.device,
            threads: self.threads,
            huge_pages: false,
            nice: self.nice,
            worker: WorkerConfig {
                validator: self.validator,
                bond: self.bond,
                endpoint: match self.endpoint.contains("://") {
                    true => self.endpoint,
                    false => format!("http://{}", self.endpoint),
                },
                listen: self.listen,
                metrics: self.metrics,
                ..Default::default()
            },
        };
        let home = Home::create(&global.home, config)?;
        let keyring = home.keyring(global.passphrase())?;
        let name = &home.config.key;
        let info = match keyring.show(name) {
            Ok(info) => info,
            Err(KeyringError::NotFound { .. }) => {
                let (info, words) = keyring.add(name)?;
                eprintln!(
                    "The words that restore the key {name:?}; nobody else has them, write them down:\n"
                );
                eprintln!("{}\n", *words);
                info
            }
            Err(error) => return Err(error.into()),
        };
        println!("{}", info.address);
        eprintln!("This is the address to fund: with the bond of {} udn, and fees.", self.bond);
        Ok(())
    }
}
