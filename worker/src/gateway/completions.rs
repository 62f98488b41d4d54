//! /v1/completions: the model goes on from a text, or from token ids.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::Extension;
use serde_json::{json, Value};

use super::access::Access;
use super::answer::{deadline, Asked, Shape};
use super::door::aside;
use super::errors::{shown, ApiError, Result};
use super::fields::Fields;
use super::options::Options;
use super::{keys, Gateway};
use crate::model::Model;

/// Tokens where a request does not say how many, as OpenAI has it.
const DEFAULT_MAX_TOKENS: i64 = 16;
/// Most of the likeliest tokens beside each token, as OpenAI has it.
const MAX_LOGPROBS: i64 = 5;
const PROMPT_BOUND: &str = "a string or a list of token ids; one prompt a request";

enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

pub async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(access): Extension<Arc<Access>>,
    request: Request,
) -> Result<Response> {
    let (deadline, caller) = (deadline(&gateway), keys::caller(&request));
    let mut fields = Fields::read(request, gateway.settings.limits.body).await?;
    let name = fields.string("model")?.ok_or_else(|| ApiError::missing("model", "a model's id"))?;
    gateway.check_name(&name)?;
    let arch = gateway.model.arch();
    let prompt = prompt(fields.need("prompt", PROMPT_BOUND)?, arch.vocab)?;
    let mut options = Options::take(&mut fields)?;
    let most = fields.integer("max_tokens", 1, arch.context.into())?.unwrap_or(DEFAULT_MAX_TOKENS);
    options.max_output = Some(most as u32);
    fields.only("echo", &[json!(false)], "the answer holds what is new alone")?;
    fields.only("best_of", &[json!(1)], "every choice is returned, see n")?;
    fields.only("suffix", &[json!("")], "the model goes on from a prompt, and fills no gaps")?;
    options.logprobs = fields.integer("logprobs", 0, MAX_LOGPROBS)?.map(|top| top as usize);
    fields.finish()?;
    gateway.backend.admit(&mut options)?;

    let place = gateway.backend.reserve(&caller)?;
    let encode = move |model: &Model| prompt.encode(model);
    let prompt = aside(&gateway.model, gateway.settings.timeout, deadline, encode).await?;
    let shape = Shape::Completion;
    Asked { shape, prompt, prompt_field: "prompt", offered: None, options, deadline, access }
        .answer(gateway, place)
        .await
}

fn prompt(value: Value, vocab: u32) -> Result<Prompt> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        // A list of one prompt.
        Value::Array(mut list) if matches!(&list[..], [Value::String(_) | Value::Array(_)]) => {
            prompt(list.remove(0), vocab)
        }
        Value::Array(list) if list.iter().all(Value::is_number) => tokens(&list, vocab),
        other => Err(ApiError::invalid("prompt", shown(&other), PROMPT_BOUND)),
    }
}

fn tokens(list: &[Value], vocab: u32) -> Result<Prompt> {
    let id = |(n, value): (usize, &Value)| {
        value.as_u64().filter(|id| *id < vocab.into()).map(|id| id as u32).ok_or_else(|| {
            let bound = format!("a token id below the vocabulary of {vocab}");
            ApiError::invalid(format!("prompt[{n}]"), shown(value), bound)
        })
    };
    Ok(Prompt::Tokens(list.iter().enumerate().map(id).collect::<Result<_>>()?))
}

impl Prompt {
    fn encode(self, model: &Model) -> Result<Vec<u32>> {
        match self {
            Self::Tokens(tokens) => Ok(tokens),
            Self::Text(text) => {
                model.tokenizer().encode_prompt(&text).map_err(|e| ApiError::prompt("prompt", &e))
            }
        }
    }
}
