//! What the gateway counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;

use crate::engine::Load;
use crate::metrics::Exposition;

/// Counters since the process began, and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    answers: Mutex<BTreeMap<u16, u64>>,
    pub prompt_tokens: AtomicU64,
    pub output_tokens: AtomicU64,
    /// Generations that ended by themselves.
    pub finished: AtomicU64,
    /// Generations that nobody waited for any more.
    pub cancelled: AtomicU64,
    busy_micros: AtomicU64,
    pub running: AtomicU64,
    pub queued: AtomicU64,
}

impl Metrics {
    pub fn answered(&self, status: StatusCode) {
        *self.answers.lock().entry(status.as_u16()).or_default() += 1;
    }

    /// A generation took this long.
    pub fn busy(&self, time: Duration) {
        self.busy_micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// What the engine's runner did in a step.
    pub fn load(&self, load: Load) {
        self.busy(load.busy);
        self.running.store(load.running as u64, Ordering::Relaxed);
        self.queued.store(load.waiting as u64, Ordering::Relaxed);
    }

    /// Seconds after which a place in the queue may be free, from what generations took so far.
    pub fn retry_after(&self) -> u32 {
        let ended = self.finished.load(Ordering::Relaxed) + self.cancelled.load(Ordering::Relaxed);
        let seconds = self.busy_micros.load(Ordering::Relaxed) / 1_000_000 / ended.max(1);
        seconds.clamp(1, 60) as u32
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = Exposition::default();
        let answers: Vec<(String, f64)> = self
            .answers
            .lock()
            .iter()
            .map(|(status, n)| (format!("{{status=\"{status}\"}}"), *n as f64))
            .collect();
        text.put("gateway_answers_total", "counter", "Answers by HTTP status.", &answers);
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let ends = [("{end=\"finished\"}", of(&self.finished)), ("{end=\"cancelled\"}", of(&self.cancelled))];
        text.put("gateway_generations_total", "counter", "Generations by how they ended.", &ends);
        let mut put = |name, kind, help, value| text.put(name, kind, help, &[("", value)]);
        put("gateway_prompt_tokens_total", "counter", "Tokens of prompts.", of(&self.prompt_tokens));
        put("gateway_output_tokens_total", "counter", "Tokens generated.", of(&self.output_tokens));
        let seconds = of(&self.busy_micros) / 1e6;
        put("gateway_busy_seconds_total", "counter", "Time spent generating.", seconds);
        put("gateway_running", "gauge", "Answers that are computed now.", of(&self.running));
        put("gateway_queued", "gauge", "Answers that wait for their turn.", of(&self.queued));
        text.0
    }
}
