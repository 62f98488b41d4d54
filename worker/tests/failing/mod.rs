//! A device that stops working.

use std::sync::atomic::{AtomicUsize, Ordering};

use deepnode_worker::canon::{Architecture, Device, DeviceError, Forward, Run, Tap};
use half::f16;

/// Works for so many calls, then fails always.
pub struct Failing<D> {
    device: D,
    left: AtomicUsize,
}

impl<D> Failing<D> {
    pub fn new(device: D, calls: usize) -> Box<Self> {
        Box::new(Self { device, left: AtomicUsize::new(calls) })
    }

    fn call(&self) -> Result<(), DeviceError> {
        let works = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        works.map(|_| ()).map_err(|_| DeviceError("fell off the bus".into()))
    }
}

impl<D: Device> Device for Failing<D> {
    fn arch(&self) -> &Architecture {
        self.device.arch()
    }

    fn pages(&self) -> usize {
        self.device.pages()
    }

    fn forward(&self, runs: &[Run<'_>], tap: Option<&mut Tap<'_>>) -> Result<Forward, DeviceError> {
        self.call()?;
        self.device.forward(runs, tap)
    }

    fn logits(&self, x_final: &[f16], logits: &mut [f32]) -> Result<(), DeviceError> {
        self.call()?;
        self.device.logits(x_final, logits)
    }

    fn copy_page(&self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.call()?;
        self.device.copy_page(from, to)
    }
}
