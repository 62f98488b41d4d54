//! Errors, in the shape that OpenAI's SDKs read.

use std::fmt::Display;

use axum::http::header::{HeaderName, ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};

use super::scheduler::{Failure, Refused};
use crate::engine;
use crate::model::ModelError;

/// Greatest number of bytes of a user's value that an error repeats.
const SHOWN: usize = 100;
/// Tells OpenAI's SDKs whether trying again makes sense; without it they try twice after each 5xx.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        Self { status, message: message.into(), kind, param: None, code: None, headers: Vec::new() }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The request as a whole cannot be read.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message).code("invalid_body")
    }

    /// A field outside its bound.
    pub fn invalid(field: impl Into<String>, value: impl Display, bound: impl Display) -> Self {
        let field = field.into();
        let message = format!("{field} is {value}, must be {bound}");
        Self { param: Some(field), ..Self::new(StatusCode::BAD_REQUEST, message).code("invalid_value") }
    }

    pub fn missing(field: impl Into<String>, bound: impl Display) -> Self {
        let field = field.into();
        let message = format!("{field} is missing, must be {bound}");
        Self {
            param: Some(field),
            ..Self::new(StatusCode::BAD_REQUEST, message).code("missing_required_parameter")
        }
    }

    /// A field that would change the answer if it were heeded.
    pub fn unsupported(field: impl Into<String>, why: impl Display) -> Self {
        let field = field.into();
        let message = format!("{field} is not supported: {why}");
        Self {
            param: Some(field),
            ..Self::new(StatusCode::BAD_REQUEST, message).code("unsupported_parameter")
        }
    }

    /// Prompt and output do not fit.
    pub fn context(field: impl Into<String>, message: String) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, message).code("context_length_exceeded");
        Self { param: Some(field.into()), ..error }
    }

    /// The prompt's text cannot become tokens.
    pub fn prompt(field: &str, error: &ModelError) -> Self {
        if error.is_of_this_machine() {
            return Self::internal(error);
        }
        let error = Self::new(StatusCode::BAD_REQUEST, format!("{field}: {error}")).code("invalid_value");
        Self { param: Some(field.into()), ..error }
    }

    pub fn no_model(name: &str, known: &str) -> Self {
        let message = format!("model is {}, must be one of {known}", shown(&json!(name)));
        let error = Self::new(StatusCode::NOT_FOUND, message).code("model_not_found");
        Self { param: Some("model".into()), ..error }
    }

    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
            .code("invalid_api_key")
            .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    pub fn foreign_host(host: &str) -> Self {
        let message = format!(
            "the Host header is {}, must be localhost or a loopback address where there are no API keys (--api-key-file)",
            shown(&json!(host))
        );
        Self::new(StatusCode::FORBIDDEN, message).code("foreign_host")
    }

    pub fn media_type(found: &str) -> Self {
        let message = format!("content-type is {}, must be application/json", shown(&json!(found)));
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).code("unsupported_media_type")
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body has more bytes than the greatest number, {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large")
    }

    /// No place for another request.
    pub fn full(waiting: usize, retry_after: u32) -> Self {
        let message = format!("the queue is full: {waiting} requests wait, which is the greatest number");
        Self::rate_limit(message).header(RETRY_AFTER, retry_after)
    }

    /// More requests a minute than the key may send.
    pub fn too_many(per_minute: u32, retry_after: u32) -> Self {
        let message = format!("the API key may send {per_minute} requests a minute");
        Self::rate_limit(message).header(RETRY_AFTER, retry_after)
    }

    fn rate_limit(message: String) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded");
        Self { kind: "rate_limit_error", ..error }
    }

    /// The money is used up, for a while or for good.
    pub fn quota(message: String, retry_after: Option<u32>) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("insufficient_quota");
        let error = Self { kind: "insufficient_quota", ..error }.final_word();
        retry_after.into_iter().fold(error, |error, seconds| error.header(RETRY_AFTER, seconds))
    }

    /// The node does not answer, or the chain does not move.
    pub fn chain_away(what: impl Display) -> Self {
        tracing::warn!(%what, "the chain cannot be asked");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("the chain cannot be asked now: {what}"))
            .code("chain_unavailable")
    }

    /// A transaction that may or may not be included: asking again may pay twice.
    pub fn maybe_included(what: impl Display) -> Self {
        tracing::warn!(%what, "a task that may be on the chain");
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("whether the task is on the chain is not known: {what}"),
        )
        .code("chain_timeout")
        .final_word()
    }

    /// The chain refuses the task.
    pub fn chain(what: impl Display) -> Self {
        tracing::warn!(%what, "the chain refuses a task");
        Self::new(StatusCode::BAD_GATEWAY, format!("the chain refuses the task: {what}"))
            .code("chain_refused")
            .final_word()
    }

    /// The gateway's own account is empty.
    pub fn wallet(what: impl Display) -> Self {
        tracing::error!(%what, "the account that pays is empty");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the gateway's account has not enough coins for this request",
        )
        .code("insufficient_funds")
        .final_word()
    }

    /// Every worker that was drawn failed; the price is returned.
    pub fn no_worker(what: impl Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("no worker answered: {what}")).code("no_worker")
    }

    /// What came is not the answer that the receipt on the chain is about.
    pub fn bad_answer(what: impl Display) -> Self {
        tracing::warn!(%what, "a bad answer");
        Self::new(StatusCode::BAD_GATEWAY, format!("the answer cannot be trusted: {what}"))
            .code("answer_mismatch")
            .final_word()
    }

    /// Asking again makes no sense, or costs again.
    pub fn final_word(self) -> Self {
        self.header(SHOULD_RETRY, HeaderValue::from_static("false"))
    }

    /// Of two errors of one request the one that its client has to know: what may have cost, then what is final.
    pub fn graver(self, other: Self) -> Self {
        match other.gravity() > self.gravity() {
            true => other,
            false => self,
        }
    }

    fn gravity(&self) -> u8 {
        match self.code {
            Some("chain_timeout" | "answer_mismatch" | "timeout") => 2,
            _ => self.headers.iter().any(|(name, _)| *name == SHOULD_RETRY).into(),
        }
    }

    /// With further headers: what was bought, though it is no answer.
    pub fn with(mut self, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }

    pub fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive").code("request_timeout")
    }

    pub fn timeout(seconds: f64) -> Self {
        // Asking again would take as long.
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no complete answer within the limit of {seconds} seconds"),
        )
        .code("timeout")
        .final_word()
    }

    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").code("stopping")
    }

    /// A defect of this program.
    pub fn internal(what: impl Display) -> Self {
        tracing::error!(%what, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal error: {what}")).code("internal_error")
    }

    /// The model's numbers overflow on this prompt: the same on every machine and at each attempt.
    pub fn numeric(tokens: u32) -> Self {
        let message =
            format!("after {tokens} tokens the model's numbers are not finite: it cannot answer this prompt");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("numeric").final_word()
    }

    /// The error as a member of a JSON object, which is also how a stream tells of it.
    pub fn body(&self) -> Value {
        let Self { message, kind, param, code, .. } = self;
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { waiting, retry_after } => Self::full(waiting, retry_after),
            Refused::Closed => Self::stopping(),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Stopping => Self::stopping(),
            Failure::Runner(engine::Failure::Engine(error)) => Self::internal(error),
            Failure::Runner(engine::Failure::Crashed) => Self::internal("the engine crashed on this request"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

/// A user's value, as an error repeats it: its JSON, shortened.
pub fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push_str("...");
    }
    text
}

pub async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no {method} {}", shown(&json!(uri.path())));
    ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_url")
}

pub async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    let post = uri.path().ends_with("/completions") || uri.path().ends_with("/embeddings");
    let allowed = if post { "POST" } else { "GET" };
    let message = format!("{method} is not a method of {}, which has {allowed}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
        .code("method_not_allowed")
        .header(ALLOW, HeaderValue::from_static(allowed))
}
