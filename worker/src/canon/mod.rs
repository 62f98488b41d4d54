//! canon/1: inference whose result is a pure function of model, prompt, sampling parameters and seed.

pub mod arch;
pub mod commit;
pub mod constants;
pub mod device;
pub mod encoder;
pub mod ops;
pub mod packed;
pub mod random;
pub mod reference;
pub mod rope;
pub mod sample;
pub mod tensor;

pub use arch::{Architecture, RopeScaling};
pub use commit::Digest;
pub use device::{Decoder, Device, DeviceError, Forward, Point, Run, Tap, PAGE};
pub use encoder::{Embedding, Encoder, EncoderArchitecture, EncoderDevice, EncoderWeights};
pub use sample::SamplingParams;
pub use tensor::{LayerWeights, Tensor, Weights};
