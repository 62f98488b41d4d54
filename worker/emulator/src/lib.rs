//! Runs the worker's CUDA kernels (`worker/kernels`, the very sources that nvcc compiles) on a CPU, for tests.
//!
//! Threads of a block are fibers, blocks run one after another. What a schedule changes is who goes first wherever
//! threads may overtake each other, which is between barriers; a wait can be left out, to see that a test notices.
//! Shared memory holds NaN before each block. Not emulated: races between blocks, and overlapping launches.
//!
//! [`DRIVER`] is a library in the place of NVIDIA's driver, so that its calls are tested as well.

mod memory;

use std::ffi::{c_char, CStr, CString};

pub use memory::{Memory, Snapshot};

/// Path of a library that has the calls of NVIDIA's driver, on the emulator. Who loads it before anyone asks for
/// `libcuda.so` is given it. On Linux only, in programs with a dynamic linker.
pub const DRIVER: &str = concat!(env!("OUT_DIR"), "/driver/libcuda.so");

/// Who goes first where several threads could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By number.
    Forward,
    /// The last one first.
    Reverse,
    /// Shuffled in every round.
    Random,
    /// A warp as far as it gets before the next one, warps shuffled.
    GreedyWarps,
}

/// A way to run a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub order: Order,
    pub seed: u32,
    /// Asynchronous copies land at once, instead of when they are waited for.
    pub eager_copies: bool,
}

impl Schedule {
    /// One of every kind.
    pub const ALL: [Self; 5] = [
        Self { order: Order::Forward, seed: 0, eager_copies: false },
        Self { order: Order::Reverse, seed: 0, eager_copies: true },
        Self { order: Order::Random, seed: 1, eager_copies: false },
        Self { order: Order::GreedyWarps, seed: 2, eager_copies: false },
        Self { order: Order::GreedyWarps, seed: 3, eager_copies: true },
    ];
}

/// A place in the sources where threads wait: for their block, or for their own copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub file: &'static CStr,
    pub line: u32,
}

/// What is launched.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// The kernel's argument, a struct of C.
    pub args: &'a [u8],
}

#[repr(C)]
struct RawSite {
    file: *const c_char,
    line: u32,
}

#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    threads: u32,
    args: *const u8,
    order: u32,
    seed: u32,
    eager_copies: u32,
    skipped: RawSite,
}

extern "C" {
    fn emulator_args(name: *const c_char) -> usize;
    fn emulator_run(
        name: *const c_char,
        launch: *const RawLaunch,
        sites: *mut RawSite,
        room: usize,
        count: *mut usize,
        error: *mut c_char,
        error_room: usize,
    ) -> bool;
}

/// Bytes of a kernel's argument, if there is such a kernel.
pub fn args_of(kernel: &str) -> Option<usize> {
    let name = CString::new(kernel).ok()?;
    // SAFETY: a C string, read during the call.
    let bytes = unsafe { emulator_args(name.as_ptr()) };
    (bytes != 0).then_some(bytes)
}

/// Runs a launch, leaving out the wait at `skipped`. Answers the places where the kernel waits, or why it cannot go on:
/// a deadlock, threads at different barriers, too much shared memory.
///
/// # Safety
/// The argument is the struct that the kernel declares, and every address in it is that of memory which the kernel, as
/// it is launched, may read or write.
pub unsafe fn run(
    launch: &Launch<'_>,
    schedule: Schedule,
    skipped: Option<Site>,
) -> Result<Vec<Site>, String> {
    let expected = args_of(launch.kernel);
    if expected != Some(launch.args.len()) {
        return Err(format!(
            "{}: argument of {} bytes, {expected:?} expected",
            launch.kernel,
            launch.args.len()
        ));
    }
    if launch.threads == 0 || launch.threads > 1024 {
        return Err(format!("{}: {} threads a block, must be 1 to 1024", launch.kernel, launch.threads));
    }
    let name = CString::new(launch.kernel).map_err(|e| e.to_string())?;
    // Structs of C need the alignment of 16-byte vectors.
    let mut args = vec![0u128; launch.args.len().div_ceil(16)];
    // SAFETY: args has at least as many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(launch.args.as_ptr(), args.as_mut_ptr().cast::<u8>(), launch.args.len())
    };
    let raw = RawLaunch {
        grid: launch.grid,
        threads: launch.threads,
        args: args.as_ptr().cast(),
        order: schedule.order as u32,
        seed: schedule.seed,
        eager_copies: schedule.eager_copies.into(),
        skipped: skipped.map_or(RawSite { file: std::ptr::null(), line: 0 }, |site| RawSite {
            file: site.file.as_ptr(),
            line: site.line,
        }),
    };
    const ROOM: usize = 64;
    let mut sites: Vec<RawSite> = Vec::with_capacity(ROOM);
    let mut count = 0;
    let mut error = [0 as c_char; 512];
    // SAFETY: the kernel exists, as args_of said; every pointer is to memory of the size that goes with it; what the
    // kernel reads and writes is the caller's contract. Sites that are counted are written, and name literals.
    unsafe {
        let done = emulator_run(
            name.as_ptr(),
            &raw,
            sites.as_mut_ptr(),
            ROOM,
            &mut count,
            error.as_mut_ptr(),
            error.len(),
        );
        sites.set_len(count);
        if !done {
            return Err(CStr::from_ptr(error.as_ptr()).to_string_lossy().into_owned());
        }
        Ok(sites.iter().map(|s| Site { file: CStr::from_ptr(s.file), line: s.line }).collect())
    }
}
