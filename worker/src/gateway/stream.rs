//! Answers as server-sent events: one chunk a piece of text, `[DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use serde_json::{json, Value};

use super::answer::{Answer, Head, Part, Shape, Step, FAILED};
use super::logprobs;

/// Comments that are sent while nothing else is, as in the queue: proxies cut silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Chunks {
    /// None when all is said.
    answer: Option<Answer>,
    head: Head,
    include_usage: bool,
    /// What a chain says of the answer, for the next chunk.
    extension: Option<Value>,
    ready: VecDeque<Event>,
}

/// A response that tells `answer` as it comes. What goes wrong after its beginning is told as an event with an error,
/// without the `[DONE]`. When the client goes away, the answer is dropped and computed no further.
pub fn response(answer: Answer, head: Head, include_usage: bool) -> Response {
    let (choices, headers) = (answer.choices(), head.headers(&answer.events));
    let mut chunks =
        Chunks { answer: Some(answer), head, include_usage, extension: None, ready: VecDeque::new() };
    if chunks.head.shape == Shape::Chat {
        for choice in 0..choices {
            let delta = json!({ "role": "assistant", "content": "" });
            let first = json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": null });
            chunks.chunk(vec![first], Value::Null);
        }
    }
    let events = unfold(chunks, |mut chunks| async move {
        while chunks.ready.is_empty() && chunks.answer.is_some() {
            chunks.advance().await;
        }
        let event = chunks.ready.pop_front()?;
        Some((Ok::<_, Infallible>(event), chunks))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().extend(headers);
    response
}

impl Chunks {
    async fn advance(&mut self) {
        let Some(answer) = &mut self.answer else { return };
        match answer.next().await {
            Ok(Some(part)) => self.part(part),
            Ok(None) => {
                let usage = answer.usage();
                self.answer = None;
                if self.include_usage {
                    self.chunk(Vec::new(), usage);
                }
                self.ready.push_back(Event::default().data("[DONE]"));
            }
            Err(error) => {
                self.answer = None;
                self.ready.push_back(Event::default().data(error.body().to_string()));
            }
        }
    }

    fn part(&mut self, part: Part) {
        let Part { choice, scored, step } = part;
        let (mut delta, mut text, mut reason, mut error) = (json!({}), String::new(), None, None);
        match step {
            Step::Text(more) => {
                delta["content"] = json!(more);
                text = more;
            }
            Step::Call(call) => {
                let mut call_delta = self.head.call(&call);
                call_delta["index"] = json!(call.index);
                delta["tool_calls"] = json!([call_delta]);
            }
            Step::End(why) => reason = Some(why),
            Step::Failed(why) => (reason, error) = (Some(FAILED), Some(why)),
        }
        if reason.is_some() {
            // In the chunk that ends the answer: SDKs pass unknown members on.
            self.extension = self.answer.as_ref().and_then(|answer| answer.extension(choice));
        }
        let logprobs = scored.filter(|scored| !scored.is_empty());
        let logprobs = logprobs.map(|scored| logprobs::to_json(self.head.shape, &scored));
        let mut json = json!({ "index": choice, "logprobs": logprobs, "finish_reason": reason });
        match self.head.shape {
            Shape::Chat => json["delta"] = delta,
            Shape::Completion => json["text"] = json!(text),
        }
        if let Some(error) = error {
            json["error"] = error.body()["error"].take();
        }
        self.chunk(vec![json], Value::Null);
    }

    fn chunk(&mut self, choices: Vec<Value>, usage: Value) {
        let object = if self.head.shape == Shape::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.head.object(object, choices);
        if self.include_usage {
            chunk["usage"] = usage;
        }
        if let Some(extension) = self.extension.take() {
            chunk["deepnode"] = extension;
        }
        self.ready.push_back(Event::default().data(chunk.to_string()));
    }
}
