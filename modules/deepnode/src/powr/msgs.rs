//! Messages.

use deepnode_core::{check_authority, Ctx, Messages, Result};
use deepnode_proto::deepnode::powr::v1::{MsgUpdateParams, MsgUpdateParamsResponse};

use super::state::PARAMS;
use super::Params;
use crate::fields;

pub(super) fn register(messages: &mut Messages) {
    messages.on(update_params);
}

/// Governance changes the parameters; they hold from the end of this block on.
fn update_params(cx: &mut Ctx<'_>, m: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&m.authority)?;
    let params = Params::from_proto(&fields::required("params", m.params)?);
    params.check()?;
    PARAMS.set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}
