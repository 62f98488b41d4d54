//! canon/1: inference whose result is a pure function of model, prompt, sampling parameters and seed.

pub mod arch;
pub mod commit;
pub mod rope;
pub mod tensor;

pub use arch::Architecture;
pub use commit::Digest;
pub use tensor::{LayerWeights, Tensor, Weights};
