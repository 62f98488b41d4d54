//! Between the chain's messages and the engine's types: what workers and auditors must read in the same way.

use deepnode_proto::deepnode::tasks::v1 as proto;
use deepnode_proto::deepnode::tasks::v1::{InputKind, Receipt, Request, Task};
use deepnode_proto::Message;

use crate::canon::commit::{token_digest, Digest};
use crate::canon::SamplingParams;
use crate::engine::{Finish, Generation, Stop};
use crate::model::{ChatMessage, Model, ModelError};

/// Version of the canonical arithmetic.
pub const CANON: u32 = 1;

/// A digest in a message; none if it has not 32 bytes.
pub fn digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok()
}

/// BLAKE3 of a message's canonical bytes: the request digest, the receipt digest.
pub fn message_digest(message: &impl Message) -> Digest {
    *blake3::hash(&message.encode_to_vec()).as_bytes()
}

/// Token ids as they travel and are stored: u32 little-endian.
pub fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

/// The ids in such bytes; none unless they are whole.
pub fn token_ids(bytes: &[u8]) -> Option<Vec<u32>> {
    let (ids, rest) = bytes.as_chunks();
    rest.is_empty().then(|| ids.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

/// Why an input gives no prompt.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It gives none on any machine: a worker must decline it.
    #[error("{0}")]
    Unreadable(String),
    /// This machine cannot tell.
    #[error("{0}")]
    Unknown(ModelError),
}

impl From<ModelError> for InputError {
    fn from(error: ModelError) -> Self {
        match error.is_of_this_machine() {
            true => Self::Unknown(error),
            false => Self::Unreadable(error.to_string()),
        }
    }
}

/// The prompt of an input, in token ids.
pub fn prompt(model: &Model, kind: InputKind, input: &[u8]) -> Result<Vec<u32>, InputError> {
    use InputError::Unreadable;
    let text = || std::str::from_utf8(input).map_err(|e| Unreadable(format!("input is not UTF-8: {e}")));
    let tokens = match kind {
        InputKind::Tokens => token_ids(input).ok_or_else(|| {
            Unreadable(format!("input has {} bytes, must be 4 for each token id", input.len()))
        })?,
        InputKind::Text => model.tokenizer().encode_prompt(text()?)?,
        InputKind::Chat => {
            let messages: Vec<ChatMessage> = serde_json::from_str(text()?)
                .map_err(|e| Unreadable(format!("input is not chat messages: {e}")))?;
            model.tokenizer().encode_chat(&messages)?
        }
        InputKind::Unspecified => return Err(Unreadable("input_kind is unspecified".into())),
    };
    let vocab = model.arch().vocab;
    match tokens.iter().find(|t| **t >= vocab) {
        Some(token) => Err(Unreadable(format!("token {token} is not below the vocabulary of {vocab}"))),
        None => Ok(tokens),
    }
}

/// Checks a prompt against what the task says and the model can.
pub fn check_prompt(model: &Model, task: &Task, request: &Request, prompt: &[u32]) -> Result<(), String> {
    let (tokens, most) = (prompt.len(), task.input_tokens as usize);
    if tokens == 0 || tokens > most {
        return Err(format!("the input has {tokens} tokens, must be 1 to {most} as the task says"));
    }
    let (total, context) = (tokens + request.max_output as usize, model.arch().context as usize);
    if total > context {
        return Err(format!("input and max_output have {total} tokens, the context is {context}"));
    }
    Ok(())
}

/// Whether the sampler needs a seed that the chain has not fixed yet.
pub fn waits_for_seed(task: &Task) -> bool {
    let sampling = task.request.as_ref().and_then(|r| r.sampling.as_ref());
    task.seed.is_empty() && sampling.is_some_and(|s| s.temperature > 0 && s.seed.is_empty())
}

/// The sampler of a task whose seed is fixed. Greedy where the request says nothing.
pub fn sampling(task: &Task) -> Result<SamplingParams, String> {
    let given = task.request.as_ref().and_then(|r| r.sampling.clone()).unwrap_or_default();
    if waits_for_seed(task) {
        return Err("the seed is not fixed yet".into());
    }
    let seed = if task.seed.is_empty() { &given.seed } else { &task.seed };
    let seed = match seed.len() {
        0 => [0; 32],
        n => digest(seed).ok_or_else(|| format!("the seed has {n} bytes, must be 32"))?,
    };
    let params = SamplingParams {
        temperature_micros: given.temperature,
        top_p_micros: given.top_p,
        top_k: given.top_k,
        seed,
    };
    params.validate().map_err(|e| e.to_string())?;
    Ok(params)
}

/// The request's stop strings, for this model's tokens.
pub fn stop<'a>(model: &'a Model, request: &'a Request) -> Stop<'a> {
    Stop { strings: &request.stop, pieces: model.tokenizer() }
}

/// The receipt of a generation.
pub fn receipt(task_id: u64, request: &Request, prompt: &[u32], generation: &Generation) -> Receipt {
    Receipt {
        task_id,
        model_id: request.model_id.clone(),
        request_digest: message_digest(request).to_vec(),
        input_digest: token_digest(prompt).to_vec(),
        input_tokens: prompt.len() as u32,
        result_digest: token_digest(&generation.tokens).to_vec(),
        output_tokens: generation.tokens.len() as u32,
        finish: finish_to_proto(generation.finish).into(),
        trace_root: generation.trace_root.to_vec(),
        canon: CANON,
    }
}

pub fn finish_to_proto(finish: Finish) -> proto::Finish {
    match finish {
        Finish::Eos => proto::Finish::Eos,
        Finish::Length => proto::Finish::Length,
        Finish::Stop => proto::Finish::Stop,
        Finish::Numeric => proto::Finish::Numeric,
    }
}

pub fn finish_from_proto(finish: proto::Finish) -> Option<Finish> {
    Some(match finish {
        proto::Finish::Eos => Finish::Eos,
        proto::Finish::Length => Finish::Length,
        proto::Finish::Stop => Finish::Stop,
        proto::Finish::Numeric => Finish::Numeric,
        proto::Finish::Unspecified => return None,
    })
}
