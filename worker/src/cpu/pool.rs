//! The engine's threads: a fixed set that runs one job at a time together, with a barrier cheap enough to be met
//! several times a layer. The caller is the first thread.

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

/// Turns of a spinning wait before it yields the processor, and before an idle worker sleeps.
const SPINS: u32 = 2_000;
const IDLE_SPINS: u32 = 10_000;

/// A fixed number of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// One thread's place in a job.
#[derive(Clone, Copy)]
pub struct Worker<'a> {
    /// 0 to `of - 1`.
    pub index: usize,
    /// Threads in the job.
    pub of: usize,
    shared: &'a Shared,
}

type Job = dyn Fn(Worker<'_>) + Sync + 'static;

/// What a round asks of the workers.
#[derive(Clone, Copy)]
struct Round {
    number: usize,
    /// Threads that take part, the caller's included.
    threads: usize,
    /// Valid until `running` is 0.
    job: Option<&'static Job>,
}

struct Shared {
    /// The latest round, and its number where a waiting worker can watch it.
    round: Mutex<Round>,
    number: AtomicUsize,
    /// Workers that have not finished the round.
    running: AtomicUsize,
    stop: AtomicBool,
    /// A thread of the round panicked: nobody may wait for it.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    arrived: AtomicUsize,
    barrier: AtomicUsize,
}

/// Spins, then yields, until `done`.
fn wait(mut done: impl FnMut() -> bool) {
    let mut spins = 0;
    while !done() {
        if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

impl Pool {
    /// A pool of `threads` (at least 1) including the caller's.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            round: Mutex::new(Round { number: 0, threads: 0, job: None }),
            number: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
            arrived: AtomicUsize::new(0),
            barrier: AtomicUsize::new(0),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            pool.workers.push(
                thread::Builder::new().name(format!("engine-{index}")).spawn(move || shared.serve(index))?,
            );
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` on the first `threads` threads and returns when all are done. A panic in any of them comes out here.
    pub fn run<'a>(&mut self, threads: usize, job: &'a (dyn Fn(Worker<'_>) + Sync + 'a)) {
        assert!((1..=self.threads()).contains(&threads));
        assert_float_mode();
        let shared = &*self.shared;
        // SAFETY: the reference is used by workers only until `running` is 0, which this call waits for on every path.
        let job: &'static Job =
            unsafe { std::mem::transmute::<&'a (dyn Fn(Worker<'_>) + Sync + 'a), &'static Job>(job) };
        if threads > 1 {
            shared.running.store(threads - 1, Ordering::Release);
            shared.post(threads, Some(job));
            self.workers[..threads - 1].iter().for_each(|worker| worker.thread().unpark());
        }
        shared.perform(job, 0, threads);
        wait(|| shared.running.load(Ordering::Acquire) == 0);
        if shared.failed.swap(false, Ordering::AcqRel) {
            shared.arrived.store(0, Ordering::Relaxed);
            let panic = shared.panic.lock().take();
            resume_unwind(panic.unwrap_or_else(|| Box::new("an engine thread panicked")));
        }
    }

    /// Runs `job` on as many threads as there are `parts`, each with its own part.
    pub fn each<T: Send>(&mut self, parts: &mut [T], job: impl Fn(Worker<'_>, &mut T) + Sync) {
        let cells: Vec<Mutex<&mut T>> = parts.iter_mut().map(Mutex::new).collect();
        self.run(cells.len(), &|worker| job(worker, &mut cells[worker.index].lock()));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.post(0, None);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panic was caught and has come out of `run`.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Begins a round.
    fn post(&self, threads: usize, job: Option<&'static Job>) {
        let mut round = self.round.lock();
        *round = Round { number: round.number.wrapping_add(1), threads, job };
        self.number.store(round.number, Ordering::Release);
    }

    fn serve(&self, index: usize) {
        assert_float_mode();
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.number.load(Ordering::Acquire) == seen {
                spins += 1;
                if spins < IDLE_SPINS {
                    std::hint::spin_loop();
                } else {
                    thread::park();
                }
            }
            let Round { number, threads, job } = *self.round.lock();
            seen = number;
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if let Some(job) = job.filter(|_| index < threads) {
                self.perform(job, index, threads);
                self.running.fetch_sub(1, Ordering::Release);
            }
        }
    }

    fn perform(&self, job: &Job, index: usize, threads: usize) {
        let worker = Worker { index, of: threads, shared: self };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            self.panic.lock().get_or_insert(panic);
            self.failed.store(true, Ordering::Release);
        }
    }
}

impl Worker<'_> {
    /// Waits until every thread of the job has come here; what they wrote before is visible after.
    pub fn barrier(&self) {
        if self.of == 1 {
            return;
        }
        let shared = self.shared;
        let turn = shared.barrier.load(Ordering::Acquire);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.of {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.barrier.store(turn.wrapping_add(1), Ordering::Release);
            return;
        }
        wait(|| {
            assert!(!shared.failed.load(Ordering::Acquire), "another engine thread panicked");
            shared.barrier.load(Ordering::Acquire) != turn
        });
    }

    /// This thread's part of 0..n, contiguous and as even as possible.
    pub fn share(&self, n: usize) -> std::ops::Range<usize> {
        n * self.index / self.of..n * (self.index + 1) / self.of
    }
}

/// Panics where this thread flushes subnormals or does not round to nearest: a linked fast-math library can set that,
/// and every bit that follows would be wrong.
pub fn assert_float_mode() {
    #[cfg(target_arch = "x86_64")]
    {
        let mut mxcsr = 0u32;
        // SAFETY: stmxcsr writes four bytes to the place given.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
        assert_eq!(
            mxcsr & 0xe040,
            0,
            "MXCSR {mxcsr:#x}: FTZ, DAZ or a rounding mode other than nearest is set"
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        let fpcr: u64;
        // SAFETY: reads a register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nostack)) };
        assert_eq!(
            fpcr & 0x05c8_0003,
            0,
            "FPCR {fpcr:#x}: FZ, FIZ, FZ16, AH, AHP or a rounding mode other than nearest is set"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_meet_at_the_barrier() {
        let mut pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        let mut expected = 0;
        for round in 0..300 {
            let threads = round % 3 + 1;
            expected += threads;
            pool.run(threads, &|worker| {
                count.fetch_add(1, Ordering::SeqCst);
                worker.barrier();
                assert_eq!(count.load(Ordering::SeqCst), expected);
                worker.barrier();
            });
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        let mut pool = Pool::new(4).unwrap();
        let mut parts = vec![Vec::new(); 4];
        pool.each(&mut parts, |worker, part| part.extend(worker.share(10)));
        assert_eq!(parts.concat(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_lives_on() {
        let mut pool = Pool::new(2).unwrap();
        for thread in 0..2 {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                pool.run(2, &|worker| {
                    assert_ne!(worker.index, thread, "as the test wants");
                    worker.barrier();
                })
            }));
            assert!(panicked.is_err());
        }
        let met = AtomicUsize::new(0);
        pool.run(2, &|worker| {
            worker.barrier();
            met.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(met.into_inner(), 2);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn flushing_subnormals_is_noticed() {
        let outcome = thread::spawn(|| {
            let mxcsr = 0x9fc0u32;
            // SAFETY: sets FTZ and DAZ of this thread, which ends here.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack)) };
            assert_float_mode();
        });
        assert!(outcome.join().is_err());
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn flushing_subnormals_and_other_halves_are_noticed() {
        for bit in [24, 26] {
            let outcome = thread::spawn(move || {
                // SAFETY: sets FZ or AHP of this thread, which ends here.
                unsafe { std::arch::asm!("msr fpcr, {}", in(reg) 1u64 << bit, options(nostack)) };
                assert_float_mode();
            });
            assert!(outcome.join().is_err(), "bit {bit}");
        }
    }
}
