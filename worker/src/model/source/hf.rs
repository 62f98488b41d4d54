//! A model as the transformers library keeps it: a folder of safetensors and JSON.

use serde_json::Value;

use super::safetensors::{self, Index};
use super::{optional_tensors, parts, window, AnySource, Source, Tensors};
use crate::canon::{Architecture, RopeScaling};
use crate::model::documents::Settings;
use crate::model::error::{invalid, within, ModelError, Result};
use crate::model::family::{bert, hf_name, Family, Presence, Window};
use crate::model::manifest::check_architecture;
use crate::model::tokenizer::{TokenizerFiles, TokenizerSpec};

pub const CONFIG: &str = "config.json";
pub const GENERATION: &str = "generation_config.json";
/// What sentence-transformers does with the positions of an encoder, and how it makes one vector of them.
pub const MODULES: &str = "modules.json";
pub const POOLING: &str = "1_Pooling/config.json";
pub(in crate::model) const MAX_CONFIG: u64 = 1 << 20;

/// Keys of config.json that are read below, and those that say nothing about the arithmetic.
const KNOWN_KEYS: [&str; 40] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "is_llama_config",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "vocab_size",
    "attention_bias",
    // Below, only values that switch something off: any other is refused when it is read.
    "mlp_bias",
    "rope_interleaved",
    "use_sliding_window",
];

/// The files of a folder, whole.
#[derive(Clone, Debug)]
pub struct Folder<'a> {
    pub name: &'a str,
    pub config: &'a [u8],
    pub generation: Option<&'a [u8]>,
    pub tokenizer: TokenizerFiles<'a>,
    pub modules: Option<&'a [u8]>,
    pub pooling: Option<&'a [u8]>,
    pub index: Option<&'a [u8]>,
    pub weights: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Folder<'a> {
    /// The tensors of the weight files.
    pub(in crate::model) fn tensors(&self) -> Result<Tensors<'a>> {
        let index = self.index.map(Index::parse).transpose()?;
        safetensors::read(&self.weights, index.as_ref())
    }
}

/// What the files hold, a language model or an encoder.
pub fn read_any<'a>(folder: &Folder<'a>) -> Result<AnySource<'a>> {
    let settings = Settings::parse(CONFIG, folder.config, MAX_CONFIG)?;
    match settings.string("model_type")?.as_deref() {
        Some(bert::MODEL_TYPE) => bert::read(folder, &settings).map(AnySource::Encoder),
        _ => read(folder).map(AnySource::Decoder),
    }
}

/// The language model that the files hold.
pub fn read<'a>(folder: &Folder<'a>) -> Result<Source<'a>> {
    let settings = Settings::parse(CONFIG, folder.config, MAX_CONFIG)?;
    let kind = settings.required("model_type", settings.string("model_type"))?;
    let family = Family::from_hf(&kind).ok_or_else(|| {
        let bound = "known are llama, mistral, qwen2, qwen3 and, for encoders, bert";
        invalid(settings.field("model_type"), format!("{kind:?}"), bound)
    })?;
    let mut tensors = folder.tensors()?;
    // Older files keep the frequencies, which follow from the settings.
    tensors.retain(|name, _| !name.ends_with(".rotary_emb.inv_freq"));
    let mut arch = architecture(&settings, family, &tensors)?;
    if arch.tied {
        drop_copied_head(&mut tensors)?;
    }
    // Before the tokenizer: it has as many tokens as the embedding has rows, which are really there.
    let parts = parts(&arch, tensors, hf_name, None)?;
    let generation = Settings::parse(GENERATION, folder.generation.unwrap_or(b"{}"), MAX_CONFIG)?;
    let first = |ids: Vec<u32>| ids.first().copied();
    let tokenizer = TokenizerSpec::from_hf(
        &folder.tokenizer,
        arch.vocab,
        first(settings.ids("bos_token_id")?),
        first(settings.ids("eos_token_id")?),
    )?;
    // What generation_config.json names goes before what config.json does.
    let named = match generation.ids("eos_token_id")? {
        ids if ids.is_empty() => settings.ids("eos_token_id")?,
        ids => ids,
    };
    arch.eos = tokenizer.end_tokens(&named);
    check_architecture(&arch)?;
    Ok(Source { name: folder.name.to_string(), arch, tokenizer, parts })
}

/// A head that is the embedding need not be there; where it is, it must be its copy.
fn drop_copied_head(tensors: &mut Tensors<'_>) -> Result<()> {
    let Some(head) = tensors.remove("lm_head.weight") else { return Ok(()) };
    match tensors.get("model.embed_tokens.weight") {
        Some(embedding) if embedding.encoding == head.encoding && embedding.bytes == head.bytes => Ok(()),
        _ => Err(invalid("tensor", "lm_head.weight", "tie_word_embeddings says that it is the embedding")),
    }
}

fn architecture(settings: &Settings, family: &Family, tensors: &Tensors<'_>) -> Result<Architecture> {
    for (key, value) in settings.keys() {
        if !KNOWN_KEYS.contains(&key) {
            let brief: String = value.to_string().chars().take(60).collect();
            return Err(invalid(settings.field(key), brief, "this architecture is not known to have it"));
        }
    }
    must_be(settings, "architectures", &[Value::from(vec![family.class])])?;
    must_be(settings, "hidden_act", &["silu".into()])?;
    for off in ["mlp_bias", "rope_interleaved"] {
        must_be(settings, off, &[false.into()])?;
    }
    if let Some(Value::Array(types)) = settings.get("layer_types", "a list", |v| Some(v.clone()))? {
        let sliding = family.window == Window::Key && settings.integer("sliding_window")?.is_some();
        let kind = if sliding { "sliding_attention" } else { "full_attention" };
        if let Some(other) = types.iter().find(|found| **found != kind) {
            return Err(invalid(settings.field("layer_types"), other, format!("must all be {kind}")));
        }
    }
    let integer = |key: &str| settings.required(key, settings.integer(key));
    let (width, heads) = (integer("hidden_size")?, integer("num_attention_heads")?);
    within(settings.field("num_attention_heads"), heads.into(), 1, 1 << 10)?;
    let head_dim = match settings.integer("head_dim")? {
        Some(dim) => dim,
        None if width % heads == 0 => width / heads,
        None => {
            return Err(invalid(
                settings.field("hidden_size"),
                width,
                format!("must be a multiple of {heads} heads"),
            ))
        }
    };
    let kv_heads = match settings.integer("num_key_value_heads")? {
        Some(kv_heads) => kv_heads,
        None if family.kv_heads_default => heads,
        None => return Err(ModelError::missing(settings.field("num_key_value_heads"))),
    };
    let context = integer("max_position_embeddings")?;
    let positions = match family.window {
        Window::Key if !settings.has("sliding_window") => {
            return Err(ModelError::missing(settings.field("sliding_window")))
        }
        Window::Key => settings.integer("sliding_window")?,
        Window::None => {
            must_be(settings, "sliding_window", &[])?;
            None
        }
        Window::Switch => {
            must_be(settings, "use_sliding_window", &[false.into()])?;
            None
        }
    };
    if let Some(0) = positions {
        return Err(invalid(settings.field("sliding_window"), 0, "must be above 0, or null"));
    }
    let (qkv_bias, qk_norm) = optional_tensors(family, hf_name, tensors)?;
    // Where it is always so, the class does not look at the setting.
    if family.qkv_bias != Presence::Always {
        match settings.boolean("attention_bias")?.unwrap_or(false) {
            said if said == qkv_bias => {}
            true => {
                return Err(invalid(settings.field("attention_bias"), true, "the tensors have no biases"))
            }
            false => return Err(invalid(settings.field("attention_bias"), false, "the tensors have biases")),
        }
    }
    let (rope_base, rope_scaling) = rope(settings)?;
    Ok(Architecture {
        layers: integer("num_hidden_layers")?,
        width,
        heads,
        kv_heads,
        head_dim,
        ffn: integer("intermediate_size")?,
        vocab: integer("vocab_size")?,
        context,
        eps: settings.required("rms_norm_eps", settings.float("rms_norm_eps"))?,
        rope_base,
        eos: Vec::new(),
        tied: settings.boolean("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias,
        qk_norm,
        window: window(positions, context),
        rope_scaling,
    })
}

/// Refuses a value that is there, not null, and none of `values`.
pub(in crate::model) fn must_be(settings: &Settings, key: &str, values: &[Value]) -> Result<()> {
    match settings.get(key, "a value", |value| Some(value.clone()))? {
        Some(found) if !values.contains(&found) => {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            let bound = if values.is_empty() { "null".to_string() } else { values.join(" or ") };
            Err(invalid(settings.field(key), found, format!("must be {bound}")))
        }
        _ => Ok(()),
    }
}

/// Base and scaling of the rotary frequencies. Newer files have both in one object.
fn rope(settings: &Settings) -> Result<(f32, RopeScaling)> {
    const BASE: &str = "rope_theta";
    let base = settings.float(BASE)?;
    let (field, object) = match (settings.object("rope_parameters")?, settings.object("rope_scaling")?) {
        (None, None) => return Ok((base.unwrap_or(10_000.0), RopeScaling::None)),
        (Some(parameters), None) => ("rope_parameters", parameters),
        (None, Some(scaling)) => ("rope_scaling", scaling),
        (Some(_), Some(_)) => {
            return Err(invalid(
                settings.field("rope_scaling"),
                "an object",
                "rope_parameters says it already",
            ))
        }
    };
    let inner = object.float(BASE)?;
    if let (Some(base), Some(inner)) = (base, inner) {
        if base != inner {
            return Err(invalid(settings.field(BASE), base, format!("{field} says {inner}")));
        }
    }
    let kind = match object.string("rope_type")? {
        Some(kind) => kind,
        None => object.string("type")?.unwrap_or("default".to_string()),
    };
    let float = |key: &str| object.required(key, object.float(key));
    const ORIGINAL: &str = "original_max_position_embeddings";
    let (scaling, members): (_, &[&str]) = match kind.as_str() {
        "default" => (RopeScaling::None, &[]),
        "linear" => match float("factor")? {
            1.0 => (RopeScaling::None, &["factor"]),
            factor => (RopeScaling::Linear { factor }, &["factor"]),
        },
        "llama3" => {
            let scaling = RopeScaling::Llama3 {
                factor: float("factor")?,
                low: float("low_freq_factor")?,
                high: float("high_freq_factor")?,
                original: object.required(ORIGINAL, object.integer(ORIGINAL))?,
            };
            (scaling, &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL])
        }
        other => {
            let bound = "known are default, linear and llama3";
            return Err(invalid(settings.field("rope_type"), format!("{other:?}"), bound));
        }
    };
    let known = |key: &str| ["rope_type", "type", BASE].contains(&key) || members.contains(&key);
    if let Some((key, value)) = object.keys().find(|(key, _)| !known(key)) {
        let brief: String = value.to_string().chars().take(60).collect();
        let bound = format!("not known of {field} of type {kind}");
        return Err(invalid(settings.field(key), brief, bound));
    }
    Ok((base.or(inner).unwrap_or(10_000.0), scaling))
}
