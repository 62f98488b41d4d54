//! The filter `tojson` as the transformers library gives it to templates: Python's json.dumps. Prompts must be what the
//! models were trained on, to the space.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

use super::jinja::Prompt;

/// Greatest width of an indent, in bytes.
const MAX_INDENT: usize = 64;

/// The text of a value. Options are those of json.dumps: `ensure_ascii`, `indent`, `separators` and `sort_keys`.
pub fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let fault = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
    if value.is_undefined() {
        return Err(fault("tojson of an undefined value"));
    }
    let style = Style::new(&options)?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(|e| fault("tojson").with_source(e))?;
    if sorted {
        json.sort_all_objects();
    }
    let mut out = Prompt::default();
    style.write(&json, 0, &mut out).map_err(|e| fault("tojson").with_source(e))?;
    String::from_utf8(out.0).map_err(|e| fault("tojson").with_source(e))
}

/// How JSON is laid out.
struct Style {
    /// A line for each element, each level indented by this; None: all in one line.
    indent: Option<String>,
    between_items: String,
    behind_key: String,
    ascii: bool,
}

impl Style {
    fn new(options: &Kwargs) -> Result<Self, Error> {
        let indent = match options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
            None => None,
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_string(),
                None => " ".repeat(usize::try_from(indent)?.min(MAX_INDENT + 1)),
            }),
        };
        if indent.as_ref().is_some_and(|indent| indent.len() > MAX_INDENT) {
            let bound = format!("indent of tojson must be at most {MAX_INDENT} bytes");
            return Err(Error::new(ErrorKind::InvalidOperation, bound));
        }
        let separators = options.get::<Option<Vec<String>>>("separators")?;
        let separators = separators.unwrap_or_else(|| {
            let between = if indent.is_some() { "," } else { ", " };
            [between, ": "].map(str::to_string).to_vec()
        });
        let Ok([between_items, behind_key]) = <[String; 2]>::try_from(separators) else {
            return Err(Error::new(ErrorKind::InvalidOperation, "separators of tojson must be two strings"));
        };
        let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(Style { indent, between_items, behind_key, ascii })
    }

    fn write(&self, value: &Json, depth: usize, out: &mut Prompt) -> io::Result<()> {
        match value {
            Json::Array(items) if !items.is_empty() => {
                out.write_all(b"[")?;
                for (n, item) in items.iter().enumerate() {
                    self.begin(n, depth + 1, out)?;
                    self.write(item, depth + 1, out)?;
                }
                self.line(depth, out)?;
                out.write_all(b"]")
            }
            Json::Object(fields) if !fields.is_empty() => {
                out.write_all(b"{")?;
                for (n, (key, item)) in fields.iter().enumerate() {
                    self.begin(n, depth + 1, out)?;
                    self.string(key, out)?;
                    out.write_all(self.behind_key.as_bytes())?;
                    self.write(item, depth + 1, out)?;
                }
                self.line(depth, out)?;
                out.write_all(b"}")
            }
            Json::String(text) => self.string(text, out),
            Json::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(x) => out.write_all(float(x).as_bytes()),
                None => write!(out, "{number}"),
            },
            plain => write!(out, "{plain}"),
        }
    }

    /// What stands before element `n` of an array or object.
    fn begin(&self, n: usize, depth: usize, out: &mut Prompt) -> io::Result<()> {
        if n > 0 {
            out.write_all(self.between_items.as_bytes())?;
        }
        self.line(depth, out)
    }

    fn line(&self, depth: usize, out: &mut Prompt) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..depth).try_for_each(|_| out.write_all(indent.as_bytes()))
    }

    fn string(&self, text: &str, out: &mut Prompt) -> io::Result<()> {
        let quoted = Json::from(text).to_string();
        if !self.ascii {
            return out.write_all(quoted.as_bytes());
        }
        for c in quoted.chars() {
            if matches!(c, ' '..='~') {
                write!(out, "{c}")?;
            } else {
                c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }
}

/// A float as Python writes it: the shortest digits that give it again, with an exponent of at least two digits from
/// 1e16 on and below 1e-4.
fn float(x: f64) -> String {
    let digits = format!("{x:e}");
    match digits.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        // Debug puts ".0" behind whole numbers.
        _ if x.abs() < 1.0 => x.to_string() + if x == 0.0 { ".0" } else { "" },
        _ => format!("{x:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::render_here;
    use serde_json::{json, Value};

    /// The shape of Qwen's and of Hermes' templates.
    const TAGGED: &str = r##"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "system" %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role }}
    {%- if message.content %}
        {{- '\n' + message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- if call.function is defined %}
            {%- set call = call.function %}
        {%- endif %}
        {{- '\n<tool_call>\n{"name": "' }}
        {{- call.name }}
        {{- '", "arguments": ' }}
        {{- call.arguments | tojson }}
        {{- '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"##;

    /// The shape of Llama 3.1's.
    const BARE: &str = r##"{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
<|system|>
Today: 26 Jul 2024
  {% if tools is not none %}
Environment: ipython
    {% endif %}
{%- for message in messages %}
    {%- if message.role == 'user' and tools is not none %}
        {{- "<|user|>\n" }}
        {%- for t in tools %}
            {{- t | tojson(indent=4) }}
            {{- "\n\n" }}
        {%- endfor %}
        {{- message.content | trim + "<|eot|>" }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- "<|assistant|>\n" }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|ipython|>\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
    {%- if loop.index0 == 3 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|assistant|>\n" }}
{%- endif %}
"##;

    fn tools() -> Value {
        json!([{ "type": "function", "function": {
            "name": "find",
            "description": "Where a < b & c isn't \"d\" > é 漢字 🙂",
            "parameters": {
                "type": "object",
                "properties": {
                    "z": { "type": "number", "enum": [1.0, 0.5, 1e-7, 1e16, -3, 123_456_789_012u64] },
                    "a": { "type": "array", "items": {}, "default": [] },
                },
                "required": ["z"],
                "strict": true,
                "note": null,
            },
        } }])
    }

    fn messages() -> Vec<Value> {
        let arguments = json!({ "z": 1.5, "a": ["it's", "<é>", "tab\t\\ \u{7f}\u{1f}"], "deep": { "b": [[], {}], "a": false } });
        let call =
            json!({ "id": "1", "type": "function", "function": { "name": "find", "arguments": arguments } });
        vec![
            json!({ "role": "system", "content": "Be <brief> & don't \"shout\"." }),
            json!({ "role": "user", "content": " Où? " }),
            json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
            json!({ "role": "tool", "content": "{\"x\": '<&>'}" }),
            json!({ "role": "user", "content": "last" }),
        ]
    }

    fn render(source: &str, tools: Option<&Value>) -> Result<String, String> {
        render_here(source, &messages(), tools).map_err(|e| e.to_string())
    }

    /// The prompts are those of apply_chat_template of transformers 4.57.6 for the same templates and messages.
    #[test]
    fn tool_prompts_are_those_of_transformers() {
        let call = "{\"z\": 1.5, \"a\": [\"it's\", \"<é>\", \"tab\\t\\\\ \u{7f}\\u001f\"], \"deep\": {\"b\": [[], {}], \"a\": false}}";
        let turns = format!(
            "<|im_start|>user\n Où? <|im_end|>\n<|im_start|>assistant\n<tool_call>\n{{\"name\": \"find\", \"arguments\": {call}}}\n</tool_call><|im_end|>\n\
             <|im_start|>tool\n{{\"x\": '<&>'}}<|im_end|>\n<|im_start|>user\nlast<|im_end|>\n<|im_start|>assistant\n"
        );
        let system = r##"<|im_start|>system
Be <brief> & don't "shout".

# Tools
<tools>
{"type": "function", "function": {"name": "find", "description": "Where a < b & c isn't \"d\" > é 漢字 🙂", "parameters": {"type": "object", "properties": {"z": {"type": "number", "enum": [1.0, 0.5, 1e-07, 1e+16, -3, 123456789012]}, "a": {"type": "array", "items": {}, "default": []}}, "required": ["z"], "strict": true, "note": null}}}
</tools><|im_end|>
"##;
        assert_eq!(render(TAGGED, Some(&tools())).unwrap(), format!("{system}{turns}"));
        assert_eq!(render(TAGGED, None).unwrap(), turns);

        let turns = format!(
            "<|assistant|>\n{{\"name\": \"find\", \"parameters\": {call}}}<|eot|><|ipython|>\n\"{{\\\"x\\\": '<&>'}}\"<|eot|><|assistant|>\n"
        );
        let offered = r##"<s><|system|>
Today: 26 Jul 2024
Environment: ipython
<|user|>
{
    "type": "function",
    "function": {
        "name": "find",
        "description": "Where a < b & c isn't \"d\" > é 漢字 🙂",
        "parameters": {
            "type": "object",
            "properties": {
                "z": {
                    "type": "number",
                    "enum": [
                        1.0,
                        0.5,
                        1e-07,
                        1e+16,
                        -3,
                        123456789012
                    ]
                },
                "a": {
                    "type": "array",
                    "items": {},
                    "default": []
                }
            },
            "required": [
                "z"
            ],
            "strict": true,
            "note": null
        }
    }
}

Où?<|eot|>"##;
        assert_eq!(render(BARE, Some(&tools())).unwrap(), format!("{offered}{turns}"));
        let alone = "<s><|system|>\nToday: 26 Jul 2024\n";
        assert_eq!(render(BARE, None).unwrap(), format!("{alone}{turns}"));
    }

    /// The same, option by option.
    #[test]
    fn options_are_those_of_json_dumps() {
        let x = "{'b': [1, 'é<\u{7f}🙂'], 'a': {}}";
        for (source, expected) in [
            ("x | tojson(indent=none)", "{\"b\": [1, \"é<\u{7f}🙂\"], \"a\": {}}"),
            ("x | tojson(ensure_ascii=true)", r#"{"b": [1, "\u00e9<\u007f\ud83d\ude42"], "a": {}}"#),
            ("x | tojson(sort_keys=true)", "{\"a\": {}, \"b\": [1, \"é<\u{7f}🙂\"]}"),
            ("x | tojson(separators=(',', ':'))", "{\"b\":[1,\"é<\u{7f}🙂\"],\"a\":{}}"),
            ("x | tojson(indent=0)", "{\n\"b\": [\n1,\n\"é<\u{7f}🙂\"\n],\n\"a\": {}\n}"),
            ("x | tojson(indent='\t')", "{\n\t\"b\": [\n\t\t1,\n\t\t\"é<\u{7f}🙂\"\n\t],\n\t\"a\": {}\n}"),
            (
                "{'a': [1, {}]} | tojson(indent=2, separators=(' ,', '='))",
                "{\n  \"a\"=[\n    1 ,\n    {}\n  ]\n}",
            ),
        ] {
            let source = format!("{{% set x = {x} %}}{{{{ {source} }}}}");
            assert_eq!(render(&source, None).unwrap(), expected, "{source}");
        }
        // A template writes no fractions itself, but may be given some.
        let given = json!([true, null, 1.0, -0.0, 0.25, 1e22, 1.5e-5, 0.0001, 100000.0, 1e15, 123456789.125]);
        let expected = "[true, null, 1.0, -0.0, 0.25, 1e+22, 1.5e-05, 0.0001, 100000.0, 1000000000000000.0, 123456789.125]";
        assert_eq!(render("{{ tools | tojson }}", Some(&given)).unwrap(), expected);
        for (source, part) in [
            ("{{ absent | tojson }}", "undefined value"),
            ("{{ [] | tojson(indent=65) }}", "indent of tojson must be at most 64 bytes"),
            ("{{ [] | tojson(separators=['']) }}", "separators of tojson must be two strings"),
            ("{{ [] | tojson(default=1) }}", "unknown keyword argument"),
        ] {
            let error = render(source, None).unwrap_err();
            assert!(error.contains(part), "{source}: {error}");
        }
    }

    /// Indents alone can make a text of any length.
    #[test]
    fn length_is_bounded() {
        let source =
            "{% set ns = namespace(x=[]) %}{% for i in range(100) %}{% set ns.x = [ns.x] %}{% endfor %}\
                      {% set ns.y = [] %}{% for i in range(1000) %}{% set ns.y = ns.y + [ns.x] %}{% endfor %}\
                      {{ ns.y | tojson(indent=64) }}";
        let error = render(source, None).unwrap_err();
        assert!(error.contains("more than 4194304 bytes"), "{error}");
    }
}
