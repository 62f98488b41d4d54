//! The command line. Its grammar is simd's: `tx bank send FROM TO AMOUNT`, `query bank balances ADDRESS`.

pub mod ask;
pub mod commands;
pub mod genesis;
pub mod init;
mod keys;
mod query;
mod start;
mod state;
mod tx;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use deepnode_client::keyring::{Backend, Passphrase};
use deepnode_client::{Client, Keyring};

/// A node of DeepNode, and the command line of its users.
#[derive(Parser)]
#[command(name = "deepnoded", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// Folder of the node: configuration, keys and data.
    #[arg(long, global = true, env = "DEEPNODE_HOME", default_value = "~/.deepnode")]
    home: String,
    /// Prefix of the chain's addresses: `init` writes it into the genesis file (`dn` by default), the other commands find
    /// it there or ask the node.
    #[arg(long, global = true, env = "DEEPNODE_BECH32_PREFIX")]
    bech32_prefix: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a node's folder: keys, configuration and a genesis file.
    Init(init::Init),
    /// Edit the genesis file of a network that has not started.
    #[command(subcommand)]
    Genesis(genesis::Genesis),
    /// Run the node.
    Start(start::Start),
    /// Manage keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Sign and send a transaction.
    Tx(tx::TxArgs),
    /// Ask the chain.
    #[command(alias = "q")]
    Query(query::QueryArgs),
    /// Ask a model a question: estimates, pays, streams the answer, prints what it cost.
    Ask(ask::Ask),
    /// Show whether the node runs and makes blocks.
    Status(NodeArgs),
    /// Take back the last block, of the application and of CometBFT. The node must be stopped.
    Rollback(state::Rollback),
    /// Delete the chain's data and keep keys and configuration. The node must be stopped.
    Reset(state::Reset),
    /// Print the version.
    Version,
}

/// Where the keys are.
#[derive(Args, Clone)]
pub struct KeyringArgs {
    /// `file` (locked by a passphrase) or `test` (in the open, for test networks).
    #[arg(long, env = "DEEPNODE_KEYRING_BACKEND", default_value = "file")]
    keyring_backend: String,
    /// Folder that holds the keyring; the node's home by default.
    #[arg(long)]
    keyring_dir: Option<PathBuf>,
    /// File whose first line is the passphrase, readable by its owner alone.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

impl KeyringArgs {
    fn open(&self, home: &std::path::Path) -> Result<Keyring> {
        let backend: Backend = self.keyring_backend.parse()?;
        let passphrase = match &self.passphrase_file {
            Some(path) => Passphrase::File(path.clone()),
            None => Passphrase::Prompt,
        };
        Ok(Keyring::open(self.keyring_dir.as_deref().unwrap_or(home), backend, passphrase)?)
    }
}

/// Which node to ask.
#[derive(Args, Clone)]
pub struct NodeArgs {
    /// gRPC address of a node.
    #[arg(long, env = "DEEPNODE_NODE", default_value = "127.0.0.1:9090")]
    node: String,
    /// `text` (indented JSON) or `json` (one line).
    #[arg(long, short, default_value = "text")]
    output: Output,
}

impl NodeArgs {
    async fn connect(&self) -> Result<Client> {
        Client::connect(&self.node).await.with_context(|| {
            "is the node running? `deepnoded start` starts one, `--node HOST:PORT` names another"
        })
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Output {
    fn print(self, value: &serde_json::Value) {
        match self {
            Output::Text => println!("{value:#}"),
            Output::Json => println!("{value}"),
        }
    }
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> Result<()> {
    let home = expand(&cli.home)?;
    if let Some(prefix) = cli.bech32_prefix.or_else(|| prefix_of_genesis(&home)) {
        deepnode_tx::address::set_prefix(&prefix)?;
    }
    match cli.command {
        Command::Init(args) => args.run(&home),
        Command::Genesis(args) => args.run(&home),
        Command::Start(args) => args.run(&home),
        Command::Keys(args) => args.run(&home),
        Command::Rollback(args) => args.run(&home),
        Command::Reset(args) => args.run(&home),
        Command::Tx(args) => wait(args.run(&home)),
        Command::Query(args) => wait(args.run()),
        Command::Ask(args) => wait(args.run(&home)),
        Command::Status(args) => wait(query::status(&args)),
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

/// What the genesis file in the node's folder says, if there is one.
fn prefix_of_genesis(home: &std::path::Path) -> Option<String> {
    let file = std::fs::File::open(home.join("config/genesis.json")).ok()?;
    let genesis: serde_json::Value = serde_json::from_reader(std::io::BufReader::new(file)).ok()?;
    Some(genesis["app_state"]["auth"]["bech32_prefix"].as_str()?.to_owned())
}

fn wait(work: impl std::future::Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn expand(path: &str) -> Result<PathBuf> {
    match path.strip_prefix("~/") {
        None => Ok(path.into()),
        Some(rest) => {
            let home = std::env::var_os("HOME").context("HOME is not set: name a folder with --home")?;
            Ok(PathBuf::from(home).join(rest))
        }
    }
}
