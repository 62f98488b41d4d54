//! The canonical model file, `<id>.dnm`: what an import writes and every process maps.
//!
//! | bytes | |
//! |---|---|
//! | 0 | "deepnode" |
//! | 8 | format version, u32 |
//! | 12 | zero, u32 |
//! | 16 | length of the header, u64 |
//! | 24 | length of the file, u64 |
//! | 32 | BLAKE3 of the header |
//! | 64 | the header, JSON |
//! | multiple of 4096 | the tensors of the architecture's slots (`manifest`), each at a multiple of 64 |
//!
//! Integers and weights are little-endian. A matrix is in panels (`canon::tensor`), or stays quantised
//! (`canon::packed`) where the header says so, a vector is as it is. Quantised or not, the model id is the same.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use memmap2::{Mmap, UncheckedAdvice};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::chat::Sandbox;
use super::error::{invalid, within, ModelError, Result};
use super::kind::{Kind, Spec, Vocabulary};
use super::manifest::{EncoderRole, Manifest, Role, Slot, KIND_DECODER, KIND_ENCODER};
use super::readers::Readers;
use crate::canon::commit::Digest;
use crate::canon::encoder::{Affine, EncoderLayer, EncoderWeights, LayerNorm};
use crate::canon::packed::Packing;
use crate::canon::tensor::PANEL;
use crate::canon::{Architecture, Decoder, Encoder, EncoderArchitecture, LayerWeights, Tensor, Weights};

#[cfg(target_endian = "big")]
compile_error!("weights are mapped as they lie in the file, little-endian");

const MAGIC: [u8; 8] = *b"deepnode";
const VERSION: u32 = 1;
const PREFIX: usize = 64;
const MAX_HEADER: u64 = 1 << 28;
const DATA_ALIGNMENT: u64 = 4096;
const TENSOR_ALIGNMENT: u64 = 64;

/// The header of a model file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header<S> {
    /// The source's own name, for people; not a part of the id.
    pub name: String,
    /// The architecture leaf, hex.
    pub architecture: String,
    /// The rope table's digest, hex.
    pub rope: String,
    pub tokenizer: S,
    /// Digests of the tensors, hex.
    pub tensors: Vec<String>,
    /// How each tensor stays quantised, if it does; none at all where no tensor does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packings: Vec<Option<Packing>>,
}

impl<S: Serialize> Header<S> {
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a header is plain strings and numbers")
    }
}

/// The first bytes of a file with this header.
pub(super) fn prefix(header: &[u8], file_len: u64) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..8].copy_from_slice(&MAGIC);
    prefix[8..12].copy_from_slice(&VERSION.to_le_bytes());
    prefix[16..24].copy_from_slice(&(header.len() as u64).to_le_bytes());
    prefix[24..32].copy_from_slice(&file_len.to_le_bytes());
    prefix[32..].copy_from_slice(blake3::hash(header).as_bytes());
    prefix
}

/// Where the tensors lie in the file.
pub(super) struct Layout {
    pub ranges: Vec<Range<u64>>,
    pub file_len: u64,
}

impl Layout {
    /// `packings` are of a header. None where a tensor cannot be packed so.
    pub fn new(slots: &[Slot], packings: &[Option<Packing>], header_len: u64) -> Option<Layout> {
        let mut end = (PREFIX as u64 + header_len).next_multiple_of(DATA_ALIGNMENT);
        let ranges = slots
            .iter()
            .enumerate()
            .map(|(i, slot)| {
                let halves = match packings.get(i).copied().flatten() {
                    Some(_) if slot.is_vector() => return None,
                    Some(packing) => packing.padded_len(slot.rows, slot.cols)?,
                    None if slot.is_vector() => slot.cols,
                    None => Tensor::padded_len(slot.rows, slot.cols),
                };
                let start = end.next_multiple_of(TENSOR_ALIGNMENT);
                end = start + 2 * halves as u64;
                Some(start..end)
            })
            .collect::<Option<_>>()?;
        Some(Layout { ranges, file_len: end })
    }
}

/// An imported model, mapped read-only: all processes on a machine share its pages.
#[derive(Debug)]
pub struct ModelFile<A: Kind> {
    path: PathBuf,
    name: String,
    id: Digest,
    manifest: Manifest<A>,
    tokenizer: A::Tokenizer,
    pub(super) readers: Readers,
    stored: Stored,
}

/// An imported language model.
pub type Model = ModelFile<Architecture>;
/// An imported encoder.
pub type EncoderModel = ModelFile<EncoderArchitecture>;

/// An imported model of either kind.
#[derive(Debug)]
pub enum AnyModel {
    Decoder(Box<Model>),
    Encoder(Box<EncoderModel>),
}

/// The tensors of a mapped file.
#[derive(Debug)]
struct Stored {
    map: Mmap,
    /// In the manifest's order, how they are packed, and where in `map` they are.
    tensors: Vec<(Slot, Option<Packing>, Range<usize>)>,
}

impl Stored {
    fn tensors(&self) -> impl Iterator<Item = (&Slot, Tensor<'_>)> {
        self.tensors.iter().map(|(slot, packing, range)| {
            let panels = bytemuck::cast_slice(&self.map[range.clone()]);
            (slot, Tensor { rows: slot.rows, cols: slot.cols, packing: *packing, panels })
        })
    }

    fn verify(&self, digests: &[Digest]) -> Result<()> {
        let tensors: Vec<_> = self.tensors().collect();
        tensors.par_iter().zip(digests).try_for_each(|((slot, tensor), expected)| {
            let found = if slot.is_vector() {
                *blake3::hash(bytemuck::cast_slice(tensor.panels)).as_bytes()
            } else {
                matrix_digest(tensor)
            };
            same(slot, &found, expected)
        })
    }
}

/// A mapped file whose header is as it was written.
struct Opened {
    map: Mmap,
    header: Range<usize>,
    /// The architecture leaf.
    leaf: Vec<u8>,
}

impl Opened {
    fn open(path: &Path) -> Result<Opened> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: model files are written under another name, renamed when whole and never written again; who
        // can truncate one under a running process can as well kill it.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;

        let field = |what: &str| format!("{what} of {}", path.display());
        let prefix = map.get(..PREFIX).ok_or_else(|| {
            invalid(field("length"), map.len(), format!("a model file has at least {PREFIX} bytes"))
        })?;
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| prefix[at + i]));
        if prefix[..8] != MAGIC {
            return Err(invalid(
                field("magic"),
                hex::encode(&prefix[..8]),
                "not a model file; import it first",
            ));
        }
        within(field("format version and flags"), u64_at(8), VERSION.into(), VERSION.into())?;
        within(field("length"), map.len() as u64, u64_at(24), u64_at(24))?;
        let header_len =
            within(field("header length"), u64_at(16), 2, MAX_HEADER.min(map.len() as u64 - PREFIX as u64))?;
        let header = PREFIX..PREFIX + header_len as usize;
        same(field("header"), blake3::hash(&map[header.clone()]).as_bytes(), &prefix[32..])?;

        /// All that a header of any kind has.
        #[derive(Deserialize)]
        struct Common {
            architecture: String,
        }
        let common: Common = serde_json::from_slice(&map[header.clone()])
            .map_err(|e| invalid(field("header"), e, "must be its JSON"))?;
        let leaf = hex::decode(&common.architecture)
            .map_err(|e| invalid(field("architecture"), e, "must be hex"))?;
        Ok(Opened { map, header, leaf })
    }

    /// Which kind of model it is.
    fn kind(&self) -> Option<u32> {
        self.leaf.first_chunk().map(|word| u32::from_le_bytes(*word))
    }
}

impl AnyModel {
    /// Maps a model file and checks its header.
    pub fn open(path: &Path) -> Result<AnyModel> {
        let opened = Opened::open(path)?;
        match opened.kind() {
            Some(KIND_ENCODER) => {
                ModelFile::of(opened, path, false).map(|model| AnyModel::Encoder(Box::new(model)))
            }
            _ => ModelFile::of(opened, path, false).map(|model| AnyModel::Decoder(Box::new(model))),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            AnyModel::Decoder(model) => model.path(),
            AnyModel::Encoder(model) => model.path(),
        }
    }

    /// The source's own name, for people.
    pub fn name(&self) -> &str {
        match self {
            AnyModel::Decoder(model) => model.name(),
            AnyModel::Encoder(model) => model.name(),
        }
    }

    /// The model id.
    pub fn id(&self) -> Digest {
        match self {
            AnyModel::Decoder(model) => model.id(),
            AnyModel::Encoder(model) => model.id(),
        }
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        match self {
            AnyModel::Decoder(model) => model.file_len(),
            AnyModel::Encoder(model) => model.file_len(),
        }
    }

    /// Reads every weight and compares with the manifest.
    pub fn verify(&self) -> Result<()> {
        match self {
            AnyModel::Decoder(model) => model.verify(),
            AnyModel::Encoder(model) => model.verify(),
        }
    }
}

impl<A: Kind> ModelFile<A> {
    /// Maps a model file and checks its header: cheap, since no weight is read. `verify` reads them.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(Opened::open(path)?, path, false)
    }

    /// [`open`](Self::open) and [`verify`](Self::verify), side by side.
    pub fn open_verified(path: &Path) -> Result<Self> {
        Self::of(Opened::open(path)?, path, true)
    }

    fn of(opened: Opened, path: &Path, verified: bool) -> Result<Self> {
        let field = |what: &str| format!("{what} of {}", path.display());
        let kind = opened.kind();
        if kind != Some(A::KIND) {
            let found = match kind {
                Some(KIND_DECODER) => Architecture::NAME,
                Some(KIND_ENCODER) => EncoderArchitecture::NAME,
                _ => "unknown",
            };
            return Err(invalid(field("kind of model"), found, format!("must be {}", A::NAME)));
        }
        let Opened { map, header, leaf } = opened;
        let header_len = header.len() as u64;
        let header: Header<Spec<A>> = serde_json::from_slice(&map[header])
            .map_err(|e| invalid(field("header"), e, "must be its JSON"))?;
        let arch = A::from_leaf(&leaf)?;
        let slots = arch.slots();
        let packings = header.packings;
        let most = slots.len() as u64;
        within(field("packings"), packings.len() as u64, if packings.is_empty() { 0 } else { most }, most)?;
        let layout = Layout::new(&slots, &packings, header_len)
            .ok_or_else(|| invalid(field("packings"), "some", "must fit the tensors"))?;
        within(field("length"), map.len() as u64, layout.file_len, layout.file_len)?;
        within(field("tensors"), header.tensors.len() as u64, slots.len() as u64, slots.len() as u64)?;
        let rope = digest_from_hex(&header.rope)?;
        let digests: Vec<Digest> =
            header.tensors.iter().map(|d| digest_from_hex(d)).collect::<Result<_>>()?;
        let ranges = layout.ranges.into_iter().map(|r| r.start as usize..r.end as usize);
        let tensors = slots.into_iter().zip(ranges).enumerate();
        let tensors =
            tensors.map(|(i, (slot, range))| (slot, packings.get(i).copied().flatten(), range)).collect();
        let stored = Stored { map, tensors };
        let (tokenizer, checked) = rayon::join(
            || A::Tokenizer::build(header.tokenizer),
            || match verified {
                true => same("rope table", &arch.rope(), &rope).and_then(|()| stored.verify(&digests)),
                false => Ok(()),
            },
        );
        let tokenizer = tokenizer?;
        checked?;
        within(field("tokens"), tokenizer.size() as u64, arch.vocab().into(), arch.vocab().into())?;
        let manifest = Manifest { arch, tokenizer: tokenizer.digest(), rope, tensors: digests };
        let (path, id) = (path.to_path_buf(), manifest.id());
        Ok(ModelFile {
            path,
            name: header.name,
            id,
            manifest,
            tokenizer,
            readers: Readers::default(),
            stored,
        })
    }

    /// Reads every weight and compares with the manifest, and the rope table with this machine's: what a
    /// damaged disk, memory or library changed is an error that names the part.
    pub fn verify(&self) -> Result<()> {
        same("rope table", &self.arch().rope(), &self.manifest.rope)?;
        self.stored.verify(&self.manifest.tensors)
    }

    /// Lets a part of the map leave this process's memory; it comes back from the system's, or the disk, when it is read.
    fn release(&self, weights: &[f16]) {
        let bytes: &[u8] = bytemuck::cast_slice(weights);
        let map = &self.stored.map;
        let offset = (bytes.as_ptr() as usize).wrapping_sub(map.as_ptr() as usize);
        if offset < map.len() {
            // SAFETY: a map of a file that is only read: what is dropped is read again, with the same bytes.
            let released =
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, bytes.len()) };
            // Where the system does not do it, it is only memory.
            drop(released);
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The source's own name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model id.
    pub fn id(&self) -> Digest {
        self.id
    }

    pub fn arch(&self) -> &A {
        &self.manifest.arch
    }

    pub fn manifest(&self) -> &Manifest<A> {
        &self.manifest
    }

    pub fn tokenizer(&self) -> &A::Tokenizer {
        &self.tokenizer
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.stored.map.len() as u64
    }

    /// Every tensor as it lies in the map, in the manifest's order. A vector is one row, not in panels.
    pub fn tensors(&self) -> impl Iterator<Item = (&Slot, Tensor<'_>)> {
        self.stored.tensors()
    }

    /// Gives the tensors in their order, each to be asked for by its role.
    fn by_role<'a>(&'a self) -> impl FnMut(Role) -> Tensor<'a> {
        let mut rest = self.tensors();
        move |role| {
            let (slot, tensor) = rest.next().expect("a model has the tensors of its slots");
            assert_eq!(slot.role, role, "the order of the slots");
            tensor
        }
    }
}

impl Model {
    /// Runs the chat template in `sandbox` from now on; before, chats are errors.
    pub fn with_sandbox(mut self, sandbox: Sandbox) -> Self {
        self.tokenizer.set_sandbox(sandbox);
        self
    }

    /// Says in the log where the chat template does not compile: the model answers no chats, but goes on from texts.
    pub fn warn_of_template(&self) {
        if let Err(error) = self.tokenizer.check_template() {
            tracing::warn!(model = hex::encode(self.id), %error, "chats will not be answered");
        }
    }

    /// The weights, as they lie in the map.
    pub fn weights(&self) -> Weights<'_> {
        let mut next = self.by_role();
        let arch = self.arch();
        let embedding = next(Role::Embedding);
        let head = if arch.tied { embedding } else { next(Role::Head) };
        let final_gain = next(Role::FinalGain).panels;
        let layers = (0..arch.layers)
            .map(|_| {
                let attn_gain = next(Role::AttnGain).panels;
                let (q, k, v) = (next(Role::Q), next(Role::K), next(Role::V));
                let mut vector = |has: bool, role| has.then(|| next(role).panels);
                let [q_bias, k_bias, v_bias] =
                    [Role::QBias, Role::KBias, Role::VBias].map(|role| vector(arch.qkv_bias, role));
                let [q_norm, k_norm] = [Role::QNorm, Role::KNorm].map(|role| vector(arch.qk_norm, role));
                LayerWeights {
                    attn_gain,
                    q,
                    k,
                    v,
                    q_bias,
                    k_bias,
                    v_bias,
                    q_norm,
                    k_norm,
                    o: next(Role::O),
                    ffn_gain: next(Role::FfnGain).panels,
                    gate: next(Role::Gate),
                    up: next(Role::Up),
                    down: next(Role::Down),
                }
            })
            .collect();
        Weights { embedding, head, final_gain, layers }
    }
}

impl Decoder for Model {
    fn arch(&self) -> &Architecture {
        Model::arch(self)
    }

    fn weights(&self) -> Weights<'_> {
        Model::weights(self)
    }

    fn release(&self, weights: &[f16]) {
        ModelFile::release(self, weights);
    }
}

impl Encoder for EncoderModel {
    fn arch(&self) -> &EncoderArchitecture {
        &self.manifest.arch
    }

    fn weights(&self) -> EncoderWeights<'_> {
        use EncoderRole::*;
        let mut tensors = self.by_role();
        let mut next = |role| tensors(Role::Encoder(role));
        let [embedding, positions, types] = [Embedding, Positions, Types].map(&mut next);
        let norm = LayerNorm { gain: next(NormGain).panels, bias: next(NormBias).panels };
        let layers = (0..self.manifest.arch.layers).map(|_| {
            let mut affine = |matrix, bias| Affine { weight: next(matrix), bias: next(bias).panels };
            let (q, k, v, o) = (affine(Q, QBias), affine(K, KBias), affine(V, VBias), affine(O, OBias));
            let attn_norm = LayerNorm { gain: next(AttnNormGain).panels, bias: next(AttnNormBias).panels };
            let mut affine = |matrix, bias| Affine { weight: next(matrix), bias: next(bias).panels };
            let (up, down) = (affine(Up, UpBias), affine(Down, DownBias));
            let ffn_norm = LayerNorm { gain: next(FfnNormGain).panels, bias: next(FfnNormBias).panels };
            EncoderLayer { q, k, v, o, attn_norm, up, down, ffn_norm }
        });
        EncoderWeights { embedding, positions, types, norm, layers: layers.collect() }
    }
}

/// Columns that are turned into rows at a time: what a cache line of a row holds.
const COLUMNS: usize = 32;

/// BLAKE3 of the rows, unpadded; all zero, and so equal to nothing, if the padding is not zero.
fn matrix_digest(tensor: &Tensor<'_>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut rows = vec![f16::ZERO; PANEL * tensor.cols];
    for first in (0..tensor.rows).step_by(PANEL) {
        match tensor.packing {
            // Some columns of all rows of a panel at once: they stay in the nearest cache, as what is made of them does.
            None => {
                let panel = &tensor.panels[first * tensor.cols..][..PANEL * tensor.cols];
                let columns = panel.as_chunks::<PANEL>().0;
                for (block, columns) in columns.chunks(COLUMNS).enumerate() {
                    for lane in 0..PANEL {
                        let row = &mut rows[lane * tensor.cols + block * COLUMNS..][..columns.len()];
                        row.iter_mut().zip(columns).for_each(|(to, lanes)| *to = lanes[lane]);
                    }
                }
            }
            Some(_) => {
                let rows = rows.chunks_exact_mut(tensor.cols).enumerate();
                rows.for_each(|(lane, row)| tensor.row(first + lane, row));
            }
        }
        let (real, padding) = rows.split_at(PANEL.min(tensor.rows - first) * tensor.cols);
        if padding.iter().any(|x| x.to_bits() != 0) {
            return [0; 32];
        }
        hasher.update(bytemuck::cast_slice(real));
    }
    *hasher.finalize().as_bytes()
}

fn same(what: impl ToString, found: &[u8], expected: &[u8]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::Digest {
        what: what.to_string(),
        found: hex::encode(found),
        expected: hex::encode(expected),
    })
}

fn digest_from_hex(text: &str) -> Result<Digest> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest)
        .map_err(|e| invalid("digest", format!("{text:?} ({e})"), "must be 64 hex digits"))?;
    Ok(digest)
}
