//! The checks before a transaction's messages run: one file a check, in the order of [`run`].
//!
//! They decide whether a transaction may enter the mempool (Check), stay there (Recheck), stand in a proposal (Propose)
//! and be executed (Deliver); Simulate estimates its gas. Gas used, error codes and which of two errors wins are consensus.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic)]

mod basic;
mod cache;
mod extension;
mod fee;
mod gas;
mod memo;
mod public_key;
mod sequence;
mod signature_count;
mod signature_gas;
mod size;
mod timeout;
mod unordered;
mod verify;

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic)]
mod tests;

use deepnode_core::errors::refused;
use deepnode_core::{Address, Coins, Ctx, Messages, Result};
use deepnode_cosmos::auth;
use deepnode_tx::Tx;

pub use cache::SignatureCache;
pub use fee::MinGasPrices;
pub use verify::verify_ahead;

/// What the checks are run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A transaction that wants into the mempool.
    Check,
    /// One that waits there, after a block: its signatures were verified.
    Recheck,
    /// Gas estimation: no limit, no signature is verified, nothing is kept.
    Simulate,
    /// PrepareProposal and ProcessProposal: as Deliver. No setting of this node counts.
    Propose,
    /// Execution.
    Deliver,
}

impl Mode {
    /// The mempool's own modes, in which this node's settings count.
    fn is_mempool(self) -> bool {
        matches!(self, Mode::Check | Mode::Recheck)
    }
}

/// What this node decides for itself.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Fees below these prices stay out of this node's mempool.
    pub min_gas_prices: MinGasPrices,
}

/// What the checks need besides state and transaction.
#[derive(Clone, Copy)]
pub struct Ante<'a> {
    pub messages: &'a Messages,
    pub config: &'a Config,
    /// Shared by all modes, so that a signature is verified once.
    pub cache: &'a SignatureCache,
}

/// A transaction that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnteOk {
    /// Its gas limit; 0 is possible in Simulate only.
    pub gas_wanted: u64,
    /// Already paid.
    pub fee: Coins,
    pub fee_payer: Address,
    /// Who signed, each once, in order of appearance; the fee payer last unless it is among the messages' signers.
    pub signers: Vec<Address>,
}

/// What the checks hand on from one to the next.
struct Checked<'a> {
    tx: &'a Tx,
    mode: Mode,
    params: auth::Params,
    signers: Vec<Address>,
    fee: fee::Fee,
}

/// Runs all checks. On success fee, keys, nonces and sequences are written and events emitted; on failure nothing is.
///
/// The transaction's gas meter stays in `cx` in both cases, for its messages and for `gas_used`; the caller puts
/// its own back with [`Ctx::swap_gas`].
pub fn run(ante: Ante<'_>, cx: &mut Ctx<'_>, tx: &Tx, mode: Mode) -> Result<AnteOk> {
    let gas_wanted = gas::set_meter(cx, tx, mode)?;
    cx.fork(|cx| {
        extension::check(tx)?;
        let signers = basic::check(ante.messages, tx)?;
        timeout::check(cx, tx)?;
        let params = auth::params(cx)?;
        memo::check(&params, tx)?;
        size::charge(cx, &params, tx, mode)?;
        let fee = fee::deduct(cx, tx, &signers, mode, ante.config)?;
        let checked = Checked { tx, mode, params, signers, fee };
        public_key::store(cx, &checked)?;
        signature_count::check(&checked)?;
        signature_gas::charge(cx, &checked)?;
        verify::check(cx, &checked, ante.cache)?;
        if tx.body.unordered {
            unordered::use_nonces(cx, &checked)?;
        } else {
            sequence::increment(cx, &checked)?;
        }
        let Checked { signers, fee, .. } = checked;
        Ok(AnteOk { gas_wanted, fee: fee.coins, fee_payer: fee.payer, signers })
    })
}
