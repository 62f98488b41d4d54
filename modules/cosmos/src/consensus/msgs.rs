//! Messages.

use deepnode_core::{check_authority, errors, Ctx, Result};
use deepnode_proto::cosmos::consensus::v1::{MsgUpdateParams, MsgUpdateParamsResponse};

use super::params::{check_key_types, Block, Evidence};
use super::state::{MAX_EVIDENCE_AGE, PARAMS};
use super::Params;

/// Governance replaces the parameters: `block`, `evidence` and `validator` must all be there, `abci` may stay away.
/// In force from the next block on.
pub fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    let missing =
        |field| errors::invalid_request(format!("{field} is missing, all parameters must be present"));
    check_key_types(msg.validator.as_ref().ok_or_else(|| missing("validator"))?)?;
    let old = super::params(cx)?;
    let new = Params {
        block: Block::from_proto(msg.block.as_ref().ok_or_else(|| missing("block"))?)?,
        evidence: Evidence::from_proto(msg.evidence.as_ref().ok_or_else(|| missing("evidence"))?)?,
        vote_extensions_enable_height: match msg.abci {
            None => old.vote_extensions_enable_height,
            Some(abci) => u64::try_from(abci.vote_extensions_enable_height).map_err(|_| {
                errors::invalid_request("abci.vote_extensions_enable_height must not be negative")
            })?,
        },
    };
    new.check()?;
    new.check_update(&old, cx.height())?;
    if let Some(most) = MAX_EVIDENCE_AGE.get(cx)? {
        new.evidence.check_age(most)?;
    }
    PARAMS.set(cx, &new)?;
    Ok(MsgUpdateParamsResponse {})
}
