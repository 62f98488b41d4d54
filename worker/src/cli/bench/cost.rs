//! Compute units, as the chain counts them (docs/canonical-arithmetic.md has the architecture; a test holds this to the
//! chain's own estimate).

use crate::canon::{Architecture, Weights};

/// Floating-point operations of one CU.
const FLOPS_PER_CU: u128 = 1_000_000;

/// CU of `input` tokens read and `output` tokens made: a millionth of 2 W N + 2 vocab width output + 2 layers heads
/// head_dim N (N + 1), rounded up, with N = input + output - 1 and W the weights of the layers' matrices.
pub fn cu(arch: &Architecture, input: u32, output: u32) -> u64 {
    let read = (u128::from(input) + u128::from(output)).saturating_sub(1);
    let made = u128::from(output);
    let [layers, width, heads, head_dim, vocab] =
        [arch.layers, arch.width, arch.heads, arch.head_dim, arch.vocab].map(u128::from);
    let flops = 2 * weights(arch) * read
        + 2 * vocab * width * made
        + 2 * layers * heads * head_dim * read * (read + 1);
    u64::try_from(flops.div_ceil(FLOPS_PER_CU)).unwrap_or(u64::MAX)
}

/// W.
fn weights(arch: &Architecture) -> u128 {
    let [layers, width, heads, kv_heads, head_dim, ffn] =
        [arch.layers, arch.width, arch.heads, arch.kv_heads, arch.head_dim, arch.ffn].map(u128::from);
    (2 * (heads + kv_heads) * head_dim + 3 * ffn) * width * layers
}

/// Bytes of weights, as they lie in memory, that one more token of one sequence has to read.
pub(super) fn bytes_a_token(weights: &Weights<'_>) -> usize {
    let layers = weights.layers.iter().flat_map(|w| [w.q, w.k, w.v, w.o, w.gate, w.up, w.down]);
    layers.chain([weights.head]).map(|tensor| size_of_val(tensor.panels)).sum()
}
