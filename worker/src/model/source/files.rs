//! The files of a model, found and mapped.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::hf::{self, Folder};
use super::safetensors::{Index, INDEX, SINGLE};
use super::{gguf, AnySource};
use crate::model::error::{invalid, ModelError, Result};
use crate::model::gguf::Gguf;
use crate::model::tokenizer::{json, TokenizerFiles};

/// Most bytes of a JSON document that are read at all; each has a bound of its own below this.
const MAX_DOCUMENT: u64 = 128 << 20;
const TEMPLATE: &str = "chat_template.jinja";

/// A model's files in one of the formats.
#[derive(Debug)]
pub enum Files {
    Gguf { path: PathBuf, map: Mmap },
    Folder(Box<Documents>),
}

/// A folder of safetensors and JSON: the weights mapped, the rest read.
#[derive(Debug)]
pub struct Documents {
    path: PathBuf,
    name: String,
    config: Vec<u8>,
    generation: Option<Vec<u8>>,
    tokenizer: Vec<u8>,
    tokenizer_config: Option<Vec<u8>>,
    template: Option<Vec<u8>>,
    modules: Option<Vec<u8>>,
    pooling: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
    weights: Vec<(String, Mmap)>,
}

impl Files {
    /// Opens a GGUF file, a safetensors file with its JSON beside it, or a folder that holds either.
    pub fn open(path: &Path) -> Result<Files> {
        let metadata = fs::metadata(path).map_err(ModelError::io(path))?;
        let is = |path: &Path, extension: &str| {
            path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
        };
        if !metadata.is_dir() {
            if is(path, "safetensors") {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                return Documents::open(folder, Some(path))
                    .map(|documents| Files::Folder(Box::new(documents)));
            }
            check_whole(path, split_by_name(path))?;
            return Ok(Files::Gguf { path: path.to_path_buf(), map: map(path)? });
        }
        if path.join(INDEX).exists() || path.join(SINGLE).exists() {
            return Documents::open(path, None).map(|documents| Files::Folder(Box::new(documents)));
        }
        let entries = fs::read_dir(path).and_then(|entries| {
            entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()
        });
        let mut models: Vec<PathBuf> = entries.map_err(ModelError::io(path))?;
        models.retain(|file| is(file, "gguf") || is(file, "safetensors"));
        models.sort();
        match &models[..] {
            [one] => Files::open(one),
            other => {
                other.iter().try_for_each(|file| check_whole(file, split_by_name(file)))?;
                let found = format!("{} .gguf and .safetensors files", other.len());
                let bound = format!("must have {SINGLE}, {INDEX} or just one file of a model");
                Err(invalid(path.display(), found, bound))
            }
        }
    }

    /// What they hold.
    pub fn read(&self) -> Result<AnySource<'_>> {
        match self {
            Files::Gguf { path, map } => {
                let gguf = Gguf::parse(map)?;
                check_whole(path, gguf::split(&gguf)?)?;
                let mut source = gguf::read(&gguf)?;
                if source.name.is_empty() {
                    source.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                }
                Ok(AnySource::Decoder(source))
            }
            Files::Folder(documents) => hf::read_any(&documents.folder()),
        }
    }

    /// Where they are, for an error.
    pub fn path(&self) -> &Path {
        match self {
            Files::Gguf { path, .. } => path,
            Files::Folder(documents) => &documents.path,
        }
    }
}

impl Documents {
    /// `only` is the one weight file to read; without it the index decides, or there is one.
    fn open(folder: &Path, only: Option<&Path>) -> Result<Documents> {
        let required = |name: &str| {
            document(folder, name)?.ok_or_else(|| ModelError::missing(folder.join(name).display()))
        };
        let index = if only.is_some() { None } else { document(folder, INDEX)? };
        let paths = match (only, &index) {
            (Some(path), _) => vec![path.to_path_buf()],
            (None, Some(index)) => {
                Index::parse(index)?.files().iter().map(|file| folder.join(file)).collect()
            }
            (None, None) => vec![folder.join(SINGLE)],
        };
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let weights = paths.iter().map(|path| Ok((name(path), map(path)?))).collect::<Result<_>>()?;
        let whole = fs::canonicalize(folder).map_err(ModelError::io(folder))?;
        Ok(Documents {
            path: folder.to_path_buf(),
            name: name(&whole),
            config: required(hf::CONFIG)?,
            generation: document(folder, hf::GENERATION)?,
            tokenizer: required(json::TOKENIZER)?,
            tokenizer_config: document(folder, json::CONFIG)?,
            template: document(folder, TEMPLATE)?,
            modules: document(folder, hf::MODULES)?,
            pooling: document(folder, hf::POOLING)?,
            index,
            weights,
        })
    }

    fn folder(&self) -> Folder<'_> {
        Folder {
            name: &self.name,
            config: &self.config,
            generation: self.generation.as_deref(),
            tokenizer: TokenizerFiles {
                tokenizer: &self.tokenizer,
                config: self.tokenizer_config.as_deref(),
                template: self.template.as_deref(),
            },
            modules: self.modules.as_deref(),
            pooling: self.pooling.as_deref(),
            index: self.index.as_deref(),
            weights: self.weights.iter().map(|(name, map)| (name.as_str(), &map[..])).collect(),
        }
    }
}

/// Refuses a file that is one part of several, `part` counted from 1: number and count.
fn check_whole(path: &Path, part: Option<(u32, u32)>) -> Result<()> {
    match part {
        Some((part, count)) if count > 1 => {
            let bound = "merge them first: llama-gguf-split --merge";
            Err(invalid(path.display(), format!("part {part} of {count}"), bound))
        }
        _ => Ok(()),
    }
}

/// Which part of how many a GGUF file is by its name, `NAME-00001-of-00003.gguf`.
fn split_by_name(path: &Path) -> Option<(u32, u32)> {
    let (rest, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (_, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5);
    Some((number(part)?, number(count)?))
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    // SAFETY: read only; a source that is truncated while it is read ends this process, which leaves nothing
    // but a temporary file behind.
    unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))
}

/// A document of the folder, None if there is none.
fn document(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    let file = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(ModelError::io(&path))?,
    };
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the reader of the document sees that it is too long.
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(ModelError::io(&path))?;
    Ok(Some(bytes))
}
