//! The verdict on one receipt, and the test vector of a model: pure functions of what the chain and the blobs say.

use std::sync::atomic::AtomicBool;

use deepnode_proto::deepnode::audits::v1::Verdict;
use deepnode_proto::deepnode::tasks::v1::{self as proto, Task};

use crate::canon::commit::{beacon_layer, token_digest, Digest};
use crate::canon::SamplingParams;
use crate::engine::{Audit, Claim, Divergence, Engine, EngineError, Finish, Question, Request, Stop};
use crate::model::{Model, ModelError};
use crate::request::{self, InputError, CANON};

/// Token ids of a test vector.
pub const VECTOR_INPUT: u32 = 32;
/// Tokens that a test vector generates, at most.
pub const VECTOR_OUTPUT: u32 = 8;

/// What an auditor found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    /// The keyed layer digest D; of a test vector the trace root. Zero where nothing could be computed.
    pub digest: Digest,
    /// For the log: what differs, and where.
    pub reason: String,
}

impl Finding {
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unavailable, digest: [0; 32], reason: reason.into() }
    }

    fn wrong(digest: Digest, reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, digest, reason: reason.into() }
    }
}

/// Recomputes a receipt. `input` and `output` are the blobs that the task's input digest and the receipt's result digest
/// name. An error is the auditor's own: it says nothing about the receipt.
pub fn check(
    model: &Model,
    engine: &Engine,
    task: &Task,
    input: &[u8],
    output: &[u8],
    beacon: &Digest,
    cancel: &AtomicBool,
) -> Result<Finding, EngineError> {
    match Examined::new(model, task, input, output, beacon) {
        Ok(examined) => conclude(engine.audit(&examined.question(model), cancel)),
        Err(Unexamined::Wrong(finding)) => Ok(*finding),
        Err(Unexamined::Unknown(error)) => Err(error.into()),
    }
}

/// Why a receipt needs no engine, or gets none.
pub enum Unexamined {
    /// What is wrong with it is plain.
    Wrong(Box<Finding>),
    /// The auditor's own error.
    Unknown(ModelError),
}

/// A receipt that agrees with its task and its blobs in all that needs no engine.
pub struct Examined {
    prompt: Vec<u32>,
    params: SamplingParams,
    ask: proto::Request,
    tokens: Vec<u32>,
    finish: Finish,
    trace_root: Digest,
    beacon: Digest,
    receipt: Digest,
}

impl Examined {
    /// Examines a receipt. Arguments as of [`check`].
    pub fn new(
        model: &Model,
        task: &Task,
        input: &[u8],
        output: &[u8],
        beacon: &Digest,
    ) -> Result<Self, Unexamined> {
        let wrong = |reason: String| Unexamined::Wrong(Box::new(Finding::wrong([0; 32], reason)));
        let (Some(ask), Some(receipt)) = (&task.request, &task.receipt) else {
            return Err(wrong("the task has no request or no receipt".into()));
        };
        if receipt.canon != CANON || receipt.task_id != task.id {
            return Err(wrong(format!("it is of task {} and canon/{}", receipt.task_id, receipt.canon)));
        }
        if receipt.model_id != ask.model_id || ask.model_id != model.id() {
            return Err(wrong(format!("it is of model {}", hex::encode(&receipt.model_id))));
        }
        if receipt.request_digest != request::message_digest(ask) {
            return Err(wrong(format!("its request digest is {}", hex::encode(&receipt.request_digest))));
        }
        let prompt = request::prompt(model, ask.input_kind(), input).map_err(|error| match error {
            InputError::Unreadable(reason) => {
                wrong(format!("the worker took an input that cannot be read: {reason}"))
            }
            InputError::Unknown(error) => Unexamined::Unknown(error),
        })?;
        request::check_prompt(model, task, ask, &prompt)
            .map_err(|reason| wrong(format!("the worker took an input that it must decline: {reason}")))?;
        if receipt.input_digest != token_digest(&prompt) || receipt.input_tokens as usize != prompt.len() {
            let text = format!("the input is {} other tokens, or another number of them", prompt.len());
            return Err(wrong(text));
        }
        let tokens = request::token_ids(output)
            .ok_or_else(|| wrong(format!("the output has {} bytes, which are no token ids", output.len())))?;
        if receipt.result_digest != token_digest(&tokens) || receipt.output_tokens as usize != tokens.len() {
            let text = format!("the output is {} other tokens, or another number of them", tokens.len());
            return Err(wrong(text));
        }
        let (Some(finish), Some(trace_root)) =
            (request::finish_from_proto(receipt.finish()), request::digest(&receipt.trace_root))
        else {
            return Err(wrong("its finish or trace root is nothing known".into()));
        };
        let params =
            request::sampling(task).map_err(|reason| wrong(format!("it was sampled, and {reason}")))?;
        let (ask, receipt) = (ask.clone(), request::message_digest(receipt));
        Ok(Self { prompt, params, ask, tokens, finish, trace_root, beacon: *beacon, receipt })
    }

    /// What the engine is asked.
    pub fn question<'a>(&'a self, model: &'a Model) -> Question<'a> {
        let request = Request {
            prompt: &self.prompt,
            params: &self.params,
            max_output: self.ask.max_output,
            stop: request::stop(model, &self.ask),
        };
        let Self { finish, trace_root, beacon, receipt, .. } = *self;
        let claim = Claim { request, output: &self.tokens, finish, trace_root, leaves: None };
        Question { claim, beacon, receipt }
    }
}

/// What the engine's answer says of the receipt.
pub fn conclude(answer: Result<Audit, EngineError>) -> Result<Finding, EngineError> {
    match answer {
        Ok(Audit { layer_digest: digest, divergence: None, .. }) => {
            Ok(Finding { verdict: Verdict::Right, digest, reason: "agrees".into() })
        }
        Ok(Audit { layer_digest, divergence: Some(differs), .. }) => {
            Ok(Finding::wrong(layer_digest, describe(&differs)))
        }
        Err(error @ (EngineError::Invalid { .. } | EngineError::Param(_))) => {
            let reason = format!("the worker took a request that it must decline: {error}");
            Ok(Finding::wrong([0; 32], reason))
        }
        Err(error) => Err(error),
    }
}

fn describe(divergence: &Divergence) -> String {
    match divergence {
        Divergence::Token { step, claimed, canonical } => {
            format!("output token {step} is {claimed}, must be {canonical}")
        }
        Divergence::Leaf { step } => format!("the trace differs at output token {step}"),
        Divergence::Finish { step, claimed, canonical } => {
            format!("after {step} tokens the end is {claimed:?}, must be {canonical:?}")
        }
        Divergence::Root { claimed, canonical } => {
            format!("the trace root is {}, must be {}", hex::encode(claimed), hex::encode(canonical))
        }
    }
}

/// The ids of a model's test vector: BLAKE3(beacon, model id, j as u32 little-endian), as a little-endian integer, modulo
/// the vocabulary.
pub fn vector_input(beacon: &Digest, model: &Digest, vocab: u32) -> Vec<u32> {
    (0..VECTOR_INPUT)
        .map(|j| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(beacon).update(model).update(&j.to_le_bytes());
            beacon_layer(hasher.finalize().as_bytes(), vocab)
        })
        .collect()
}

/// Computes a model's test vector: greedy tokens after ids that nobody chose; the digest is their trace root.
pub fn vector(
    model: &Model,
    engine: &Engine,
    beacon: &Digest,
    cancel: &AtomicBool,
) -> Result<Finding, EngineError> {
    let prompt = vector_input(beacon, &model.id(), model.arch().vocab);
    let request = Request {
        prompt: &prompt,
        params: &SamplingParams::GREEDY,
        max_output: VECTOR_OUTPUT,
        stop: Stop::NONE,
    };
    let generation = engine.with_fall_over(|engine| {
        let mut session = engine.session((VECTOR_INPUT + VECTOR_OUTPUT) as usize)?;
        session.generate(&request, &mut |_| (), cancel)
    })?;
    let reason = format!("test vector of {} tokens", generation.tokens.len());
    Ok(Finding { verdict: Verdict::Right, digest: generation.trace_root, reason })
}
