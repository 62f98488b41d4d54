//! `start`: the application, gRPC, REST, and CometBFT if asked for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
use clap::Args;
use deepnode_app::{App, Options};
use tracing::{error, info, warn};

use super::state::STATE_DIR;
use crate::abci::{Address, Listener, Server};
use crate::application::AbciApp;
use crate::comet::{Binary, Home, Options as CometOptions, Rpc, Supervisor};
use crate::node::{grpc, metrics, rest, Node};

#[derive(Args)]
pub struct Start {
    /// Run CometBFT as well, restarted whenever it ends.
    #[arg(long)]
    with_cometbft: bool,
    /// CometBFT 0.38; $COMETBFT, .tools/bin and PATH are searched by default.
    #[arg(long)]
    cometbft: Option<PathBuf>,
    /// Where CometBFT finds the application: unix:///PATH (under 100 bytes) or tcp://127.0.0.1:PORT.
    #[arg(long)]
    abci: Option<String>,
    /// Where gRPC listens.
    #[arg(long, default_value = "127.0.0.1:9090")]
    grpc: SocketAddr,
    /// Where REST listens.
    #[arg(long, default_value = "127.0.0.1:1317")]
    rest: SocketAddr,
    /// Where /metrics is, in Prometheus' text format; REST has it too. None by default.
    #[arg(long, value_name = "127.0.0.1:PORT")]
    metrics: Option<SocketAddr>,
    /// Least gas prices for the mempool, comma separated; any one of them is enough.
    #[arg(long, default_value = "0udn")]
    minimum_gas_prices: String,
    /// Blocks that CometBFT keeps at least; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    min_retain_blocks: u64,
    /// Megabytes of the database's caches.
    #[arg(long, default_value_t = 1280)]
    cache_mb: u64,
    /// Log filter, such as `info` or `warn,deepnode_abci_server=debug`.
    #[arg(long, env = "DEEPNODE_LOG", default_value = "info")]
    log: String,
    /// How logs are written: for people, or a JSON object a line.
    #[arg(long, env = "DEEPNODE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Start {
    pub fn run(self, home: &Path) -> Result<()> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log).context("--log")?;
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        if matches!(self.log_format, LogFormat::Json) {
            logs.json().init();
        } else {
            logs.init();
        }
        let comet_home =
            Home::open(home).context("`deepnoded init MONIKER --chain-id ID` creates a node's folder")?;
        let binary = self.with_cometbft.then(|| Binary::find(self.cometbft.as_deref())).transpose()?;
        let app = self.open_app(home)?;
        let sockets = Sockets::new()?;
        let address: Address = match &self.abci {
            Some(address) => address.parse()?,
            None => format!("unix://{}", sockets.0.join("abci.sock").display()).parse()?,
        };
        let listener = Listener::bind(&address).with_context(|| format!("cannot listen on {address}"))?;
        let (ended, end) = mpsc::channel();
        let fault = ended.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let rpc = Rpc::new(&comet_home.rpc_url()?)?;
        let node = Node::new(app.clone(), rpc, self.minimum_gas_prices.clone());
        let server =
            Server::start(listener, AbciApp::new(node.clone(), runtime.handle().clone()), move |e| {
                error!("fault: {e}");
                let _ = fault.send(Err(anyhow!("the node cannot go on: {e}")));
            })?;

        let (stop, stopping) = tokio::sync::watch::channel(false);
        let servers = runtime.block_on(async {
            let (grpc_listener, rest_listener) =
                (grpc::bind("gRPC", self.grpc).await?, grpc::bind("REST", self.rest).await?);
            let stopped = |mut stopping: tokio::sync::watch::Receiver<bool>| async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            if let Some(address) = self.metrics {
                let listener = grpc::bind("metrics", address).await?;
                tokio::spawn(metrics::serve(node.metrics.clone(), listener));
            }
            let grpc = tokio::spawn(grpc::serve(node.clone(), grpc_listener, stopped(stopping.clone())));
            let rest = tokio::spawn(rest::serve(node, rest_listener, stopped(stopping)));
            anyhow::Ok((grpc, rest))
        })?;
        info!(grpc = %self.grpc, rest = %self.rest, abci = %address, height = app.height(), "listening");

        let supervisor = match binary {
            Some(binary) => {
                let options = CometOptions::new(binary, comet_home, &server);
                info!(log = %options.log.display(), "starting CometBFT");
                Some(Supervisor::start(options)?)
            }
            None => {
                info!("waiting for CometBFT: cometbft start --proxy_app {address}");
                None
            }
        };
        runtime.spawn(async move {
            signal().await;
            let _ = ended.send(Ok(()));
        });
        let outcome = watch(&end, supervisor.as_ref());
        info!("stopping");
        let _ = stop.send(true);
        if let Some(supervisor) = supervisor {
            supervisor.stop();
        }
        if let Err(still) = server.stop(Duration::from_secs(10)) {
            warn!("{still}");
        }
        runtime.block_on(async {
            let _ = tokio::time::timeout(Duration::from_secs(3), async {
                let _ = servers.0.await;
                let _ = servers.1.await;
            })
            .await;
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }

    fn open_app(&self, home: &Path) -> Result<App> {
        let min_gas_prices =
            self.minimum_gas_prices.parse().map_err(|e| anyhow!("--minimum-gas-prices: {e}"))?;
        let options = Options {
            mempool: deepnode_app::ante::Config { min_gas_prices },
            min_retain_blocks: self.min_retain_blocks,
            cache_bytes: self.cache_mb.checked_mul(1 << 20).context("--cache-mb is too large")?,
        };
        let dir = home.join(STATE_DIR);
        std::fs::create_dir_all(home.join("data"))
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let begin = Instant::now();
        let mut told = Instant::now();
        let app = App::open(&dir, options, &mut |entries| {
            if told.elapsed() > Duration::from_secs(2) {
                info!(entries, "reading the state");
                told = Instant::now();
            }
        })
        .context(
            "the state does not open; `deepnoded reset` clears state and blocks, to be read again from peers",
        )?;
        info!(height = app.height(), ms = begin.elapsed().as_millis() as u64, "state opened");
        Ok(app)
    }
}

/// Waits for the end; tells when CometBFT makes no blocks.
fn watch(end: &mpsc::Receiver<Result<()>>, supervisor: Option<&Supervisor>) -> Result<()> {
    let mut sick = false;
    loop {
        match end.recv_timeout(Duration::from_secs(5)) {
            Ok(outcome) => return outcome,
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the node ended"),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        match supervisor.map(Supervisor::health) {
            Some(Err(e)) if !sick => {
                warn!("{e}");
                sick = true;
            }
            Some(Ok(_)) => sick = false,
            _ => {}
        }
    }
}

async fn signal() {
    use tokio::signal::unix::{signal, SignalKind};
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

/// A private folder for sockets, whose paths must be short; removed at the end.
struct Sockets(PathBuf);

impl Sockets {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("deepnode-{}", std::process::id()));
        use std::os::unix::fs::DirBuilderExt;
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Sockets(dir))
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
