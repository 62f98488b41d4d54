//! The GPU path, bit for bit equal to the reference: handwritten kernels (`worker/kernels`), and what launches them.
//!
//! Everything but the calls of the driver is generic over [`Gpu`], so that tests run the same kernels in the same launches
//! on an emulator. docs/kernels.md says what is checked how.

pub mod args;
mod device;
mod driver;
mod gpu;
pub mod pack;
pub mod plan;
mod proof;
mod timed;

pub use device::{Cuda, Room};
pub use driver::{cards, Card, Driver, Loaded};
pub use gpu::{Gpu, GpuError, Launch};
pub use proof::prove;
pub use timed::{Spent, Timed};
