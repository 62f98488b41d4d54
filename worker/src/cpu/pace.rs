//! How many threads decode a token. Threads that decode meet at a barrier five times a layer: on a busy machine, where
//! one of them often waits for a processor, all together can be far slower than one alone. So both are timed. The
//! result is the same in every bit either way.

use std::time::Instant;

/// Tokens between two trials of what is slower at the moment.
const TRIAL_EVERY: u32 = 64;
/// Weight of a new time in its moving average.
const NEW: f64 = 0.25;

/// Moving averages of a token's seconds.
pub struct Pace {
    all: usize,
    /// Whether all are used whatever the times say.
    pinned: bool,
    with_all: f64,
    with_one: f64,
    tokens: u32,
}

impl Pace {
    pub fn new(threads: usize) -> Self {
        Self { all: threads, pinned: false, with_all: 0.0, with_one: 0.0, tokens: 0 }
    }

    /// Always all threads.
    pub fn pinned(threads: usize) -> Self {
        Self { pinned: true, ..Self::new(threads) }
    }

    /// The better number of threads: all or one. What has not been timed yet counts as fast.
    pub fn threads(&self) -> usize {
        if self.pinned || self.with_all <= self.with_one {
            self.all
        } else {
            1
        }
    }

    /// Computes a token with the number of threads that is better, or now and then with the other.
    pub fn time<T>(&mut self, decode: impl FnOnce(usize) -> T) -> T {
        self.tokens = (self.tokens + 1) % TRIAL_EVERY;
        let better_is_all = self.threads() == self.all;
        let use_all = self.pinned || self.all == 1 || better_is_all != (self.tokens == 0);
        let start = Instant::now();
        let result = decode(if use_all { self.all } else { 1 });
        let seconds = start.elapsed().as_secs_f64();
        let average = if use_all { &mut self.with_all } else { &mut self.with_one };
        *average = if *average == 0.0 { seconds } else { *average + NEW * (seconds - *average) };
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn chosen(pace: &mut Pace, tokens: usize, one: u64, all: u64) -> Vec<usize> {
        let wait = |n| std::thread::sleep(Duration::from_micros(if n == 1 { one } else { all }));
        (0..tokens).map(|_| pace.time(|n| (wait(n), n).1)).collect()
    }

    #[test]
    fn the_faster_is_used_and_the_other_tried() {
        let mut pace = Pace::new(4);
        let quiet = chosen(&mut pace, 130, 8_000, 200);
        assert!(quiet.iter().filter(|n| **n == 4).count() > 120);
        assert!(quiet[10..].contains(&1));
        let busy = chosen(&mut pace, 130, 200, 20_000);
        assert!(busy[20..].iter().filter(|n| **n == 1).count() > 100);
        assert!(busy[20..].contains(&4));
        assert!(chosen(&mut Pace::new(1), 100, 0, 0).iter().all(|n| *n == 1));
    }
}
