//! The command line of an operator.

mod bench;
mod chat;
mod config;
mod daemon;
mod device;
mod doctor;
mod encoder;
mod gateway;
mod init;
mod local;
mod models;
mod pull;
mod serve;
mod status;
mod trace;
mod watch;

pub use bench::{cu, earnings, Earnings};
pub use config::{Config, Home, WorkerConfig};
pub use daemon::run;
pub use device::Device;
pub use doctor::{examine, Check, Role, State};
pub use status::status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use deepnode_client::keyring::Passphrase;

use crate::model::{self, Sandbox};

/// Runs AI models for DeepNode and is paid for it; or audits for a validator those who do.
#[derive(Debug, Parser)]
#[command(name = "deepnode-worker", version)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Folder of configuration, keys, models, journals and blobs.
    #[arg(long, global = true, env = "DEEPNODE_WORKER_HOME", default_value = ".deepnode-worker")]
    home: PathBuf,
    /// File whose first line is the key's passphrase; without it the terminal is asked.
    #[arg(long, global = true, env = "DEEPNODE_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
    /// Prefix of the chain's addresses; asked of the node by default.
    #[arg(long, global = true, env = "DEEPNODE_BECH32_PREFIX")]
    bech32_prefix: Option<String>,
    /// How logs are written: for people, or a JSON object a line.
    #[arg(long, global = true, env = "DEEPNODE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes worker.toml and makes the key
    Init(Box<init::Init>),
    /// Looks at this machine, the home and the chain, and says what is to be mended
    Doctor(doctor::Args),
    /// Measures what this machine computes, and what that would earn
    Bench(bench::Args),
    /// Imports models, fetches them, lists them
    #[command(subcommand)]
    Models(models::Models),
    /// Works: accepts tasks, answers them, serves their users and auditors
    Run,
    /// Audits: recomputes what the validator's hot key was drawn for
    Verify,
    /// What this worker does, and what the chain says of it
    Status(status::Args),
    /// Serves one model over an OpenAI-compatible HTTP API, without a chain
    Serve(Box<serve::Serve>),
    /// Sells answers over the same API: each request is a task that the chain's workers answer and this key pays
    Gateway(Box<gateway::Gateway>),
    /// Talks with one model in the terminal, without a chain
    Chat(chat::Chat),
    /// Records what a model's layers compute here, and compares two recordings
    #[command(subcommand)]
    Trace(trace::Command),
    /// What a sandbox starts, on standard input and output
    #[command(name = model::chat::COMMAND, hide = true)]
    RenderTemplate {
        #[arg(long, default_value_t = 1)]
        room: u32,
    },
}

impl Global {
    fn passphrase(&self) -> Passphrase {
        match &self.passphrase_file {
            Some(path) => Passphrase::File(path.clone()),
            None => Passphrase::Prompt,
        }
    }

    fn open(&self) -> anyhow::Result<Home> {
        Home::open(&self.home)
    }

    /// Logs go to standard error, at the level that RUST_LOG says.
    fn log(&self) {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        if self.log_format == LogFormat::Json {
            log.json().init();
        } else {
            log.init();
        }
    }
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> anyhow::Result<()> {
        let global = &self.global;
        if let Some(prefix) = &global.bech32_prefix {
            deepnode_tx::address::set_prefix(prefix)?;
        }
        match self.command {
            Command::Init(init) => init.run(global),
            Command::Doctor(args) => doctor::run(global, args),
            Command::Bench(args) => bench::run(global, args),
            Command::Models(models) => models.run(global),
            Command::Run => run(global, &Sandbox::this_program(), |_, engines, _| Ok(engines)),
            Command::Verify => daemon::verify(global),
            Command::Status(args) => status::run(global, args),
            Command::Serve(serve) => serve.run(global),
            Command::Gateway(gateway) => gateway.run(global),
            Command::Chat(chat) => chat.run(global),
            Command::Trace(trace) => trace.run(global),
            Command::RenderTemplate { room } => Ok(model::chat::serve(room)?),
        }
    }
}

/// A runtime for one command.
fn block_on<T>(future: impl std::future::Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A text that nobody waits for any more may be read for long.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
