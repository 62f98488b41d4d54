//! Within an epoch power changes only by entering the bonded set and leaving it. Staking itself takes the power of who
//! leaves.

use deepnode_core::{Address, Ctx, Result, StakingHooks};
use deepnode_cosmos::staking;

use super::epoch::ENTRY_POWER;
use super::scores;
use super::state::{STANDINGS, TERMS};

/// Listens to staking.
pub struct PowrHooks;

impl StakingHooks for PowrHooks {
    fn after_validator_bonded(&self, cx: &mut Ctx<'_>, validator: &Address, _: &Address) -> Result<()> {
        staking::set_power(cx, validator, ENTRY_POWER)
    }

    fn after_validator_begin_unbonding(
        &self,
        cx: &mut Ctx<'_>,
        validator: &Address,
        consensus: &Address,
    ) -> Result<()> {
        if staking::tombstoned(cx, consensus)? {
            scores::void_work(cx, validator)?;
        }
        Ok(())
    }

    fn after_validator_removed(&self, cx: &mut Ctx<'_>, validator: &Address, _: &Address) -> Result<()> {
        STANDINGS.remove(cx, validator)?;
        TERMS.remove(cx, validator)
    }
}
