//! `serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, Context};
use clap::Args;

use super::local::{short_name, Local};
use super::{block_on, daemon, Global};
use crate::gateway::{check_listen, ApiKeys, Gateway, Settings};
use crate::recheck;

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    local: Local,
    /// Where to listen; beyond loopback only with API keys.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// File of API keys, one a line, of which a request must bring one.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// What requests may call the model besides its id; its own name by default.
    #[arg(long)]
    name: Option<String>,
    /// Requests that are computed at once, each a bit slower than alone.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    /// Requests that may wait besides; more are told to come back.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=4096))]
    queue: u32,
    /// Seconds in which a request must be answered, its time in the queue included.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Seconds that requests under way get after SIGTERM or Ctrl-C.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain: u32,
}

impl Serve {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        global.log();
        let keys = match &self.api_key_file {
            Some(path) => ApiKeys::read(path).context("--api-key-file")?,
            None => ApiKeys::default(),
        };
        // Before the model is loaded, which may take long.
        if let Err(reason) = check_listen(self.listen, &keys) {
            bail!("{reason}");
        }
        block_on(async {
            let stop = daemon::stop()?;
            let listener = tokio::net::TcpListener::bind(self.listen)
                .await
                .with_context(|| format!("--listen {}", self.listen))?;
            let (model, engine) = tokio::task::block_in_place(|| self.local.load(global))?;
            let name = self.name.or_else(|| short_name(&model));
            let id = hex::encode(model.id());
            tracing::info!(model = id, name, context = model.arch().context, "serving");
            let settings = Settings {
                name,
                keys,
                parallel: self.parallel as usize,
                queue: self.queue as usize,
                timeout: Duration::from_secs(self.timeout.into()),
                drain: Duration::from_secs(self.drain.into()),
            };
            let rechecked = recheck::watch(vec![model.clone()], recheck::EVERY);
            let gateway = Gateway::new(model, engine, settings)?;
            // For people and scripts: the base URL of an SDK.
            println!("http://{}/v1", listener.local_addr()?);
            tokio::select! {
                served = gateway.serve(listener, stop) => served?,
                changed = rechecked => return Err(changed),
            }
            tracing::info!("stopped");
            Ok(())
        })
    }
}
