//! What a node counts, in Prometheus' text format. CometBFT has its own, about peers, rounds and the mempool.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

/// Upper bounds of a histogram's buckets, in milliseconds.
const BUCKETS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000];

/// Counters since the process began, and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    height: AtomicU64,
    /// Transactions in blocks: those that succeeded and those that failed.
    delivered: [AtomicU64; 2],
    gas_used: AtomicU64,
    /// CheckTx of new transactions, accepted and refused, then of those that wait.
    checked: [AtomicU64; 2],
    rechecked: [AtomicU64; 2],
    /// Proposals of others, accepted and rejected.
    proposals: [AtomicU64; 2],
    queries: [AtomicU64; 2],
    execution: Histogram,
    commit: Histogram,
}

fn count(of: &[AtomicU64; 2], good: bool) {
    of[usize::from(!good)].fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// The committed height.
    pub fn height(&self, height: u64) {
        self.height.store(height, Ordering::Relaxed);
    }

    /// A block was executed; `codes` and gas are those of its transactions.
    pub fn executed(&self, since: Instant, txs: impl Iterator<Item = (u32, i64)>) {
        self.execution.observe(since.elapsed());
        for (code, gas) in txs {
            count(&self.delivered, code == 0);
            self.gas_used.fetch_add(u64::try_from(gas).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// A block was written.
    pub fn committed(&self, since: Instant, height: u64) {
        self.commit.observe(since.elapsed());
        self.height(height);
    }

    pub fn checked(&self, recheck: bool, accepted: bool) {
        count(if recheck { &self.rechecked } else { &self.checked }, accepted);
    }

    pub fn proposal(&self, accepted: bool) {
        count(&self.proposals, accepted);
    }

    pub fn query(&self, answered: bool) {
        count(&self.queries, answered);
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let pair = |label: &str, good: &str, bad: &str, n: &[AtomicU64; 2]| {
            vec![
                (format!("{{{label}=\"{good}\"}}"), of(&n[0])),
                (format!("{{{label}=\"{bad}\"}}"), of(&n[1])),
            ]
        };
        let mut checks = Vec::new();
        for (kind, n) in [("new", &self.checked), ("recheck", &self.rechecked)] {
            for (result, n) in [("accepted", &n[0]), ("refused", &n[1])] {
                checks.push((format!("{{kind=\"{kind}\",result=\"{result}\"}}"), of(n)));
            }
        }
        let plain = |n: &AtomicU64| vec![(String::new(), of(n))];
        put(&mut out, "block_height", "gauge", "The committed height.", &plain(&self.height));
        let txs = pair("result", "ok", "failed", &self.delivered);
        put(&mut out, "txs_total", "counter", "Transactions in executed blocks.", &txs);
        put(&mut out, "gas_used_total", "counter", "Gas that they used.", &plain(&self.gas_used));
        put(&mut out, "checktx_total", "counter", "Transactions checked for the mempool.", &checks);
        let proposals = pair("result", "accepted", "rejected", &self.proposals);
        put(&mut out, "proposals_total", "counter", "Proposals checked before a vote.", &proposals);
        let queries = pair("result", "ok", "error", &self.queries);
        put(&mut out, "queries_total", "counter", "Queries over ABCI, gRPC and REST.", &queries);
        self.execution.put(&mut out, "block_execution_seconds", "From FinalizeBlock's call to its answer.");
        self.commit.put(&mut out, "block_commit_seconds", "Writing a block durably.");
        out
    }

    /// An answer to `GET /metrics`.
    pub fn response(&self) -> axum::response::Response {
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], self.text()).into_response()
    }
}

/// Answers `/metrics`, and nothing else, until the process ends.
pub async fn serve(metrics: Arc<Metrics>, listener: tokio::net::TcpListener) -> std::io::Result<()> {
    let answer = move || async move { metrics.response() };
    axum::serve(listener, axum::Router::new().route("/metrics", axum::routing::get(answer))).await
}

fn put(out: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, u64)]) {
    let _ = writeln!(out, "# HELP deepnode_{name} {help}\n# TYPE deepnode_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(out, "deepnode_{name}{labels} {value}");
    }
}

#[derive(Debug, Default)]
struct Histogram {
    /// The last is for what is above all bounds.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let index = BUCKETS.iter().position(|ms| micros <= ms * 1_000).unwrap_or(BUCKETS.len());
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn put(&self, out: &mut String, name: &str, help: &str) {
        put(out, name, "histogram", help, &[]);
        let mut total = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            total += n.load(Ordering::Relaxed);
            let bound = BUCKETS.get(index).map_or("+Inf".into(), |ms| (*ms as f64 / 1e3).to_string());
            let _ = writeln!(out, "deepnode_{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "deepnode_{name}_sum {seconds}\ndeepnode_{name}_count {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_counters_have_their_labels() {
        let metrics = Metrics::default();
        metrics.execution.observe(Duration::from_millis(7));
        metrics.execution.observe(Duration::from_secs(60));
        metrics.executed(Instant::now(), [(0, 5), (11, 7)].into_iter());
        metrics.checked(true, false);
        metrics.committed(Instant::now(), 9);
        let text = metrics.text();
        for line in [
            "deepnode_block_height 9",
            "deepnode_txs_total{result=\"failed\"} 1",
            "deepnode_gas_used_total 12",
            "deepnode_checktx_total{kind=\"recheck\",result=\"refused\"} 1",
            "deepnode_block_execution_seconds_bucket{le=\"0.01\"} 2",
            "deepnode_block_execution_seconds_bucket{le=\"5\"} 2",
            "deepnode_block_execution_seconds_bucket{le=\"+Inf\"} 3",
            "deepnode_block_execution_seconds_count 3",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
    }
}
