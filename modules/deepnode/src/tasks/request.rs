//! What a request must be, and what it costs.

use deepnode_core::{Dec, KvRead, Result};
use deepnode_proto::deepnode::tasks::v1::{InputKind, MsgSubmitTask, Request, SamplingParams};

use super::events::hex;
use super::math::compute_fee;
use super::{errors, Params};
use crate::fields::{digest, required, within};
use crate::models::{self, Class, Model};

/// Least temperature that is not 0, millionths: below, the sampler's numbers leave their range.
const MIN_TEMPERATURE: u32 = 10_000;
const MAX_TEMPERATURE: u32 = 100_000_000;
const MAX_TOP_P: u32 = 1_000_000;
const MAX_TOP_K: u32 = 64;

/// Checks what can be checked without knowing the model; the request of the message.
pub(super) fn check(m: &MsgSubmitTask, params: &Params) -> Result<Request> {
    let request = required("request", m.request.clone())?;
    let kind = InputKind::try_from(request.input_kind).unwrap_or_default();
    if kind == InputKind::Unspecified {
        return Err(errors::field(
            "request.input_kind",
            request.input_kind,
            "1 (tokens), 2 (text) or 3 (chat)",
        ));
    }
    let input_digest = digest("request.input_digest", &request.input_digest)?;
    within("input_tokens", m.input_tokens, 1, u32::MAX)?;
    within("request.max_output", request.max_output, 1, u32::MAX)?;
    if let Some(sampling) = &request.sampling {
        check_sampling(sampling)?;
    }
    within("number of request.stop", request.stop.len(), 0, params.max_stops as usize)?;
    for stop in &request.stop {
        within("length of request.stop", stop.len(), 1, params.max_stop_bytes as usize)?;
    }
    check_inline(&m.inline_input, kind, m.input_tokens, &input_digest, params)?;
    Ok(request)
}

fn check_sampling(s: &SamplingParams) -> Result<()> {
    if s.temperature != 0 {
        within("request.sampling.temperature", s.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE)?;
    }
    within("request.sampling.top_p", s.top_p, 0, MAX_TOP_P)?;
    within("request.sampling.top_k", s.top_k, 0, MAX_TOP_K)?;
    if !s.seed.is_empty() {
        digest("request.sampling.seed", &s.seed)?;
    }
    Ok(())
}

fn check_inline(
    input: &[u8],
    kind: InputKind,
    tokens: u32,
    digest: &[u8; 32],
    params: &Params,
) -> Result<()> {
    within("length of inline_input", input.len(), 0, params.max_inline as usize)?;
    if input.is_empty() {
        return Ok(());
    }
    if blake3::hash(input) != *digest {
        let found = blake3::hash(input).to_hex();
        return Err(errors::field(
            "request.input_digest",
            hex(digest),
            format!("BLAKE3 of inline_input, {found}"),
        ));
    }
    let well_formed = match kind {
        InputKind::Tokens => input.len().is_multiple_of(4) && input.len() / 4 == tokens as usize,
        _ => std::str::from_utf8(input).is_ok(),
    };
    if !well_formed {
        let bound = match kind {
            InputKind::Tokens => format!("{tokens} token ids of 4 bytes, as input_tokens says"),
            _ => "UTF-8".into(),
        };
        return Err(errors::field("inline_input", format!("{} bytes", input.len()), bound));
    }
    Ok(())
}

/// A model that takes requests, with its class.
pub(super) fn active_model(kv: &(impl KvRead + ?Sized), id: &[u8; 32]) -> Result<(Model, Class)> {
    let model = models::get(kv, id)?.ok_or_else(|| errors::model(&hex(id), "does not exist"))?;
    if !model.is_active() {
        return Err(errors::model(&hex(id), format!("is {:?}, it must be active", model.status)));
    }
    // The receipts of other kinds have no canonical form yet, and what cannot be audited is not sold.
    if model.kind != "llm" {
        return Err(errors::model(&hex(id), format!("is of kind {:?}, tasks run llm", model.kind)));
    }
    let class = models::class(kv, &model.class)?.ok_or_else(|| errors::model(&hex(id), "has no class"))?;
    Ok((model, class))
}

/// What a request costs, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub cu: u64,
    /// udn.
    pub compute: u128,
    pub royalty: u128,
    /// Both.
    pub fee: u128,
    /// Blocks.
    pub min_deadline: u64,
}

/// What `input` and `output` tokens of an active model cost now. Both together must fit its context.
pub fn estimate(kv: &(impl KvRead + ?Sized), model: &[u8; 32], input: u32, output: u32) -> Result<Estimate> {
    let (model, class) = active_model(kv, model)?;
    cost(&model, &class, input, output, &super::params(kv)?)
}

/// The royalty of a model as a part of the compute fee.
pub(super) fn royalty(model: &Model) -> Dec {
    Dec::ppm(model.royalty_ppm.into())
}

pub(super) fn cost(
    model: &Model,
    class: &Class,
    input: u32,
    output: u32,
    params: &Params,
) -> Result<Estimate> {
    let (input_tokens, context) = (u64::from(input), u64::from(model.architecture.context));
    within("input_tokens + max_output", input_tokens.saturating_add(output.into()), 2, context)?;
    let cu = models::cu(&model.architecture, input, output)?;
    let compute = compute_fee(cu.into(), class.price)?;
    let royalty = royalty(model).of(compute)?;
    let fee = deepnode_core::num::amount::add(compute, royalty)?;
    let blocks = cu.checked_div(class.speed).unwrap_or(u64::MAX);
    Ok(Estimate { cu, compute, royalty, fee, min_deadline: params.min_deadline.saturating_add(blocks) })
}
