//! Sequences: every ordered transaction moves those of its signers on, also if its messages fail.

use deepnode_core::{Ctx, Result};
use deepnode_cosmos::auth;

use super::Checked;

pub fn increment(cx: &mut Ctx<'_>, checked: &Checked<'_>) -> Result<()> {
    checked.signers.iter().try_for_each(|signer| auth::increment_sequence(cx, signer))
}
