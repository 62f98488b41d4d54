//! The answers to a request as they come, in text, and what carries them: `stream`, or one JSON body here.

use std::sync::Arc;

use axum::http::header::HeaderName;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};
use tokio::time::{timeout_at, Instant};

use super::errors::{ApiError, Result};
use super::options::Options;
use super::scheduler::{Event, Events, Place};
use super::text::Text;
use super::{stream, unix_seconds, Gateway};
use crate::engine::Finish;

/// The endpoints differ in how they wrap text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Chat,
    Completion,
}

/// What all parts of an answer begin with.
#[derive(Debug)]
pub struct Head {
    pub shape: Shape,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    seed: Option<i64>,
}

impl Head {
    fn new(gateway: &Gateway, shape: Shape, seed: Option<i64>) -> Result<Self> {
        let mut random = [0; 12];
        getrandom::getrandom(&mut random).map_err(ApiError::internal)?;
        let prefix = if shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
        Ok(Self {
            shape,
            id: format!("{prefix}-{}", hex::encode(random)),
            created: unix_seconds(),
            model: gateway.id.clone(),
            fingerprint: gateway.fingerprint(),
            seed,
        })
    }

    pub fn object(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    /// Headers: the id, and the seed that sampled the answer, with which it can be had again.
    pub fn headers(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        if let Some(seed) = self.seed {
            headers.insert(HeaderName::from_static("x-deepnode-seed"), seed.into());
        }
        response
    }
}

/// One step of the answers.
pub enum Part {
    Text { choice: u32, text: String },
    End { choice: u32, rest: String, reason: &'static str },
}

/// The answers to one request, one choice after the other.
pub struct Answer {
    gateway: Arc<Gateway>,
    events: Events,
    stop: Vec<String>,
    pub choices: u32,
    choice: u32,
    text: Text,
    prompt_tokens: usize,
    output_tokens: u32,
    deadline: Instant,
}

impl Answer {
    /// The next part; none after the end of the last choice.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        let model = &self.gateway.model;
        while self.choice < self.choices {
            let event = timeout_at(self.deadline, self.events.next())
                .await
                .map_err(|_| ApiError::timeout(self.gateway.settings.timeout.as_secs_f64()))?
                .ok_or_else(|| ApiError::internal("the engine fell silent"))??;
            let choice = self.choice;
            match event {
                Event::Token(token) => {
                    self.output_tokens += 1;
                    // An end token is no text, whatever its piece.
                    if model.arch().eos.contains(&token) {
                        continue;
                    }
                    let text = self.text.push(model.tokenizer(), &self.stop, token);
                    if !text.is_empty() {
                        return Ok(Some(Part::Text { choice, text }));
                    }
                }
                Event::Finished(Finish::Numeric) => return Err(ApiError::numeric(self.output_tokens)),
                Event::Finished(finish) => {
                    self.choice += 1;
                    let reason = if finish == Finish::Length { "length" } else { "stop" };
                    let rest = std::mem::take(&mut self.text).finish();
                    return Ok(Some(Part::End { choice, rest, reason }));
                }
            }
        }
        Ok(None)
    }

    pub fn usage(&self) -> Value {
        let (prompt, output) = (self.prompt_tokens, self.output_tokens as usize);
        json!({ "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output })
    }

    /// All of it in one body.
    async fn whole(mut self, head: Head) -> Result<Response> {
        let mut choices = Vec::new();
        let mut whole = String::new();
        while let Some(part) = self.next().await? {
            match part {
                Part::Text { text, .. } => whole.push_str(&text),
                Part::End { choice, rest, reason } => {
                    let text = std::mem::take(&mut whole) + &rest;
                    choices.push(match head.shape {
                        Shape::Chat => json!({
                            "index": choice,
                            "message": { "role": "assistant", "content": text, "refusal": null },
                            "logprobs": null,
                            "finish_reason": reason,
                        }),
                        Shape::Completion => json!({
                            "index": choice,
                            "text": text,
                            "logprobs": null,
                            "finish_reason": reason,
                        }),
                    });
                }
            }
        }
        let object = if head.shape == Shape::Chat { "chat.completion" } else { "text_completion" };
        let mut body = head.object(object, choices);
        body["usage"] = self.usage();
        Ok(head.headers(Json(body).into_response()))
    }
}

/// When a request that arrives now must be answered.
pub fn deadline(gateway: &Gateway) -> Instant {
    Instant::now() + gateway.settings.timeout
}

/// Answers a prompt.
pub async fn answer(
    gateway: Arc<Gateway>,
    shape: Shape,
    place: Place,
    prompt: Vec<u32>,
    prompt_field: &str,
    options: Options,
    deadline: Instant,
) -> Result<Response> {
    let prompt_tokens = prompt.len();
    let job = options.job(prompt, prompt_field, gateway.model.arch().context)?;
    let head = Head::new(&gateway, shape, options.seed)?;
    let answer = Answer {
        events: place.submit(job),
        gateway,
        stop: options.stop,
        choices: options.choices,
        choice: 0,
        text: Text::default(),
        prompt_tokens,
        output_tokens: 0,
        deadline,
    };
    if options.stream {
        Ok(stream::response(answer, head, options.include_usage))
    } else {
        answer.whole(head).await
    }
}
