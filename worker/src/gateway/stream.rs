//! Answers as server-sent events: one chunk a piece of text, `[DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use serde_json::{json, Value};

use super::answer::{Answer, Head, Part, Shape};

/// Comments that are sent while nothing else is, as in the queue: proxies cut silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Chunks {
    /// None when all is said.
    answer: Option<Answer>,
    head: Arc<Head>,
    include_usage: bool,
    /// What a chain says of the answer, for the next chunk.
    extension: Option<Value>,
    ready: VecDeque<Event>,
}

/// A response that tells `answer` as it comes. What goes wrong after its beginning is told as an event with an error,
/// without the `[DONE]`. When the client goes away, the answer is dropped and computed no further.
pub fn response(answer: Answer, head: Head, include_usage: bool) -> Response {
    let head = Arc::new(head);
    let (choices, proof) = (answer.choices, answer.events.headers());
    let mut chunks = Chunks {
        answer: Some(answer),
        head: head.clone(),
        include_usage,
        extension: None,
        ready: VecDeque::new(),
    };
    if head.shape == Shape::Chat {
        for choice in 0..choices {
            chunks.delta(choice, json!({ "role": "assistant", "content": "" }), None);
        }
    }
    let events = unfold(chunks, |mut chunks| async move {
        while chunks.ready.is_empty() && chunks.answer.is_some() {
            chunks.advance().await;
        }
        let event = chunks.ready.pop_front()?;
        Some((Ok::<_, Infallible>(event), chunks))
    });
    head.headers(proof, Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

impl Chunks {
    async fn advance(&mut self) {
        let Some(answer) = &mut self.answer else { return };
        match answer.next().await {
            Ok(Some(Part::Text { choice, text })) => self.text(choice, text, None),
            Ok(Some(Part::Call { choice, call })) => {
                let mut delta = self.head.call(&call);
                delta["index"] = json!(call.index);
                self.delta(choice, json!({ "tool_calls": [delta] }), None);
            }
            Ok(Some(Part::End { choice, reason })) => {
                // In the chunk that ends the answer: SDKs pass unknown members on.
                self.extension = answer.extension();
                match self.head.shape {
                    Shape::Chat => self.delta(choice, json!({}), Some(reason)),
                    Shape::Completion => self.text(choice, String::new(), Some(reason)),
                }
            }
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

    fn text(&mut self, choice: u32, text: String, reason: Option<&str>) {
        match self.head.shape {
            Shape::Chat => self.delta(choice, json!({ "content": text }), reason),
            Shape::Completion => self.chunk(
                vec![json!({ "index": choice, "text": text, "logprobs": null, "finish_reason": reason })],
                Value::Null,
            ),
        }
    }

    fn delta(&mut self, choice: u32, delta: Value, reason: Option<&str>) {
        self.chunk(
            vec![json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": reason })],
            Value::Null,
        );
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
