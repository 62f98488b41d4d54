//! The answers to a request as they come, in text, and what carries them: `stream`, or one JSON body here.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use axum::http::header::HeaderName;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};
use tokio::time::{timeout_at, Instant};

use super::access::Access;
use super::backend::{Event, Events, Place};
use super::calls::{Call, Calls, Offered, Piece};
use super::errors::{ApiError, Result};
use super::logprobs::{self, Scored, Scores};
use super::options::Options;
use super::text::Text;
use super::{stream, unix_seconds, Gateway};
use crate::engine::{Finish, Logprobs};

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
    pub fn headers(&self, events: &Events) -> Vec<(HeaderName, HeaderValue)> {
        let own = [
            Some(("x-request-id", self.id.clone())),
            self.seed.map(|seed| ("x-deepnode-seed", seed.to_string())),
        ];
        let all = events.headers().into_iter().chain(own.into_iter().flatten());
        let header = |(name, value): (&'static str, String)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
        };
        all.filter_map(header).collect()
    }
}

/// One step of an answer.
pub struct Part {
    pub choice: u32,
    /// Tokens that became certain with it, where their probabilities are wanted.
    pub scored: Option<Vec<Scored>>,
    pub step: Step,
}

pub enum Step {
    Text(String),
    Call(Call),
    End(&'static str),
    /// This choice has no end; others do.
    Failed(ApiError),
}

/// What `finish_reason` says of an answer that failed.
pub const FAILED: &str = "error";

/// The answers to one request.
pub struct Answer {
    gateway: Arc<Gateway>,
    pub events: Events,
    stop: Vec<String>,
    choices: Vec<Choice>,
    scored: bool,
    /// Parts that come next.
    ready: VecDeque<Part>,
    prompt_tokens: usize,
    /// The gravest error of a choice.
    error: Option<ApiError>,
    deadline: Instant,
    /// Logged when the answer is over.
    access: Arc<Access>,
}

/// One of the answers, as it grows.
struct Choice {
    text: Text,
    /// Where calls are looked for.
    calls: Option<Calls>,
    scores: Scores,
    tokens: u32,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Whole,
    Failed,
}

impl Choice {
    fn new(offered: Option<&Offered>) -> Self {
        let text = offered.map_or_else(Text::default, |offered| Text::showing(offered.marks()));
        let (calls, scores) = (offered.cloned().map(Calls::new), Scores::default());
        Self { text, calls, scores, tokens: 0, end: End::Open }
    }

    /// What more text makes certain.
    fn pieces(&mut self, text: String) -> Vec<Piece> {
        match &mut self.calls {
            Some(calls) => calls.push(&text),
            None => vec![Piece::Text(text)],
        }
    }

    /// What is certain because nothing follows, and how many bytes that makes.
    fn rest(&mut self) -> (Vec<Piece>, usize) {
        let certain = self.text.certain(true);
        let text = std::mem::take(&mut self.text).finish();
        let mut pieces = self.pieces(text);
        pieces.extend(self.calls.iter_mut().flat_map(Calls::finish));
        (pieces, certain)
    }
}

impl Answer {
    pub fn choices(&self) -> u32 {
        self.choices.len() as u32
    }

    /// The next part; none after the end of the last choice. An error is of all choices: where some are whole, the
    /// others fail beside them.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            if self.choices.iter().all(|choice| choice.end != End::Open) {
                return Ok(None);
            }
            let told = match timeout_at(self.deadline, self.events.next()).await {
                Ok(told) => told.unwrap_or_else(|| Err(ApiError::internal("the engine fell silent"))),
                Err(_) => Err(ApiError::timeout(self.gateway.settings.timeout.as_secs_f64())),
            };
            match told {
                Ok((choice, Event::Token { token, logprobs })) => {
                    self.token(choice, token, logprobs.as_ref());
                }
                Ok((choice, Event::Finished(Finish::Numeric))) => {
                    let tokens = self.choices[choice as usize].tokens;
                    self.failed(choice, ApiError::numeric(tokens))?;
                }
                Ok((choice, Event::Finished(finish))) => self.finished(choice, finish),
                Ok((choice, Event::Failed(error))) => self.failed(choice, error)?,
                Err(error) => self.broken_off(&error)?,
            }
        }
    }

    fn token(&mut self, number: u32, token: u32, logprobs: Option<&Logprobs>) {
        let model = &self.gateway.model;
        let choice = &mut self.choices[number as usize];
        choice.tokens += 1;
        self.access.output_tokens.fetch_add(1, Ordering::Relaxed);
        // An end token is no text, whatever its piece.
        if model.arch().eos.contains(&token) {
            return;
        }
        let tokenizer = model.tokenizer();
        if let Some(logprobs) = logprobs.filter(|_| choice.text.shows(tokenizer, token)) {
            choice.scores.push(tokenizer, choice.text.bytes(), token, logprobs);
        }
        let text = choice.text.push(tokenizer, &self.stop, token);
        let certain = choice.text.certain(false);
        let pieces = choice.pieces(text);
        self.tell(number, pieces, certain);
    }

    fn finished(&mut self, number: u32, finish: Finish) {
        let choice = &mut self.choices[number as usize];
        let (pieces, certain) = choice.rest();
        let called = choice.calls.as_ref().is_some_and(|calls| calls.count() > 0);
        choice.end = End::Whole;
        self.tell(number, pieces, certain);
        let reason = match finish {
            Finish::Length => "length",
            _ if called => "tool_calls",
            _ => "stop",
        };
        self.part(number, Step::End(reason), certain);
    }

    /// A choice that failed is told beside the others, with the text that it has; where all failed, the request did.
    fn failed(&mut self, number: u32, error: ApiError) -> Result<()> {
        let choice = &mut self.choices[number as usize];
        choice.end = End::Failed;
        let (pieces, certain) = choice.rest();
        let gravest = match self.error.take() {
            Some(before) => before.graver(error.clone()),
            None => error.clone(),
        };
        if self.choices.iter().all(|choice| choice.end == End::Failed) {
            return Err(gravest);
        }
        self.error = Some(gravest);
        self.tell(number, pieces, certain);
        self.part(number, Step::Failed(error), certain);
        Ok(())
    }

    /// The choices without an end fail; those that have one stay.
    fn broken_off(&mut self, error: &ApiError) -> Result<()> {
        for number in 0..self.choices() {
            if self.choices[number as usize].end == End::Open {
                self.failed(number, error.clone())?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, number: u32, pieces: Vec<Piece>, certain: usize) {
        for piece in pieces {
            match piece {
                Piece::Text(text) if text.is_empty() => {}
                Piece::Text(text) => self.part(number, Step::Text(text), certain),
                Piece::Call(call) => self.part(number, Step::Call(call), certain),
            }
        }
    }

    fn part(&mut self, number: u32, step: Step, certain: usize) {
        let scores = &mut self.choices[number as usize].scores;
        let scored = self.scored.then(|| scores.take(certain));
        self.ready.push_back(Part { choice: number, scored, step });
    }

    /// What a chain says of an answer so far, as a member of it.
    pub fn extension(&self, choice: u32) -> Option<Value> {
        self.events.extension(choice)
    }

    pub fn usage(&self) -> Value {
        let output: usize = self.choices.iter().map(|choice| choice.tokens as usize).sum();
        let prompt = self.prompt_tokens;
        json!({ "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output })
    }

    /// All of it in one body.
    async fn whole(mut self, head: Head) -> Result<Response> {
        let mut wholes: Vec<Whole> = self.choices.iter().map(|_| Whole::default()).collect();
        while let Some(Part { choice, scored, step }) =
            self.next().await.map_err(|error| error.with(head.headers(&self.events)))?
        {
            let whole = &mut wholes[choice as usize];
            if let Some(scored) = scored {
                whole.scored.get_or_insert_default().extend(scored);
            }
            match step {
                Step::Text(text) => whole.text.push_str(&text),
                Step::Call(call) => whole.calls.push(head.call(&call)),
                Step::End(reason) => whole.reason = reason,
                Step::Failed(error) => (whole.reason, whole.error) = (FAILED, Some(error)),
            }
        }
        let several = wholes.len() > 1;
        let choices = (0..).zip(wholes).map(|(choice, whole)| {
            let mut json = whole.into_json(head.shape, choice);
            if let Some(extension) = self.extension(choice).filter(|_| several) {
                json["deepnode"] = extension;
            }
            json
        });
        let object = if head.shape == Shape::Chat { "chat.completion" } else { "text_completion" };
        let mut body = head.object(object, choices.collect());
        body["usage"] = self.usage();
        if let Some(extension) = self.extension(0).filter(|_| !several) {
            body["deepnode"] = extension;
        }
        let mut response = Json(body).into_response();
        response.headers_mut().extend(head.headers(&self.events));
        Ok(response)
    }
}

/// One of the answers when all of it is there.
#[derive(Default)]
struct Whole {
    text: String,
    calls: Vec<Value>,
    scored: Option<Vec<Scored>>,
    reason: &'static str,
    error: Option<ApiError>,
}

impl Whole {
    fn into_json(self, shape: Shape, index: u32) -> Value {
        let Self { text, calls, scored, reason, error } = self;
        let logprobs = scored.map(|scored| logprobs::to_json(shape, &scored));
        let mut choice = json!({ "index": index, "logprobs": logprobs, "finish_reason": reason });
        match shape {
            Shape::Chat => {
                let content = if text.is_empty() && !calls.is_empty() { None } else { Some(text) };
                let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
                if !calls.is_empty() {
                    message["tool_calls"] = json!(calls);
                }
                choice["message"] = message;
            }
            Shape::Completion => choice["text"] = json!(text),
        }
        if let Some(error) = error {
            choice["error"] = error.body()["error"].take();
        }
        choice
    }
}

/// When a request that arrives now must be answered.
pub fn deadline(gateway: &Gateway) -> Instant {
    Instant::now() + gateway.settings.timeout
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
    pub access: Arc<Access>,
}

impl Asked {
    pub async fn answer(self, gateway: Arc<Gateway>, place: Place) -> Result<Response> {
        let Self { shape, prompt, prompt_field, offered, options, deadline, access } = self;
        let prompt_tokens = prompt.len();
        access.prompt_tokens.store(prompt_tokens, Ordering::Relaxed);
        let context = gateway.backend.context(gateway.model.arch().context);
        let job = options.job(prompt, prompt_field, context)?;
        let head = Head::new(&gateway, shape, options.seed)?;
        let events = timeout_at(deadline, place.submit(job))
            .await
            .map_err(|_| ApiError::timeout(gateway.settings.timeout.as_secs_f64()))??;
        let answer = Answer {
            events,
            gateway,
            stop: options.stop,
            choices: (0..options.choices).map(|_| Choice::new(offered.as_ref())).collect(),
            scored: options.logprobs.is_some(),
            ready: VecDeque::new(),
            prompt_tokens,
            error: None,
            deadline,
            access,
        };
        match options.stream {
            true => Ok(stream::response(answer, head, options.include_usage)),
            false => answer.whole(head).await,
        }
    }
}
