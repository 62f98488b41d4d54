//! Proven misbehaviour that a block carries.

use deepnode_core::block::{Misbehavior, MisbehaviorKind};
use deepnode_core::{Ctx, Dec, Result};

use super::state::Status;
use super::{events, liability, validators};

/// What two signatures for one height cost: 5% of the stake that answers, and the key for ever.
const DOUBLE_SIGN: Dec = Dec::percent(5);

/// Slashes and tombstones whoever the block proves to have misbehaved.
pub(super) fn begin_block(cx: &mut Ctx<'_>) -> Result<()> {
    for misbehavior in &cx.block().misbehavior {
        punish(cx, misbehavior)?;
    }
    Ok(())
}

/// Unknown, unbonded and tombstoned validators are skipped, and so are faults that are too old: CometBFT may name
/// any of them, and none of them is an error.
fn punish(cx: &mut Ctx<'_>, misbehavior: &Misbehavior) -> Result<()> {
    let consensus = &misbehavior.validator;
    let Some(operator) = validators::operator_of(cx, consensus)? else { return Ok(()) };
    let unbonded = validators::known(cx, &operator)?.status == Status::Unbonded;
    if unbonded || validators::tombstoned(cx, consensus)? || liability::expired(cx, misbehavior.time)? {
        return Ok(());
    }
    liability::slash(cx, &operator, misbehavior.height, DOUBLE_SIGN)?;
    let tombstoned = validators::tombstone(cx, &operator)?;
    let kind = match misbehavior.kind {
        MisbehaviorKind::DuplicateVote => "duplicate_vote",
        MisbehaviorKind::LightClientAttack => "light_client_attack",
    };
    cx.emit(events::double_sign(consensus, kind, misbehavior.height, tombstoned));
    Ok(())
}
