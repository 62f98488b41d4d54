//! canon/1: inference whose result is a pure function of model, prompt, sampling parameters and seed.

pub mod arch;
pub mod tensor;

pub use arch::Architecture;
pub use tensor::{LayerWeights, Tensor, Weights};
