//! The last height and the last time at which a transaction is good.

use deepnode_core::{errors, Ctx, Result, Time};
use deepnode_tx::Tx;

pub fn check(cx: &Ctx<'_>, tx: &Tx) -> Result<()> {
    let (height, last) = (cx.height(), tx.body.timeout_height);
    if last != 0 && height > last {
        return Err(errors::tx_timeout_height(format!("block height: {height}, timeout height: {last}")));
    }
    match timestamp(tx)? {
        Some(last) if cx.time() > last => {
            let (now, last) = (cx.time().0, last.0);
            Err(errors::tx_timeout(format!("block time: {now} ns, timeout timestamp: {last} ns")))
        }
        _ => Ok(()),
    }
}

/// The transaction's timeout, if it sets one.
pub fn timestamp(tx: &Tx) -> Result<Option<Time>> {
    let Some(timestamp) = &tx.body.timeout_timestamp else { return Ok(None) };
    match Time::from_proto(timestamp) {
        // The beginning of 1970 is how a client without timeout writes none.
        Some(Time(0)) => Ok(None),
        Some(time) => Ok(Some(time)),
        None => Err(errors::invalid_request(format!(
            "timeout_timestamp of {} s and {} ns is outside the years 1970 to 2554",
            timestamp.seconds, timestamp.nanos
        ))),
    }
}
