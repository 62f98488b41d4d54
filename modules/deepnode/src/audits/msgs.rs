//! Messages.

use deepnode_core::{check_authority, errors as sdk, Address, Coin, Ctx, Messages, Result};
use deepnode_proto::deepnode::audits::v1::{self as proto, *};

use super::state::{Audit, Phase, Verdict, AUDITS, BY_KEY};
use super::{auditors, blobs, course, errors, events, params, Params};
use crate::fields;

/// Bytes of a salt: fewer could be guessed, more cost for nothing.
const SALT: (usize, usize) = (16, 64);
/// Longest name of a class, bytes.
const MAX_CLASS: usize = 64;
/// Most class names that a message is read for.
const MAX_CLASSES: usize = 32;

pub(super) fn register(messages: &mut Messages) {
    messages
        .on(register_auditor)
        .on(commit_verdict)
        .on(reveal_verdict)
        .on(report_missing)
        .on(show_blobs)
        .on(update_params);
}

/// What a commitment hides: BLAKE3(auditor's 20 bytes, verdict as one byte, digest, salt).
pub fn commitment(auditor: &Address, verdict: proto::Verdict, digest: &[u8; 32], salt: &[u8]) -> [u8; 32] {
    let verdict = [u8::try_from(i32::from(verdict)).unwrap_or(u8::MAX)];
    let mut hasher = blake3::Hasher::new();
    hasher.update(auditor.as_bytes()).update(&verdict).update(digest).update(salt);
    *hasher.finalize().as_bytes()
}

fn register_auditor(cx: &mut Ctx<'_>, msg: MsgRegisterAuditor) -> Result<MsgRegisterAuditorResponse> {
    let operator = fields::account("operator", &msg.operator)?;
    let key = fields::account("auditor", &msg.auditor)?;
    fields::within("number of classes", msg.classes.len(), 0, MAX_CLASSES)?;
    for class in &msg.classes {
        fields::printable("classes", class, 1, MAX_CLASS)?;
    }
    // A change of key or classes adds nothing.
    let more = match &msg.deposit {
        None => 0,
        Some(coin) if coin.amount == "0" => 0,
        some => Coin::positive_udn("deposit", some.as_ref())?,
    };
    auditors::register(cx, &operator, &key, msg.classes, more)?;
    Ok(MsgRegisterAuditorResponse {})
}

fn commit_verdict(cx: &mut Ctx<'_>, msg: MsgCommitVerdict) -> Result<MsgCommitVerdictResponse> {
    let key = fields::account("auditor", &msg.auditor)?;
    let commitment = fields::digest("commitment", &msg.commitment)?;
    let mut audit = in_phase(cx, msg.audit_id, Phase::Commit)?;
    let seat = seat(cx, &audit, &key)?;
    let id = audit.id;
    let member = audit.members.get_mut(seat).ok_or_else(|| errors::not_drawn(id, key))?;
    if member.commitment.is_some() {
        return Err(errors::already(id, "this auditor committed before"));
    }
    member.commitment = Some(commitment);
    member.key = key;
    if audit.current().all(|m| m.commitment.is_some()) {
        course::reveal_phase(cx, &mut audit)?;
    }
    cx.emit(events::committed(&audit, &key));
    audit.save(cx)?;
    Ok(MsgCommitVerdictResponse {})
}

fn reveal_verdict(cx: &mut Ctx<'_>, msg: MsgRevealVerdict) -> Result<MsgRevealVerdictResponse> {
    let key = fields::account("auditor", &msg.auditor)?;
    let given = proto::Verdict::try_from(msg.verdict).unwrap_or_default();
    let verdict = match given {
        proto::Verdict::Right => Verdict::Right,
        proto::Verdict::Wrong => Verdict::Wrong,
        proto::Verdict::Unavailable => Verdict::Unavailable,
        proto::Verdict::Unspecified => {
            let bound = "1 (right), 2 (wrong) or 3 (unavailable)";
            return Err(errors::field("verdict", msg.verdict, bound));
        }
    };
    let digest = fields::digest("digest", &msg.digest)?;
    fields::within("length of salt", msg.salt.len(), SALT.0, SALT.1)?;
    let mut audit = in_phase(cx, msg.audit_id, Phase::Reveal)?;
    let seat = seat(cx, &audit, &key)?;
    let id = audit.id;
    let member = audit.members.get_mut(seat).ok_or_else(|| errors::not_drawn(id, key))?;
    if member.verdict.is_some() {
        return Err(errors::already(id, "this auditor revealed before"));
    }
    let Some(committed) = member.commitment else {
        return Err(errors::already(id, "this auditor did not commit in time"));
    };
    let revealed = commitment(&key, given, &digest, &msg.salt);
    if revealed != committed {
        return Err(errors::mismatch("reveal", hex::encode(revealed), hex::encode(committed)));
    }
    member.verdict = Some(verdict);
    member.digest = digest;
    cx.emit(events::revealed(&audit, seat, verdict));
    if audit.current().all(|m| m.commitment.is_none() || m.verdict.is_some()) {
        // All have spoken: this block's end decides.
        let end = cx.height();
        audit.enter(cx, Phase::Reveal, end)?;
    }
    audit.save(cx)?;
    Ok(MsgRevealVerdictResponse {})
}

fn report_missing(cx: &mut Ctx<'_>, msg: MsgReportMissing) -> Result<MsgReportMissingResponse> {
    let key = fields::account("auditor", &msg.auditor)?;
    let audit = in_phase(cx, msg.audit_id, Phase::Commit)?;
    let seat = seat(cx, &audit, &key)?;
    let member = audit.members.get(seat).ok_or_else(|| errors::not_drawn(audit.id, key))?;
    if member.commitment.is_some() {
        return Err(errors::already(audit.id, "this auditor committed before"));
    }
    let operator = member.operator;
    blobs::report(cx, audit, operator, &key)?;
    Ok(MsgReportMissingResponse {})
}

fn show_blobs(cx: &mut Ctx<'_>, msg: MsgShowBlobs) -> Result<MsgShowBlobsResponse> {
    let worker = fields::account("worker", &msg.worker)?;
    blobs::check(&msg.input, &msg.output)?;
    let audit = in_phase(cx, msg.audit_id, Phase::Missing)?;
    if audit.worker != Some(worker) {
        return Err(sdk::unauthorized(format!("audit {}: {worker} is not the audited worker", audit.id)));
    }
    blobs::show(cx, audit, msg.input, msg.output)?;
    Ok(MsgShowBlobsResponse {})
}

fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    let params = Params::from_proto(&fields::required("params", msg.params)?)?;
    params::set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}

/// The audit, if it is in that phase and its time is not over.
fn in_phase(cx: &Ctx<'_>, id: u64, phase: Phase) -> Result<Audit> {
    let audit = AUDITS.get(cx, &id)?.ok_or_else(|| errors::not_found(id))?;
    if audit.phase != phase || cx.height() > audit.phase_end {
        let expected = format!("{phase:?}, and not after its end (block {} is)", cx.height());
        return Err(errors::phase(id, audit.phase, audit.phase_end, &expected));
    }
    Ok(audit)
}

/// Index of the member of the latest draw whose auditor's key that is.
fn seat(cx: &Ctx<'_>, audit: &Audit, key: &Address) -> Result<usize> {
    let operator = BY_KEY.get(cx, key)?;
    let draw = audit.draw();
    let drawn = |m: &super::state::Member| m.draw == draw && Some(m.operator) == operator;
    audit.members.iter().position(drawn).ok_or_else(|| errors::not_drawn(audit.id, key))
}
