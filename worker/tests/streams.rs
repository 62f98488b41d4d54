//! 64 streams at once against `serve`: nobody is left behind, no memory leaks. Some seconds with a generated model;
//! `make test-streams` has a minute with the real one, and shows the figures.
//!
//! DEEPNODE_STREAMS_SECONDS and DEEPNODE_STREAMS_MODEL change that.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deepnode_worker::canon::Architecture;
use deepnode_worker::model::{dequant::Encoding, import, synthetic};
use futures::future::join_all;
use serde_json::{json, Value};

const STREAMS: usize = 64;
/// Keys and values that the server may keep: a page a stream, so that they are all in use soon, and memory that grows
/// then is a leak.
const POSITIONS: usize = STREAMS * 128;
/// Of a run, after which memory must not grow any more.
const SETTLED: f64 = 1.0 / 6.0;
const MOST_GROWTH: f64 = 0.02;
/// What the allocator may still take of a small process, whose memory that part is less of; bytes.
const SLACK: f64 = 4e6;

/// The server, killed when dropped.
struct Server {
    child: Child,
    base: String,
}

impl Server {
    fn start(home: &Path, model: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_deepnode-worker"))
            .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--name", "test", "--home"])
            .arg(home)
            .arg("--model")
            .arg(model)
            .args(["--positions", &POSITIONS.to_string(), "--parallel", &STREAMS.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut base = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut base).unwrap();
        assert!(base.starts_with("http://"), "the server did not start");
        Self { child, base: base.trim().into() }
    }

    /// Memory of the process, in bytes.
    fn memory(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one stream saw.
#[derive(Default)]
struct Seen {
    tokens: usize,
    /// From each request to its first token, and from token to token, seconds.
    first: Vec<f64>,
    between: Vec<f64>,
}

/// Asks one request after the other until the time is over.
async fn stream(base: &str, number: usize, end: Instant) -> Seen {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut seen = Seen::default();
    for round in 0.. {
        let body = json!({
            "model": "test", "stream": true, "seed": number * 1000 + round, "temperature": 1, "max_tokens": 80,
            "messages": [{ "role": "user", "content": format!("Tell me a story of the number {number}.") }],
        });
        let request =
            client.post(format!("{base}/chat/completions")).header("content-type", "application/json");
        let mut last = Instant::now();
        let mut response = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut text, mut told, mut done) = (Vec::new(), 0, false);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(chunk) = tokio::time::timeout(left, response.chunk()).await else { return seen };
            let Some(chunk) = chunk.unwrap() else { break };
            text.extend_from_slice(&chunk);
            while let Some(at) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..at + 2).collect();
                let event = String::from_utf8(event).unwrap();
                done |= event == "data: [DONE]\n\n";
                let Some(data) = event.strip_prefix("data: {") else { continue };
                let data: Value = serde_json::from_str(&format!("{{{data}")).unwrap();
                assert!(data.get("error").is_none(), "{data}");
                if data["choices"][0]["delta"]["content"].as_str().is_none_or(str::is_empty) {
                    continue;
                }
                let since = last.elapsed().as_secs_f64();
                if told == 0 {
                    seen.first.push(since)
                } else {
                    seen.between.push(since)
                }
                last = Instant::now();
                told += 1;
                seen.tokens += 1;
            }
        }
        assert!(done && text.is_empty(), "{}", String::from_utf8_lossy(&text));
    }
    seen
}

/// The value below which so much of all values are.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

fn generated(folder: &Path) -> PathBuf {
    let arch = Architecture { layers: 4, width: 256, ffn: 768, context: 512, ..synthetic::small() };
    let gguf = folder.join("model.gguf");
    std::fs::write(&gguf, synthetic::gguf(&arch, Encoding::F16, 7)).unwrap();
    import(&gguf, folder, &|_| {}).unwrap().path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let seconds = std::env::var("DEEPNODE_STREAMS_SECONDS").map_or(6.0, |text| text.parse().unwrap());
    let model = match std::env::var("DEEPNODE_STREAMS_MODEL") {
        Ok(path) => std::path::absolute(path).unwrap(),
        Err(_) => generated(home.path()),
    };
    let server = Server::start(home.path(), &model);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    let memory = async {
        tokio::time::sleep(Duration::from_secs_f64(seconds * SETTLED)).await;
        let settled = server.memory();
        let mut most = settled;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(200)).await;
            most = most.max(server.memory());
        }
        (settled, most)
    };
    let streams = join_all((0..STREAMS).map(|number| stream(&server.base, number, end)));
    let (seen, (settled, most)) = tokio::join!(streams, memory);

    let tokens: Vec<usize> = seen.iter().map(|seen| seen.tokens).collect();
    let (total, least) = (tokens.iter().sum::<usize>() as f64, *tokens.iter().min().unwrap() as f64);
    let mut first: Vec<f64> = seen.iter().flat_map(|seen| seen.first.clone()).collect();
    let mut between: Vec<f64> = seen.iter().flat_map(|seen| seen.between.clone()).collect();
    let mean = total / STREAMS as f64;
    println!(
        "{STREAMS} streams for {seconds} s: {:.1} tokens/s in {} requests",
        total / seconds,
        first.len()
    );
    println!("tokens of a stream: mean {mean:.1}, least {least}, most {}", tokens.iter().max().unwrap());
    let line = |name: &str, values: &mut [f64]| {
        let (p50, p99) = (quantile(values, 0.5) * 1e3, quantile(values, 0.99) * 1e3);
        println!("{name}: p50 {p50:.0} ms, p99 {p99:.0} ms");
    };
    line("time to the first token", &mut first);
    line("from token to token", &mut between);
    let growth = most / settled - 1.0;
    println!(
        "memory: {:.1} MB after {:.0} s, then at most {:+.2} %",
        settled / 1e6,
        seconds * SETTLED,
        growth * 1e2
    );
    assert!(least >= mean / 2.0, "{tokens:?}");
    assert!(most - settled < SLACK.max(settled * MOST_GROWTH), "{growth}");
}
