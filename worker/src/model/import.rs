//! From a model's files, in whichever format, to a canonical model file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use rayon::prelude::*;

use super::error::{invalid, within, ModelError, Result};
use super::file::{prefix, AnyModel, Header, Layout, ModelFile};
use super::kind::{Kind, Vocabulary};
use super::manifest::Manifest;
use super::source::{AnySource, Files, Part, Source};
use crate::canon::commit::Digest;
use crate::canon::packed::{is_exact, put_group, Group, Packing, GROUP};
use crate::canon::tensor::{put_row, PANEL};
use crate::canon::Tensor;

/// Suffix of a model file.
pub const EXTENSION: &str = "dnm";

/// First letters of a file that is being written.
const TEMPORARY: &str = ".import-";

/// How far an import is, in bytes of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// What an import gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub id: Digest,
    pub path: PathBuf,
    /// Whether the models folder had it already, undamaged.
    pub existed: bool,
}

/// The file of a model in a models folder.
pub fn model_path(models: &Path, id: &Digest) -> PathBuf {
    models.join(hex::encode(id)).with_extension(EXTENSION)
}

/// Imports a language model or an encoder into the models folder: a GGUF file, a safetensors file with its JSON beside it, or a folder with
/// either. The same weights and tokenizer give the same model id everywhere, whatever the format; a model that is there
/// already stays as it is. `progress` is called from several threads.
pub fn import(path: &Path, models: &Path, progress: &(dyn Fn(Progress) + Sync)) -> Result<Imported> {
    match Files::open(path)?.read()? {
        AnySource::Decoder(source) => write(source, models, progress),
        AnySource::Encoder(source) => write(source, models, progress),
    }
}

/// Writes the model file of a source.
fn write<A: Kind>(
    source: Source<'_, A>,
    models: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Imported> {
    let Source { name, arch, tokenizer, parts } = source;
    let tokenizer = A::Tokenizer::build(tokenizer)?;
    let vocab = u64::from(arch.vocab());
    within("tokens of the tokenizer", tokenizer.size() as u64, vocab, vocab)?;
    let rope = arch.rope();

    // The header's length does not depend on the digests in it.
    let mut header = Header {
        name,
        architecture: hex::encode(arch.to_leaf()),
        rope: hex::encode(rope),
        tokenizer: tokenizer.spec().clone(),
        tensors: vec![hex::encode([0; 32]); parts.len()],
        packings: parts.par_iter().map(packing).collect::<Result<_>>()?,
    };
    if header.packings.iter().all(Option::is_none) {
        header.packings.clear();
    }
    let layout = Layout::new(&arch.slots(), &header.packings, header.to_bytes().len() as u64)
        .ok_or_else(|| invalid("packings", "some", "must fit the tensors"))?;

    fs::create_dir_all(models).map_err(ModelError::io(models))?;
    let _lock = lock(models)?;
    let temporary =
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(models).map_err(ModelError::io(models))?;
    let out = temporary.as_file();
    let io = || ModelError::io(temporary.path());
    out.set_len(layout.file_len).map_err(io())?;

    let total = parts.iter().map(|p| 2 * (p.slot.rows * p.slot.cols) as u64).sum();
    let done = AtomicU64::new(0);
    let advance = |bytes: u64| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        progress(Progress { done, total });
    };
    let tensors = parts
        .par_iter()
        .zip(&layout.ranges)
        .enumerate()
        .map(|(i, (part, range))| {
            let packing = header.packings.get(i).copied().flatten();
            let write = |bytes: &[u8], at| out.write_all_at(bytes, at).map_err(io());
            write_tensor(part, packing, range.start, write, &advance)
        })
        .collect::<Result<Vec<Digest>>>()?;

    header.tensors = tensors.iter().map(hex::encode).collect();
    let header = header.to_bytes();
    let prefix = prefix(&header, layout.file_len);
    out.write_all_at(&[&prefix[..], &header].concat(), 0).map_err(io())?;

    let id = Manifest { arch, tokenizer: tokenizer.digest(), rope, tensors }.id();
    let path = model_path(models, &id);
    if ModelFile::<A>::open_verified(&path).is_ok() {
        return Ok(Imported { id, path, existed: true });
    }
    out.sync_all().map_err(io())?;
    temporary.persist(&path).map_err(|e| ModelError::Io { path: path.clone(), error: e.error })?;
    File::open(models).and_then(|folder| folder.sync_all()).map_err(ModelError::io(models))?;
    Ok(Imported { id, path, existed: false })
}

/// One import at a time in a folder; the holder removes what imports that were killed have left behind.
fn lock(models: &Path) -> Result<File> {
    let path = models.join(".lock");
    let lock =
        File::create(&path).and_then(|file| file.lock().map(|()| file)).map_err(ModelError::io(&path))?;
    for entry in fs::read_dir(models).map_err(ModelError::io(models))? {
        let path = entry.map_err(ModelError::io(models))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())) {
            fs::remove_file(&path).map_err(ModelError::io(&path))?;
        }
    }
    Ok(lock)
}

/// How a tensor stays quantised: as its file has it, where there are kernels for that and they make the canonical halves
/// of every group.
fn packing(part: &Part<'_>) -> Result<Option<Packing>> {
    let Some(packing) = part.data.encoding.packing() else { return Ok(None) };
    let (rows, cols) = (part.slot.rows, part.slot.cols);
    if part.slot.is_vector() || packing.padded_len(rows, cols).is_none() {
        return Ok(None);
    }
    let mut row = vec![f16::ZERO; cols];
    for r in 0..rows {
        decode_row(part, r, &mut row)?;
        let mut groups = row.chunks(GROUP).enumerate();
        if !groups.all(|(group, values)| is_exact(&group_of(part, r, group), values)) {
            return Ok(None);
        }
    }
    Ok(Some(packing))
}

/// Writes one tensor in the canonical form, from byte `at` of the file on; its digest.
fn write_tensor(
    part: &Part<'_>,
    packing: Option<Packing>,
    mut at: u64,
    write: impl Fn(&[u8], u64) -> Result<()>,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Digest> {
    let (rows, cols) = (part.slot.rows, part.slot.cols);
    let mut hasher = blake3::Hasher::new();
    let mut row = vec![f16::ZERO; cols];
    if part.slot.is_vector() {
        decode_row(part, 0, &mut row)?;
        let ordered: Vec<f16> = (0..cols).map(|k| row[part.source_row(k)]).collect();
        let bytes = bytemuck::cast_slice(&ordered);
        hasher.update(bytes);
        write(bytes, at)?;
        advance(bytes.len() as u64);
        return Ok(*hasher.finalize().as_bytes());
    }
    let panel_len = Tensor { rows: PANEL, cols, packing, panels: &[] }.panel_len();
    let mut panel = vec![f16::ZERO; panel_len];
    for first in (0..rows).step_by(PANEL) {
        let count = PANEL.min(rows - first);
        if count < PANEL || packing.is_some() {
            panel.fill(f16::ZERO);
        }
        for n in 0..count {
            let source = part.source_row(first + n);
            decode_row(part, source, &mut row)?;
            hasher.update(bytemuck::cast_slice(&row));
            let Some(packing) = packing else {
                put_row(&mut panel, cols, n, &row);
                continue;
            };
            let bytes = bytemuck::cast_slice_mut(&mut panel);
            for (group, values) in row.chunks(GROUP).enumerate() {
                let content = group_of(part, source, group);
                // That it is exact was seen when the packing was chosen.
                put_group(packing, bytes, cols, n, group, &content, values);
            }
        }
        let bytes: &[u8] = bytemuck::cast_slice(&panel);
        write(bytes, at)?;
        at += bytes.len() as u64;
        advance(2 * (count * cols) as u64);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Columns `32 * group` on of a row of the file.
fn group_of(part: &Part<'_>, row: usize, group: usize) -> Group {
    let Part { data, .. } = part;
    let len = data.encoding.block_bytes();
    data.encoding.group(&data.bytes[row * data.row_bytes() + group * len..][..len])
}

fn decode_row(part: &Part<'_>, row: usize, out: &mut [f16]) -> Result<()> {
    let len = part.data.row_bytes();
    part.data.encoding.decode(&part.data.bytes[row * len..(row + 1) * len], out).map_err(|at| {
        ModelError::Weight { tensor: part.name.clone(), row, column: at.index, value: at.value }
    })
}

/// One file of a models folder.
#[derive(Debug)]
pub struct Listing {
    pub path: PathBuf,
    /// The model, or why the file is none.
    pub model: Result<AnyModel>,
}

/// The model files of a folder, by name. A folder that does not exist has none.
pub fn list(models: &Path) -> Result<Vec<Listing>> {
    let entries = match fs::read_dir(models) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(ModelError::io(models))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(ModelError::io(models))?.path();
        if path.extension().is_some_and(|e| e == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| Listing { model: AnyModel::open(&path), path }).collect())
}
