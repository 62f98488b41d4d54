//! `init`

use std::path::{Path, PathBuf};

use anyhow::{bail, Result};
use clap::Args;
use serde_json::json;

use crate::comet::{Binary, Config, Home};

#[derive(Args)]
pub struct Init {
    /// The node's name among its peers.
    moniker: String,
    /// The chain's id, the same on all its nodes.
    #[arg(long)]
    chain_id: String,
    /// Write a new genesis file over an existing one.
    #[arg(long)]
    overwrite: bool,
    /// CometBFT 0.38; $COMETBFT, .tools/bin and PATH are searched by default.
    #[arg(long)]
    cometbft: Option<PathBuf>,
}

/// Gas of a block: about 4,000 transfers. Positive, since the gas sum is what bounds a block's execution.
pub const MAX_BLOCK_GAS: i64 = 150_000_000;

impl Init {
    pub fn run(self, home: &Path) -> Result<()> {
        let genesis = home.join("config/genesis.json");
        if genesis.exists() && !self.overwrite {
            bail!(
                "{} exists: --overwrite replaces it, `deepnoded reset` clears data only",
                genesis.display()
            );
        }
        let binary = Binary::find(self.cometbft.as_deref())?;
        let node = Home::init(&binary, home)?;
        node.configure(&Config { moniker: self.moniker, ..Config::default() })?;
        let mut genesis = node.genesis()?;
        genesis["chain_id"] = self.chain_id.into();
        genesis["validators"] = json!([]);
        genesis["consensus_params"]["block"]["max_gas"] = MAX_BLOCK_GAS.to_string().into();
        genesis["app_state"] = deepnode_app::default_genesis();
        node.set_genesis(&genesis)?;
        println!("created {}", home.display());
        println!(
            "next: `deepnoded genesis account ADDRESS AMOUNT`, `deepnoded genesis validator KEY AMOUNT`,"
        );
        println!("then `deepnoded start --with-cometbft`");
        Ok(())
    }
}
