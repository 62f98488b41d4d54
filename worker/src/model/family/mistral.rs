//! Mistral: llama with a sliding window. Its GGUF files call themselves llama.

use super::{Family, Presence, Window};

pub const FAMILY: Family = Family {
    gguf: "llama",
    hf: "mistral",
    class: "MistralForCausalLM",
    interleaved: true,
    qkv_bias: Presence::Never,
    qk_norm: Presence::Never,
    window: Window::Key,
    kv_heads_default: false,
};
