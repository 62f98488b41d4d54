//! What a receipt must be.

use deepnode_core::Result;
use deepnode_proto::deepnode::tasks::v1 as proto;
use prost::Message;

use super::errors;
use super::events::hex;
use super::state::{Finish, Receipt, Task};
use crate::fields::{digest, within};

/// Version of the canonical arithmetic.
pub const CANON: u32 = 1;

/// Checks a receipt against its task.
pub(super) fn check(task: &Task, r: &proto::Receipt) -> Result<Receipt> {
    equal("receipt.model_id", &r.model_id, &task.model)?;
    equal("receipt.request_digest", &r.request_digest, &task.request_digest)?;
    within("receipt.canon", r.canon, CANON, CANON)?;
    within("receipt.input_tokens", r.input_tokens, 1, task.input_tokens)?;
    let request = task.request()?;
    let input_digest = digest("receipt.input_digest", &r.input_digest)?;
    if request.input_kind() == proto::InputKind::Tokens {
        let sent = digest("request.input_digest", &request.input_digest)?;
        equal("receipt.input_digest", &input_digest, &sent)?;
    }
    let finish = finish(r.finish)?;
    let max = task.max_output;
    // What ends at the greatest output is never a number out of range, which ends before the next token.
    let (least, most) = match finish {
        Finish::Eos | Finish::Stop => (1, max),
        Finish::Length => (max, max),
        Finish::Numeric => (0, max.saturating_sub(1)),
    };
    within(&format!("receipt.output_tokens of finish {finish:?}"), r.output_tokens, least, most)?;
    if finish == Finish::Stop && request.stop.is_empty() {
        return Err(errors::field("receipt.finish", "Stop", "another: the request has no stop strings"));
    }
    Ok(Receipt {
        input_digest,
        input_tokens: r.input_tokens,
        result_digest: digest("receipt.result_digest", &r.result_digest)?,
        output_tokens: r.output_tokens,
        finish,
        trace_root: digest("receipt.trace_root", &r.trace_root)?,
        digest: blake3::hash(&r.encode_to_vec()).into(),
    })
}

fn equal(name: &str, given: &[u8], expected: &[u8; 32]) -> Result<()> {
    let given = digest(name, given)?;
    if given == *expected {
        return Ok(());
    }
    Err(errors::field(name, hex(&given), hex(expected)))
}

fn finish(given: i32) -> Result<Finish> {
    Ok(match proto::Finish::try_from(given).unwrap_or_default() {
        proto::Finish::Eos => Finish::Eos,
        proto::Finish::Length => Finish::Length,
        proto::Finish::Stop => Finish::Stop,
        proto::Finish::Numeric => Finish::Numeric,
        proto::Finish::Unspecified => {
            return Err(errors::field(
                "receipt.finish",
                given,
                "1 (eos), 2 (length), 3 (stop) or 4 (numeric)",
            ))
        }
    })
}

/// The message that a stored receipt came as.
pub(super) fn to_proto(task: &Task, r: &Receipt) -> proto::Receipt {
    let finish = match r.finish {
        Finish::Eos => proto::Finish::Eos,
        Finish::Length => proto::Finish::Length,
        Finish::Stop => proto::Finish::Stop,
        Finish::Numeric => proto::Finish::Numeric,
    };
    proto::Receipt {
        task_id: task.id,
        model_id: task.model.to_vec(),
        request_digest: task.request_digest.to_vec(),
        input_digest: r.input_digest.to_vec(),
        input_tokens: r.input_tokens,
        result_digest: r.result_digest.to_vec(),
        output_tokens: r.output_tokens,
        finish: finish.into(),
        trace_root: r.trace_root.to_vec(),
        canon: CANON,
    }
}
