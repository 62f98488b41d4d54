//! Parameters as messages, queries and genesis show them. What the messages do not carry is fixed.

use deepnode_core::num::amount;
use deepnode_core::{errors, Result};
use deepnode_proto::deepnode::reputation::v1 as proto;

pub use crate::params::ReputationParams as Params;
use crate::params::MICRO;

pub(super) fn new(kappa_units: u64, half_life: u64, ramp: u64) -> Result<Params> {
    let params =
        Params { kappa: amount::mul(kappa_units.into(), MICRO)?, half_life, ramp, ..Params::default() };
    params.check()?;
    Ok(params)
}

pub(super) fn from_proto(p: &proto::Params) -> Result<Params> {
    new(p.kappa, p.half_life, p.ramp)
}

pub(super) fn to_proto(p: &Params) -> Result<proto::Params> {
    Ok(proto::Params { kappa: kappa_units(p)?, half_life: p.half_life, ramp: p.ramp })
}

/// kappa in whole units.
pub(super) fn kappa_units(p: &Params) -> Result<u64> {
    u64::try_from(p.kappa / MICRO).map_err(|_| errors::overflow("kappa"))
}
