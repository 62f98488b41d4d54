//! BERT, and sentence encoders of its shape such as all-MiniLM-L6-v2: config.json, the tensors' names, and what
//! sentence-transformers says of how positions become one vector.

use serde_json::{json, Value};

use super::hf_name;
use crate::canon::EncoderArchitecture;
use crate::model::documents::{parse, Settings};
use crate::model::error::{invalid, ModelError, Result};
use crate::model::manifest::EncoderRole;
use crate::model::source::hf::{must_be, Folder, CONFIG, MAX_CONFIG, MODULES, POOLING};
use crate::model::source::{parts, Source};
use crate::model::tokenizer::WordPieceSpec;

/// `model_type` of config.json.
pub const MODEL_TYPE: &str = "bert";
const CLASS: &str = "BertModel";

/// Keys of config.json that are read below, and those that say nothing about the arithmetic.
const KNOWN_KEYS: [&str; 24] = [
    "_name_or_path",
    "architectures",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dtype",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "position_embedding_type",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "type_vocab_size",
    "use_cache",
    "vocab_size",
    // Of how it was trained.
    "gradient_checkpointing",
];

/// Modules of sentence-transformers, as the last part of their type.
const TRANSFORMER: &str = "Transformer";
const POOL: &str = "Pooling";
const NORMALIZE: &str = "Normalize";

/// What a folder holds, whose config.json is `settings`.
pub fn read<'a>(folder: &Folder<'a>, settings: &Settings) -> Result<Source<'a, EncoderArchitecture>> {
    let arch = architecture(settings)?;
    check_modules(folder.modules.ok_or_else(|| ModelError::missing(MODULES))?)?;
    check_pooling(folder.pooling.ok_or_else(|| ModelError::missing(POOLING))?, &arch)?;
    let mut tensors = folder.tensors()?;
    // The head of BERT's training: a sentence's vector is not its output.
    tensors.retain(|name, _| !name.starts_with("pooler.dense."));
    // Before the tokenizer: it has as many tokens as the embedding has rows, which are really there.
    let parts = parts(&arch, tensors, hf_name, None)?;
    let tokenizer = WordPieceSpec::from_hf(&folder.tokenizer, arch.vocab)?;
    Ok(Source { name: folder.name.to_string(), arch, tokenizer, parts })
}

fn architecture(settings: &Settings) -> Result<EncoderArchitecture> {
    for (key, value) in settings.keys() {
        if !KNOWN_KEYS.contains(&key) {
            let brief: String = value.to_string().chars().take(60).collect();
            return Err(invalid(settings.field(key), brief, "this architecture is not known to have it"));
        }
    }
    must_be(settings, "architectures", &[Value::from(vec![CLASS])])?;
    must_be(settings, "hidden_act", &["gelu".into()])?;
    must_be(settings, "position_embedding_type", &["absolute".into()])?;
    let integer = |key: &str| settings.required(key, settings.integer(key));
    Ok(EncoderArchitecture {
        layers: integer("num_hidden_layers")?,
        width: integer("hidden_size")?,
        heads: integer("num_attention_heads")?,
        ffn: integer("intermediate_size")?,
        vocab: integer("vocab_size")?,
        context: integer("max_position_embeddings")?,
        types: integer("type_vocab_size")?,
        eps: settings.required("layer_norm_eps", settings.float("layer_norm_eps"))?,
    })
}

/// A transformer, its positions pooled, and at most the division by the length besides.
fn check_modules(document: &[u8]) -> Result<()> {
    let modules: Vec<Value> = parse(MODULES, document, MAX_CONFIG)?;
    let kind = |module: &Value| {
        let kind = module["type"].as_str().unwrap_or_default();
        kind.rsplit('.').next().unwrap_or_default().to_string()
    };
    let kinds: Vec<String> = modules.iter().map(kind).collect();
    let plain: Vec<&str> = kinds.iter().map(String::as_str).collect();
    if !matches!(plain[..], [TRANSFORMER, POOL] | [TRANSFORMER, POOL, NORMALIZE]) {
        let bound = format!("must be {TRANSFORMER}, {POOL} and, if any more, {NORMALIZE}");
        return Err(invalid(format!("types of {MODULES}"), plain.join(", "), bound));
    }
    for (module, folder) in modules.iter().zip(["", "1_Pooling"]) {
        if module["path"] != folder {
            return Err(invalid(
                format!("path of {MODULES}"),
                &module["path"],
                format!("must be {folder:?}"),
            ));
        }
    }
    Ok(())
}

/// Of the ways of pooling only the mean.
fn check_pooling(document: &[u8], arch: &EncoderArchitecture) -> Result<()> {
    let settings = Settings::parse(POOLING, document, MAX_CONFIG)?;
    for (key, value) in settings.keys() {
        match key {
            "pooling_mode_mean_tokens" | "include_prompt" => must_be(&settings, key, &[true.into()])?,
            "word_embedding_dimension" => must_be(&settings, key, &[arch.width.into()])?,
            _ => {
                return Err(invalid(
                    settings.field(key),
                    value,
                    "must be false: positions are pooled by their mean",
                ))
            }
        }
    }
    settings.required("pooling_mode_mean_tokens", settings.boolean("pooling_mode_mean_tokens"))?;
    must_be(&settings, "pooling_mode_mean_tokens", &[true.into()])
}

/// The documents that `read` reads as this, besides the tokenizer's: their names and contents.
pub fn documents(arch: &EncoderArchitecture) -> [(&'static str, Value); 3] {
    let config = json!({
        "architectures": [CLASS],
        "model_type": MODEL_TYPE,
        "hidden_act": "gelu",
        "hidden_size": arch.width,
        "intermediate_size": arch.ffn,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "vocab_size": arch.vocab,
        "max_position_embeddings": arch.context,
        "type_vocab_size": arch.types,
        "layer_norm_eps": arch.eps.to_string().parse::<f64>().unwrap_or(f64::from(arch.eps)),
        "position_embedding_type": "absolute",
        "torch_dtype": "float16",
    });
    let module = |idx: u32, path: &str, kind: &str| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({ "idx": idx, "name": idx.to_string(), "path": path, "type": kind })
    };
    let modules = json!([
        module(0, "", TRANSFORMER),
        module(1, "1_Pooling", POOL),
        module(2, "2_Normalize", NORMALIZE)
    ]);
    let pooling = json!({ "word_embedding_dimension": arch.width, "pooling_mode_mean_tokens": true });
    [(CONFIG, config), (MODULES, modules), (POOLING, pooling)]
}

/// The name of a tensor in safetensors.
pub fn name(role: EncoderRole, layer: Option<u32>) -> String {
    use EncoderRole::*;
    let name = match role {
        Embedding => "embeddings.word_embeddings.weight",
        Positions => "embeddings.position_embeddings.weight",
        Types => "embeddings.token_type_embeddings.weight",
        NormGain => "embeddings.LayerNorm.weight",
        NormBias => "embeddings.LayerNorm.bias",
        Q => "attention.self.query.weight",
        QBias => "attention.self.query.bias",
        K => "attention.self.key.weight",
        KBias => "attention.self.key.bias",
        V => "attention.self.value.weight",
        VBias => "attention.self.value.bias",
        O => "attention.output.dense.weight",
        OBias => "attention.output.dense.bias",
        AttnNormGain => "attention.output.LayerNorm.weight",
        AttnNormBias => "attention.output.LayerNorm.bias",
        Up => "intermediate.dense.weight",
        UpBias => "intermediate.dense.bias",
        Down => "output.dense.weight",
        DownBias => "output.dense.bias",
        FfnNormGain => "output.LayerNorm.weight",
        FfnNormBias => "output.LayerNorm.bias",
    };
    match layer {
        Some(layer) => format!("encoder.layer.{layer}.{name}"),
        None => name.to_string(),
    }
}
