//! Input and output that auditors cannot get from the worker: it has to show them on chain, or withheld them.

use deepnode_core::{errors as sdk, Address, Ctx, Error, Result};

use super::state::{Audit, Phase, Shown, SHOWN};
use super::{errors, events, params};
use crate::fields;
use crate::tasks::{self, Receipt, Task};

/// Greatest blob that is shown on chain, bytes.
pub const MAX_SHOWN: usize = 64 << 10;
/// Bytes of a token id.
const TOKEN: usize = 4;

/// An auditor reports that blobs are missing. Once an audit, so that nobody stops it for ever.
pub(super) fn report(cx: &mut Ctx<'_>, mut audit: Audit, operator: Address, key: &Address) -> Result<()> {
    if audit.reporter.is_some() {
        return Err(errors::already(audit.id, "the worker was asked for its blobs before"));
    }
    let (task, receipt) = subject(cx, &audit)?;
    let output = bytes(receipt.output_tokens);
    if output > MAX_SHOWN || (task.inline_input.is_empty() && bytes(receipt.input_tokens) > MAX_SHOWN) {
        return Err(errors::field(
            "size of the blobs",
            format!("{} and {output} bytes", bytes(receipt.input_tokens)),
            format!("at most {MAX_SHOWN} to be shown on chain; reveal the verdict unavailable"),
        ));
    }
    audit.reporter = Some(operator);
    let end = cx.height().saturating_add(params::params(cx)?.missing_blocks);
    audit.enter(cx, Phase::Missing, end)?;
    cx.emit(events::missing(&audit, key));
    audit.save(cx)
}

/// The worker shows them; the auditors of the draw have all their time to commit again.
pub(super) fn show(cx: &mut Ctx<'_>, mut audit: Audit, input: Vec<u8>, output: Vec<u8>) -> Result<()> {
    let (task, receipt) = subject(cx, &audit)?;
    if !task.inline_input.is_empty() {
        if !input.is_empty() {
            return Err(errors::field(
                "input",
                format!("{} bytes", input.len()),
                "empty: the task carries it",
            ));
        }
    } else {
        let sent = fields::digest("request.input_digest", &task.request()?.input_digest)?;
        same("input", &input, &sent)?;
    }
    let length = bytes(receipt.output_tokens);
    if output.len() != length {
        return Err(errors::field(
            "output",
            format!("{} bytes", output.len()),
            format!("{length} bytes, {TOKEN} for each of {} tokens", receipt.output_tokens),
        ));
    }
    same("output", &output, &receipt.result_digest)?;
    let end = cx.height().saturating_add(params::params(cx)?.phase_blocks);
    audit.enter(cx, Phase::Commit, end)?;
    cx.emit(events::shown(&audit, input.len(), output.len()));
    SHOWN.set(cx, &audit.id, &Shown { input, output })?;
    audit.save(cx)
}

/// Checks the sizes of a message's blobs, before anything else is looked at.
pub(super) fn check(input: &[u8], output: &[u8]) -> Result<()> {
    fields::within("length of input", input.len(), 0, MAX_SHOWN)?;
    fields::within("length of output", output.len(), 0, MAX_SHOWN)
}

fn same(field: &str, blob: &[u8], expected: &[u8; 32]) -> Result<()> {
    let digest = blake3::hash(blob);
    if digest.as_bytes() == expected {
        return Ok(());
    }
    Err(errors::mismatch(field, digest.to_hex(), hex::encode(expected)))
}

fn bytes(tokens: u32) -> usize {
    (tokens as usize).saturating_mul(TOKEN)
}

/// The task and receipt that an audit is about; test vectors have no blobs.
fn subject(cx: &Ctx<'_>, audit: &Audit) -> Result<(Task, Receipt)> {
    let id = audit.task().ok_or_else(|| {
        sdk::invalid_request(format!("audit {} is of a test vector: nothing is missing", audit.id))
    })?;
    let task =
        tasks::get(cx, id)?.ok_or_else(|| Error::fault(format!("audit {}: no task {id}", audit.id)))?;
    let receipt =
        task.receipt.clone().ok_or_else(|| Error::fault(format!("audit {}: no receipt", audit.id)))?;
    Ok((task, receipt))
}
