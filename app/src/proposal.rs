//! PrepareProposal and ProcessProposal: the same checks, once to leave out and once to reject.

use bytes::Bytes;
use deepnode_core::block::BlockInfo;
use deepnode_core::{Ctx, Result, Time};
use deepnode_cosmos::consensus;
use deepnode_tx::Tx;
use prost::encoding::encoded_len_varint;
use rayon::prelude::*;

use crate::ante::Mode;
use crate::{execute, App};

impl App {
    /// The transactions of `txs` that a block of this height and time may hold, in their order.
    pub fn prepare_proposal(
        &self,
        txs: &[Bytes],
        height: u64,
        time: Time,
        max_tx_bytes: u64,
    ) -> Result<Vec<Bytes>> {
        let block = self.proposed(height, time)?;
        let run = self.with_context(self.genesis_changes(), &block, |cx| {
            let mut room = Room::of_block(cx)?;
            room.bytes = room.bytes.min(max_tx_bytes);
            let decoded: Vec<_> = txs.par_iter().map(|bytes| Tx::decode(bytes).ok()).collect();
            self.verify_ahead(cx, decoded.iter().flatten())?;
            let mut taken = Vec::new();
            for (bytes, tx) in txs.iter().zip(&decoded) {
                let Some(tx) = tx else { continue };
                let Some(rest) = room.less(bytes, tx) else { continue };
                if self.refusal(cx, tx)?.is_none() {
                    room = rest;
                    taken.push(bytes.clone());
                }
            }
            Ok(taken)
        });
        Ok(run?.0)
    }

    /// Why a proposed block is not acceptable; None if it is.
    pub fn process_proposal(&self, txs: &[Bytes], height: u64, time: Time) -> Result<Option<String>> {
        let block = self.proposed(height, time)?;
        let run = self.with_context(self.genesis_changes(), &block, |cx| {
            let mut room = Room::of_block(cx)?;
            let decoded: Vec<_> = txs.par_iter().map(|bytes| Tx::decode(bytes)).collect();
            self.verify_ahead(cx, decoded.iter().flatten())?;
            for (index, (bytes, tx)) in txs.iter().zip(&decoded).enumerate() {
                let tx = match tx {
                    Ok(tx) => tx,
                    Err(e) => return Ok(Some(format!("transaction {index}: {e}"))),
                };
                match room.less(bytes, tx) {
                    Some(rest) => room = rest,
                    None => return Ok(Some(format!("transaction {index} exceeds the block's bytes or gas"))),
                }
                if let Some(log) = self.refusal(cx, tx)? {
                    return Ok(Some(format!("transaction {index}: {log}")));
                }
            }
            Ok(None)
        });
        Ok(run?.0)
    }

    fn proposed(&self, height: u64, time: Time) -> Result<BlockInfo> {
        let committed = self.committed_block()?;
        Ok(BlockInfo { height, time, chain_id: committed.chain_id, ..BlockInfo::default() })
    }

    fn refusal(&self, cx: &mut Ctx<'_>, tx: &Tx) -> Result<Option<String>> {
        let result = execute::transaction(cx, self.ante(), tx, Mode::Propose)?;
        match result.code {
            0 => Ok(None),
            code => Ok(Some(format!("code {code}: {}", result.log))),
        }
    }
}

/// What a block can still hold.
#[derive(Clone, Copy)]
struct Room {
    bytes: u64,
    gas: u64,
}

impl Room {
    /// An empty block's.
    fn of_block(cx: &Ctx<'_>) -> Result<Room> {
        let limits = consensus::params(cx)?.block;
        Ok(Room { bytes: limits.max_bytes, gas: limits.max_gas })
    }

    /// The room left after `tx`; None if there is too little.
    fn less(self, bytes: &Bytes, tx: &Tx) -> Option<Room> {
        // As a repeated bytes field: key, length, content.
        let len = bytes.len() as u64;
        let encoded = len.checked_add(encoded_len_varint(len) as u64)?.checked_add(1)?;
        let gas = tx.auth_info.fee.as_ref().map_or(0, |fee| fee.gas_limit);
        Some(Room { bytes: self.bytes.checked_sub(encoded)?, gas: self.gas.checked_sub(gas)? })
    }
}

impl App {
    /// Verifies the signatures of transactions that CheckTx is about to see. Only a hint.
    pub fn prefetch(&self, txs: &[Bytes]) {
        let decoded: Vec<_> = txs.par_iter().filter_map(|bytes| Tx::decode(bytes).ok()).collect();
        // The committed state is enough: CheckTx opens no accounts, and whoever has no key there brings it along. What
        // fails here fails again, and is reported, in CheckTx.
        let _ = self.committed_block().and_then(|block| {
            self.with_context(self.genesis_changes(), &block, |cx| self.verify_ahead(cx, decoded.iter()))
        });
    }
}
