//! The structs that kernels take, as `worker/kernels/layout.cuh` declares them, and the kernels' names.

use bytemuck::{Pod, Zeroable};

/// An address in device memory; 0 is null.
pub type Address = u64;

/// Rows of a step that products for few rows exist for. A step takes the least that holds its rows.
pub const WIDTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Kernels of a product: one for each of [`WIDTHS`], then the one for more rows.
pub type ProductKernels = [&'static str; WIDTHS.len() + 1];

macro_rules! product {
    ($name:literal) => {
        [
            concat!($name, "_1"),
            concat!($name, "_2"),
            concat!($name, "_4"),
            concat!($name, "_8"),
            concat!($name, "_16"),
            concat!($name, "_32"),
            concat!($name, "_many"),
        ]
    };
}

pub const QKV: ProductKernels = product!("qkv");
pub const RESIDUAL: ProductKernels = product!("residual");
pub const GATE: ProductKernels = product!("gate");
pub const LOGITS: ProductKernels = product!("logits");
pub const EMBED: &str = "embed";
pub const NORM: &str = "rmsnorm";
pub const HEAD_NORM: &str = "head_norm";
pub const SCORES: &str = "scores";
pub const VALUES: &str = "values";
pub const COMBINE: &str = "combine";
pub const TOP: &str = "top";
pub const CHOOSE: &str = "choose";

/// The names of all kernels.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    let products = [QKV, RESIDUAL, GATE, LOGITS].into_iter().flatten();
    products.chain([EMBED, NORM, HEAD_NORM, SCORES, VALUES, COMBINE, TOP, CHOOSE])
}

macro_rules! args {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
            pub struct $name { $(pub $field: $type),* }
        )*
    };
}

args! {
    /// Packed weights, see [`super::pack`].
    Matrix { data: Address, rows: u32, cols: u32 }

    /// One token at one position of one sequence; `table` is where its pages begin in the step's.
    Row { token: u32, position: u32, table: u32 }

    Step { count: Address, rows: Address, pages: Address, bad: Address }

    /// Keys and values of one layer.
    Cache { keys: Address, values: Address, heads: u32, dim: u32 }

    EmbedArgs { step: Step, table: Matrix, h: Address }

    NormArgs { step: Step, h: Address, gain: Address, x: Address, width: u32, eps: f32 }

    Product { step: Step, w: Matrix, x: Address, wave: u32, unused: u32 }

    /// Where queries, keys and values go.
    Heads { rope: Address, q: Address, cache: Cache, heads: u32, unused: u32 }

    QkvArgs { product: Product, bias: Address, to: Heads }

    HeadNormArgs {
        step: Step,
        y: Address,
        bias: Address,
        q_gain: Address,
        k_gain: Address,
        to: Heads,
        eps: f32,
        unused: u32,
    }

    ResidualArgs { product: Product, h: Address }

    GateArgs { product: Product, a: Address }

    LogitsArgs { product: Product, y: Address }

    AttendArgs {
        step: Step,
        cache: Cache,
        q: Address,
        scores: Address,
        peaks: Address,
        sums: Address,
        parts: Address,
        out: Address,
        heads: u32,
        blocks: u32,
        scale: f32,
        window: u32,
    }

    /// How a row's token is chosen; temperature 0 goes with `top_k` 1.
    Choice { temperature: f32, top_p: f32, top_k: u32, step: u32, key: [u32; 2] }

    SampleArgs {
        count: Address,
        choices: Address,
        logits: Address,
        candidates: Address,
        tokens: Address,
        vocab: u32,
        unused: u32,
    }
}
