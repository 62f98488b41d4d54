//! /v1/embeddings: an encoder behind the same API, alone or beside a language model.

mod queue;

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use base64::prelude::{Engine, BASE64_STANDARD};
use half::f16;
use serde_json::{json, Value};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{timeout_at, Instant};

use self::queue::Queue;
use super::access::Access;
use super::door::{self, Door};
use super::errors::{shown, ApiError, Result};
use super::fields::Fields;
use super::models::{self, Listed};
use super::{unix_seconds, Settings};
use crate::canon::Embedding;
use crate::engine::Embedder;
use crate::model::EncoderModel;

/// Most texts of a request, and most tokens of all of them, as OpenAI has it.
const MAX_TEXTS: usize = 2048;
const MAX_TOKENS: usize = 300_000;
/// Elements of all vectors of an answer.
const MAX_NUMBERS: usize = 1 << 20;
const INPUT_BOUND: &str = "a string, a list of token ids, or a list of one of these";

/// An encoder that is served.
pub struct Embeddings {
    model: Arc<EncoderModel>,
    listed: Listed,
    queue: Queue,
    /// From a request's arrival to its answer.
    timeout: Duration,
    /// For a request's body to arrive.
    patience: Duration,
}

impl Embeddings {
    /// Of `settings` the name, `parallel`, `queue` and the times count. Starts the thread that computes.
    pub fn new(
        model: Arc<EncoderModel>,
        embedder: Embedder,
        settings: &Settings,
    ) -> std::io::Result<Arc<Self>> {
        let listed = Listed {
            id: hex::encode(model.id()),
            name: settings.name.clone(),
            context: model.arch().context,
            since: unix_seconds(),
        };
        let queue = Queue::start(embedder, settings.parallel + settings.queue)?;
        let (timeout, patience) = (settings.timeout, settings.limits.body);
        Ok(Arc::new(Self { model, listed, queue, timeout, patience }))
    }

    /// What it is called.
    pub fn listed(&self) -> &Listed {
        &self.listed
    }

    pub fn is_open(&self) -> bool {
        self.queue.is_open()
    }

    pub fn close(&self) {
        self.queue.close();
    }

    pub fn abort(&self) {
        self.queue.abort();
    }

    pub fn metrics(&self) -> String {
        self.queue.metrics()
    }

    /// The one endpoint.
    pub fn routes<S: Clone + Send + Sync + 'static>(self: &Arc<Self>) -> Router<S> {
        Router::new().route("/v1/embeddings", post(create)).with_state(self.clone())
    }
}

async fn create(
    State(served): State<Arc<Embeddings>>,
    Extension(access): Extension<Arc<Access>>,
    request: Request,
) -> Result<Response> {
    let deadline = Instant::now() + served.timeout;
    let mut fields = Fields::read(request, served.patience).await?;
    let name = fields.string("model")?.ok_or_else(|| ApiError::missing("model", "a model's id"))?;
    served.listed.check(&name)?;
    let arch = served.model.arch();
    let inputs = inputs(fields.need("input", INPUT_BOUND)?, arch.vocab)?;
    let encoding = Encoding::take(&mut fields)?;
    let width = i64::from(arch.width);
    if fields.integer("dimensions", 1, i64::MAX)?.is_some_and(|n| n != width) {
        let why = format!("the model's vectors have {width} elements, and cannot be shortened");
        return Err(ApiError::unsupported("dimensions", why));
    }
    fields.ignore(&["user"]);
    fields.finish()?;

    let numbers = inputs.len() * arch.width as usize;
    if numbers > MAX_NUMBERS {
        let most = MAX_NUMBERS / arch.width as usize;
        let bound = format!("at most {most} texts at once: vectors have {width} elements");
        return Err(ApiError::invalid("input", format!("of {} texts", inputs.len()), bound));
    }
    let place = served.queue.reserve()?;
    let encode = move |model: &EncoderModel| encode(model, inputs);
    let texts = door::aside(&served.model, served.timeout, deadline, encode).await?;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    access.prompt_tokens.store(tokens, Ordering::Relaxed);
    let vectors = timeout_at(deadline, place.embed(texts))
        .await
        .map_err(|_| ApiError::timeout(served.timeout.as_secs_f64()))??;
    // Many numbers are written: not by the threads that serve everybody.
    let id = served.listed.id.clone();
    let body = tokio::task::spawn_blocking(move || body(&vectors, encoding, &id, tokens))
        .await
        .map_err(|_| ApiError::internal("the answer could not be written"))??;
    drop(place);
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// The answer's JSON.
fn body(vectors: &[Embedding], encoding: Encoding, model: &str, tokens: usize) -> Result<Vec<u8>> {
    let data = vectors.iter().enumerate().map(|(index, embedding)| {
        let Embedding { vector, finite: true } = embedding else { return Err(ApiError::numeric(0)) };
        Ok(json!({ "object": "embedding", "index": index, "embedding": encoding.write(vector) }))
    });
    let body = json!({
        "object": "list",
        "data": data.collect::<Result<Vec<Value>>>()?,
        "model": model,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    serde_json::to_vec(&body).map_err(ApiError::internal)
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Numbers.
    Float,
    /// f32, little-endian, in base64: what OpenAI's SDKs ask for.
    Base64,
}

impl Encoding {
    fn take(fields: &mut Fields) -> Result<Self> {
        match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => Ok(Self::Float),
            Some("base64") => Ok(Self::Base64),
            Some(other) => Err(ApiError::invalid("encoding_format", shown(&json!(other)), "float or base64")),
        }
    }

    fn write(self, vector: &[f16]) -> Value {
        let floats = vector.iter().map(|x| x.to_f32());
        match self {
            Self::Float => json!(floats.collect::<Vec<f32>>()),
            Self::Base64 => {
                BASE64_STANDARD.encode(floats.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).into()
            }
        }
    }
}

/// A text, or its tokens, and what it is called in the request.
#[derive(Debug, PartialEq)]
enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

fn inputs(value: Value, vocab: u32) -> Result<Vec<(String, Input)>> {
    let list = match value {
        Value::Array(list) if !list.iter().all(Value::is_number) => list,
        Value::Array(list) if list.is_empty() => {
            return Err(ApiError::invalid("input", "[]", "at least one text"));
        }
        one => return Ok(vec![("input".into(), input("input", one, vocab)?)]),
    };
    if list.len() > MAX_TEXTS {
        return Err(ApiError::invalid(
            "input",
            format!("a list of {}", list.len()),
            format!("at most {MAX_TEXTS} texts"),
        ));
    }
    let named = list.into_iter().enumerate().map(|(n, value)| {
        let name = format!("input[{n}]");
        let input = input(&name, value, vocab)?;
        Ok((name, input))
    });
    named.collect()
}

fn input(name: &str, value: Value, vocab: u32) -> Result<Input> {
    match value {
        Value::String(text) if text.is_empty() => Err(ApiError::invalid(name, "empty", "a text")),
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(list) if list.is_empty() => Err(ApiError::invalid(name, "[]", "at least one token id")),
        Value::Array(list) => {
            let id = |(n, value): (usize, &Value)| {
                value.as_u64().filter(|id| *id < vocab.into()).map(|id| id as u32).ok_or_else(|| {
                    let bound = format!("a token id below the vocabulary of {vocab}");
                    ApiError::invalid(format!("{name}[{n}]"), shown(value), bound)
                })
            };
            Ok(Input::Tokens(list.iter().enumerate().map(id).collect::<Result<_>>()?))
        }
        other => Err(ApiError::invalid(name, shown(&other), INPUT_BOUND)),
    }
}

/// The tokens of all texts, which fit: a text is never cut.
fn encode(model: &EncoderModel, inputs: Vec<(String, Input)>) -> Result<Vec<Vec<u32>>> {
    let (context, mut total) = (model.arch().context as usize, 0);
    let mut texts = Vec::with_capacity(inputs.len());
    for (name, input) in inputs {
        let tokens = match input {
            Input::Tokens(tokens) => tokens,
            Input::Text(text) => model.tokenizer().encode(&text).map_err(|e| ApiError::prompt(&name, &e))?,
        };
        if tokens.len() > context {
            let message = format!("{name} has {} tokens, the context is {context}", tokens.len());
            return Err(ApiError::context(name, message));
        }
        total += tokens.len();
        if total > MAX_TOKENS {
            let bound = format!("at most {MAX_TOKENS} tokens in one request");
            return Err(ApiError::invalid("input", format!("{total} tokens and more"), bound));
        }
        texts.push(tokens);
    }
    Ok(texts)
}

/// An encoder that is served alone.
pub struct EncoderGateway {
    embeddings: Arc<Embeddings>,
    door: Arc<Door>,
    settings: Settings,
}

impl EncoderGateway {
    pub fn new(embeddings: Arc<Embeddings>, settings: Settings) -> Arc<Self> {
        let door = Arc::new(Door { keys: settings.keys.clone(), metrics: Arc::default() });
        Arc::new(Self { embeddings, door, settings })
    }

    /// Everything that is served, as HTTP routes.
    pub fn router(self: &Arc<Self>) -> Router {
        let open = Router::new().route("/health", get(health));
        let guarded = Router::new()
            .route("/v1/chat/completions", post(no_text))
            .route("/v1/completions", post(no_text))
            .route("/v1/models", get(list))
            .route("/v1/models/{id}", get(retrieve))
            .route("/metrics", get(prometheus))
            .merge(self.embeddings.routes());
        door::routes(&self.door, open, guarded).with_state(self.clone())
    }

    /// Serves until `stop` becomes true, and then until the requests under way are answered or the drain is over.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let (close, abort) = (|| self.embeddings.close(), || self.embeddings.abort());
        door::serve(listener, self.router(), &self.settings, stop, close, abort).await
    }

    /// What is counted, in Prometheus' format.
    pub fn metrics(&self) -> String {
        self.door.metrics.text() + &self.embeddings.metrics()
    }
}

async fn no_text() -> ApiError {
    ApiError::unsupported(
        "model",
        "the model that is served is an encoder, and generates no text (/v1/embeddings)",
    )
}

async fn health(State(gateway): State<Arc<EncoderGateway>>) -> Result<Json<Value>> {
    door::health(gateway.embeddings.is_open())
}

async fn list(State(gateway): State<Arc<EncoderGateway>>) -> Json<Value> {
    models::list_of(&[gateway.embeddings.listed()])
}

async fn retrieve(State(gateway): State<Arc<EncoderGateway>>, name: models::Name) -> Result<Json<Value>> {
    models::one_of(&[gateway.embeddings.listed()], name)
}

async fn prometheus(State(gateway): State<Arc<EncoderGateway>>) -> impl IntoResponse {
    door::exposition(gateway.metrics())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_in_all_their_forms() {
        let read = |value: Value| {
            inputs(value, 100).map(|list| list.into_iter().map(|(_, input)| input).collect::<Vec<_>>())
        };
        let text = |s: &str| Input::Text(s.into());
        assert_eq!(read(json!("a")).unwrap(), [text("a")]);
        assert_eq!(read(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(read(json!([7, 99])).unwrap(), [Input::Tokens(vec![7, 99])]);
        assert_eq!(
            read(json!([[7], "b", [9, 8]])).unwrap(),
            [Input::Tokens(vec![7]), text("b"), Input::Tokens(vec![9, 8])]
        );
        for (value, part) in [
            (json!([]), "input is []"),
            (json!(""), "input is empty"),
            (json!(["a", ""]), "input[1] is empty"),
            (json!([[1], []]), "input[1] is []"),
            (json!([1, 100]), "input[1] is 100, must be a token id below the vocabulary of 100"),
            (json!([[1], [2, -1]]), "input[1][1] is -1"),
            (json!([1, "a"]), "input[0] is 1"),
            (json!({ "text": "a" }), "input is"),
            (json!(7), "input is 7"),
            (json!(vec!["a"; 2049]), "at most 2048 texts"),
        ] {
            let error = format!("{:?}", read(value).unwrap_err());
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }

    #[test]
    fn both_encodings_say_the_same() {
        let vector = [0.5, -0.25].map(f16::from_f32);
        assert_eq!(Encoding::Float.write(&vector), json!([0.5, -0.25]));
        assert_eq!(Encoding::Base64.write(&vector), json!("AAAAPwAAgL4="));
    }
}
