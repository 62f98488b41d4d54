//! Models: from files of other programs to the canonical model that its id names, with its tokenizer and chat template,
//! and back.
//!
//! `import` reads GGUF or safetensors (`source`: what the files hold; `gguf`, `dequant`: the formats; `family`: where
//! architectures differ) and writes a model file (`file`); `Model::open` maps one; `export` writes the others again. What
//! the id covers is in `manifest`.

pub mod chat;
pub mod dequant;
mod documents;
mod error;
pub mod export;
pub mod family;
mod file;
pub mod gguf;
mod import;
mod kind;
pub mod manifest;
mod readers;
pub mod source;
pub mod synthetic;
pub mod testing;
pub mod tokenizer;

pub use chat::{ChatMessage, Sandbox};
pub use error::{ModelError, Result};
pub use file::{AnyModel, EncoderModel, Model, ModelFile};
pub use import::{import, list, model_path, Imported, Listing, Progress, EXTENSION};
pub use kind::{Kind, Vocabulary};
pub use manifest::{ArchitectureProof, Manifest};
pub use tokenizer::{TextStream, Tokenizer, WordPiece, WordPieceSpec};

#[cfg(test)]
mod tests;
