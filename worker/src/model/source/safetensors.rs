//! A checkpoint in safetensors: one file, or several with an index. The `safetensors` crate reads the container and sees
//! to it that the tensors lie side by side and fill it; what it leaves open is checked here.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::Deserialize;

use super::Tensors;
use crate::model::dequant::Encoding;
use crate::model::documents::{parse, Unique};
use crate::model::error::{invalid, within, Result};
use crate::model::gguf::TensorData;
use ::safetensors::{Dtype, SafeTensors};

pub const INDEX: &str = "model.safetensors.index.json";
pub const SINGLE: &str = "model.safetensors";

/// A table of the numbers from 0 on that older files of BERT hold; they follow from the settings.
const POSITION_IDS: &str = "embeddings.position_ids";
const MAX_HEADER: u64 = 32 << 20;
const MAX_INDEX: u64 = 32 << 20;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_NAME: u64 = 1 << 8;
const MAX_DIMENSION: u64 = 1 << 30;
/// Most files of one checkpoint.
const MAX_FILES: u64 = 1 << 10;

/// Which file each tensor of a checkpoint is in.
#[derive(Debug)]
pub struct Index(BTreeMap<String, String>);

#[derive(Deserialize)]
struct IndexDocument {
    weight_map: Unique<String>,
}

impl Index {
    /// Reads `model.safetensors.index.json`. The files are plain names in the same folder.
    pub fn parse(bytes: &[u8]) -> Result<Index> {
        let map = parse::<IndexDocument>(INDEX, bytes, MAX_INDEX)?.weight_map.0;
        within(format!("tensors of {INDEX}"), map.len() as u64, 1, MAX_TENSORS)?;
        for file in map.values() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !file.ends_with(".safetensors") || file.starts_with('.') || !file.chars().all(plain) {
                let bound = "must be the plain name of a .safetensors file";
                return Err(invalid(format!("file of {INDEX}"), format!("{file:?}"), bound));
            }
        }
        let index = Index(map);
        within(format!("files of {INDEX}"), index.files().len() as u64, 1, MAX_FILES)?;
        Ok(index)
    }

    /// The files, each once.
    pub fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = self.0.values().cloned().collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// All tensors of the files, by name. With an index, each is in the file that it names, and none is anywhere else.
pub fn read<'a>(files: &[(&str, &'a [u8])], index: Option<&Index>) -> Result<Tensors<'a>> {
    let mut all = BTreeMap::new();
    for (file, bytes) in files {
        for (name, data) in read_file(file, bytes)? {
            if let Some(index) = index {
                if index.0.get(&name).is_none_or(|named| named != file) {
                    return Err(invalid(
                        format!("tensor of {file}"),
                        name,
                        format!("{INDEX} does not put it there"),
                    ));
                }
            }
            if all.contains_key(&name) {
                return Err(invalid(format!("tensor of {file}"), name, "another file has it too"));
            }
            all.insert(name, data);
            within("tensors", all.len() as u64, 1, MAX_TENSORS)?;
        }
    }
    if let Some(name) = index.and_then(|index| index.0.keys().find(|name| !all.contains_key(*name))) {
        return Err(invalid(format!("tensor of {INDEX}"), name, "the file does not have it"));
    }
    Ok(all)
}

fn read_file<'a>(file: &str, bytes: &'a [u8]) -> Result<Tensors<'a>> {
    // Before the crate looks at it: how much there is to parse, and that no name occurs twice.
    let prefix: [u8; 8] = match bytes.first_chunk() {
        Some(prefix) => *prefix,
        None => return Err(invalid(format!("length of {file}"), bytes.len(), "must be at least 8")),
    };
    let left = bytes.len() as u64 - 8;
    let header =
        within(format!("header length of {file}"), u64::from_le_bytes(prefix), 2, left.min(MAX_HEADER))?;
    let names = parse::<Unique<IgnoredAny>>(file, &bytes[8..8 + header as usize], MAX_HEADER)?.0;
    within(format!("tensors of {file}"), names.len() as u64, 1, MAX_TENSORS)?;

    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| invalid(file, e, "must be a whole safetensors file"))?;
    let data = &bytes[8 + header..];
    let mut tensors = BTreeMap::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name).filter(|_| name != POSITION_IDS) else { continue };
        within(format!("length of a tensor's name in {file}"), name.len() as u64, 1, MAX_NAME)?;
        let field = |what: &str| format!("{what} of tensor {name}");
        let encoding = match info.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::F16 => Encoding::F16,
            Dtype::BF16 => Encoding::Bf16,
            other => return Err(invalid(field("type"), format!("{other:?}"), "known are F32, F16 and BF16")),
        };
        let (rows, cols) = match info.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return Err(invalid(field("dimension count"), info.shape.len(), "must be 1 to 2")),
        };
        for n in [rows, cols] {
            within(field("dimensions"), n as u64, 1, MAX_DIMENSION)?;
        }
        let (from, to) = info.data_offsets;
        tensors.insert(name, TensorData { encoding, rows, cols, bytes: &data[from..to] });
    }
    Ok(tensors)
}
