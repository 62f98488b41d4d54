//! Qwen 2 and 2.5: biases on q, k and v.

use super::{Family, Presence, Window};

pub const FAMILY: Family = Family {
    gguf: "qwen2",
    hf: "qwen2",
    class: "Qwen2ForCausalLM",
    interleaved: false,
    qkv_bias: Presence::Always,
    qk_norm: Presence::Never,
    window: Window::Switch,
    kv_heads_default: false,
};
