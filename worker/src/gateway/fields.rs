//! A request's JSON, field by field: each is taken once, and what nobody took is refused by name.

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use serde_json::{Map, Value};
use tokio_stream::StreamExt;

use super::errors::{shown, ApiError, Result};

/// Greatest body, in bytes.
const MAX_BODY: usize = 4 << 20;
/// Most bytes of a larger body that are read, and thrown away: a client that is still writing would see a broken
/// connection in place of the answer.
const MAX_DISCARDED: usize = 4 * MAX_BODY;
/// A JSON object whose fields are taken one by one. null stands for a field that is not there.
#[derive(Debug)]
pub struct Fields {
    /// What it is in the request, such as "messages[0]."; empty for the request itself.
    path: String,
    rest: Map<String, Value>,
}

impl Fields {
    /// The object that a request's body is. Any other content type than JSON is refused, since that is what a web page
    /// may send across origins without being asked.
    /// It has to be complete after `patience`.
    pub async fn read(request: Request, patience: Duration) -> Result<Self> {
        let media = request.headers().get(CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("?"));
        let essence = media.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::media_type(media));
        }
        let body = tokio::time::timeout(patience, body(request)).await;
        let body = body.map_err(|_| ApiError::slow_body())??;
        let text = std::str::from_utf8(&body)
            .map_err(|e| ApiError::unreadable(format!("the body is not UTF-8: {e}")))?;
        let value = serde_json::from_str(text)
            .map_err(|e| ApiError::unreadable(format!("the body is not JSON that is understood: {e}")))?;
        match value {
            Value::Object(rest) => Ok(Self { path: String::new(), rest }),
            other => Err(ApiError::unreadable(format!("the body is {}, must be an object", shown(&other)))),
        }
    }

    /// The object that `value` is, which is at `path` of the request.
    pub fn of(path: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(rest) => Ok(Self { path: format!("{path}."), rest }),
            other => Err(ApiError::invalid(path, shown(&other), "an object")),
        }
    }

    /// The full name of a field.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.rest.shift_remove(field).filter(|value| !value.is_null())
    }

    pub fn need(&mut self, field: &str, bound: &str) -> Result<Value> {
        self.take(field).ok_or_else(|| ApiError::missing(self.name(field), bound))
    }

    /// A field as `read` reads it; one that it cannot read is not `bound`.
    fn read_as<T>(
        &mut self,
        field: &str,
        bound: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.take(field) {
            None => Ok(None),
            Some(value) => {
                let read = read(&value);
                read.map(Some).ok_or_else(|| ApiError::invalid(self.name(field), shown(&value), bound))
            }
        }
    }

    pub fn flag(&mut self, field: &str) -> Result<bool> {
        Ok(self.read_as(field, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub fn string(&mut self, field: &str) -> Result<Option<String>> {
        self.read_as(field, "a string", |value| value.as_str().map(str::to_string))
    }

    /// A number of which `allowed` holds, as `bound` describes it.
    pub fn number(&mut self, field: &str, bound: &str, allowed: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        self.read_as(field, bound, |value| value.as_f64().filter(|n| allowed(*n)))
    }

    pub fn integer(&mut self, field: &str, min: i64, max: i64) -> Result<Option<i64>> {
        let bound = format!("an integer from {min} to {max}");
        self.read_as(field, &bound, |value| value.as_i64().filter(|n| (min..=max).contains(n)))
    }

    /// Takes fields that have no bearing on an answer.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.rest.shift_remove(*field);
        }
    }

    /// Takes a field that is supported only where it asks for nothing.
    pub fn only(&mut self, field: &str, neutral: &[Value], why: &str) -> Result<()> {
        let same = |a: &Value, b: &Value| a == b || (a.is_number() && a.as_f64() == b.as_f64());
        match self.take(field) {
            Some(value) if !neutral.iter().any(|n| same(&value, n)) => Err(ApiError::unsupported(
                self.name(field),
                format!("{} was asked for, {why}", shown(&value)),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses whatever was not taken.
    pub fn finish(self) -> Result<()> {
        match self.rest.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => {
                // A field's name is a user's value, too.
                let field: String = self.name(field).chars().take(64).collect();
                Err(ApiError::unsupported(field, "docs/gateway.md lists the fields that are"))
            }
        }
    }
}

async fn body(request: Request) -> Result<Vec<u8>> {
    let mut chunks = request.into_body().into_data_stream();
    let (mut body, mut total) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::unreadable(format!("the body broke off: {e}")))?;
        total += chunk.len();
        if total <= MAX_BODY {
            body.extend_from_slice(&chunk);
        } else if total > MAX_DISCARDED {
            break;
        }
    }
    if total > MAX_BODY {
        return Err(ApiError::too_large(MAX_BODY));
    }
    Ok(body)
}
