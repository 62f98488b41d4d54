//! The real models that tests run on.

use std::path::PathBuf;

use super::import::{import, model_path};
use super::{EncoderModel, Model, Result};

/// File of SmolLM2-135M-Instruct that `make model` fetches.
pub const SMOLLM2_GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Its model id.
pub const SMOLLM2_ID: &str = "07c28d2b61869e8575a813362c7e9c31e6e21a68bd630e0a3204011d32f77a08";

/// Folder of all-MiniLM-L6-v2 that `make model` fetches.
pub const MINILM: &str = "all-MiniLM-L6-v2";

/// The models folder: `DEEPNODE_MODELS`, or `.models` in the repository.
pub fn models_folder() -> PathBuf {
    match std::env::var_os("DEEPNODE_MODELS") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.models"),
    }
}

/// SmolLM2, imported on first use. Panics when `make model` has not been run.
pub fn smollm2() -> Model {
    let folder = models_folder();
    let open = || -> Result<Model> {
        let mut id = [0; 32];
        if hex::decode_to_slice(SMOLLM2_ID, &mut id).is_ok() {
            if let Ok(model) = Model::open(&model_path(&folder, &id)) {
                return Ok(model);
            }
        }
        Model::open(&import(&folder.join(SMOLLM2_GGUF), &folder, &|_| {})?.path)
    };
    open().unwrap_or_else(|e| panic!("SmolLM2 is needed (make model): {e}"))
}

/// all-MiniLM-L6-v2, imported anew. Panics when `make model` has not been run.
pub fn minilm() -> EncoderModel {
    // The folder may go: the model stays mapped.
    let open = || -> Result<EncoderModel> {
        let models = tempfile::tempdir().map_err(super::ModelError::io(&std::env::temp_dir()))?;
        EncoderModel::open(&import(&models_folder().join(MINILM), models.path(), &|_| {})?.path)
    };
    open().unwrap_or_else(|e| panic!("{MINILM} is needed (make model): {e}"))
}
