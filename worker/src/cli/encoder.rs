//! The encoder of /v1/embeddings: what `serve` and `gateway` have in common. Both compute it themselves, on the processor.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::local::{short_name, ModelArg};
use super::serve::Listening;
use super::Global;
use crate::engine::{Embedder, Options};
use crate::gateway::{ApiKeys, Embeddings, Settings};
use crate::model::EncoderModel;

#[derive(Debug, Args)]
pub(super) struct EncoderArg {
    /// An encoder for /v1/embeddings beside the model, computed by this process: files, or an id, as --model has them.
    #[arg(long, value_name = "PATH|ID")]
    encoder: Option<String>,
}

impl EncoderArg {
    pub(super) fn is_given(&self) -> bool {
        self.encoder.is_some()
    }

    /// The encoder that was asked for, every weight of it checked.
    pub(super) fn open(&self, global: &Global) -> anyhow::Result<Option<Arc<EncoderModel>>> {
        let Some(encoder) = &self.encoder else { return Ok(None) };
        let path = ModelArg { model: encoder.clone() }.path(global)?;
        checked(EncoderModel::open(&path).context("--encoder")?).map(Some)
    }
}

/// An encoder, every weight of it checked.
pub(super) fn checked(model: EncoderModel) -> anyhow::Result<Arc<EncoderModel>> {
    tokio::task::block_in_place(|| model.verify()).with_context(|| model.path().display().to_string())?;
    Ok(Arc::new(model))
}

/// What computes the vectors of an encoder beside another model, under its own name.
pub(super) fn beside(
    encoder: &Option<Arc<EncoderModel>>,
    threads: usize,
    listening: &Listening,
    keys: &ApiKeys,
) -> anyhow::Result<Option<Arc<Embeddings>>> {
    let Some(encoder) = encoder else { return Ok(None) };
    let settings = listening.settings(short_name(encoder.name()), keys.clone());
    embeddings(encoder, threads, &settings).map(Some)
}

/// What computes an encoder's vectors.
pub(super) fn embeddings(
    model: &Arc<EncoderModel>,
    threads: usize,
    settings: &Settings,
) -> anyhow::Result<Arc<Embeddings>> {
    let embedder = Embedder::new(model.clone(), Options { threads, ..Options::default() })?;
    let (id, name, context) = (hex::encode(model.id()), &settings.name, model.arch().context);
    tracing::info!(encoder = id, name, context, "serving embeddings");
    Ok(Embeddings::new(model.clone(), embedder, settings)?)
}
