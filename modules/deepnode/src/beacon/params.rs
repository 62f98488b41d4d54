//! Parameters as messages, queries and genesis show them.

use deepnode_core::Result;
use deepnode_proto::deepnode::beacon::v1 as proto;

pub use crate::params::EpochParams as Params;

pub(super) fn from_proto(p: &proto::Params) -> Result<Params> {
    let params = Params { blocks: p.epoch_blocks, max_duration: p.max_epoch_seconds };
    params.check()?;
    Ok(params)
}

pub(super) fn to_proto(p: &Params) -> proto::Params {
    proto::Params { epoch_blocks: p.blocks, max_epoch_seconds: p.max_duration }
}
