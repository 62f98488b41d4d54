//! The answers to a request as they come, in text, and what carries them: `stream`, or one JSON body here.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::http::header::HeaderName;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};
use tokio::time::{timeout_at, Instant};

use super::backend::{Events, Place};
use super::calls::{Call, Calls, Offered, Piece};
use super::errors::{ApiError, Result};
use super::options::Options;
use super::scheduler::Event;
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

    /// The id of a call of the answer.
    pub fn call(&self, call: &Call) -> Value {
        call.to_json(&self.id)
    }

    /// Headers: the id, the seed that sampled the answer, with which it can be had again, and what a chain says.
    pub fn headers(&self, proof: Vec<(&'static str, String)>, mut response: Response) -> Response {
        let headers = response.headers_mut();
        for (name, value) in proof {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
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
    Call { choice: u32, call: Call },
    End { choice: u32, reason: &'static str },
}

/// The answers to one request, one choice after the other.
pub struct Answer {
    gateway: Arc<Gateway>,
    pub events: Events,
    stop: Vec<String>,
    pub choices: u32,
    choice: u32,
    text: Text,
    /// Where calls are looked for.
    offered: Option<Offered>,
    calls: Option<Calls>,
    /// Parts that come next.
    ready: VecDeque<Part>,
    prompt_tokens: usize,
    output_tokens: u32,
    deadline: Instant,
}

impl Answer {
    /// The next part; none after the end of the last choice.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        let model = self.gateway.model.clone();
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            if self.choice == self.choices {
                return Ok(None);
            }
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
                    match &mut self.calls {
                        Some(calls) => {
                            let pieces = calls.push(&text);
                            self.pieces(choice, pieces);
                        }
                        None => self.pieces(choice, vec![Piece::Text(text)]),
                    }
                }
                Event::Finished(Finish::Numeric) => return Err(ApiError::numeric(self.output_tokens)),
                Event::Finished(finish) => {
                    self.choice += 1;
                    let text = std::mem::replace(&mut self.text, text_of(self.offered.as_ref())).finish();
                    let mut reason = if finish == Finish::Length { "length" } else { "stop" };
                    match self.calls.take() {
                        Some(mut calls) => {
                            let mut pieces = calls.push(&text);
                            pieces.extend(calls.finish());
                            self.pieces(choice, pieces);
                            if calls.count() > 0 && finish != Finish::Length {
                                reason = "tool_calls";
                            }
                        }
                        None => self.pieces(choice, vec![Piece::Text(text)]),
                    }
                    self.calls = self.offered.clone().map(Calls::new);
                    self.ready.push_back(Part::End { choice, reason });
                }
            }
        }
    }

    fn pieces(&mut self, choice: u32, pieces: Vec<Piece>) {
        self.ready.extend(pieces.into_iter().filter_map(|piece| match piece {
            Piece::Text(text) if text.is_empty() => None,
            Piece::Text(text) => Some(Part::Text { choice, text }),
            Piece::Call(call) => Some(Part::Call { choice, call }),
        }));
    }

    /// What a chain says of the answer so far, as a member of it.
    pub fn extension(&self) -> Option<Value> {
        self.events.extension()
    }

    pub fn usage(&self) -> Value {
        let (prompt, output) = (self.prompt_tokens, self.output_tokens as usize);
        json!({ "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output })
    }

    /// All of it in one body.
    async fn whole(mut self, head: Head) -> Result<Response> {
        let mut choices = Vec::new();
        let (mut whole, mut calls) = (String::new(), Vec::new());
        while let Some(part) = self.next().await? {
            match part {
                Part::Text { text, .. } => whole.push_str(&text),
                Part::Call { call, .. } => calls.push(head.call(&call)),
                Part::End { choice, reason } => {
                    let text = std::mem::take(&mut whole);
                    choices.push(match head.shape {
                        Shape::Chat => {
                            let content =
                                if text.is_empty() && !calls.is_empty() { None } else { Some(text) };
                            let mut message =
                                json!({ "role": "assistant", "content": content, "refusal": null });
                            if !calls.is_empty() {
                                message["tool_calls"] = json!(std::mem::take(&mut calls));
                            }
                            json!({
                                "index": choice,
                                "message": message,
                                "logprobs": null,
                                "finish_reason": reason,
                            })
                        }
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
        if let Some(extension) = self.extension() {
            body["deepnode"] = extension;
        }
        Ok(head.headers(self.events.headers(), Json(body).into_response()))
    }
}

/// When a request that arrives now must be answered.
pub fn deadline(gateway: &Gateway) -> Instant {
    Instant::now() + gateway.settings.timeout
}

/// The text of an answer, with what calls are recognised by.
fn text_of(offered: Option<&Offered>) -> Text {
    offered.map_or_else(Text::default, |offered| Text::showing(offered.marks()))
}

/// A prompt that is to be answered.
pub struct Asked {
    pub shape: Shape,
    pub prompt: Vec<u32>,
    /// What the prompt is called in the request.
    pub prompt_field: &'static str,
    /// Tools that the model may call, where the form of its calls is known.
    pub offered: Option<Offered>,
    pub options: Options,
    pub deadline: Instant,
}

impl Asked {
    pub async fn answer(self, gateway: Arc<Gateway>, place: Place) -> Result<Response> {
        let Self { shape, prompt, prompt_field, offered, options, deadline } = self;
        let prompt_tokens = prompt.len();
        let job = options.job(prompt, prompt_field, gateway.model.arch().context)?;
        let head = Head::new(&gateway, shape, options.seed)?;
        let events = timeout_at(deadline, place.submit(job))
            .await
            .map_err(|_| ApiError::timeout(gateway.settings.timeout.as_secs_f64()))??;
        let answer = Answer {
            events,
            gateway,
            stop: options.stop,
            choices: options.choices,
            choice: 0,
            text: text_of(offered.as_ref()),
            calls: offered.clone().map(Calls::new),
            offered,
            ready: VecDeque::new(),
            prompt_tokens,
            output_tokens: 0,
            deadline,
        };
        match options.stream {
            true => Ok(stream::response(answer, head, options.include_usage)),
            false => answer.whole(head).await,
        }
    }
}
