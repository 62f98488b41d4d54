//! Llama 2 and 3, and what is shaped like them: SmolLM2, TinyLlama.

use super::{Family, Presence, Window};

pub const FAMILY: Family = Family {
    gguf: "llama",
    hf: "llama",
    class: "LlamaForCausalLM",
    interleaved: true,
    qkv_bias: Presence::Maybe,
    qk_norm: Presence::Never,
    window: Window::None,
    kv_heads_default: true,
};
