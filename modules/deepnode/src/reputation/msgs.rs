//! Messages.

use deepnode_core::{check_authority, Ctx, Messages, Result};
use deepnode_proto::deepnode::reputation::v1::{MsgUpdateParams, MsgUpdateParamsResponse};

use crate::fields;

pub(super) fn register(messages: &mut Messages) {
    messages.on(update_params);
}

/// Governance sets the constants. They hold from now on for all evidence, also for what is kept.
fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    let params = super::params::from_proto(&fields::required("params", msg.params)?)?;
    super::set_params(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}
