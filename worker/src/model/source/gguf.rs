//! A model in one GGUF file.

use super::{optional_tensors, parts, window, Source};
use crate::canon::rope::frequencies;
use crate::canon::{Architecture, RopeScaling};
use crate::model::dequant::Encoding;
use crate::model::error::{invalid, within, ModelError, Result};
use crate::model::family::{gguf_name, Family};
use crate::model::gguf::{required, Gguf, TensorData, Value};
use crate::model::manifest::check_architecture;
use crate::model::tokenizer::TokenizerSpec;

/// Keys under the architecture's prefix that are read below.
const KNOWN_KEYS: [&str; 17] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
];

/// The tensor that divides the rotary frequencies of Llama 3, one number a pair.
pub const ROPE_FREQS: &str = "rope_freqs.weight";
/// Of Llama 3's scaling, as everyone uses it: a GGUF file holds the divisors, not what they were made of.
pub const LLAMA3_LOW: f32 = 1.0;
pub const LLAMA3_HIGH: f32 = 4.0;
const LLAMA3_ORIGINAL: u32 = 8192;

/// What a GGUF file holds.
pub fn read<'a>(gguf: &Gguf<'a>) -> Result<Source<'a>> {
    let name = required("general.architecture", gguf.string("general.architecture"))?;
    let family = Family::from_gguf(name).ok_or_else(|| {
        invalid("general.architecture", format!("{name:?}"), "known are llama, qwen2 and qwen3")
    })?;
    let mut arch = architecture(gguf, family)?;
    let mut tensors: super::Tensors<'a> =
        gguf.tensors.iter().map(|(name, data)| (name.to_string(), *data)).collect();
    tensors.remove(ROPE_FREQS);
    let parts = parts(&arch, tensors, gguf_name, family.interleaved.then_some(arch.head_dim as usize))?;
    let tokenizer = TokenizerSpec::from_gguf(gguf)?;
    let mut named = Vec::new();
    for name in ["eot", "eom"] {
        named.extend(gguf.integer(&format!("tokenizer.ggml.{name}_token_id"), 0, u32::MAX)?);
    }
    arch.eos = tokenizer.end_tokens(&named);
    check_architecture(&arch)?;
    let name = gguf.string("general.name")?.unwrap_or("").to_string();
    Ok(Source { name, arch, tokenizer, parts })
}

/// Which part of a model in several files this is, and of how many; None where the file does not say.
pub fn split(gguf: &Gguf<'_>) -> Result<Option<(u32, u32)>> {
    let number = |key: &str| gguf.integer(key, 0, u32::from(u16::MAX));
    Ok(number("split.no")?.map(|n| n + 1).zip(number("split.count")?))
}

fn architecture(gguf: &Gguf<'_>, family: &Family) -> Result<Architecture> {
    let prefix = format!("{}.", family.gguf);
    for (key, value) in &gguf.pairs {
        match key.strip_prefix(prefix.as_str()) {
            // Zero experts is a plain feed-forward layer.
            Some("expert_count" | "expert_used_count") if *value == Value::Int(0) => {}
            Some(name) if !KNOWN_KEYS.contains(&name) => {
                return Err(invalid("key", key, "this architecture is not known to have it"))
            }
            _ => {}
        }
    }
    let key = |name: &str| format!("{prefix}{name}");
    let optional = |name: &str| gguf.integer(&key(name), 1, u32::MAX);
    let integer = |name: &str| required(&key(name), optional(name));

    let (width, heads) = (integer("embedding_length")?, integer("attention.head_count")?);
    let head_dim = match optional("attention.key_length")? {
        Some(length) => length,
        None if width % heads == 0 => width / heads,
        None => {
            return Err(invalid(
                key("embedding_length"),
                width,
                format!("must be a multiple of {heads} heads"),
            ))
        }
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        let value = optional(name)?.unwrap_or(head_dim);
        within(key(name), value.into(), head_dim.into(), head_dim.into())?;
    }
    let embedding = gguf
        .tensors
        .get("token_embd.weight")
        .ok_or_else(|| ModelError::missing("tensor token_embd.weight"))?;
    let vocab = optional("vocab_size")?.unwrap_or(u32::try_from(embedding.rows).unwrap_or(u32::MAX));

    let context = integer("context_length")?;
    let rope_base = gguf.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let named = gguf.tensors.iter().map(|(name, data)| (name.to_string(), *data)).collect();
    let (qkv_bias, qk_norm) = optional_tensors(family, gguf_name, &named)?;
    Ok(Architecture {
        layers: integer("block_count")?,
        width,
        heads,
        kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: integer("feed_forward_length")?,
        vocab,
        context,
        eps: required(
            &key("attention.layer_norm_rms_epsilon"),
            gguf.float(&key("attention.layer_norm_rms_epsilon")),
        )?,
        rope_base,
        eos: Vec::new(),
        tied: !gguf.tensors.contains_key("output.weight"),
        qkv_bias,
        qk_norm,
        window: window(optional("attention.sliding_window")?, context),
        rope_scaling: rope_scaling(gguf, &key, rope_base, head_dim)?,
    })
}

fn rope_scaling(
    gguf: &Gguf<'_>,
    key: &dyn Fn(&str) -> String,
    base: f32,
    head_dim: u32,
) -> Result<RopeScaling> {
    let kind = gguf.string(&key("rope.scaling.type"))?.unwrap_or("none");
    let original = gguf.integer(&key("rope.scaling.original_context_length"), 1, 1 << 20)?;
    match (kind, gguf.tensors.get(ROPE_FREQS)) {
        ("none", None) => Ok(RopeScaling::None),
        ("none", Some(divisors)) => llama3(divisors, original, base, head_dim),
        ("linear", None) => {
            let factor = required(&key("rope.scaling.factor"), gguf.float(&key("rope.scaling.factor")))?;
            Ok(if factor == 1.0 { RopeScaling::None } else { RopeScaling::Linear { factor } })
        }
        (other, None) => Err(invalid(key("rope.scaling.type"), other, "must be none or linear")),
        (other, Some(_)) => {
            Err(invalid(key("rope.scaling.type"), other, format!("must be none with tensor {ROPE_FREQS}")))
        }
    }
}

/// The parameters of Llama 3's scaling that give these divisors. Who wrote them computed in f32, so that they agree to
/// some digits only; the parameters are canonical.
fn llama3(tensor: &TensorData<'_>, original: Option<u32>, base: f32, head_dim: u32) -> Result<RopeScaling> {
    let pairs = u64::from(head_dim / 2);
    within(format!("elements of tensor {ROPE_FREQS}"), tensor.cols as u64, pairs, pairs)?;
    if tensor.rows != 1 || tensor.encoding != Encoding::F32 {
        let found = format!("{} rows of {:?}", tensor.rows, tensor.encoding);
        return Err(invalid(format!("tensor {ROPE_FREQS}"), found, "must be a vector of F32"));
    }
    let divisors: Vec<f64> = tensor
        .bytes
        .chunks_exact(4)
        .map(|x| f64::from(f32::from_le_bytes([x[0], x[1], x[2], x[3]])))
        .collect();
    let factor = divisors.iter().fold(0.0f64, |m, x| m.max(*x)) as f32;
    let candidates = match original {
        Some(original) => vec![original],
        None => std::iter::once(LLAMA3_ORIGINAL).chain((5..=20).map(|bit| 1 << bit)).collect(),
    };
    let fits = |scaling: &RopeScaling| {
        frequencies(base, head_dim)
            .zip(&divisors)
            .all(|(f, divisor)| (f / scaling.scaled(f) / divisor - 1.0).abs() < 1e-4)
    };
    candidates
        .into_iter()
        .map(|original| RopeScaling::Llama3 { factor, low: LLAMA3_LOW, high: LLAMA3_HIGH, original })
        .find(fits)
        .ok_or_else(|| {
            let bound = "must be those of Llama 3's scaling with low 1, high 4";
            invalid(format!("tensor {ROPE_FREQS}"), format!("divisors up to {factor}"), bound)
        })
}
