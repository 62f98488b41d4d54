//! /v1/chat/completions: the model answers a conversation, by its own chat template.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::Extension;
use serde_json::{json, Map, Value};

use super::access::Access;
use super::answer::{deadline, Asked, Shape};
use super::calls::Offered;
use super::door::aside;
use super::errors::{shown, ApiError, Result};
use super::fields::Fields;
use super::options::Options;
use super::{keys, Gateway};
use crate::model::Model;

const MESSAGES_BOUND: &str = "a list of messages";
/// Most of the likeliest tokens beside each token, as OpenAI has it.
const MAX_TOP_LOGPROBS: i64 = 20;
const MODEL_READS_TEXT: &str = "the model reads text alone";

pub async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(access): Extension<Arc<Access>>,
    request: Request,
) -> Result<Response> {
    let (deadline, caller) = (deadline(&gateway), keys::caller(&request));
    let mut fields = Fields::read(request, gateway.settings.limits.body).await?;
    let name = fields.string("model")?.ok_or_else(|| ApiError::missing("model", "a model's id"))?;
    gateway.check_name(&name)?;
    let template = gateway.model.tokenizer().spec().template.as_deref().unwrap_or_default();
    let tools = tools(&mut fields, template)?;
    let messages = messages(fields.need("messages", MESSAGES_BOUND)?, template)?;
    let mut options = Options::take(&mut fields)?;
    limit(&mut fields, &mut options, gateway.model.arch().context)?;
    options.logprobs = logprobs(&mut fields)?;
    gateway.backend.admit(&mut options)?;
    fields.only("response_format", &[json!({ "type": "text" })], "the model writes text freely")?;
    fields.only("modalities", &[json!(["text"])], "the model writes text alone")?;
    fields.finish()?;

    let place = gateway.backend.reserve(&caller)?;
    let offered = tools.as_ref().and_then(|tools| Offered::new(template, tools));
    let encode = move |model: &Model| encode(model, &messages, tools.as_ref());
    let prompt = aside(&gateway.model, gateway.settings.timeout, deadline, encode).await?;
    let shape = Shape::Chat;
    Asked { shape, prompt, prompt_field: "messages", offered, options, deadline, access }
        .answer(gateway, place)
        .await
}

fn encode(model: &Model, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>> {
    model.tokenizer().encode_chat_json(messages, tools).map_err(|e| ApiError::prompt("messages", &e))
}

/// `max_tokens` and its newer name.
fn limit(fields: &mut Fields, options: &mut Options, context: u32) -> Result<()> {
    let old = fields.integer("max_tokens", 1, context.into())?;
    let new = fields.integer("max_completion_tokens", 1, context.into())?;
    if let (Some(old), Some(new)) = (old, new) {
        if old != new {
            let bound = format!("max_tokens, which is {old}, or absent");
            return Err(ApiError::invalid("max_completion_tokens", new, bound));
        }
    }
    if new.is_some() {
        options.limit_field = "max_completion_tokens";
    }
    options.max_output = new.or(old).map(|n| n as u32);
    Ok(())
}

/// How many of the likeliest tokens to tell beside each token, where probabilities are wanted.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>> {
    let wanted = fields.flag("logprobs")?;
    match fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)? {
        Some(top) if top > 0 && !wanted => {
            Err(ApiError::invalid("top_logprobs", top, "0 or absent where logprobs is not true"))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

/// The tools, for a template that has a place for them.
fn tools(fields: &mut Fields, template: &str) -> Result<Option<Value>> {
    let tools = fields.take("tools").filter(|tools| tools != &json!([]));
    fields.only("parallel_tool_calls", &[json!(true)], "the model calls as many tools as it likes")?;
    let used = match fields.take("tool_choice").as_ref().map(|choice| choice.as_str().unwrap_or_default()) {
        None | Some("auto") => true,
        Some("none") => false,
        Some(_) => {
            return Err(ApiError::unsupported(
                "tool_choice",
                "the model is not bound, must be \"auto\" or \"none\"",
            ))
        }
    };
    let Some(tools) = tools.filter(|_| used) else { return Ok(None) };
    let Value::Array(list) = &tools else {
        return Err(ApiError::invalid("tools", shown(&tools), "a list of functions"));
    };
    for (n, tool) in list.iter().enumerate() {
        let named = tool["function"]["name"].as_str().is_some_and(|name| !name.is_empty());
        if tool["type"] != "function" || !named {
            let bound = "an object with type \"function\" and a function with a name";
            return Err(ApiError::invalid(format!("tools[{n}]"), shown(tool), bound));
        }
    }
    if !template.contains("tools") {
        return Err(ApiError::unsupported("tools", "the model's chat template has no place for them"));
    }
    Ok(Some(tools))
}

/// The messages in the form that templates are written for.
fn messages(value: Value, template: &str) -> Result<Vec<Value>> {
    let Value::Array(list) = value else {
        return Err(ApiError::invalid("messages", shown(&value), MESSAGES_BOUND));
    };
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "[]", "at least one message"));
    }
    list.into_iter()
        .enumerate()
        .map(|(n, value)| message(&format!("messages[{n}]"), value, template))
        .collect()
}

fn message(path: &str, value: Value, template: &str) -> Result<Value> {
    const ROLES: &str = "system, developer, user, assistant or tool";
    let mut fields = Fields::of(path, value)?;
    let role = fields.string("role")?.ok_or_else(|| ApiError::missing(fields.name("role"), ROLES))?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" | "tool" => role,
        // The newer name of the system's voice; templates know the older one.
        "developer" => "system".to_string(),
        _ => return Err(ApiError::invalid(fields.name("role"), shown(&json!(role)), ROLES)),
    };
    let calls = match fields.take("tool_calls") {
        Some(calls) if role == "assistant" => Some(tool_calls(&fields.name("tool_calls"), calls, template)?),
        Some(_) => {
            return Err(ApiError::unsupported(fields.name("tool_calls"), "only the assistant calls tools"))
        }
        None => None,
    };
    let content = match fields.take("content") {
        Some(content) => text(&fields.name("content"), content)?,
        None if calls.is_some() => String::new(),
        None => return Err(ApiError::missing(fields.name("content"), "a string or a list of text parts")),
    };
    let mut message = Map::from_iter([("role".into(), json!(role)), ("content".into(), json!(content))]);
    if let Some(calls) = calls {
        message.insert("tool_calls".into(), calls);
    }
    if let Some(name) = fields.string("name")? {
        if !template.contains("name") {
            return Err(ApiError::unsupported(
                fields.name("name"),
                "the model's chat template has no place for it",
            ));
        }
        message.insert("name".into(), json!(name));
    }
    if role == "tool" {
        if let Some(id) = fields.string("tool_call_id")? {
            message.insert("tool_call_id".into(), json!(id));
        }
    }
    // What OpenAI's SDKs send back of an answer that they got; it is in no prompt.
    fields.only("annotations", &[json!([])], MODEL_READS_TEXT)?;
    fields.finish()?;
    Ok(Value::Object(message))
}

/// A content's text: a string, or parts that follow one another.
fn text(path: &str, content: Value) -> Result<String> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(ApiError::invalid(path, shown(&other), "a string or a list of text parts")),
    };
    let mut text = String::new();
    for (n, part) in parts.into_iter().enumerate() {
        let mut fields = Fields::of(&format!("{path}[{n}]"), part)?;
        let kind = fields.string("type")?.unwrap_or_default();
        if kind != "text" {
            let bound = format!("\"text\": {MODEL_READS_TEXT}");
            return Err(ApiError::invalid(fields.name("type"), shown(&json!(kind)), bound));
        }
        let part =
            fields.string("text")?.ok_or_else(|| ApiError::missing(fields.name("text"), "a string"))?;
        text.push_str(&part);
        fields.finish()?;
    }
    Ok(text)
}

/// Calls that the assistant made. Templates expect their arguments as an object, OpenAI has them as its JSON.
fn tool_calls(path: &str, calls: Value, template: &str) -> Result<Value> {
    if !template.contains("tool_calls") {
        return Err(ApiError::unsupported(path, "the model's chat template has no place for them"));
    }
    let Value::Array(mut list) = calls else {
        return Err(ApiError::invalid(path, shown(&calls), "a list of calls"));
    };
    for (n, call) in list.iter_mut().enumerate() {
        let path = format!("{path}[{n}].function.arguments");
        let arguments = call.pointer_mut("/function/arguments");
        let parsed = match &arguments {
            Some(Value::String(json)) => serde_json::from_str(json).ok().filter(Value::is_object),
            Some(object @ Value::Object(_)) => Some((*object).clone()),
            _ => None,
        };
        match (arguments, parsed) {
            (Some(arguments), Some(parsed)) => *arguments = parsed,
            (found, _) => {
                let found = found.map_or("missing".into(), |value| shown(value));
                return Err(ApiError::invalid(path, found, "an object's JSON"));
            }
        }
    }
    Ok(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{{ tools }} {{ m.tool_calls }} {{ m.name }}";

    fn refused(value: Value, template: &str) -> String {
        format!("{:?}", messages(value, template).unwrap_err())
    }

    #[test]
    fn messages_become_what_templates_expect() {
        let call = |arguments: Value| json!({ "id": "1", "type": "function", "function": { "name": "f", "arguments": arguments } });
        let given = json!([
            { "role": "developer", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [call(json!("{\"x\": 1}"))] },
            { "role": "tool", "tool_call_id": "1", "name": "f", "content": "2" },
        ]);
        let expected = json!([
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": "ab" },
            { "role": "assistant", "content": "", "tool_calls": [call(json!({ "x": 1 }))] },
            { "role": "tool", "content": "2", "name": "f", "tool_call_id": "1" },
        ]);
        assert_eq!(json!(messages(given.clone(), TEMPLATE).unwrap()), expected);
        assert!(refused(given, "").contains("messages[2].tool_calls"));
        let broken = json!([{ "role": "assistant", "tool_calls": [call(json!("{"))] }]);
        assert!(refused(broken, TEMPLATE).contains("messages[0].tool_calls[0].function.arguments"));
    }

    #[test]
    fn tools_need_a_template_that_knows_them() {
        let list = json!([{ "type": "function", "function": { "name": "f" } }]);
        let take = |choice: Value, template| {
            let request = json!({ "tools": list, "tool_choice": choice });
            tools(&mut Fields::of("", request).unwrap(), template)
        };
        assert_eq!(take(Value::Null, TEMPLATE).unwrap(), Some(list.clone()));
        assert_eq!(take(json!("none"), "").unwrap(), None);
        assert!(take(json!("auto"), "").is_err() && take(json!("required"), TEMPLATE).is_err());
    }
}
