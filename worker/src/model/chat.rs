//! Chat messages to a prompt, by the model's own Jinja template.
//!
//! A template is a program that came with the model, from whoever made the file. It is a pure function of the messages:
//! no clock, no randomness and no file is in its reach. `jinja` runs it, in a process of its own that `sandbox` starts and
//! bounds: what it does to that process is an error of one prompt.

mod jinja;
mod sandbox;
mod tojson;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

pub use sandbox::{serve, Sandbox, COMMAND};

/// Greatest number of messages in a chat.
pub const MAX_MESSAGES: usize = 4096;

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// system, user or assistant; a template may know others.
    pub role: String,
    pub content: String,
}

impl ChatMessage {
    /// As templates know it.
    pub(in crate::model) fn to_json(&self) -> Value {
        json!({ "role": self.role, "content": self.content })
    }
}

/// What is asked of a template.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::model) struct Job<'a> {
    pub template: Cow<'a, str>,
    /// The texts of these tokens; empty where there are none.
    pub bos: Cow<'a, str>,
    pub eos: Cow<'a, str>,
    /// The conversation that the assistant is to continue; without one, the template is only compiled.
    pub chat: Option<Chat<'a>>,
}

/// Messages as templates know them, and the tools that they may speak of.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::model) struct Chat<'a> {
    pub messages: Cow<'a, [Value]>,
    pub tools: Option<Cow<'a, Value>>,
}

/// A prompt by a template that this process can trust.
#[cfg(test)]
fn render_here(template: &str, messages: &[Value], tools: Option<&Value>) -> super::Result<String> {
    let chat = Chat { messages: messages.into(), tools: tools.map(Cow::Borrowed) };
    jinja::run(&Job { template: template.into(), bos: "<s>".into(), eos: "</s>".into(), chat: Some(chat) })
}

/// The ids of a chat, by such a template.
#[cfg(test)]
pub(in crate::model) fn encode_here(tokenizer: &super::Tokenizer, messages: &[ChatMessage]) -> Vec<u32> {
    let messages = messages.iter().map(ChatMessage::to_json).collect();
    let job = tokenizer.job(Some(Chat { messages, tools: None })).unwrap();
    tokenizer.encode(&jinja::run(&job).unwrap()).unwrap()
}
