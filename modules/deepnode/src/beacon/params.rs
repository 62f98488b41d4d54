//! Parameters as messages, queries and genesis show them.

use deepnode_core::{errors, Ctx, Result};
use deepnode_cosmos::staking;
use deepnode_proto::deepnode::beacon::v1 as proto;

use super::state::PARAMS;
pub use crate::params::EpochParams as Params;

pub(super) fn from_proto(p: &proto::Params) -> Result<Params> {
    let params = Params { blocks: p.epoch_blocks, max_duration: p.max_epoch_seconds };
    params.check()?;
    Ok(params)
}

pub(super) fn to_proto(p: &Params) -> proto::Params {
    proto::Params { epoch_blocks: p.blocks, max_epoch_seconds: p.max_duration }
}

/// Sets them. Powers stand for an epoch, and the stake that gave them must be there until evidence has expired: so
/// staking bounds how long an epoch lasts, and hears of it.
pub(super) fn set(cx: &mut Ctx<'_>, params: &Params) -> Result<()> {
    match staking::max_power_period(cx)? {
        Some(most) if params.max_duration > most => {
            return Err(errors::invalid_request(format!(
                "params.max_epoch_seconds is {}, at most {most} is allowed: staking's unbonding_time less \
                 evidence.max_age_duration",
                params.max_duration
            )))
        }
        _ => {}
    }
    PARAMS.set(cx, params)?;
    staking::set_power_period(cx, params.max_duration)
}
