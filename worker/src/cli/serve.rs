//! `serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, Context};
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::encoder::{self, EncoderArg};
use super::local::{short_name, Local};
use super::{block_on, daemon, Global};
use crate::gateway::{check_listen, ApiKeys, EncoderGateway, Gateway, Limits, Settings};
use crate::model::{AnyModel, EncoderModel};
use crate::recheck;

/// What `serve` and `gateway` have in common: how requests come in.
#[derive(Debug, Args)]
pub(super) struct Listening {
    /// Where to listen; beyond loopback only with API keys.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// File of API keys, one a line, of which a request must bring one.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// What requests may call the model besides its id; its own name by default.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Requests that are answered at once; where they are computed here, each is a bit slower than alone.
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
    /// Connections at a time; more wait until one ends.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    connections: u32,
}

impl Listening {
    /// The API keys. Refuses to listen to strangers without any, before a model is loaded, which may take long.
    pub(super) fn keys(&self) -> anyhow::Result<ApiKeys> {
        let keys = match &self.api_key_file {
            Some(path) => ApiKeys::read(path).context("--api-key-file")?,
            None => ApiKeys::default(),
        };
        match check_listen(self.listen, &keys) {
            Ok(()) => Ok(keys),
            Err(reason) => bail!("{reason}"),
        }
    }

    pub(super) async fn bind(&self) -> anyhow::Result<TcpListener> {
        TcpListener::bind(self.listen).await.with_context(|| format!("--listen {}", self.listen))
    }

    pub(super) fn settings(&self, name: Option<String>, keys: ApiKeys) -> Settings {
        Settings {
            name,
            keys,
            parallel: self.parallel as usize,
            queue: self.queue as usize,
            limits: Limits { connections: self.connections as usize, ..Limits::default() },
            timeout: Duration::from_secs(self.timeout.into()),
            drain: Duration::from_secs(self.drain.into()),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    encoder: EncoderArg,
    #[command(flatten)]
    listening: Listening,
}

impl Serve {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        global.log();
        let keys = self.listening.keys()?;
        if keys.have_allowances() {
            bail!("--api-key-file: udn_per_day is for `gateway`, answers of `serve` cost nothing");
        }
        block_on(async {
            let stop = daemon::stop()?;
            let listener = self.listening.bind().await?;
            let path = self.local.model.path(global)?;
            if let AnyModel::Encoder(model) = AnyModel::open(&path)? {
                if self.encoder.is_given() {
                    bail!("--encoder: --model {} is an encoder itself, and one is served", path.display());
                }
                let name = self.listening.name.clone().or_else(|| short_name(model.name()));
                return self.serve_encoder(*model, self.listening.settings(name, keys), listener, stop).await;
            }
            let encoder = self.encoder.open(global)?;
            let (model, engine) = tokio::task::block_in_place(|| self.local.load(global))?;
            model.warn_of_template();
            let name = self.listening.name.clone().or_else(|| short_name(model.name()));
            let id = hex::encode(model.id());
            tracing::info!(model = id, name, context = model.arch().context, "serving");
            let embeddings = encoder::beside(&encoder, self.local.threads(), &self.listening, &keys)?;
            let rechecked = recheck::watch(vec![model.clone()], recheck::EVERY);
            let encoder_rechecked = recheck::watch(encoder.into_iter().collect(), recheck::EVERY);
            let gateway = Gateway::with(model, engine, self.listening.settings(name, keys), embeddings)?;
            // For people and scripts: the base URL of an SDK.
            println!("http://{}/v1", listener.local_addr()?);
            tokio::select! {
                served = gateway.serve(listener, stop) => served?,
                changed = rechecked => return Err(changed),
                changed = encoder_rechecked => return Err(changed),
            }
            tracing::info!("stopped");
            Ok(())
        })
    }

    /// Serves an encoder alone.
    async fn serve_encoder(
        &self,
        model: EncoderModel,
        settings: Settings,
        listener: TcpListener,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let model = encoder::checked(model)?;
        let embeddings = encoder::embeddings(&model, self.local.threads(), &settings)?;
        let rechecked = recheck::watch(vec![model], recheck::EVERY);
        println!("http://{}/v1", listener.local_addr()?);
        tokio::select! {
            served = EncoderGateway::new(embeddings, settings).serve(listener, stop) => served?,
            changed = rechecked => return Err(changed),
        }
        tracing::info!("stopped");
        Ok(())
    }
}
