//! What a device does for us: memory, launches, and launches recorded to be repeated. There are two: a card behind the
//! CUDA driver, and in tests the emulator.

use super::args::Address;

/// One kernel over a grid of blocks of threads, with its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// The bytes of the kernel's struct.
    pub args: Vec<u8>,
}

impl Launch {
    pub fn new(kernel: &'static str, grid: [usize; 3], threads: usize, args: &impl bytemuck::Pod) -> Self {
        let grid = grid.map(|n| n as u32);
        Self { kernel, grid, threads: threads as u32, args: bytemuck::bytes_of(args).to_vec() }
    }
}

/// A device call failed; nothing that was computed since the last read can be trusted.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{call}: {why}")]
pub struct GpuError {
    pub call: &'static str,
    pub why: String,
}

/// A device. Work is done in the order of the calls.
pub trait Gpu: Send {
    /// Launches that were recorded. It must be dropped before its device is.
    type Recording: Send;

    /// `bytes` zero bytes, at an address that is a multiple of 256, until the device is dropped.
    fn alloc(&mut self, bytes: usize) -> Result<Address, GpuError>;

    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> Result<usize, GpuError>;

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), GpuError>;

    /// Waits for all work, once, and reads from each of some places.
    fn read(&mut self, parts: &mut [(Address, &mut [u8])]) -> Result<(), GpuError>;

    /// Copies within the device; the two do not overlap.
    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError>;

    fn run(&mut self, launches: &[Launch]) -> Result<(), GpuError>;

    /// Prepares launches to be repeated, and runs none of them.
    fn record(&mut self, launches: &[Launch]) -> Result<Self::Recording, GpuError>;

    fn repeat(&mut self, recording: &Self::Recording) -> Result<(), GpuError>;
}
