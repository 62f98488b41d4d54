//! What a GGUF file means: which architecture it is and which of its tensors fills which slot.
//!
//! Every key of the architecture must be known here and every tensor used, so that nothing that would change
//! the arithmetic is passed over in silence.

use std::collections::BTreeMap;

use super::error::{invalid, within, ModelError, Result};
use super::gguf::{required, Gguf, TensorData, Value};
use super::manifest::{check_architecture, slots, Role, Slot};
use crate::canon::Architecture;

/// Keys under the architecture's prefix that are read below.
const KNOWN_KEYS: [&str; 13] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "vocab_size",
];

/// A slot of the model and the tensor of the file that fills it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub slot: Slot,
    pub data: TensorData<'a>,
    /// For rotary rows stored in interleaved order, the elements of a head.
    pub interleaved: Option<usize>,
}

impl Part<'_> {
    /// The row of the file that is row `row` of the model: llama-family files keep the rotary pairs (i, i + d/2)
    /// of a head side by side, as rows 2i and 2i + 1. A bias has its elements where a matrix has rows.
    pub fn source_row(&self, row: usize) -> usize {
        match self.interleaved {
            None => row,
            Some(d) => {
                let (head, at) = (row / d, row % d);
                head * d + at % (d / 2) * 2 + at / (d / 2)
            }
        }
    }
}

/// The architecture and the parts, in the manifest's order.
pub fn read<'a>(gguf: &Gguf<'a>) -> Result<(Architecture, Vec<Part<'a>>)> {
    let family = required("general.architecture", gguf.string("general.architecture"))?;
    // In these families the file's rotary rows are interleaved, or not, and q, k and v have biases, or may have.
    let interleaved = match family {
        "llama" => true,
        "qwen2" => false,
        _ => return Err(invalid("general.architecture", format!("{family:?}"), "known are llama and qwen2")),
    };
    let arch = architecture(gguf, family)?;

    let mut unused: BTreeMap<&str, TensorData<'a>> = gguf.tensors.clone();
    let parts = slots(&arch)
        .into_iter()
        .map(|slot| {
            let name = tensor_name(&slot);
            let data =
                unused.remove(name.as_str()).ok_or_else(|| ModelError::missing(format!("tensor {name}")))?;
            if (data.rows, data.cols) != (slot.rows, slot.cols) {
                let shape = |rows: usize, cols: usize| format!("{rows} rows of {cols}");
                return Err(invalid(
                    format!("shape of tensor {name}"),
                    shape(data.rows, data.cols),
                    format!("must be {}", shape(slot.rows, slot.cols)),
                ));
            }
            let rotary = matches!(slot.role, Role::Q | Role::K | Role::QBias | Role::KBias);
            let interleaved = (interleaved && rotary).then_some(arch.head_dim as usize);
            Ok(Part { slot, data, interleaved })
        })
        .collect::<Result<Vec<_>>>()?;
    match unused.keys().next() {
        Some(name) => Err(invalid("tensor", name, "not a part of this architecture")),
        None => Ok((arch, parts)),
    }
}

fn architecture(gguf: &Gguf<'_>, family: &str) -> Result<Architecture> {
    let prefix = format!("{family}.");
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

    if let Some(scaling) = gguf.string(&key("rope.scaling.type"))? {
        if scaling != "none" {
            return Err(invalid(key("rope.scaling.type"), scaling, "must be none"));
        }
    }
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

    let mut eos = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos.extend(gguf.integer(&format!("tokenizer.ggml.{name}_token_id"), 0, u32::MAX)?);
    }
    eos.sort_unstable();
    eos.dedup();

    let arch = Architecture {
        layers: integer("block_count")?,
        width,
        heads,
        kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: integer("feed_forward_length")?,
        vocab,
        context: integer("context_length")?,
        eps: required(
            &key("attention.layer_norm_rms_epsilon"),
            gguf.float(&key("attention.layer_norm_rms_epsilon")),
        )?,
        rope_base: gguf.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        eos,
        tied: !gguf.tensors.contains_key("output.weight"),
        qkv_bias: gguf.tensors.contains_key("blk.0.attn_q.bias"),
    };
    check_architecture(&arch)?;
    Ok(arch)
}

/// The name of a slot's tensor in GGUF.
pub fn tensor_name(slot: &Slot) -> String {
    let name = match slot.role {
        Role::Embedding => "token_embd.weight",
        Role::Head => "output.weight",
        Role::FinalGain => "output_norm.weight",
        Role::AttnGain => "attn_norm.weight",
        Role::Q => "attn_q.weight",
        Role::K => "attn_k.weight",
        Role::V => "attn_v.weight",
        Role::QBias => "attn_q.bias",
        Role::KBias => "attn_k.bias",
        Role::VBias => "attn_v.bias",
        Role::O => "attn_output.weight",
        Role::FfnGain => "ffn_norm.weight",
        Role::Gate => "ffn_gate.weight",
        Role::Up => "ffn_up.weight",
        Role::Down => "ffn_down.weight",
    };
    match slot.layer {
        Some(layer) => format!("blk.{layer}.{name}"),
        None => name.to_string(),
    }
}
