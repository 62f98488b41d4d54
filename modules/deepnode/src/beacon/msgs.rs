//! Messages.

use deepnode_core::{check_authority, Ctx, Messages, Result};
use deepnode_proto::deepnode::beacon::v1::{MsgUpdateParams, MsgUpdateParamsResponse};

use super::params;
use crate::fields;

pub(super) fn register(messages: &mut Messages) {
    messages.on(update_params);
}

/// Governance sets the length of epochs; it holds from the next block on, for the running epoch too.
fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    params::set(cx, &params::from_proto(&fields::required("params", msg.params)?)?)?;
    Ok(MsgUpdateParamsResponse {})
}
