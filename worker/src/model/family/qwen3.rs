//! Qwen 3 (dense): each head of q and k is normalised, and a head's size is not width / heads.

use super::{Family, Presence, Window};

pub const FAMILY: Family = Family {
    gguf: "qwen3",
    hf: "qwen3",
    class: "Qwen3ForCausalLM",
    interleaved: false,
    qkv_bias: Presence::Maybe,
    qk_norm: Presence::Always,
    window: Window::Switch,
    kv_heads_default: false,
};
