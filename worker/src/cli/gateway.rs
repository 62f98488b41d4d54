//! `gateway`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, Context};
use clap::Args;
use deepnode_client::Client;

use super::encoder::{self, EncoderArg};
use super::local::{short_name, ModelArg};
use super::serve::Listening;
use super::{block_on, daemon, Global};
use crate::engine::Options;
use crate::gateway::{Gateway as Server, Ledger, Terms};
use crate::model::{Model, Sandbox};
use crate::recheck;

/// How long a task's transaction may wait for its block.
const INCLUSION: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Gateway {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    encoder: EncoderArg,
    #[command(flatten)]
    listening: Listening,
    /// udn that all requests of one day (UTC) may cost together, fees included.
    #[arg(long, value_name = "UDN")]
    budget_day: u64,
    /// udn that requests may cost until the gateway is started again; the day's budget alone by default.
    #[arg(long, value_name = "UDN")]
    budget: Option<u64>,
    /// Tokens of an answer where the request does not say how many.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    default_output: u32,
}

impl Gateway {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        global.log();
        let keys = self.listening.keys()?;
        let home = global.open()?;
        let config = &home.config;
        let signer = home.keyring(global.passphrase())?.signer(&config.key)?;
        let ledger = Ledger::open(&home.journal("gateway"), self.budget_day, self.budget)?;
        let path: PathBuf = self.model.path(global)?;
        let model = Arc::new(Model::open(&path)?.with_sandbox(Sandbox::this_program()));
        model.warn_of_template();
        block_on(async {
            let stop = daemon::stop()?;
            let listener = self.listening.bind().await?;
            let client = Client::connect(&config.node).await?.expect_chain(&config.chain_id)?;
            let (account, node) = (signer.address(), client.endpoint().to_owned());
            if let Err(error) = client.account(account).await {
                bail!("the account that pays: {error}");
            }
            let terms = Terms {
                client,
                signer,
                gas_price: config.gas_price()?,
                default_output: self.default_output,
                inclusion: INCLUSION,
            };
            let name = self.listening.name.clone().or_else(|| short_name(model.name()));
            let id = hex::encode(model.id());
            let settings = self.listening.settings(name.clone(), keys);
            let encoder = self.encoder.open(global)?;
            let threads = Options::default().threads;
            let embeddings = encoder::beside(&encoder, threads, &self.listening, &settings.keys)?;
            let rechecked = recheck::watch(encoder.into_iter().collect(), recheck::EVERY);
            let gateway =
                Server::to_chain(model, settings, terms, ledger, embeddings).await.context("gateway")?;
            tracing::info!(model = id, name, node, %account, budget_day = self.budget_day, "selling answers");
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
