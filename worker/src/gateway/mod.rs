//! A model behind an HTTP API that speaks OpenAI's dialect, for any OpenAI SDK with a base URL: computed by the engine
//! of this process, or by the workers of a chain.
//! docs/gateway.md lists what is supported and what is refused.
//!
//! A request passes `fields` (its JSON, field by field), an endpoint (`chat`, `completions`), `options` (what both have
//! in common), the `backend` (who answers: the `scheduler` of this process' engine, or the workers of a `chain`) and
//! `answer`, which `stream` or one JSON body carries back. `calls` finds tool calls in it. `embeddings` serves an encoder,
//! alone or beside the model; `door` is what all requests pass, and `access` the log of
//! them.

mod access;
mod answer;
mod backend;
mod calls;
mod chain;
mod chat;
mod completions;
mod connections;
mod door;
mod embeddings;
mod errors;
mod fields;
mod keys;
mod logprobs;
mod metrics;
mod models;
mod options;
mod scheduler;
mod stream;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use chain::{Ledger, Terms};
pub use connections::Limits;
pub use embeddings::{Embeddings, EncoderGateway};
pub use keys::ApiKeys;
pub use options::{draw_seed, seed, temperature_micros, top_p_micros, TEMPERATURE_BOUND, TOP_P_BOUND};

use crate::engine::Engine;
use crate::model::Model;
use crate::request::CANON;
use backend::Backend;
use chain::Tasks;
use door::Door;
use errors::ApiError;
use metrics::Metrics;
use models::Listed;
use scheduler::Scheduler;

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
    listed: Listed,
    /// An encoder beside the model.
    embeddings: Option<Arc<Embeddings>>,
}

impl Gateway {
    /// A gateway to `engine`, which computes `model`. Starts the thread that computes.
    pub fn new(model: Arc<Model>, engine: Engine, settings: Settings) -> std::io::Result<Arc<Self>> {
        Self::with(model, engine, settings, None)
    }

    /// The same with an encoder beside the model, if there is one.
    pub fn with(
        model: Arc<Model>,
        engine: Engine,
        settings: Settings,
        embeddings: Option<Arc<Embeddings>>,
    ) -> std::io::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::default());
        let scheduler =
            Scheduler::start(model.clone(), engine, settings.parallel, settings.queue, metrics.clone())?;
        Self::behind(model, settings, metrics, Backend::Local(scheduler), embeddings)
    }

    /// A gateway to the workers of a chain that serve `model`, which is here for its tokenizer alone. An encoder beside it
    /// is computed here.
    pub async fn to_chain(
        model: Arc<Model>,
        settings: Settings,
        terms: Terms,
        ledger: Ledger,
        embeddings: Option<Arc<Embeddings>>,
    ) -> anyhow::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::default());
        let tasks =
            Tasks::new(terms, model.clone(), ledger, (settings.parallel, settings.queue), metrics.clone())
                .await?;
        Ok(Self::behind(model, settings, metrics, Backend::Chain(tasks), embeddings)?)
    }

    fn behind(
        model: Arc<Model>,
        settings: Settings,
        metrics: Arc<Metrics>,
        backend: Backend,
        embeddings: Option<Arc<Embeddings>>,
    ) -> std::io::Result<Arc<Self>> {
        let id = hex::encode(model.id());
        let (name, context, since) = (settings.name.clone(), model.arch().context, unix_seconds());
        let listed = Listed { id: id.clone(), name, context, since };
        let taken = |name: &&str| embeddings.as_ref().is_some_and(|other| other.listed().is(name));
        if let Some(name) = listed.names().find(taken) {
            let reason = format!("the name {name:?} is the encoder's: choose another (--name)");
            return Err(std::io::Error::other(reason));
        }
        Ok(Arc::new(Self { model, id, settings, backend, metrics, listed, embeddings }))
    }

    /// Names the arithmetic and the model: with equal fingerprints, equal requests have equal answers.
    pub fn fingerprint(&self) -> String {
        format!("canon/{CANON}-{}", &self.id[..16])
    }

    /// What is counted, in Prometheus' format.
    pub fn metrics(&self) -> String {
        let embeddings = self.embeddings.as_ref().map(|embeddings| embeddings.metrics());
        self.metrics.text() + &self.backend.metrics() + &embeddings.unwrap_or_default()
    }

    /// All models that are served.
    fn listed(&self) -> Vec<&Listed> {
        [&self.listed]
            .into_iter()
            .chain(self.embeddings.as_ref().map(|embeddings| embeddings.listed()))
            .collect()
    }

    /// Refuses a name of another model than the one that generates text.
    fn check_name(&self, name: &str) -> Result<(), ApiError> {
        match &self.embeddings {
            Some(embeddings) if embeddings.listed().is(name) => {
                let why = format!("{name} is an encoder, and generates no text (/v1/embeddings)");
                Err(ApiError::unsupported("model", why))
            }
            _ => self.listed.check(name),
        }
    }

    /// Everything that is served, as HTTP routes.
    pub fn router(self: &Arc<Self>) -> Router {
        let open = Router::new().route("/health", get(health));
        let guarded = Router::new()
            .route("/v1/chat/completions", post(chat::create))
            .route("/v1/completions", post(completions::create))
            .route("/v1/models", get(models::list))
            .route("/v1/models/{id}", get(models::retrieve))
            .route("/metrics", get(prometheus));
        let guarded = match &self.embeddings {
            Some(embeddings) => guarded.merge(embeddings.routes()),
            None => guarded.route("/v1/embeddings", post(models::no_embeddings)),
        };
        let door = Arc::new(Door { keys: self.settings.keys.clone(), metrics: self.metrics.clone() });
        door::routes(&door, open, guarded).with_state(self.clone())
    }

    /// Serves until `stop` becomes true, and then until the requests under way are answered or the drain is over, and what
    /// they cost is written down.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let close = || {
            self.backend.close();
            self.embeddings.iter().for_each(|embeddings| embeddings.close());
        };
        let abort = || {
            self.backend.abort();
            self.embeddings.iter().for_each(|embeddings| embeddings.abort());
        };
        door::serve(listener, self.router(), &self.settings, stop, close, abort).await?;
        self.backend.settle().await;
        Ok(())
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

/// Whether requests are taken.
async fn health(State(gateway): State<Arc<Gateway>>) -> Result<Json<Value>, ApiError> {
    door::health(gateway.backend.is_open())
}

async fn prometheus(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    door::exposition(gateway.metrics())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_need_keys() {
        let everywhere = "0.0.0.0:8080".parse().unwrap();
        assert!(check_listen(everywhere, &ApiKeys::default()).unwrap_err().contains("--api-key-file"));
        assert!(check_listen("[::1]:1".parse().unwrap(), &ApiKeys::default()).is_ok());
        assert!(check_listen(everywhere, &ApiKeys::parse("0123456789abcdef").unwrap()).is_ok());
    }
}
