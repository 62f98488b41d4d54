//! What `serve`, `chat` and others have in common: one model on this machine.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{bail, Context};
use clap::Args;

use super::device::Device;
use super::models::import_with_progress;
use super::Global;
use crate::engine::{Engine, Options};
use crate::model::{model_path, Model, Sandbox, EXTENSION};

#[derive(Debug, Args)]
pub(super) struct ModelArg {
    /// A GGUF or safetensors file or folder (which is imported into the home's models first), an imported model's
    /// file, or its id.
    #[arg(long, value_name = "PATH|ID")]
    pub(super) model: String,
}

#[derive(Debug, Args)]
pub(super) struct Local {
    #[command(flatten)]
    pub(super) model: ModelArg,
    /// Threads that compute; every core by default.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// What computes: auto (the first card that can, else the processor), cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    /// Positions whose keys and values are kept in memory, of all answers together and of earlier ones to begin with; half
    /// of what is free by default, at most 32 contexts. Of the processor.
    #[arg(long, value_parser = clap::value_parser!(u32).range(128..))]
    positions: Option<u32>,
}

impl Local {
    /// The model, every weight of it checked, and the engine that computes it.
    pub(super) fn load(&self, global: &Global) -> anyhow::Result<(Arc<Model>, Engine)> {
        let path = self.model.path(global)?;
        let model = Model::open_verified(&path).with_context(|| path.display().to_string())?;
        let model = Arc::new(model.with_sandbox(Sandbox::this_program()));
        let default = Options::default();
        let positions = self.positions.map(|positions| positions as usize);
        let options = Options { threads: self.threads(), positions, ..default };
        let engine = self.device.engine(&model, options)?;
        Ok((model, engine))
    }

    /// Threads that compute.
    pub(super) fn threads(&self) -> usize {
        self.threads.map_or(Options::default().threads, usize::from)
    }
}

impl ModelArg {
    /// The file of the imported model.
    pub(super) fn path(&self, global: &Global) -> anyhow::Result<PathBuf> {
        let models = &global.home.join("models");
        let mut id = [0; 32];
        if hex::decode_to_slice(&self.model, &mut id).is_ok() {
            let path = model_path(models, &id);
            if !path.is_file() {
                bail!(
                    "--model {}: {} is not there; `models list` lists those that are",
                    self.model,
                    path.display()
                );
            }
            return Ok(path);
        }
        let path = PathBuf::from(&self.model);
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            return Ok(path);
        }
        let imported = import_with_progress(&path, models)?;
        if !imported.existed {
            eprintln!("imported as {}; --model with this id starts faster", hex::encode(imported.id));
        }
        Ok(imported.path)
    }
}

/// A short name for people: the model's own, in lower case, without spaces; none if that is empty.
pub(super) fn short_name(name: &str) -> Option<String> {
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(plain).collect();
    Some(name.trim_matches('-').to_string()).filter(|name| !name.is_empty())
}
