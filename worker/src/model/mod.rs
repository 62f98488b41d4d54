//! Models: from a GGUF file to the canonical model that its id names, with its tokenizer and chat template.
//!
//! `import` reads a GGUF file (`gguf`, `source`, `dequant`) and writes a model file (`file`); `Model::open` maps
//! one. What the id covers is in `manifest`.

pub mod chat;
pub mod dequant;
mod error;
mod file;
pub mod gguf;
mod import;
pub mod manifest;
mod source;
pub mod synthetic;
pub mod testing;
pub mod tokenizer;

pub use chat::ChatMessage;
pub use error::{ModelError, Result};
pub use file::Model;
pub use import::{import, list, model_path, Imported, Listing, Progress, EXTENSION};
pub use manifest::{ArchitectureProof, Manifest};
pub use tokenizer::{TextStream, Tokenizer};

#[cfg(test)]
mod tests;
