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
    /// Whether each head of q and of k goes through rmsnorm, with gains of its own, before rope.
    #[serde(default)]
    pub qk_norm: bool,
    /// Positions that a query sees, its own among them; None: all up to its own.
    #[serde(default)]
    pub window: Option<u32>,
    /// How the rotary frequencies are stretched.
    #[serde(default)]
    pub rope_scaling: RopeScaling,
}

/// How the rotary frequencies f of a longer context are made from those of a shorter one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    #[default]
    None,
    /// f / factor.
    Linear { factor: f32 },
    /// Llama 3's: f where the wave is shorter than `original / high` positions, f / factor where it is longer than
    /// `original / low`, and between the two a mean that the wave's length weighs.
    Llama3 { factor: f32, low: f32, high: f32, original: u32 },
}

impl RopeScaling {
    /// What the frequencies of the longest waves are divided by; 1 without scaling.
    pub fn factor(&self) -> f32 {
        match self {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } => *factor,
        }
    }

    /// The frequency (radians a position) that `frequency` becomes. In f64, in this order of operations: the rope table
    /// is made of it.
    pub fn scaled(&self, frequency: f64) -> f64 {
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / f64::from(*factor),
            RopeScaling::Llama3 { factor, low, high, original } => {
                let [factor, low, high] = [factor, low, high].map(|x| f64::from(*x));
                let waves = f64::from(*original) * frequency / std::f64::consts::TAU;
                if waves > high {
                    return frequency;
                }
                if waves < low {
                    return frequency / factor;
                }
                let smooth = (waves - low) / (high - low);
                (1.0 - smooth) * (frequency / factor) + smooth * frequency
            }
        }
    }
}

impl Architecture {
    /// Rows of the query projection.
    pub fn q_rows(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// First of the positions that a query at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window as usize))
    }

    /// Rows of the key projection, and of the value projection.
    pub fn kv_rows(&self) -> u32 {
        self.kv_heads * self.head_dim
    }
}
