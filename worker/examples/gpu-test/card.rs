//! What a card can do at best, which the kernels are measured by: copying within its memory, and multiplying and adding.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use bytemuck::{Pod, Zeroable};
use deepnode_worker::cuda::{Gpu, Launch};

/// Times that each is measured; the best counts.
const ROUNDS: usize = 6;
/// Copies that are timed together.
const COPIES: usize = 8;

/// Bytes a second that the device reads and writes when it copies `bytes` from place to place.
pub fn copying(gpu: &mut impl Gpu, bytes: usize) -> Result<f64> {
    let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
    let best = best(gpu, |gpu| Ok((0..COPIES).try_for_each(|_| gpu.copy(to, from, bytes))?))?;
    Ok((2 * bytes * COPIES) as f64 / best.as_secs_f64())
}

/// The shortest of some rounds, each from an idle device to an idle device.
fn best<G: Gpu>(gpu: &mut G, mut work: impl FnMut(&mut G) -> Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        gpu.read(&mut [])?;
        let start = Instant::now();
        work(gpu)?;
        gpu.read(&mut [])?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// Name of the kernel that [`ptx`] is.
pub const FFMA: &str = "ffma";
const THREADS: usize = 256;
/// A multiple of the blocks of 256 threads that a multiprocessor takes at once, which are 8 or 6.
const BLOCKS_A_MULTIPROCESSOR: usize = 24;
/// Sums of a thread, none of which waits for another.
const SUMS: usize = 16;
/// Multiply-adds of each sum, one after another, in a pass of the loop.
const UNROLLED: usize = 16;
const PASSES: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FfmaArgs {
    out: u64,
    passes: u32,
    factor: f32,
    summand: f32,
    unused: u32,
}

/// A kernel that does nothing but fused multiply-adds, `x * factor + summand` from other beginnings.
///
/// The peak is measured by it, as what a clock rate and a table of units a multiprocessor promise is not what a card under
/// load keeps to. It is PTX, which the driver compiles, and no part of the fatbin: no worker launches it.
pub fn ptx() -> String {
    let mut text = format!(
        ".version 8.0
.target sm_80
.address_size 64
.visible .entry {FFMA}(.param .align 8 .b8 args[{}])
.maxntid {THREADS}, 1, 1
{{
    .reg .pred %more;
    .reg .b32 %left, %thread;
    .reg .b64 %out;
    .reg .f32 %factor, %summand, %x<{SUMS}>;
    ld.param.u64 %out, [args];
    ld.param.u32 %left, [args + 8];
    ld.param.f32 %factor, [args + 12];
    ld.param.f32 %summand, [args + 16];
    cvta.to.global.u64 %out, %out;
    mov.u32 %thread, %tid.x;
    cvt.rn.f32.u32 %x0, %thread;
",
        size_of::<FfmaArgs>()
    );
    let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
    (1..SUMS).for_each(|i| line(format!("    add.rn.f32 %x{i}, %x{}, %summand;", i - 1)));
    line("again:".into());
    for i in (0..UNROLLED).flat_map(|_| 0..SUMS) {
        line(format!("    fma.rn.f32 %x{i}, %x{i}, %factor, %summand;"));
    }
    line("    sub.u32 %left, %left, 1;".into());
    line("    setp.ne.u32 %more, %left, 0;".into());
    line("    @%more bra again;".into());
    (1..SUMS).for_each(|i| line(format!("    add.rn.f32 %x0, %x0, %x{i};")));
    line("    mad.wide.u32 %out, %thread, 4, %out;".into());
    line("    st.global.f32 [%out], %x0;".into());
    line("    ret;\n}".into());
    text
}

/// Floating-point operations a second, a multiply-add being two, of a device that has the kernel.
pub fn ffma(gpu: &mut impl Gpu, multiprocessors: usize) -> Result<f64> {
    let out = gpu.alloc(THREADS * size_of::<f32>())?;
    // Halving and adding one goes to 2, and is there long before the last pass.
    let args = FfmaArgs { out, passes: PASSES as u32, factor: 0.5, summand: 1.0, unused: 0 };
    let blocks = multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    let launch = [Launch::new(FFMA, [blocks, 1, 1], THREADS, &args)];
    let best = best(gpu, |gpu| Ok(gpu.run(&launch)?))?;
    let mut sums = [0f32; THREADS];
    gpu.read(&mut [(out, bytemuck::cast_slice_mut(&mut sums))])?;
    let wanted = 2.0 * SUMS as f32;
    ensure!(sums == [wanted; THREADS], "{FFMA} computes {sums:?}, must be {wanted} everywhere");
    Ok((2 * blocks * THREADS * PASSES * UNROLLED * SUMS) as f64 / best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulated::Emulated;
    use deepnode_emulator::Schedule;
    use deepnode_worker::cuda::args::Address;
    use deepnode_worker::cuda::GpuError;

    #[test]
    fn copying_is_timed() {
        let rate = copying(&mut Emulated::new(Schedule::ALL[0]), 1 << 16).unwrap();
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }

    /// Runs the kernel's text line by line, for one thread.
    fn interpret(text: &str, thread: u32, args: &FfmaArgs) -> (f32, usize) {
        let lines: Vec<&str> = text.lines().map(|line| line.trim().trim_end_matches(';')).collect();
        let mut x = [f32::NAN; SUMS];
        let (mut left, mut fmas, mut at) = (args.passes, 0, 0);
        loop {
            let (op, rest) = lines[at].split_once(' ').unwrap_or((lines[at], ""));
            let operands: Vec<&str> = rest.split(", ").collect();
            let register = |i: usize| operands[i].strip_prefix("%x").unwrap().parse::<usize>().unwrap();
            let value = |x: &[f32; SUMS], i: usize| match operands[i] {
                "%factor" => args.factor,
                "%summand" => args.summand,
                _ => x[register(i)],
            };
            at += 1;
            match op {
                "cvt.rn.f32.u32" => x[register(0)] = thread as f32,
                "add.rn.f32" => x[register(0)] = value(&x, 1) + value(&x, 2),
                "fma.rn.f32" => {
                    x[register(0)] = value(&x, 1).mul_add(value(&x, 2), value(&x, 3));
                    fmas += 1;
                }
                "sub.u32" => left -= 1,
                "@%more" if left > 0 => at = lines.iter().position(|line| *line == "again:").unwrap(),
                "st.global.f32" => return (x[0], fmas),
                _ => {}
            }
        }
    }

    /// What the text computes, and how much: what the rate counts.
    #[test]
    fn the_kernel_does_what_is_counted() {
        let passes = 20;
        let args = FfmaArgs { out: 0, passes, factor: 0.5, summand: 1.0, unused: 0 };
        for thread in [0, 1, THREADS as u32 - 1] {
            let wanted = (2.0 * SUMS as f32, passes as usize * SUMS * UNROLLED);
            assert_eq!(interpret(&ptx(), thread, &args), wanted);
        }
    }

    /// A device on which the kernel leaves `sum` in each thread.
    struct Leaves(f32);

    impl Gpu for Leaves {
        type Recording = ();

        fn alloc(&mut self, _: usize) -> Result<Address, GpuError> {
            Ok(256)
        }

        fn free_bytes(&self) -> Result<usize, GpuError> {
            Ok(0)
        }

        fn write(&mut self, _: Address, _: &[u8]) -> Result<(), GpuError> {
            Ok(())
        }

        fn read(&mut self, parts: &mut [(Address, &mut [u8])]) -> Result<(), GpuError> {
            for (_, bytes) in parts {
                bytes.chunks_mut(4).for_each(|bytes| bytes.copy_from_slice(&self.0.to_le_bytes()));
            }
            Ok(())
        }

        fn copy(&mut self, _: Address, _: Address, _: usize) -> Result<(), GpuError> {
            Ok(())
        }

        fn run(&mut self, _: &[Launch]) -> Result<(), GpuError> {
            std::thread::sleep(Duration::from_millis(5));
            Ok(())
        }

        fn record(&mut self, _: &[Launch]) -> Result<(), GpuError> {
            Ok(())
        }

        fn repeat(&mut self, (): &()) -> Result<(), GpuError> {
            Ok(())
        }
    }

    /// Two multiprocessors at 5 ms a launch are at most 10 TFLOP/s; a kernel that computes something else has no rate.
    #[test]
    fn a_rate_is_of_the_right_result() {
        let rate = ffma(&mut Leaves(32.0), 2).unwrap();
        assert!(rate > 1e11 && rate < 2.0 * 2.0 * 24.0 * 256.0 * 262_144.0 / 5e-3, "{rate}");
        let error = ffma(&mut Leaves(31.0), 2).unwrap_err().to_string();
        assert!(error.ends_with("must be 32 everywhere"), "{error}");
    }
}
