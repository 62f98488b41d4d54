//! `models import`, `models pull`, `models list`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use crate::model::{import, list, Imported};

#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// Makes a model of a GGUF file; prints its id
    Import { gguf: PathBuf },
    /// Fetches a model from a URL, and imports it; prints its id
    Pull(super::pull::Pull),
    /// Lists the models
    List {
        #[arg(long)]
        json: bool,
    },
}

impl Models {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        // A home is not needed: a validator may import before it has a key.
        let folder = global.home.join("models");
        match self {
            Self::Import { gguf } => {
                let imported = import_with_progress(&gguf, &folder)?;
                println!("{}", hex::encode(imported.id));
                if imported.existed {
                    eprintln!("It was imported before.");
                }
            }
            Self::Pull(pull) => pull.run(global)?,
            Self::List { json } => {
                let listings = list(&folder)?;
                if json {
                    let rows: Vec<_> = listings.iter().map(json_row).collect();
                    println!("{}", serde_json::to_string_pretty(&rows)?);
                    return Ok(());
                }
                for listing in listings {
                    match listing.model {
                        Ok(m) => {
                            let (arch, mib) = (m.arch(), m.file_len() >> 20);
                            println!(
                                "{}  {}  {} layers of {}, context {}, {mib} MiB",
                                hex::encode(m.id()),
                                m.name(),
                                arch.layers,
                                arch.width,
                                arch.context
                            );
                        }
                        Err(error) => println!("{}  unusable: {error}", listing.path.display()),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Imports a GGUF file into a models folder; the terminal sees how far it is.
pub(super) fn import_with_progress(gguf: &Path, folder: &Path) -> anyhow::Result<Imported> {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let imported = import(gguf, folder, &|progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    Ok(imported)
}

fn json_row(listing: &crate::model::Listing) -> serde_json::Value {
    match &listing.model {
        Ok(m) => serde_json::json!({
            "id": hex::encode(m.id()),
            "name": m.name(),
            "path": m.path(),
            "bytes": m.file_len(),
            "architecture": m.arch(),
        }),
        Err(error) => serde_json::json!({ "path": listing.path, "error": error.to_string() }),
    }
}
