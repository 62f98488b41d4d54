//! Messages.

use deepnode_core::{check_authority, errors, Ctx, Result};
use deepnode_proto::cosmos::auth::v1beta1::{MsgUpdateParams, MsgUpdateParamsResponse};

use super::state::PARAMS;
use super::Params;

/// Governance replaces all parameters.
pub fn update_params(cx: &mut Ctx<'_>, msg: MsgUpdateParams) -> Result<MsgUpdateParamsResponse> {
    check_authority(&msg.authority)?;
    let params = msg.params.ok_or_else(|| errors::invalid_request("params is missing"))?;
    let params = Params::from_proto(&params);
    params.check()?;
    PARAMS.set(cx, &params)?;
    Ok(MsgUpdateParamsResponse {})
}
