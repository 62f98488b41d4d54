//! The emulator as the device that the engine's GPU path runs on.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use deepnode_emulator::{Memory, Schedule, Site};
use deepnode_worker::canon::constants::BLOCK;
use deepnode_worker::cuda::args::{self, Address, Product};
use deepnode_worker::cuda::{Gpu, GpuError, Launch};
use parking_lot::Mutex;

/// What becomes of the waits that are left out on purpose.
#[derive(Default)]
pub struct Mutants {
    /// Whether anything noticed, by kernel, file and line.
    pub noticed: BTreeMap<(&'static str, String, u32), bool>,
}

/// An emulated device.
pub struct Emulated {
    memory: Memory,
    schedule: Schedule,
    /// Launches until one fails.
    pub fuse: Option<usize>,
    /// Attend to a sequence's blocks one after another, as a card does where there are more than 64.
    pub narrow: bool,
    /// Which kernels were launched, and the most passes that one of its launches made over the columns of a matrix.
    pub launched: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    /// A wait, by file and line, that every launch leaves out.
    pub skip: Option<(String, u32)>,
    mutants: Option<Arc<Mutex<Mutants>>>,
    /// Gone with the device.
    alive: Arc<()>,
    /// Launches of each kernel that ran with waits left out.
    tried: BTreeMap<&'static str, u32>,
}

impl Emulated {
    pub fn new(schedule: Schedule) -> Self {
        Self {
            memory: Memory::default(),
            schedule,
            fuse: None,
            narrow: false,
            launched: Arc::default(),
            skip: None,
            mutants: None,
            alive: Arc::default(),
            tried: BTreeMap::new(),
        }
    }

    /// The first launches of every kernel also run with each of their waits left out, until that has made a difference.
    pub fn with_mutants(mutants: Arc<Mutex<Mutants>>) -> Self {
        Self { mutants: Some(mutants), narrow: true, ..Self::new(Schedule::ALL[0]) }
    }

    fn once(
        &self,
        launch: &Launch,
        schedule: Schedule,
        skipped: Option<Site>,
    ) -> Result<Vec<Site>, GpuError> {
        let Launch { kernel, mut grid, threads, args } = launch.clone();
        if self.narrow && [args::SCORES, args::VALUES].contains(&kernel) {
            grid[0] = 1;
        }
        let launch = deepnode_emulator::Launch { kernel, grid, threads, args: &args };
        // SAFETY: the argument is the kernel's, as its size says; its addresses are this memory's. What a kernel writes
        // beyond is found in the zones around it.
        unsafe { deepnode_emulator::run(&launch, schedule, skipped) }.map_err(failed("run"))
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), GpuError> {
        if let Some(left) = &mut self.fuse {
            *left = left.checked_sub(1).ok_or_else(|| failed("run")("the device is lost".to_string()))?;
        }
        let mut launched = self.launched.lock();
        let most = launched.entry(launch.kernel).or_default();
        *most = passes(launch).max(*most);
        drop(launched);
        let tried = self.tried.entry(launch.kernel).or_default();
        *tried += 1;
        let intact = self.skip.is_some().then(|| self.memory.snapshot());
        let before = (self.mutants.is_some() && *tried <= 4).then(|| self.memory.snapshot());
        let mut sites = self.once(launch, self.schedule, None)?;
        if let (Some((file, line)), Some(intact)) = (&self.skip, &intact) {
            let skipped =
                |site: &Site| site.line == *line && site.file.to_string_lossy().ends_with(&file[..]);
            if let Some(site) = sites.iter().copied().find(skipped) {
                self.memory.restore(intact);
                sites = self.once(launch, self.schedule, Some(site))?;
            }
        }
        self.memory.check().map_err(failed("run"))?;
        if let (Some(mutants), Some(before)) = (self.mutants.clone(), before) {
            let after = self.memory.snapshot();
            for site in sites {
                let file = site.file.to_string_lossy();
                let name =
                    (launch.kernel, file.rsplit('/').next().unwrap_or_default().to_string(), site.line);
                if mutants.lock().noticed.get(&name).is_some_and(|noticed| *noticed) {
                    continue;
                }
                let noticed = Schedule::ALL.into_iter().any(|schedule| {
                    self.memory.restore(&before);
                    self.once(launch, schedule, Some(site)).is_err() || self.memory.snapshot() != after
                });
                mutants.lock().noticed.insert(name, noticed);
            }
            self.memory.restore(&after);
        }
        Ok(())
    }
}

/// Passes over the columns that each block of threads makes, of a product for few rows; 1 of any other kernel.
fn passes(launch: &Launch) -> usize {
    if ![args::QKV, args::RESIDUAL, args::GATE, args::LOGITS].iter().any(|few| few.contains(&launch.kernel)) {
        return 1;
    }
    // Every product's argument begins with it.
    let product: Product = bytemuck::pod_read_unaligned(&launch.args[..size_of::<Product>()]);
    let blocks = product.w.cols.div_ceil(BLOCK as u32);
    // Those for many rows have no wave.
    blocks.checked_div(product.wave).map_or(1, |_| blocks.div_ceil(product.wave) as usize)
}

fn failed(call: &'static str) -> impl Fn(String) -> GpuError {
    move |why| GpuError { call, why }
}

/// Launches that were recorded.
pub struct Recorded {
    launches: Vec<Launch>,
    device: Weak<()>,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // A driver's graph cannot be destroyed after its context.
        assert!(self.device.strong_count() > 0, "a recording outlives its device");
    }
}

impl Gpu for Emulated {
    type Recording = Recorded;

    fn alloc(&mut self, bytes: usize) -> Result<Address, GpuError> {
        Ok(self.memory.alloc(bytes))
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        Ok(1 << 30)
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.memory.write(to, bytes).map_err(failed("write"))
    }

    fn read(&mut self, parts: &mut [(Address, &mut [u8])]) -> Result<(), GpuError> {
        parts.iter_mut().try_for_each(|(from, bytes)| self.memory.read(*from, bytes).map_err(failed("read")))
    }

    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        let mut through = vec![0; bytes];
        self.read(&mut [(from, &mut through)])?;
        self.write(to, &through)
    }

    fn run(&mut self, launches: &[Launch]) -> Result<(), GpuError> {
        launches.iter().try_for_each(|launch| self.launch(launch))
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Self::Recording, GpuError> {
        Ok(Recorded { launches: launches.to_vec(), device: Arc::downgrade(&self.alive) })
    }

    fn repeat(&mut self, recording: &Self::Recording) -> Result<(), GpuError> {
        self.run(&recording.launches)
    }
}
