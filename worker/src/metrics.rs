//! What the worker counts, in Prometheus' text format, on a loopback port.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::Router;

/// Counters since the process began, and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    pub submitted: AtomicU64,
    pub declined: AtomicU64,
    /// Taken away by the chain before a receipt.
    pub lost: AtomicU64,
    /// Attempts that ended in an error; they are tried again.
    pub failed: AtomicU64,
    pub output_tokens: AtomicU64,
    /// Spent generating, of all tasks together.
    pub busy_millis: AtomicU64,
    pub running: AtomicU64,
    pub queued: AtomicU64,
    /// 1 since a spare device computes.
    pub device_failed: AtomicU64,
    /// 1 since the worker accepts no more tasks.
    pub stopping: AtomicU64,
}

/// Help of the gauge that says so.
pub(crate) const DEVICE_FAILED: &str = "Whether the spare device computes, since the first one failed.";

impl Metrics {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Raises a gauge until the guard is dropped.
    pub fn raise(gauge: &AtomicU64) -> Raised<'_> {
        gauge.fetch_add(1, Ordering::Relaxed);
        Raised(gauge)
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = Exposition::default();
        let mut put = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
            text.put(name, kind, help, samples);
        };
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let outcomes = [
            ("{outcome=\"submitted\"}", of(&self.submitted)),
            ("{outcome=\"declined\"}", of(&self.declined)),
            ("{outcome=\"lost\"}", of(&self.lost)),
            ("{outcome=\"failed\"}", of(&self.failed)),
        ];
        put("tasks_total", "counter", "Tasks by what became of them.", &outcomes);
        put("output_tokens_total", "counter", "Tokens generated.", &[("", of(&self.output_tokens))]);
        let seconds = of(&self.busy_millis) / 1000.0;
        put(
            "busy_seconds_total",
            "counter",
            "Time spent generating, of all tasks together.",
            &[("", seconds)],
        );
        put("running", "gauge", "Tasks that generate now.", &[("", of(&self.running))]);
        put("queued", "gauge", "Tasks that wait for their turn.", &[("", of(&self.queued))]);
        put("device_failed", "gauge", DEVICE_FAILED, &[("", of(&self.device_failed))]);
        let help = "1 since the worker accepts no more tasks: it was told to stop, or its device failed.";
        put("stopping", "gauge", help, &[("", of(&self.stopping))]);
        text.0
    }
}

/// Text in Prometheus' format.
#[derive(Debug, Default)]
pub(crate) struct Exposition(pub String);

impl Exposition {
    /// A family of samples, each with its labels in braces or none.
    pub fn put<L: AsRef<str>>(&mut self, name: &str, kind: &str, help: &str, samples: &[(L, f64)]) {
        let _ =
            writeln!(self.0, "# HELP deepnode_worker_{name} {help}\n# TYPE deepnode_worker_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "deepnode_worker_{name}{} {value}", labels.as_ref());
        }
    }
}

/// Media type of that text.
pub(crate) const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// Lowers its gauge when dropped.
#[derive(Debug)]
pub struct Raised<'a>(&'a AtomicU64);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers `/metrics` until the process ends.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let answer = move || {
        let text = metrics.text();
        async move { ([(CONTENT_TYPE, TEXT_FORMAT)], text) }
    };
    axum::serve(listener, Router::new().route("/metrics", get(answer))).await
}
