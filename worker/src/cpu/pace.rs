//! How many threads decode a token. Threads that decode meet at a barrier five times a layer: on a busy machine, where
//! one of them often waits for a processor, all together can be far slower than one alone. So both are timed. The
//! result is the same in every bit either way.

use std::time::Instant;

/// Times that the comparison looks back on. Its median is not moved by a token that was interrupted once.
const RECENT: usize = 5;
/// Tokens of a trial of the other number of threads.
const TRIAL: u32 = 3;
/// Tokens between two trials: at first, and at most. Each trial that changes nothing doubles them, because it costs.
const TRIAL_EVERY: u32 = 32;
const TRIAL_AT_MOST: u32 = 512;
/// Times slower than at the last trial, and a trial is due at once.
const SLOWER: f64 = 1.5;

/// Which number of threads is the better one at the moment.
pub struct Pace {
    all: usize,
    /// Whether all are used whatever the times say.
    pinned: bool,
    /// Whether all are used, outside trials.
    use_all: bool,
    /// The last times of all threads and of one, in seconds.
    times: [Recent; 2],
    /// Tokens of a trial that are left; 0 outside one.
    trial: u32,
    /// Tokens until the next trial, and between trials.
    next: u32,
    every: u32,
    /// What a token took when the last trial ended.
    expected: f64,
}

/// The last few times.
#[derive(Default)]
struct Recent {
    times: [f64; RECENT],
    count: usize,
}

impl Recent {
    fn push(&mut self, seconds: f64) {
        self.times[self.count % RECENT] = seconds;
        self.count += 1;
    }

    /// Their median; 0 before the first.
    fn median(&self) -> f64 {
        let mut sorted = self.times;
        let known = &mut sorted[..self.count.min(RECENT)];
        known.sort_unstable_by(f64::total_cmp);
        known.get(known.len() / 2).copied().unwrap_or(0.0)
    }
}

impl Pace {
    pub fn new(threads: usize) -> Self {
        Self {
            all: threads,
            pinned: false,
            use_all: true,
            times: Default::default(),
            trial: 0,
            next: TRIAL_EVERY,
            every: TRIAL_EVERY,
            expected: f64::INFINITY,
        }
    }

    /// Always all threads.
    pub fn pinned(threads: usize) -> Self {
        Self { pinned: true, ..Self::new(threads) }
    }

    /// The better number of threads: all or one.
    pub fn threads(&self) -> usize {
        if self.use_all {
            self.all
        } else {
            1
        }
    }

    /// Computes a token with the number of threads that is better, or in a trial with the other.
    pub fn time<T>(&mut self, decode: impl FnOnce(usize) -> T) -> T {
        let start = Instant::now();
        let result = decode(self.next_threads());
        self.took(start.elapsed().as_secs_f64());
        result
    }

    /// Whether the next token is computed by all threads.
    fn next_is_all(&self) -> bool {
        self.pinned || self.use_all != (self.trial > 0)
    }

    fn next_threads(&self) -> usize {
        if self.next_is_all() {
            self.all
        } else {
            1
        }
    }

    /// The time of the token that was computed, in seconds.
    fn took(&mut self, seconds: f64) {
        if self.pinned || self.all == 1 {
            return;
        }
        self.times[usize::from(!self.next_is_all())].push(seconds);
        if self.trial > 0 {
            self.trial -= 1;
            if self.trial == 0 {
                self.judge();
            }
        } else {
            self.next -= 1;
            if self.next == 0 || self.using().median() > SLOWER * self.expected {
                *self.other() = Recent::default();
                self.trial = TRIAL;
            }
        }
    }

    /// The end of a trial.
    fn judge(&mut self) {
        let (using, tried) = (self.using().median(), self.other().median());
        if tried < using {
            self.use_all = !self.use_all;
            self.every = TRIAL_EVERY;
        } else if using > SLOWER * self.expected {
            self.every = TRIAL_EVERY;
        } else {
            self.every = (self.every * 2).min(TRIAL_AT_MOST);
        }
        self.expected = using.min(tried);
        self.next = self.every;
    }

    /// The times of what is used outside trials.
    fn using(&self) -> &Recent {
        &self.times[usize::from(!self.use_all)]
    }

    /// The times of what is not.
    fn other(&mut self) -> &mut Recent {
        &mut self.times[usize::from(self.use_all)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The threads of so many tokens, where one thread takes `one` microseconds for each and all together `all`.
    fn chosen(pace: &mut Pace, tokens: usize, one: u32, all: u32) -> Vec<usize> {
        let token = |_| {
            let n = pace.next_threads();
            pace.took(1e-6 * f64::from(if n == 1 { one } else { all }));
            n
        };
        (0..tokens).map(token).collect()
    }

    #[test]
    fn the_faster_is_used_and_the_other_tried() {
        let mut pace = Pace::new(4);
        let quiet = chosen(&mut pace, 200, 8_000, 200);
        assert!(quiet.iter().filter(|n| **n == 4).count() > 180);
        assert!(quiet.contains(&1));
        let busy = chosen(&mut pace, 200, 200, 20_000);
        assert!(busy[20..].iter().filter(|n| **n == 1).count() > 160, "{busy:?}");
        assert!(busy[20..].contains(&4));
        let quiet = chosen(&mut pace, 300, 8_000, 200);
        assert!(quiet[200..].iter().filter(|n| **n == 4).count() > 90, "{quiet:?}");
        assert!(chosen(&mut Pace::new(1), 100, 0, 0).iter().all(|n| *n == 1));
    }

    #[test]
    fn a_token_that_was_interrupted_decides_nothing() {
        let mut pace = Pace::new(2);
        for _ in 0..20 {
            chosen(&mut pace, 1, 40_000, 40_000);
            let used = chosen(&mut pace, 8, 4_000, 1_000);
            assert!(used.iter().filter(|n| **n == 1).count() <= TRIAL as usize, "{used:?}");
            assert_eq!(pace.threads(), 2);
        }
    }
}
