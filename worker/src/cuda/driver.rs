//! A card behind NVIDIA's driver, which is loaded when it is asked for: the program builds and runs without one.

use std::collections::HashMap;
use std::ffi::{c_void, CString};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result::{self, ctx, event, graph, primary_ctx, stream, DriverError};
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute};

use super::args::{self, Address};
use super::gpu::{Gpu, GpuError, Launch};

/// All kernels: machine code for compute capabilities 8.x and 9.0, PTX for later ones. `cargo xtask kernels` makes it.
static KERNELS: &Aligned<[u8]> = &Aligned(*include_bytes!("../../kernels/kernels.fatbin"));

/// The driver reads words of up to 16 bytes; bytes of a program by themselves begin anywhere.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// Bytes of page-locked memory that small writes go through: a step's tokens and tables, and a batch's choices.
const STAGING: usize = 1 << 20;

/// Least driver, as `cuDriverGetVersion` counts: the CUDA release that the kernels are built with.
const DRIVER: i32 = 13_000;
/// Least compute capability.
const CAPABILITY: i32 = 8;

/// A card that can run the kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number, from 0.
    pub ordinal: usize,
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
    /// Greatest clocks, kHz: of the multiprocessors and of the memory; none where the driver does not tell.
    pub clocks: Option<(i32, i32)>,
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> GpuError {
    // Its Display calls the driver, which may be what failed.
    move |error| GpuError { call, why: format!("{:?}", error.0) }
}

/// The cards of this machine that can run the kernels; or why there is none. Never panics, driver or not.
pub fn cards() -> Result<Vec<Card>, GpuError> {
    let no = |call, why: String| Err(GpuError { call, why });
    // SAFETY: it tries to load the library, and nothing else.
    if !unsafe { sys::is_culib_present() } {
        return no("loading libcuda", "this machine has no NVIDIA driver".into());
    }
    result::init().map_err(failed("cuInit"))?;
    let mut version = 0;
    // SAFETY: the library is there; it writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("cuDriverGetVersion"))?;
    if version < DRIVER {
        return no(
            "cuDriverGetVersion",
            format!("the driver is for CUDA {version}, must be {DRIVER} or later"),
        );
    }
    let count = result::device::get_count().map_err(failed("cuDeviceGetCount"))?;
    let cards = (0..count).map(card).collect::<Result<Vec<_>, _>>()?;
    let cards: Vec<Card> = cards.into_iter().filter(|card| card.capability.0 >= CAPABILITY).collect();
    if cards.is_empty() {
        return no(
            "cuDeviceGetCount",
            format!("{count} cards, none of compute capability {CAPABILITY}.0 or later"),
        );
    }
    Ok(cards)
}

fn card(ordinal: i32) -> Result<Card, GpuError> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_CLOCK_RATE as CLOCK, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE as MEMORY_CLOCK,
    };
    let device = result::device::get(ordinal).map_err(failed("cuDeviceGet"))?;
    // SAFETY: the device was just named by the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let attribute = |which| attribute(which).map_err(failed("cuDeviceGetAttribute"));
    let capability = (attribute(MAJOR)?, attribute(MINOR)?);
    let clocks = attribute(CLOCK).ok().zip(attribute(MEMORY_CLOCK).ok());
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.map_err(failed("cuDeviceTotalMem"))?;
    let name = result::device::get_name(device).map_err(failed("cuDeviceGetName"))?;
    Ok(Card { ordinal: ordinal as usize, name, capability, memory, clocks })
}

/// The device's context, released when the last that needs it is gone.
struct Context {
    context: sys::CUcontext,
    device: sys::CUdevice,
}

// SAFETY: a context may be current to any thread, to several at once.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Makes it the one that this thread's calls go to.
    fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: it is retained until `self` is dropped.
        unsafe { ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. A failure leaves nothing to do.
        let _ = unsafe { primary_ctx::release(self.device) };
    }
}

struct Kernel {
    function: sys::CUfunction,
    /// Whether it waits for the launch before it by itself, so that the two may overlap.
    overlaps: bool,
}

/// What a kernel takes up on a card, as the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub kernel: &'static str,
    /// Registers of a thread.
    pub registers: i32,
    /// Bytes of memory that a thread has for itself: spilled registers, and a stack.
    pub local: i32,
}

/// A card in use.
pub struct Driver {
    context: Arc<Context>,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    kernels: HashMap<&'static str, Kernel>,
    allocations: Vec<Address>,
    /// `STAGING` bytes, page-locked; null until there are any.
    staging: *mut u8,
    /// Bytes from its beginning on that the stream may yet have to copy.
    staged: usize,
    overlap: bool,
}

// SAFETY: every call first makes the context current to its thread; handles are the context's, not a thread's.
unsafe impl Send for Driver {}

/// A graph of launches. Handles are null until there is what they name.
pub struct Graph {
    context: Arc<Context>,
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
}

// SAFETY: as for the driver.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        if !self.exec.is_null() {
            // SAFETY: made by `record`, destroyed once; the stream has done with it, as whoever repeats a graph reads its
            // results. A failure leaves nothing to do, here and below.
            let _ = unsafe { graph::exec_destroy(self.exec) };
        }
        if !self.graph.is_null() {
            // SAFETY: as above.
            let _ = unsafe { graph::destroy(self.graph) };
        }
    }
}

/// A point in the stream, and the time when it came.
struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

impl Event {
    fn new(context: &Arc<Context>) -> Result<Self, GpuError> {
        let event = event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("cuEventCreate"))?;
        Ok(Self { context: context.clone(), event })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made once, destroyed once. A failure leaves nothing to do.
            let _ = unsafe { event::destroy(self.event) };
        }
    }
}

fn attribute(function: sys::CUfunction, which: Attribute) -> Result<i32, GpuError> {
    // SAFETY: the function is of a module that is loaded.
    unsafe { result::function::get_function_attribute(function, which) }.map_err(failed("cuFuncGetAttribute"))
}

impl Driver {
    /// Opens a card of [`cards`]. `overlap`: let a launch begin before the one before it has ended, where the kernels
    /// know how (compute capability 9.0).
    pub fn open(card: &Card, overlap: bool) -> Result<Self, GpuError> {
        let device = result::device::get(card.ordinal as i32).map_err(failed("cuDeviceGet"))?;
        // SAFETY: the device was just named by the driver.
        let context = unsafe { primary_ctx::retain(device) }.map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let context = Arc::new(Context { context, device });
        context.enter()?;
        let mut driver = Self {
            context,
            stream: stream::create(stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?,
            modules: Vec::new(),
            kernels: HashMap::new(),
            allocations: Vec::new(),
            staging: null_mut(),
            staged: 0,
            overlap,
        };
        // SAFETY: nothing reads what has not been written.
        driver.staging = unsafe { result::malloc_host(STAGING, 0) }.map_err(failed("cuMemHostAlloc"))?.cast();
        // SAFETY: a whole fatbin.
        unsafe { driver.load_module(KERNELS.0.as_ptr(), args::kernels()) }?;
        Ok(driver)
    }

    /// Adds a kernel to the worker's own, from PTX: for whoever measures the card.
    pub fn load(&mut self, kernel: &'static str, ptx: &str) -> Result<(), GpuError> {
        self.context.enter()?;
        let ptx = CString::new(ptx).map_err(|e| GpuError { call: "cuModuleLoadData", why: e.to_string() })?;
        // SAFETY: text that ends with a zero.
        unsafe { self.load_module(ptx.as_ptr().cast(), [kernel]) }
    }

    /// # Safety
    ///
    /// `image` is a fatbin, or PTX that ends with a zero; it is copied.
    unsafe fn load_module(
        &mut self,
        image: *const u8,
        kernels: impl IntoIterator<Item = &'static str>,
    ) -> Result<(), GpuError> {
        // SAFETY: as the caller says.
        let module =
            unsafe { result::module::load_data(image.cast()) }.map_err(failed("cuModuleLoadData"))?;
        self.modules.push(module);
        for name in kernels {
            self.kernels.insert(name, self.kernel(module, name)?);
        }
        Ok(())
    }

    fn kernel(&self, module: sys::CUmodule, name: &'static str) -> Result<Kernel, GpuError> {
        let symbol =
            CString::new(name).map_err(|e| GpuError { call: "cuModuleGetFunction", why: e.to_string() })?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module, symbol) }
            .map_err(|e| GpuError { call: "cuModuleGetFunction", why: format!("{name}: {:?}", e.0) })?;
        // Drivers load a kernel when it is first launched, which must not be while launches are recorded.
        // SAFETY: the function is the module's; the driver is one that has the call, as `cards` has seen.
        unsafe { sys::cuFuncLoad(function) }.result().map_err(failed("cuFuncLoad"))?;
        let version = attribute(function, Attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION)?;
        // Machine code for 9.0 has the instruction that waits; what is made of the PTX, for 8.0, has not.
        Ok(Kernel { function, overlaps: version == 90 })
    }

    /// What the worker's kernels take up.
    pub fn loaded(&self) -> Result<Vec<Loaded>, GpuError> {
        self.context.enter()?;
        args::kernels()
            .map(|kernel| {
                let function = self.kernels[kernel].function;
                let registers = attribute(function, Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?;
                let local = attribute(function, Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?;
                Ok(Loaded { kernel, registers, local })
            })
            .collect()
    }

    /// Multiprocessors of the card.
    pub fn multiprocessors(&self) -> Result<usize, GpuError> {
        let count = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        // SAFETY: the device is the context's.
        let count = unsafe { result::device::get_attribute(self.context.device, count) };
        Ok(count.map_err(failed("cuDeviceGetAttribute"))? as usize)
    }

    /// Runs launches one after another, none of which overlaps with another, and says how long each took.
    ///
    /// They are a graph, as a step's are, with an event between each two: a kernel that the host sent by itself would often
    /// end before the next one came, and waiting for the host would count as its time.
    pub fn time(&mut self, launches: &[Launch]) -> Result<Vec<Duration>, GpuError> {
        self.context.enter()?;
        // Before the graph that they are in: what is declared last is dropped first.
        let events: Vec<Event> =
            (0..=launches.len()).map(|_| Event::new(&self.context)).collect::<Result<_, _>>()?;
        let graph = self.capture(|| {
            self.mark(&events[0])?;
            launches.iter().zip(&events[1..]).try_for_each(|(launch, event)| {
                self.enqueue(std::slice::from_ref(launch))?;
                self.mark(event)
            })
        })?;
        self.repeat(&graph)?;
        self.finish()?;
        let elapsed = |pair: &[Event]| {
            // SAFETY: both were recorded in the stream, which is done.
            let ms = unsafe { event::elapsed(pair[0].event, pair[1].event) };
            Ok(Duration::from_secs_f32(ms.map_err(failed("cuEventElapsedTime"))?.max(0.0) / 1e3))
        };
        events.windows(2).map(elapsed).collect()
    }

    /// Notes in an event when all before it is done, whenever what is captured runs.
    fn mark(&self, event: &Event) -> Result<(), GpuError> {
        let external = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: event and stream are of this context, and live on.
        unsafe { sys::cuEventRecordWithFlags(event.event, self.stream, external) }
            .result()
            .map_err(failed("cuEventRecordWithFlags"))
    }

    /// A graph of what `work` puts into the stream.
    fn capture(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<Graph, GpuError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { stream::begin_capture(self.stream, mode) }.map_err(failed("cuStreamBeginCapture"))?;
        let worked = work();
        // SAFETY: it captures since the call above; ended in any case, or nothing else could run.
        let graph = unsafe { stream::end_capture(self.stream) }
            .map_err(failed("cuStreamEndCapture"))
            // Whatever fails from here on, what was captured is destroyed.
            .map(|graph| Graph { context: self.context.clone(), graph, exec: null_mut() });
        worked?;
        let mut graph = graph?;
        // SAFETY: the graph was just captured.
        graph.exec = unsafe { graph::instantiate(graph.graph, sys::CUgraphInstantiate_flags(0)) }
            .map_err(failed("cuGraphInstantiate"))?;
        Ok(graph)
    }

    /// Puts launches into the stream.
    fn enqueue(&self, launches: &[Launch]) -> Result<(), GpuError> {
        for (i, launch) in launches.iter().enumerate() {
            let no =
                |why: String| GpuError { call: "cuLaunchKernelEx", why: format!("{}: {why}", launch.kernel) };
            let kernel = self.kernels.get(launch.kernel).ok_or_else(|| no("no such kernel".into()))?;
            let mut attribute = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            // The first has no launch of ours before it.
            let overlaps = self.overlap && kernel.overlaps && i > 0;
            let [x, y, z] = launch.grid;
            let config = sys::CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: launch.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: 0,
                hStream: self.stream,
                attrs: if overlaps { &mut attribute } else { null_mut() },
                numAttrs: overlaps.into(),
            };
            let mut arguments = [launch.args.as_ptr().cast::<c_void>().cast_mut()];
            // SAFETY: the kernel has one argument, the struct whose bytes these are (the emulator's tests compare the
            // sizes), which the driver copies; its addresses are of this card's memory.
            unsafe { sys::cuLaunchKernelEx(&config, kernel.function, arguments.as_mut_ptr(), null_mut()) }
                .result()
                .map_err(|e| no(format!("{:?}", e.0)))?;
        }
        Ok(())
    }

    /// Waits for all work.
    fn finish(&mut self) -> Result<(), GpuError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { stream::synchronize(self.stream) }.map_err(failed("cuStreamSynchronize"))?;
        self.staged = 0;
        Ok(())
    }
}

impl Gpu for Driver {
    type Recording = Graph;

    fn alloc(&mut self, bytes: usize) -> Result<Address, GpuError> {
        self.context.enter()?;
        let bytes = bytes.max(1);
        // SAFETY: it is set to zero before anything reads it.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(failed("cuMemAlloc"))?;
        self.allocations.push(address);
        // SAFETY: the whole of the allocation, in the stream that all work is in.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }
            .map_err(failed("cuMemsetD8Async"))?;
        Ok(address)
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        self.context.enter()?;
        Ok(result::mem_get_info().map_err(failed("cuMemGetInfo"))?.0)
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.context.enter()?;
        let stream = self.stream;
        let copy = |bytes: &[u8]| {
            // SAFETY: the address is of an allocation that has as many bytes, by what the device's layout says. The source
            // stays as it is until the copy has ended, see below.
            unsafe { result::memcpy_htod_async(to, bytes, stream) }.map_err(failed("cuMemcpyHtoDAsync"))
        };
        if bytes.len() > STAGING {
            copy(bytes)?;
            return self.finish();
        }
        if bytes.len() > STAGING - self.staged {
            self.finish()?;
        }
        // SAFETY: within the staging memory, and beyond what the stream may yet copy.
        let staged = unsafe {
            let at = self.staging.add(self.staged);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
            std::slice::from_raw_parts(at, bytes.len())
        };
        self.staged += bytes.len();
        copy(staged)
    }

    fn read(&mut self, parts: &mut [(Address, &mut [u8])]) -> Result<(), GpuError> {
        self.context.enter()?;
        let copied = parts.iter_mut().try_for_each(|(from, bytes)| {
            // SAFETY: as for `write`; nobody looks at the bytes before the stream is done.
            unsafe { result::memcpy_dtoh_async(bytes, *from, self.stream) }
                .map_err(failed("cuMemcpyDtoHAsync"))
        });
        // In any case: a copy that was begun writes to the caller's memory.
        self.finish()?;
        copied
    }

    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: as for `write`, on both sides.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(failed("cuMemcpyDtoDAsync"))
    }

    fn run(&mut self, launches: &[Launch]) -> Result<(), GpuError> {
        self.context.enter()?;
        self.enqueue(launches)
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Self::Recording, GpuError> {
        self.context.enter()?;
        self.capture(|| self.enqueue(launches))
    }

    fn repeat(&mut self, recording: &Self::Recording) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: the graph is of this context and lives on.
        unsafe { graph::launch(recording.exec, self.stream) }.map_err(failed("cuGraphLaunch"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        let _ = self.finish();
        for address in self.allocations.drain(..) {
            // SAFETY: allocated once, freed once; the stream is done. A failure leaves nothing to do, here and below.
            let _ = unsafe { result::free_sync(address) };
        }
        if !self.staging.is_null() {
            // SAFETY: as above.
            let _ = unsafe { result::free_host(self.staging.cast()) };
        }
        for module in self.modules.drain(..) {
            // SAFETY: loaded once, unloaded once.
            let _ = unsafe { result::module::unload(module) };
        }
        // SAFETY: created once, destroyed once.
        let _ = unsafe { stream::destroy(self.stream) };
    }
}
