//! The genesis section: empty, as CometBFT's own genesis file holds the parameters.

use deepnode_core::{Ctx, Error, Result};
use serde::{Deserialize, Serialize};

use super::state::PARAMS;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {}

/// Checks that InitChain's part is there.
pub fn init(cx: &mut Ctx<'_>, _: &Genesis) -> Result<()> {
    match PARAMS.get(cx)? {
        Some(_) => Ok(()),
        None => Err(Error::fault("consensus: InitChain has not brought the parameters")),
    }
}
