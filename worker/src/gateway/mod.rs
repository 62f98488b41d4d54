//! A model behind an HTTP API that speaks OpenAI's dialect, for any OpenAI SDK with a base URL: computed by the engine
//! of this process, or by the workers of a chain.
//! docs/gateway.md lists what is supported and what is refused.
//!
//! A request passes `fields` (its JSON, field by field), an endpoint (`chat`, `completions`), `options` (what both have
//! in common), the `backend` (who answers: the `scheduler` of this process' engine, or the workers of a `chain`) and
//! `answer`, which `stream` or one JSON body carries back. `calls` finds tool calls in it.

mod answer;
mod backend;
mod calls;
mod chain;
mod chat;
mod completions;
mod connections;
mod errors;
mod fields;
mod keys;
mod metrics;
mod models;
mod options;
mod scheduler;
mod stream;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::middleware::{from_fn_with_state, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{json, Value};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use chain::{Ledger, Terms};
pub use connections::Limits;
pub use keys::ApiKeys;
pub use options::{draw_seed, seed, temperature_micros, top_p_micros, TEMPERATURE_BOUND, TOP_P_BOUND};

use crate::engine::Engine;
use crate::metrics::TEXT_FORMAT;
use crate::model::Model;
use crate::request::CANON;
use backend::Backend;
use chain::Tasks;
use errors::ApiError;
use metrics::Metrics;
use scheduler::Scheduler;

/// What connections get to take notice after the drain is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a gateway serves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A name of the model besides its id.
    pub name: Option<String>,
    pub keys: ApiKeys,
    /// Requests that are answered at once.
    pub parallel: usize,
    /// Requests that may wait besides; beyond them the answer is 429.
    pub queue: usize,
    pub limits: Limits,
    /// From a request's arrival to the end of its answer.
    pub timeout: Duration,
    /// What requests under way get when the gateway is told to stop.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            keys: ApiKeys::default(),
            parallel: 64,
            queue: 64,
            limits: Limits::default(),
            timeout: Duration::from_secs(600),
            drain: Duration::from_secs(30),
        }
    }
}

/// A model that is served.
pub struct Gateway {
    model: Arc<Model>,
    /// The model id, hex.
    id: String,
    settings: Settings,
    backend: Backend,
    metrics: Arc<Metrics>,
    /// Seconds since 1970 at which serving began.
    since: u64,
}

impl Gateway {
    /// A gateway to `engine`, which computes `model`. Starts the thread that computes.
    pub fn new(model: Arc<Model>, engine: Engine, settings: Settings) -> std::io::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::default());
        let scheduler =
            Scheduler::start(model.clone(), engine, settings.parallel, settings.queue, metrics.clone())?;
        Ok(Self::behind(model, settings, metrics, Backend::Local(scheduler)))
    }

    /// A gateway to the workers of a chain that serve `model`, which is here for its tokenizer alone.
    pub async fn to_chain(
        model: Arc<Model>,
        settings: Settings,
        terms: Terms,
        ledger: Ledger,
    ) -> anyhow::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::default());
        let tasks =
            Tasks::new(terms, model.clone(), ledger, (settings.parallel, settings.queue), metrics.clone())
                .await?;
        Ok(Self::behind(model, settings, metrics, Backend::Chain(tasks)))
    }

    fn behind(model: Arc<Model>, settings: Settings, metrics: Arc<Metrics>, backend: Backend) -> Arc<Self> {
        let id = hex::encode(model.id());
        Arc::new(Self { model, id, settings, backend, metrics, since: unix_seconds() })
    }

    /// Names the arithmetic and the model: with equal fingerprints, equal requests have equal answers.
    pub fn fingerprint(&self) -> String {
        format!("canon/{CANON}-{}", &self.id[..16])
    }

    /// What is counted, in Prometheus' format.
    pub fn metrics(&self) -> String {
        self.metrics.text() + &self.backend.metrics()
    }

    /// The names that a request may call the model by.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.name.as_deref().into_iter().chain([self.id.as_str()])
    }

    /// Refuses a name of another model.
    fn check_name(&self, name: &str) -> Result<(), ApiError> {
        match self.names().any(|known| known == name) {
            true => Ok(()),
            false => Err(ApiError::no_model(name, &self.names().collect::<Vec<_>>().join(", "))),
        }
    }

    /// Everything that is served, as HTTP routes.
    pub fn router(self: &Arc<Self>) -> Router {
        let open = Router::new().route("/health", get(health));
        let guarded = Router::new()
            .route("/v1/chat/completions", post(chat::create))
            .route("/v1/completions", post(completions::create))
            .route("/v1/embeddings", post(models::embeddings))
            .route("/v1/models", get(models::list))
            .route("/v1/models/{id}", get(models::retrieve))
            .route("/metrics", get(prometheus))
            .route_layer(from_fn_with_state(self.clone(), keys::require));
        open.merge(guarded)
            .fallback(errors::unknown_path)
            .method_not_allowed_fallback(errors::unknown_method)
            .layer(from_fn_with_state(self.clone(), receive))
            .with_state(self.clone())
    }

    /// Serves until `stop` becomes true, and then until the requests under way are answered or the drain is over.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let stopping = |mut stop: watch::Receiver<bool>, gateway: Arc<Self>| async move {
            let _ = stop.wait_for(|stop| *stop).await;
            gateway.backend.close();
        };
        let server = connections::serve(
            listener,
            self.router(),
            self.settings.limits,
            stopping(stop.clone(), self.clone()),
        );
        let patience = async {
            stopping(stop, self.clone()).await;
            tokio::time::sleep(self.settings.drain).await;
            self.backend.abort();
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = server => Ok(()),
            () = patience => Ok(()),
        }
    }
}

/// Refuses to listen where strangers could use the machine.
pub fn check_listen(listen: SocketAddr, keys: &ApiKeys) -> Result<(), String> {
    if listen.ip().is_loopback() || !keys.is_empty() {
        return Ok(());
    }
    Err(format!(
        "listen is {listen}, must be on loopback, as 127.0.0.1:{}, where there are no API keys: anybody who reaches \
         the port could use this machine (--api-key-file FILE)",
        listen.port()
    ))
}

/// Counts every answer. Without keys it serves those alone who call this machine by a local name: a web page could
/// otherwise let its own name resolve to 127.0.0.1 and use the API from a visitor's browser.
async fn receive(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default().to_string());
    let response = match host {
        Some(host) if gateway.settings.keys.is_empty() && !is_local(&host) => {
            ApiError::foreign_host(&host).into_response()
        }
        _ => next.run(request).await,
    };
    gateway.metrics.answered(response.status());
    response
}

fn is_local(host: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if digits(port) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether requests are taken.
async fn health(State(gateway): State<Arc<Gateway>>) -> Result<Json<Value>, ApiError> {
    match gateway.backend.is_open() {
        true => Ok(Json(json!({ "status": "ok" }))),
        false => Err(ApiError::stopping()),
    }
}

async fn prometheus(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], gateway.metrics())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:8080", "10.0.0.1:8080", "127.0.0.1.nip.io"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn strangers_need_keys() {
        let everywhere = "0.0.0.0:8080".parse().unwrap();
        assert!(check_listen(everywhere, &ApiKeys::default()).unwrap_err().contains("--api-key-file"));
        assert!(check_listen("[::1]:1".parse().unwrap(), &ApiKeys::default()).is_ok());
        assert!(check_listen(everywhere, &ApiKeys::parse("0123456789abcdef").unwrap()).is_ok());
    }
}
