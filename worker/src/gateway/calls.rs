//! Tool calls in what a model writes. Each family of models has its own form, known by the chat template; what is not
//! in that form, or names a tool that was not offered, stays text.

use std::collections::BTreeSet;

use serde_json::{json, Value};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// Llama 3 may announce its calls with this token.
const PYTHON: &str = "<|python_tag|>";

/// How a family of models writes its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Hermes, Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, between other text.
    Tagged,
    /// Llama 3: the whole answer is one or more of `{"name": ..., "parameters": {...}}`.
    Bare,
}

impl Form {
    fn of(template: &str) -> Option<Self> {
        if template.contains(OPEN) {
            Some(Self::Tagged)
        } else if template.contains("\"parameters\":") && template.contains("ipython") {
            Some(Self::Bare)
        } else {
            None
        }
    }
}

/// The tools of a request to a model whose form is known.
#[derive(Clone, Debug)]
pub struct Offered {
    form: Form,
    names: BTreeSet<String>,
}

impl Offered {
    pub fn new(template: &str, tools: &Value) -> Option<Self> {
        let name = |tool: &Value| tool["function"]["name"].as_str().map(str::to_owned);
        let names = tools.as_array()?.iter().filter_map(name).collect();
        Some(Self { form: Form::of(template)?, names })
    }

    /// Special tokens that the form is recognised by.
    pub fn marks(&self) -> &'static [&'static str] {
        match self.form {
            Form::Tagged => &[OPEN, CLOSE],
            Form::Bare => &[PYTHON],
        }
    }

    /// The call that a JSON object is, if it is one.
    fn call(&self, value: &Value) -> Option<(String, String)> {
        let object = value.as_object()?;
        let name = object.get("name")?.as_str().filter(|name| self.names.contains(*name))?;
        let arguments = match self.form {
            Form::Tagged => object.get("arguments"),
            Form::Bare => object.get("parameters").or_else(|| object.get("arguments")),
        };
        let arguments = match arguments {
            None => "{}".into(),
            Some(arguments @ Value::Object(_)) => arguments.to_string(),
            // Some write the object as its JSON already.
            Some(Value::String(text)) if serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object()) => {
                text.clone()
            }
            Some(_) => return None,
        };
        Some((name.to_owned(), arguments))
    }
}

/// A part of an answer in which calls are looked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Call(Call),
}

/// A call, as OpenAI's SDKs read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub index: usize,
    name: String,
    /// JSON of an object.
    arguments: String,
}

impl Call {
    /// `id` belongs to this call alone.
    pub fn to_json(&self, answer: &str) -> Value {
        let id = format!("call_{}_{}", answer.rsplit('-').next().unwrap_or_default(), self.index);
        let function = json!({ "name": self.name, "arguments": self.arguments });
        json!({ "id": id, "type": "function", "function": function })
    }
}

/// Finds the calls in a text that comes in parts.
#[derive(Debug)]
pub struct Calls {
    offered: Offered,
    /// What is not decided yet.
    waiting: String,
    /// Blank space before a tag, which is not shown if the tag begins a call.
    blank: String,
    inside: bool,
    /// Calls so far.
    count: usize,
}

impl Calls {
    pub fn new(offered: Offered) -> Self {
        Self { offered, waiting: String::new(), blank: String::new(), inside: false, count: 0 }
    }

    /// Calls that were found.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What more text makes certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.waiting.push_str(text);
        let mut pieces = Vec::new();
        match self.offered.form {
            Form::Tagged => self.tagged(&mut pieces),
            Form::Bare => {
                let begin = self.waiting.trim_start();
                // Nothing, or what may be a call: its end will tell.
                if !(begin.is_empty() || begin.starts_with('{') || starts(begin, PYTHON)) {
                    pieces.extend(piece(std::mem::take(&mut self.waiting)));
                }
            }
        }
        pieces
    }

    /// What is left at the end of the answer.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.waiting);
        match self.offered.form {
            // A model that ends its turn with the call may leave out the closing tag.
            Form::Tagged if self.inside => self.body(&rest, ""),
            Form::Tagged => piece(rest).into_iter().collect(),
            Form::Bare => self.bare(rest),
        }
    }

    fn tagged(&mut self, pieces: &mut Vec<Piece>) {
        loop {
            let tag = if self.inside { CLOSE } else { OPEN };
            let Some(at) = self.waiting.find(tag) else { break };
            let before = self.waiting[..at].to_owned();
            self.waiting.drain(..at + tag.len());
            match self.inside {
                true => pieces.extend(self.body(&before, CLOSE)),
                false => {
                    let text = before.trim_end();
                    self.blank = before[text.len()..].to_owned();
                    pieces.extend(piece(text.to_owned()));
                }
            }
            self.inside = !self.inside;
        }
        if self.inside {
            return;
        }
        // A tag may begin in the last bytes.
        let tail = (1..OPEN.len()).rev().find(|n| self.waiting.ends_with(&OPEN[..*n])).unwrap_or(0);
        let certain = self.waiting[..self.waiting.len() - tail].trim_end().len();
        pieces.extend(piece(self.waiting.drain(..certain).collect()));
    }

    /// What stands between the tags.
    fn body(&mut self, text: &str, close: &str) -> Vec<Piece> {
        let blank = std::mem::take(&mut self.blank);
        let value = serde_json::from_str(text.trim()).ok();
        match value.and_then(|value| self.offered.call(&value)) {
            Some((name, arguments)) => vec![Piece::Call(self.next(name, arguments))],
            None => vec![Piece::Text(format!("{blank}{OPEN}{text}{close}"))],
        }
    }

    /// A whole answer that is nothing but calls.
    fn bare(&mut self, text: String) -> Vec<Piece> {
        let mut rest = text.trim_start().trim_start_matches(PYTHON);
        let mut found = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
            if rest.is_empty() {
                break;
            }
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let value = values.next().and_then(Result::ok);
            let Some(call) = value.and_then(|value| self.offered.call(&value)) else {
                return vec![Piece::Text(text)];
            };
            found.push(call);
            rest = &rest[values.byte_offset()..];
        }
        if found.is_empty() {
            return piece(text).into_iter().collect();
        }
        found.into_iter().map(|(name, arguments)| Piece::Call(self.next(name, arguments))).collect()
    }

    fn next(&mut self, name: String, arguments: String) -> Call {
        self.count += 1;
        Call { index: self.count - 1, name, arguments }
    }
}

fn piece(text: String) -> Option<Piece> {
    (!text.is_empty()).then_some(Piece::Text(text))
}

/// Whether `text` begins with `mark`, as far as it goes.
fn starts(text: &str, mark: &str) -> bool {
    text.starts_with(mark) || mark.starts_with(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAGGED: &str = "{{ tools }} <tool_call></tool_call>";
    const BARE: &str = "Environment: ipython {\"name\": function name, \"parameters\": dictionary}";

    fn calls(template: &str) -> Calls {
        let tools = json!([
            { "type": "function", "function": { "name": "weather" } },
            { "type": "function", "function": { "name": "time" } },
        ]);
        Calls::new(Offered::new(template, &tools).unwrap())
    }

    /// The text that is left, and the calls as (name, arguments).
    fn read(template: &str, parts: &[&str]) -> (String, Vec<(String, String)>) {
        let mut calls = calls(template);
        let mut pieces: Vec<Piece> = parts.iter().flat_map(|part| calls.push(part)).collect();
        pieces.extend(calls.finish());
        let (mut text, mut found) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(part) => text += &part,
                Piece::Call(call) => {
                    assert_eq!(call.index, found.len());
                    found.push((call.name, call.arguments));
                }
            }
        }
        assert_eq!(calls.count(), found.len());
        (text, found)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.into(), arguments.into())
    }

    #[test]
    fn tagged_calls_among_text() {
        let answer = "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": [1, 2]}}\n</tool_call>\n<tool_call>{\"name\":\"time\",\"arguments\":\"{}\"}</tool_call>";
        let expected = vec![call("weather", "{\"city\":\"Oslo\",\"days\":[1,2]}"), call("time", "{}")];
        let (text, found) = read(TAGGED, &[answer]);
        assert_eq!((text.as_str(), found), ("Let me see.", expected.clone()));
        // However it comes, it is the same.
        let bytes: Vec<String> = answer.chars().map(String::from).collect();
        let (text, found) = read(TAGGED, &bytes.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((text.as_str(), found), ("Let me see.", expected));
        // The turn may end with the call.
        let (text, found) = read(TAGGED, &["<tool_call>{\"name\": \"time\"}"]);
        assert_eq!((text.as_str(), found), ("", vec![call("time", "{}")]));
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for answer in [
            "plain <b>text</b> 1 < 2",
            "<tool_call>{\"name\": \"weather\", \"arguments\": {</tool_call> and so on",
            "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"weather\"",
            "so <tool_",
            "{\"name\": \"weather\", \"arguments\": {}}",
        ] {
            assert_eq!(read(TAGGED, &[answer]), (answer.to_string(), vec![]));
        }
        // Deeper than anybody reads.
        let deep = format!("<tool_call>{}</tool_call>", "[".repeat(100_000));
        assert_eq!(read(TAGGED, &[&deep]).0, deep);
        for answer in [
            "It is {\"name\"",
            "{\"name\": \"weather\", \"parameters\": 1}",
            "{}",
            "{",
            "",
            " \n",
            "<|python_tag|>x",
        ] {
            assert_eq!(read(BARE, &[answer]), (answer.to_string(), vec![]), "{answer}");
        }
    }

    #[test]
    fn bare_calls_are_the_whole_answer() {
        let answer = "{\"name\": \"weather\", \"parameters\": {\"city\": \"a}b\"}}; {\"name\": \"time\", \"parameters\": {}}";
        let expected = vec![call("weather", "{\"city\":\"a}b\"}"), call("time", "{}")];
        assert_eq!(read(BARE, &[answer]), (String::new(), expected.clone()));
        assert_eq!(read(BARE, &["<|python_tag|>", answer]), (String::new(), expected));
        // Text that is certainly none comes at once.
        assert_eq!(calls(BARE).push("It is"), [Piece::Text("It is".into())]);
    }

    #[test]
    fn only_known_forms_are_read() {
        assert!(Offered::new("{{ tools }}", &json!([])).is_none());
    }

    proptest! {
        /// Nothing is lost or made up, whatever the model writes.
        #[test]
        fn text_without_calls_comes_back(parts in proptest::collection::vec("(<tool_call>|</tool_call>|<tool|\\{|\\}|;| |\n|[a-z\"]{0,3}){0,4}", 0..6)) {
            for template in [TAGGED, BARE] {
                let refs: Vec<&str> = parts.iter().map(String::as_str).collect();
                let (text, found) = read(template, &refs);
                prop_assert!(found.is_empty());
                prop_assert_eq!(text, parts.concat());
            }
        }
    }
}
