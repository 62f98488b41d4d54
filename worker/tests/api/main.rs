//! The API over real HTTP, with small generated models.

mod embeddings;
mod generation;

use std::future::Future;
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A server on a free port. Each kind of model has its constructors where it is tested.
struct Server {
    base: String,
    client: Client,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn listen<F, S>(serve: F) -> Self
    where
        F: FnOnce(TcpListener, watch::Receiver<bool>) -> S,
        S: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, stopped));
        Self { base, client: Client::builder().no_proxy().build().unwrap(), stop, serving }
    }

    fn send(&self, path: &str, body: &Value) -> impl Future<Output = reqwest::Result<Response>> {
        self.client
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.send(path, body).await.unwrap();
        let status = response.status();
        (status, json_of(response).await)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    /// A number of /metrics.
    async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("deepnode_worker_gateway_{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    async fn until(&self, name: &str, value: u64) {
        let began = Instant::now();
        while self.metric(name).await != value {
            assert!(began.elapsed() < Duration::from_secs(30), "{name} is not {value}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn json_of(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}
