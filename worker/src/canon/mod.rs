//! canon/1: inference whose result is a pure function of model, prompt, sampling parameters and seed.

pub mod arch;
pub mod backend;
pub mod commit;
pub mod constants;
pub mod ops;
pub mod random;
pub mod reference;
pub mod rope;
pub mod sample;
pub mod tensor;

pub use arch::Architecture;
pub use backend::{Backend, Decoder, Forward, Sequence, Tap};
pub use commit::Digest;
pub use sample::SamplingParams;
pub use tensor::{LayerWeights, Tensor, Weights};
