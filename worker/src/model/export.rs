//! From a model to files that other programs read: GGUF, and the safetensors and JSON of the transformers library. The
//! weights are written as the f16 that they are, so that whoever imports the files gets the same model id.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use ::safetensors::tensor::{serialize_to_file, Dtype, View};
use ::safetensors::SafeTensorError;
use half::f16;
use serde_json::{json, Value};

use super::dequant::Encoding;
use super::error::{invalid, ModelError, Result};
use super::family::{bert, gguf_name, hf_name, Family, Window};
use super::file::{EncoderModel, Model, ModelFile};
use super::gguf::{GgufWriter, TensorInfo};
use super::kind::{Kind, Vocabulary};
use super::manifest::Slot;
use super::source::gguf::{LLAMA3_HIGH, LLAMA3_LOW, ROPE_FREQS};
use super::source::safetensors::SINGLE;
use super::source::{half_split_row, hf, is_rotary, AnySource, Files, Source};
use super::tokenizer::{json as documents, TokenizerSpec};
use crate::canon::rope::frequencies;
use crate::canon::tensor::PANEL;
use crate::canon::{Architecture, RopeScaling, Tensor};

/// First letters of a file or folder that is being written.
const TEMPORARY: &str = ".export-";

/// Writes a model as one GGUF file, which must not be there yet: matrices in F16, vectors in F32, as llama.cpp wants
/// them.
pub fn to_gguf(model: &Model, path: &Path) -> Result<()> {
    let arch = model.arch();
    let (family, writer) = gguf_metadata(model.name(), arch, model.tokenizer().spec())?;
    let divisors = divisors(arch);
    let mut records: Vec<(String, Vec<u64>, Encoding)> = Vec::new();
    for (slot, _) in model.tensors() {
        let (cols, rows) = (slot.cols as u64, slot.rows as u64);
        let (encoding, dimensions) =
            if slot.is_vector() { (Encoding::F32, vec![cols]) } else { (Encoding::F16, vec![cols, rows]) };
        records.push((gguf_name(slot), dimensions, encoding));
    }
    records.extend(divisors.iter().map(|d| (ROPE_FREQS.to_string(), vec![d.len() as u64], Encoding::F32)));
    let infos: Vec<TensorInfo<'_>> = records
        .iter()
        .map(|(name, dimensions, encoding)| TensorInfo {
            name,
            dimensions,
            kind: encoding.ggml(),
            bytes: dimensions.iter().product::<u64>() * encoding.block_bytes() as u64,
        })
        .collect();

    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary =
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder).map_err(ModelError::io(folder))?;
    let write = |file: &File| -> std::io::Result<()> {
        let mut out = Padded { out: BufWriter::new(file), written: 0 };
        out.write(&writer.head(&infos))?;
        for (slot, tensor) in model.tensors() {
            let interleaved = (family.interleaved && is_rotary(slot)).then_some(arch.head_dim as usize);
            if slot.is_vector() {
                let at = |i: usize| tensor.panels[interleaved.map_or(i, |dim| half_split_row(i, dim))];
                out.write(&(0..slot.cols).flat_map(|i| at(i).to_f32().to_le_bytes()).collect::<Vec<_>>())?;
            } else {
                rows(&tensor, interleaved, &mut |bytes| out.write(bytes))?;
            }
            out.pad()?;
        }
        if let Some(divisors) = &divisors {
            out.write(&divisors.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
            out.pad()?;
        }
        out.out.flush()?;
        file.sync_all()
    };
    write(temporary.as_file()).map_err(ModelError::io(temporary.path()))?;
    match Files::open(temporary.path())?.read()? {
        AnySource::Decoder(source) => check_said(model, &source, "GGUF")?,
        AnySource::Encoder(_) => return Err(invalid("model", "an encoder", "must be a language model")),
    }
    match temporary.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) => Err(ModelError::Io { path: path.to_path_buf(), error: e.error }),
    }
}

/// What a reader makes of exported files must be the model: a format cannot say everything.
fn check_said<A: Kind>(model: &ModelFile<A>, source: &Source<'_, A>, format: &str) -> Result<()> {
    if source.arch != *model.arch() {
        let (mine, theirs) = (format!("{:?}", model.arch()), format!("{:?}", source.arch));
        return Err(invalid("architecture", mine, format!("{format} can only say {theirs}")));
    }
    if source.tokenizer != *model.tokenizer().spec() {
        return Err(ModelError::Tokenizer(format!("{format} cannot say it")));
    }
    Ok(())
}

/// The metadata of a GGUF file, and the family under whose name it is written.
pub fn gguf_metadata(
    name: &str,
    arch: &Architecture,
    tokenizer: &TokenizerSpec,
) -> Result<(&'static Family, GgufWriter)> {
    let family = Family::of(arch)?;
    let key = |name: &str| format!("{}.{name}", family.gguf);
    let mut writer = GgufWriter::default();
    writer.string("general.architecture", family.gguf);
    writer.string("general.name", name);
    // The number of what most of the tensors are: F16.
    writer.u32("general.file_type", 1);
    for (name, value) in [
        ("block_count", arch.layers),
        ("context_length", arch.context),
        ("embedding_length", arch.width),
        ("feed_forward_length", arch.ffn),
        ("attention.head_count", arch.heads),
        ("attention.head_count_kv", arch.kv_heads),
        ("attention.key_length", arch.head_dim),
        ("attention.value_length", arch.head_dim),
        ("rope.dimension_count", arch.head_dim),
        ("vocab_size", arch.vocab),
    ] {
        writer.u32(&key(name), value);
    }
    writer.f32(&key("attention.layer_norm_rms_epsilon"), arch.eps);
    writer.f32(&key("rope.freq_base"), arch.rope_base);
    if let Some(window) = arch.window {
        writer.u32(&key("attention.sliding_window"), window);
    }
    match arch.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            writer.string(&key("rope.scaling.type"), "linear");
            writer.f32(&key("rope.scaling.factor"), factor);
        }
        RopeScaling::Llama3 { low, high, original, .. } => {
            if (low, high) != (LLAMA3_LOW, LLAMA3_HIGH) {
                let bound = "GGUF knows 1 and 4";
                return Err(invalid("low and high of the rope scaling", format!("{low} and {high}"), bound));
            }
            writer.u32(&key("rope.scaling.original_context_length"), original);
        }
    }
    tokenizer.write_gguf(&mut writer);
    // Of end tokens that are not known by themselves there are two more names.
    let known = tokenizer.end_tokens(&[]);
    let others: Vec<u32> = arch.eos.iter().copied().filter(|id| !known.contains(id)).collect();
    let names = ["eot", "eom"];
    if others.len() > names.len() {
        return Err(invalid("eos ids", format!("{:?}", arch.eos), "GGUF knows eos, eot and eom"));
    }
    for (name, id) in names.iter().zip(others) {
        writer.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
    }
    Ok((family, writer))
}

/// What Llama 3's scaling divides each frequency by.
pub fn divisors(arch: &Architecture) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { .. } = arch.rope_scaling else { return None };
    let divisor = |f: f64| (f / arch.rope_scaling.scaled(f)) as f32;
    Some(frequencies(arch.rope_base, arch.head_dim).map(divisor).collect())
}

/// The rows of a matrix, little-endian, some at a time; with `interleaved` those of heads of that many rows are in the
/// order of llama-family GGUF files.
fn rows(
    tensor: &Tensor<'_>,
    interleaved: Option<usize>,
    write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffer = vec![f16::ZERO; PANEL.min(tensor.rows) * tensor.cols];
    for first in (0..tensor.rows).step_by(PANEL) {
        let count = PANEL.min(tensor.rows - first);
        for (row, out) in (first..).zip(buffer.chunks_exact_mut(tensor.cols).take(count)) {
            tensor.row(interleaved.map_or(row, |dim| half_split_row(row, dim)), out);
        }
        write(bytemuck::cast_slice(&buffer[..count * tensor.cols]))?;
    }
    Ok(())
}

/// Counts what it writes, to pad it.
struct Padded<W> {
    out: W,
    written: usize,
}

impl<W: Write> Padded<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> std::io::Result<()> {
        let len = self.written.next_multiple_of(GgufWriter::ALIGNMENT) - self.written;
        self.write(&[0; GgufWriter::ALIGNMENT][..len])
    }
}

/// Writes a model as a folder of safetensors and JSON, which must not be there yet, or be empty.
pub fn to_safetensors(model: &Model, folder: &Path) -> Result<()> {
    let (arch, spec) = (model.arch(), model.tokenizer().spec());
    let family = Family::of(arch)?;
    let tokenizer = spec.to_hf()?;
    let documents = [
        (hf::CONFIG, config(arch, family, spec)),
        (hf::GENERATION, json!({ "bos_token_id": spec.bos, "eos_token_id": arch.eos })),
        (documents::TOKENIZER, tokenizer.tokenizer),
        (documents::CONFIG, tokenizer.config),
    ];
    publish(folder, |folder| {
        write_folder(model, folder, &documents)?;
        match Files::open(folder)?.read()? {
            AnySource::Decoder(source) => check_said(model, &source, "safetensors"),
            AnySource::Encoder(_) => Err(invalid("model", "an encoder", "must be a language model")),
        }
    })
}

/// The same for an encoder, with what sentence-transformers wants to know of it.
pub fn encoder_to_safetensors(model: &EncoderModel, folder: &Path) -> Result<()> {
    let tokenizer = model.tokenizer().spec().to_hf();
    let mut documents = bert::documents(model.arch()).to_vec();
    documents.extend([(documents::TOKENIZER, tokenizer.tokenizer), (documents::CONFIG, tokenizer.config)]);
    publish(folder, |folder| {
        write_folder(model, folder, &documents)?;
        match Files::open(folder)?.read()? {
            AnySource::Encoder(source) => check_said(model, &source, "safetensors"),
            AnySource::Decoder(_) => Err(invalid("model", "a language model", "must be an encoder")),
        }
    })
}

/// Has a folder, which must not be there yet, or be empty, filled under another name beside it, so that it is there whole
/// or not at all.
fn publish(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(invalid("folder", folder.display(), "must be empty")),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(ModelError::io(folder)(e)),
        _ => {}
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(ModelError::io(parent))?;
    let temporary =
        tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(parent).map_err(ModelError::io(parent))?;
    let filled = temporary.path().join("model");
    // A temporary folder is its owner's alone, one inside it is as folders are here.
    fs::create_dir(&filled).map_err(ModelError::io(&filled))?;
    fill(&filled)?;
    fs::rename(&filled, folder).map_err(ModelError::io(folder))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(ModelError::io(parent))
}

/// Writes documents and weights into an empty folder.
fn write_folder<A: Kind>(model: &ModelFile<A>, folder: &Path, documents: &[(&str, Value)]) -> Result<()> {
    for (name, document) in documents {
        let path = folder.join(name);
        let inner = path.parent().unwrap_or(folder);
        fs::create_dir_all(inner).map_err(ModelError::io(inner))?;
        fs::write(&path, format!("{document:#}\n")).map_err(ModelError::io(&path))?;
    }
    let tensors = model.tensors().map(|(slot, tensor)| (hf_name(slot), Stored::new(slot, tensor)));
    let path = folder.join(SINGLE);
    let format = [("format".to_string(), "pt".to_string())].into();
    serialize_to_file(tensors, Some(format), &path).map_err(|error| match error {
        SafeTensorError::IoError(error) => ModelError::Io { path: path.clone(), error },
        other => invalid("safetensors", other, "must be written"),
    })?;
    File::open(&path).and_then(|file| file.sync_all()).map_err(ModelError::io(&path))
}

/// config.json.
fn config(arch: &Architecture, family: &Family, spec: &TokenizerSpec) -> Value {
    let scaling = match arch.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": decimal(factor) }),
        RopeScaling::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3",
            "factor": decimal(factor),
            "low_freq_factor": decimal(low),
            "high_freq_factor": decimal(high),
            "original_max_position_embeddings": original,
        }),
    };
    let mut config = json!({
        "architectures": [family.class],
        "model_type": family.hf,
        "hidden_act": "silu",
        "hidden_size": arch.width,
        "intermediate_size": arch.ffn,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "vocab_size": arch.vocab,
        "max_position_embeddings": arch.context,
        "rms_norm_eps": decimal(arch.eps),
        "rope_theta": decimal(arch.rope_base),
        "rope_scaling": scaling,
        "attention_bias": arch.qkv_bias,
        "tie_word_embeddings": arch.tied,
        "torch_dtype": "float16",
        "bos_token_id": spec.bos,
        "eos_token_id": arch.eos,
        "use_cache": true,
    });
    match family.window {
        Window::None => {}
        Window::Key => config["sliding_window"] = json!(arch.window),
        Window::Switch => config["use_sliding_window"] = json!(false),
    }
    config
}

/// The shortest decimal that is this f32.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// A tensor of the model as safetensors sees it; its rows are put in order when they are written.
struct Stored<'a> {
    /// A vector is one row.
    tensor: Tensor<'a>,
    is_vector: bool,
    shape: Vec<usize>,
}

impl<'a> Stored<'a> {
    fn new(slot: &Slot, tensor: Tensor<'a>) -> Self {
        let is_vector = slot.is_vector();
        let shape = if is_vector { vec![slot.cols] } else { vec![slot.rows, slot.cols] };
        Stored { tensor, is_vector, shape }
    }
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        if self.is_vector {
            return bytemuck::cast_slice(self.tensor.panels).into();
        }
        let mut data = Vec::with_capacity(self.data_len());
        let written = rows(&self.tensor, None, &mut |bytes| {
            data.extend_from_slice(bytes);
            Ok(())
        });
        debug_assert!(written.is_ok(), "memory takes what is written");
        data.into()
    }

    fn data_len(&self) -> usize {
        2 * self.tensor.rows * self.tensor.cols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder is there whole or not at all, and nothing else is left beside it.
    #[test]
    fn folders_are_whole_or_absent() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("to/hf");
        let fill = |fails: bool| {
            publish(&folder, |filled| {
                fs::write(filled.join("config.json"), "{}").map_err(ModelError::io(filled))?;
                if fails {
                    Err(invalid("model", "half", "must be whole"))
                } else {
                    Ok(())
                }
            })
        };
        let there = || -> Vec<String> {
            let entries = fs::read_dir(outer.path().join("to")).unwrap();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert!(fill(true).unwrap_err().to_string().contains("model is half"));
        assert!(there().is_empty());
        // An empty folder is taken.
        fs::create_dir(&folder).unwrap();
        fill(false).unwrap();
        assert_eq!(there(), ["hf"]);
        assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
        let error = fill(false).unwrap_err().to_string();
        assert!(error.contains("must be empty"), "{error}");
        assert_eq!(there(), ["hf"]);
    }
}
