//! The independent engine: candle's Llama, in f32, on a GGUF file that it dequantises itself.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Config, Llama};
use deepnode_worker::canon::Architecture;

/// Positions of the longest text.
const CONTEXT: usize = 256;

/// The model as candle loads it: GGUF names to its own, matrices to f32, query and key rows back from interleaved
/// pairs to halves.
pub fn load(file: &Path, arch: &Architecture) -> candle_core::Result<(Llama, Config)> {
    let mut file = std::fs::File::open(file)?;
    let content = Content::read(&mut file)?;
    let unpermute = |t: Tensor, heads: u32| -> candle_core::Result<Tensor> {
        let (rows, cols) = t.dims2()?;
        let dim = rows / heads as usize;
        t.reshape((heads as usize, dim / 2, 2, cols))?.transpose(1, 2)?.contiguous()?.reshape((rows, cols))
    };
    let mut tensors = HashMap::new();
    let mut load = |gguf: String, name: String, heads: Option<u32>| -> candle_core::Result<()> {
        let tensor = content.tensor(&mut file, &gguf, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        tensors.insert(
            name,
            match heads {
                Some(heads) => unpermute(tensor, heads)?,
                None => tensor,
            },
        );
        Ok(())
    };
    load("token_embd.weight".into(), "model.embed_tokens.weight".into(), None)?;
    load("output_norm.weight".into(), "model.norm.weight".into(), None)?;
    for layer in 0..arch.layers {
        for (gguf, name, heads) in [
            ("attn_norm", "input_layernorm", None),
            ("attn_q", "self_attn.q_proj", Some(arch.heads)),
            ("attn_k", "self_attn.k_proj", Some(arch.kv_heads)),
            ("attn_v", "self_attn.v_proj", None),
            ("attn_output", "self_attn.o_proj", None),
            ("ffn_norm", "post_attention_layernorm", None),
            ("ffn_gate", "mlp.gate_proj", None),
            ("ffn_up", "mlp.up_proj", None),
            ("ffn_down", "mlp.down_proj", None),
        ] {
            let name = format!("model.layers.{layer}.{name}.weight");
            load(format!("blk.{layer}.{gguf}.weight"), name, heads)?;
        }
    }
    let config = Config {
        hidden_size: arch.width as usize,
        intermediate_size: arch.ffn as usize,
        vocab_size: arch.vocab as usize,
        num_hidden_layers: arch.layers as usize,
        num_attention_heads: arch.heads as usize,
        num_key_value_heads: arch.kv_heads as usize,
        use_flash_attn: false,
        rms_norm_eps: f64::from(arch.eps),
        rope_theta: arch.rope_base,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: CONTEXT,
        tie_word_embeddings: arch.tied,
    };
    let llama = Llama::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config)?;
    Ok((llama, config))
}
