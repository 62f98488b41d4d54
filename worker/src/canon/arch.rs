//! The architecture of a decoder: everything about a model that is not a weight or a piece of its tokenizer.

use serde::{Deserialize, Serialize};

/// Shape and constants of a llama-shaped decoder. Its canonical bytes are the manifest's first leaf.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// Transformer blocks.
    pub layers: u32,
    /// Elements of the residual stream.
    pub width: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of one head, even.
    pub head_dim: u32,
    /// Elements between gate/up and down.
    pub ffn: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Greatest number of positions.
    pub context: u32,
    /// Added to the mean square in rmsnorm.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Tokens that end a generation, ascending.
    pub eos: Vec<u32>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
}

impl Architecture {
    /// Rows of the query projection.
    pub fn q_rows(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Rows of the key projection, and of the value projection.
    pub fn kv_rows(&self) -> u32 {
        self.kv_heads * self.head_dim
    }
}
