//! Chat messages to a prompt, by the model's own Jinja template.
//!
//! A template is a pure function of the messages: there is no clock, no randomness and no file in its reach
//! (a call of `strftime_now` is an error), and its work is bounded.

use minijinja::{context, AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};

use super::error::{within, ModelError, Result};
use super::tokenizer::MAX_TEXT;

mod tojson;

/// Greatest number of messages in a chat.
pub const MAX_MESSAGES: usize = 4096;
/// Instructions that rendering may take.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// system, user or assistant; a template may know others.
    pub role: String,
    pub content: String,
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of these tokens.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        // As the transformers library sets Jinja up; templates are written for that.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson::tojson);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<String, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_template_owned(NAME, source.to_string()).map_err(fault)?;
        Ok(ChatTemplate { environment, bos: bos.to_string(), eos: eos.to_string() })
    }

    /// The prompt that asks the assistant to answer `messages`.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String> {
        let bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        within("chat length", bytes as u64, 0, MAX_TEXT as u64)?;
        self.write(messages.len(), Value::from_serialize(messages), None)
    }

    /// The same for messages with more than role and content, as tool calls, and for a list of tools: the template says
    /// what becomes of them. Who calls this has bounded their size.
    pub fn render_json(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
    ) -> Result<String> {
        self.write(messages.len(), Value::from_serialize(messages), tools)
    }

    /// Without tools they are none, as the transformers library has it, not undefined; nor are there ever documents.
    fn write(&self, count: usize, messages: Value, tools: Option<&serde_json::Value>) -> Result<String> {
        within("chat messages", count as u64, 1, MAX_MESSAGES as u64)?;
        let template = self.environment.get_template(NAME).map_err(fault)?;
        let context = context! {
            messages,
            tools => tools.map_or(Value::from(()), Value::from_serialize),
            documents => Value::from(()),
            bos_token => self.bos,
            eos_token => self.eos,
            add_generation_prompt => true,
        };
        let mut prompt = Prompt::default();
        template.render_to_write(context, &mut prompt).map_err(fault)?;
        String::from_utf8(prompt.0).map_err(|e| ModelError::Template(e.to_string()))
    }
}

/// What a template has written, at most `MAX_TEXT` bytes.
#[derive(Default)]
struct Prompt(Vec<u8>);

impl std::io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(std::io::Error::other(format!("more than {MAX_TEXT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn fault(error: Error) -> ModelError {
    let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
    let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
    let line = error.line().map(|l| format!(", line {l}")).unwrap_or_default();
    ModelError::Template(format!("{}{detail}{cause}{line}", error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(source: &str, messages: &[(&str, &str)]) -> Result<String> {
        let messages: Vec<_> = messages
            .iter()
            .map(|(role, content)| ChatMessage { role: role.to_string(), content: content.to_string() })
            .collect();
        ChatTemplate::new(source, "<s>", "</s>")?.render(&messages)
    }

    #[test]
    fn renders_as_transformers_does() {
        let source = "{{ bos_token }}{% for m in messages %}\n    {% if m['role'] == 'user' %}\n[{{ m.content.strip() }}]\n    {% else %}\n{{ m.content }}{{ eos_token }}\n    {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}>{% endif %}\n";
        let text = chat(source, &[("user", " <b>hi</b> "), ("assistant", "yes"), ("user", "so?")]).unwrap();
        assert_eq!(text, "<s>[<b>hi</b>]\nyes</s>\n[so?]\n>");
    }

    #[test]
    fn refuses_what_is_broken_or_impure() {
        let one = &[("user", "hi")][..];
        for (source, part) in [
            ("{% for m in messages %}", "syntax error"),
            ("{{ strftime_now('%Y') }}", "unknown function"),
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% include 'other' %}", "not found"),
            ("{% for a in range(10000) %}{% for b in range(10000) %}{% set c = b %}{% endfor %}{% endfor %}", "fuel"),
        ] {
            let error = chat(source, one).unwrap_err().to_string();
            assert!(error.contains(part), "{source}: {error}");
        }
        assert!(chat("", &[]).unwrap_err().to_string().contains("chat messages is 0: must be 1 to 4096"));
    }

    /// Messages of role and content alone give one prompt, however they come; absent tools are none.
    #[test]
    fn json_renders_as_messages_do() {
        let source = "{% if tools is not none %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls %}+{{ c.name }}{% endfor %};{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let hi = serde_json::json!({ "role": "user", "content": "hi" });
        let plain = chat(source, &[("user", "hi")]).unwrap();
        assert_eq!(template.render_json(std::slice::from_ref(&hi), None).unwrap(), plain);
        let call = serde_json::json!({ "role": "assistant", "content": "", "tool_calls": [{ "name": "f" }] });
        let tools = serde_json::json!([1]);
        assert_eq!(template.render_json(&[hi, call], Some(&tools)).unwrap(), "[1]user:hi;assistant:+f;");
    }

    #[test]
    fn output_is_bounded() {
        let long = "x".repeat(1 << 20);
        let twice = "{% for i in range(2) %}{{ messages[0].content }}{% endfor %}";
        assert_eq!(chat(twice, &[("user", &long)]).unwrap().len(), 2 << 20);
        let error = chat(&twice.replace('2', "5"), &[("user", &long)]).unwrap_err().to_string();
        assert!(error.contains("more than 4194304 bytes"), "{error}");
    }

    /// Templates that ask for the date have a fixed one for where there is no clock.
    #[test]
    fn clock_is_undefined() {
        let source = "{% if strftime_now is defined %}{{ strftime_now() }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(chat(source, &[("user", "hi")]).unwrap(), "26 Jul 2024");
    }
}
