//! `models import`, `models pull`, `models export`, `models list`

use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use crate::model::{export, import, list, model_path, AnyModel, Imported, Sandbox};

#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// Makes a model of a GGUF file, of a safetensors file beside its JSON, or of a folder with either; prints its id
    Import { path: PathBuf },
    /// Fetches a model from a URL, and imports it; prints its id
    Pull(super::pull::Pull),
    /// Writes a model for other programs; importing that gives the same id
    #[command(group = clap::ArgGroup::new("format").required(true))]
    Export {
        /// The model's id, 64 hex digits
        id: String,
        /// A GGUF file to write, for llama.cpp
        #[arg(long, group = "format", value_name = "FILE")]
        gguf: Option<PathBuf>,
        /// A folder to write safetensors and JSON into, for transformers
        #[arg(long, group = "format", value_name = "FOLDER")]
        safetensors: Option<PathBuf>,
    },
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
            Self::Import { path } => {
                let imported = import_with_progress(&path, &folder)?;
                println!("{}", hex::encode(imported.id));
                warn_of_template(&imported.path)?;
                if imported.existed {
                    eprintln!("It was imported before.");
                }
            }
            Self::Pull(pull) => pull.run(global)?,
            Self::Export { id, gguf, safetensors } => {
                let mut digest = [0; 32];
                hex::decode_to_slice(&id, &mut digest)
                    .with_context(|| format!("id is {id:?}: must be 64 hex digits"))?;
                let model = AnyModel::open(&model_path(&folder, &digest))?;
                // What a damaged disk changed must not leave as if it were the model.
                model.verify()?;
                match (&model, gguf, safetensors) {
                    (AnyModel::Decoder(model), Some(path), _) => export::to_gguf(model, &path)?,
                    (AnyModel::Decoder(model), _, Some(path)) => export::to_safetensors(model, &path)?,
                    (AnyModel::Encoder(model), _, Some(path)) => {
                        export::encoder_to_safetensors(model, &path)?
                    }
                    (AnyModel::Encoder(_), Some(_), _) => {
                        bail!("--gguf: model {id} is an encoder, which is exported as --safetensors alone")
                    }
                    (_, None, None) => {}
                }
            }
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
                            let (what, layers, width, context) = match &m {
                                AnyModel::Decoder(m) => {
                                    ("", m.arch().layers, m.arch().width, m.arch().context)
                                }
                                AnyModel::Encoder(m) => {
                                    ("encoder, ", m.arch().layers, m.arch().width, m.arch().context)
                                }
                            };
                            println!(
                                "{}  {}  {what}{layers} layers of {width}, context {context}, {} MiB",
                                hex::encode(m.id()),
                                m.name(),
                                m.file_len() >> 20
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

/// Says where an imported model answers no chats.
pub(super) fn warn_of_template(path: &Path) -> anyhow::Result<()> {
    if let AnyModel::Decoder(model) = AnyModel::open(path)? {
        let model = model.with_sandbox(Sandbox::this_program());
        if let Err(error) = model.tokenizer().check_template() {
            eprintln!("warning: chats will not be answered: {error}");
        }
    }
    Ok(())
}

/// Imports a model's files into a models folder; the terminal sees how far it is.
pub(super) fn import_with_progress(path: &Path, folder: &Path) -> anyhow::Result<Imported> {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let imported = import(path, folder, &|progress| {
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
            "kind": match m {
                AnyModel::Decoder(_) => "decoder",
                AnyModel::Encoder(_) => "encoder",
            },
            "architecture": match m {
                AnyModel::Decoder(m) => serde_json::json!(m.arch()),
                AnyModel::Encoder(m) => serde_json::json!(m.arch()),
            },
        }),
        Err(error) => serde_json::json!({ "path": listing.path, "error": error.to_string() }),
    }
}
