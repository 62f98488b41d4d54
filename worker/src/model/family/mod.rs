//! Families of models, a file each: what a family is called in the two formats, and where it differs from the others.
//! Everything else is shared: the operations (`canon`), the slots (`manifest`), the names below. Encoders (`bert`) share
//! less: theirs says all that is not arithmetic.

pub mod bert;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use super::error::{invalid, Result};
use super::manifest::{Role, Slot};
use crate::canon::Architecture;

/// One family of decoders.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture` of a GGUF file, and the prefix of its keys.
    pub gguf: &'static str,
    /// `model_type` of config.json.
    pub hf: &'static str,
    /// The model class in `architectures` of config.json.
    pub class: &'static str,
    /// Whether GGUF files keep the rotary pairs of q and k side by side.
    pub interleaved: bool,
    pub qkv_bias: Presence,
    pub qk_norm: Presence,
    pub window: Window,
    /// Whether a config.json without `num_key_value_heads` has as many as heads.
    pub kv_heads_default: bool,
}

/// Whether tensors belong to a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Never,
    Always,
    /// Where the file has them.
    Maybe,
}

/// What config.json says of a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Nothing: there is none.
    None,
    /// `sliding_window`, which must be there: null is none, and a missing one would be the class's default.
    Key,
    /// `use_sliding_window`, which must be false: it would be for some layers only.
    Switch,
}

/// All families of decoders. Of two with one name in GGUF, the first reads it.
pub const ALL: [&Family; 4] = [&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY];

impl Presence {
    /// Whether a file that has the tensors, or has not, can be of the family.
    pub fn allows(self, present: bool) -> bool {
        match self {
            Presence::Never => !present,
            Presence::Always => present,
            Presence::Maybe => true,
        }
    }
}

impl Family {
    pub fn from_gguf(name: &str) -> Option<&'static Family> {
        ALL.into_iter().find(|family| family.gguf == name)
    }

    pub fn from_hf(model_type: &str) -> Option<&'static Family> {
        ALL.into_iter().find(|family| family.hf == model_type)
    }

    /// The family that has just what this architecture has.
    pub fn of(arch: &Architecture) -> Result<&'static Family> {
        match (arch.qk_norm, arch.qkv_bias, arch.window) {
            (false, false, None) => Ok(&llama::FAMILY),
            (false, false, Some(_)) => Ok(&mistral::FAMILY),
            (false, true, None) => Ok(&qwen2::FAMILY),
            (true, false, None) => Ok(&qwen3::FAMILY),
            (norm, bias, window) => {
                let found = format!("qk_norm {norm}, qkv_bias {bias}, window {window:?}");
                Err(invalid("architecture", found, "no family has all of that"))
            }
        }
    }
}

/// The name of a slot's tensor in GGUF.
pub fn gguf_name(slot: &Slot) -> String {
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
        Role::QNorm => "attn_q_norm.weight",
        Role::KNorm => "attn_k_norm.weight",
        Role::O => "attn_output.weight",
        Role::FfnGain => "ffn_norm.weight",
        Role::Gate => "ffn_gate.weight",
        Role::Up => "ffn_up.weight",
        Role::Down => "ffn_down.weight",
        // No GGUF file is read or written of an encoder.
        Role::Encoder(_) => return hf_name(slot),
    };
    match slot.layer {
        Some(layer) => format!("blk.{layer}.{name}"),
        None => name.to_string(),
    }
}

/// The name of a slot's tensor in safetensors.
pub fn hf_name(slot: &Slot) -> String {
    let name = match slot.role {
        Role::Embedding => "model.embed_tokens.weight",
        Role::Head => "lm_head.weight",
        Role::FinalGain => "model.norm.weight",
        Role::AttnGain => "input_layernorm.weight",
        Role::Q => "self_attn.q_proj.weight",
        Role::K => "self_attn.k_proj.weight",
        Role::V => "self_attn.v_proj.weight",
        Role::QBias => "self_attn.q_proj.bias",
        Role::KBias => "self_attn.k_proj.bias",
        Role::VBias => "self_attn.v_proj.bias",
        Role::QNorm => "self_attn.q_norm.weight",
        Role::KNorm => "self_attn.k_norm.weight",
        Role::O => "self_attn.o_proj.weight",
        Role::FfnGain => "post_attention_layernorm.weight",
        Role::Gate => "mlp.gate_proj.weight",
        Role::Up => "mlp.up_proj.weight",
        Role::Down => "mlp.down_proj.weight",
        Role::Encoder(role) => return bert::name(role, slot.layer),
    };
    match slot.layer {
        Some(layer) => format!("model.layers.{layer}.{name}"),
        None => name.to_string(),
    }
}
