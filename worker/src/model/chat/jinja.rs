//! Runs a template as the transformers library does, for which templates are written.
//!
//! Its instructions and its output are counted. Its memory and its stack are not: see `sandbox`. A prompt must be the same on
//! every machine, so there is no arithmetic with fractions: a power is the system library's, and the sign of what is not
//! a number the processor's.

use std::fmt;
use std::sync::Arc;

use minijinja::machinery::{tokenize, Token, WhitespaceConfig};
use minijinja::value::{from_args, Object, ObjectRepr};
use minijinja::{context, AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::Job;
use crate::model::error::{ModelError, Result};
use crate::model::tokenizer::MAX_TEXT;

/// Instructions that rendering may take.
const FUEL: u64 = 10_000_000;
/// Characters of what a template says is wrong: it may say anything.
const MAX_REASON: usize = 500;
const NAME: &str = "chat";

/// The prompt that a job asks for; empty if it only asks whether the template compiles.
pub fn run(job: &Job) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", super::tojson::tojson);
    environment.add_global("raise_exception", Value::from_object(RaiseException));
    // What makes fractions, and what tells of the inside of this program.
    environment.remove_filter("float");
    environment.remove_filter("round");
    environment.remove_global("debug");
    check_operators(&job.template)?;
    environment.add_template(NAME, &job.template).map_err(fault)?;
    let Some(chat) = &job.chat else { return Ok(String::new()) };
    let context = context! {
        messages => Value::from_serialize(&chat.messages),
        // Without tools they are none, not undefined; nor are there ever documents.
        tools => chat.tools.as_ref().map_or(Value::from(()), Value::from_serialize),
        documents => Value::from(()),
        bos_token => &job.bos,
        eos_token => &job.eos,
        add_generation_prompt => true,
    };
    let template = environment.get_template(NAME).map_err(fault)?;
    let mut prompt = Prompt::default();
    template.render_to_write(context, &mut prompt).map_err(fault)?;
    String::from_utf8(prompt.0).map_err(|e| ModelError::Template(e.to_string()))
}

/// Refuses operators and numbers that make fractions.
fn check_operators(template: &str) -> Result<()> {
    let whitespace = WhitespaceConfig { trim_blocks: true, lstrip_blocks: true, ..Default::default() };
    for token in tokenize(template, false, Default::default(), whitespace) {
        let (token, span) = token.map_err(fault)?;
        if matches!(token, Token::Pow | Token::Div | Token::Float(_)) {
            let text = format!(
                "{token} is not supported, line {}: prompts are made without fractions",
                span.start_line
            );
            return Err(ModelError::Template(text));
        }
    }
    Ok(())
}

/// The function by which a template refuses its messages. As a value it has a name of its own, not that of a type.
#[derive(Debug)]
struct RaiseException;

impl Object for RaiseException {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &State<'_, '_>, args: &[Value]) -> std::result::Result<Value, Error> {
        let (message,): (String,) = from_args(args)?;
        Err(Error::new(ErrorKind::InvalidOperation, message))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raise_exception")
    }
}

/// What a template has written, at most `MAX_TEXT` bytes.
#[derive(Default)]
pub(super) struct Prompt(pub Vec<u8>);

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
    let reason = format!("{}{detail}{cause}", error.kind());
    let short = match reason.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason,
    };
    ModelError::Template(short + &line)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::render_here as render;
    use super::*;

    fn chat(source: &str, messages: &[(&str, &str)]) -> Result<String> {
        let message = |(role, content): &(&str, &str)| json!({ "role": role, "content": content });
        render(source, &messages.iter().map(message).collect::<Vec<_>>(), None)
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
            ("{{ 2 ** 3 }}", "`**` is not supported, line 1"),
            ("a\n{{ 1 / 3 }}", "`/` is not supported, line 2"),
            ("{{ 1e999 }}", "float is not supported"),
            ("{{ 'nan' | float }}", "unknown filter"),
            ("{{ ['1'] | map('float') }}", "unknown filter"),
            ("{{ 7 | round }}", "unknown filter"),
            ("{{ debug() }}", "unknown function"),
            ("{% for a in range(10000) %}{% for b in range(10000) %}{% set c = b %}{% endfor %}{% endfor %}", "fuel"),
        ] {
            let error = chat(source, one).unwrap_err().to_string();
            assert!(error.contains(part), "{source}: {error}");
        }
    }

    /// What is text may look like an operator, and a function has one name in every build.
    #[test]
    fn what_is_no_operator() {
        let source = "2 ** 3 / 1.5 {{ 7 // 2 }} {{ '1.5 / **' }} {{ raise_exception }}";
        assert_eq!(chat(source, &[("user", "hi")]).unwrap(), "2 ** 3 / 1.5 3 1.5 / ** raise_exception");
    }

    /// Absent tools are none.
    #[test]
    fn tools_and_their_calls() {
        let source = "{% if tools is not none %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls %}+{{ c.name }}{% endfor %};{% endfor %}";
        let hi = json!({ "role": "user", "content": "hi" });
        assert_eq!(render(source, std::slice::from_ref(&hi), None).unwrap(), "user:hi;");
        let call = json!({ "role": "assistant", "content": "", "tool_calls": [{ "name": "f" }] });
        assert_eq!(render(source, &[hi, call], Some(&json!([1]))).unwrap(), "[1]user:hi;assistant:+f;");
    }

    #[test]
    fn output_is_bounded() {
        let error = chat("{{ raise_exception('é' * 100000) }}", &[("user", "hi")]).unwrap_err().to_string();
        assert!(error.contains("ééé...") && error.len() < 1100, "{error}");
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
