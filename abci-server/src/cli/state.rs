//! `rollback` and `reset`: for a node that is stopped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;
use deepnode_store::db::{Database, DbError, Options};

use crate::comet::Binary;

/// Where the application's database is inside a home folder.
pub const STATE_DIR: &str = "data/deepnode";

#[derive(Args)]
pub struct Rollback {
    /// CometBFT 0.38; $COMETBFT, .tools/bin and PATH are searched by default.
    #[arg(long)]
    cometbft: Option<PathBuf>,
}

impl Rollback {
    pub fn run(self, home: &Path) -> Result<()> {
        let binary = Binary::find(self.cometbft.as_deref())?;
        let dir = home.join(STATE_DIR);
        let db = Database::open(&dir, &deepnode_app::STORES, &Options::default(), &mut |_| {})?;
        let before = db.height();
        if before == 0 {
            bail!("{} holds no block", dir.display());
        }
        let out = std::process::Command::new(binary.path())
            .args(["rollback", "--home"])
            .arg(home)
            .output()
            .context("cannot run cometbft rollback")?;
        if !out.status.success() {
            bail!(
                "cometbft rollback failed, nothing was changed: {}",
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        let db = db.rollback()?;
        println!("rolled back from height {before} to {}", db.height());
        Ok(())
    }
}

#[derive(Args)]
pub struct Reset {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// CometBFT 0.38; $COMETBFT, .tools/bin and PATH are searched by default.
    #[arg(long)]
    cometbft: Option<PathBuf>,
}

impl Reset {
    pub fn run(self, home: &Path) -> Result<()> {
        if !self.yes {
            eprint!("Delete all blocks and state below {}? [y/N] ", home.display());
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            if !matches!(line.trim(), "y" | "Y" | "yes") {
                bail!("nothing was deleted");
            }
        }
        let dir = home.join(STATE_DIR);
        if dir.exists() {
            // A node that has it open keeps it; a damaged one is what may have led here.
            match Database::open(&dir, &deepnode_app::STORES, &Options::default(), &mut |_| {}) {
                Err(e @ DbError::InUse { .. }) => return Err(e.into()),
                Err(e) => eprintln!("note: {e}"),
                Ok(_) => {}
            }
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        let binary = Binary::find(self.cometbft.as_deref())?;
        let out = std::process::Command::new(binary.path())
            .args(["unsafe-reset-all", "--keep-addr-book", "--home"])
            .arg(home)
            .output()
            .context("cannot run cometbft unsafe-reset-all")?;
        if !out.status.success() {
            bail!("cometbft unsafe-reset-all: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        println!("cleared {}; keys and configuration are kept", home.display());
        Ok(())
    }
}
