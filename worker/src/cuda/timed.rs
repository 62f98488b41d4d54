//! Where the time of steps goes: a device that notes how long each kernel takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::args::Address;
use super::gpu::{Gpu, GpuError, Launch};

/// By kernel: how often it was launched, and the time of all these launches.
pub type Spent = BTreeMap<&'static str, (usize, Duration)>;

/// Runs launches on a device, and says how long each took: [`super::Driver::time`].
type Time<G> = fn(&mut G, &[Launch]) -> Result<Vec<Duration>, GpuError>;

/// A device that computes the same, slower, and notes how long each kernel takes.
pub struct Timed<G> {
    gpu: G,
    time: Time<G>,
    spent: Arc<Mutex<Spent>>,
}

impl<G: Gpu> Timed<G> {
    /// Adds to `spent` with each launch.
    pub fn new(gpu: G, time: Time<G>, spent: Arc<Mutex<Spent>>) -> Self {
        Self { gpu, time, spent }
    }
}

impl<G: Gpu> Gpu for Timed<G> {
    type Recording = Vec<Launch>;

    fn alloc(&mut self, bytes: usize) -> Result<Address, GpuError> {
        self.gpu.alloc(bytes)
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        self.gpu.free_bytes()
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.gpu.write(to, bytes)
    }

    fn read(&mut self, parts: &mut [(Address, &mut [u8])]) -> Result<(), GpuError> {
        self.gpu.read(parts)
    }

    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        self.gpu.copy(to, from, bytes)
    }

    fn run(&mut self, launches: &[Launch]) -> Result<(), GpuError> {
        let times = (self.time)(&mut self.gpu, launches)?;
        let mut spent = self.spent.lock();
        for (launch, time) in launches.iter().zip(times) {
            let (count, all) = spent.entry(launch.kernel).or_default();
            *count += 1;
            *all += time;
        }
        Ok(())
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Self::Recording, GpuError> {
        Ok(launches.to_vec())
    }

    fn repeat(&mut self, recording: &Self::Recording) -> Result<(), GpuError> {
        self.run(recording)
    }
}
