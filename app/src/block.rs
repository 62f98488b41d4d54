//! InitChain, CheckTx, FinalizeBlock, Commit.

use deepnode_core::block::{BlockInfo, Misbehavior, MisbehaviorKind, Vote};
use deepnode_core::{errors, Ctx, Error, Event, Module, Result, Time};
use deepnode_cosmos::consensus;
use deepnode_modules::powr;
use deepnode_proto::tendermint_proto::v0_38::abci::{
    MisbehaviorType, RequestFinalizeBlock, RequestInitChain, ResponseCheckTx, ResponseFinalizeBlock,
    ResponseInfo, ResponseInitChain,
};
use deepnode_proto::tendermint_proto::v0_38::types::BlockIdFlag;
use deepnode_store::db::IndexChanges;
use deepnode_tx::Tx;
use rayon::prelude::*;

use crate::ante::{self, Mode};
use crate::execute::{self, TxResult};
use crate::{genesis, wire, App, CheckState, Genesis, Pending, APP_VERSION, KEPT_HEIGHTS, TIMES};

impl App {
    /// The committed height and hash, and nothing that is pending.
    pub fn info(&self) -> Result<ResponseInfo> {
        let height = self.height();
        let app_version =
            if height == 0 { APP_VERSION } else { consensus::app_version(&self.shared.db.latest())? };
        Ok(ResponseInfo {
            data: "deepnode".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            app_version,
            last_block_height: wire::height(height)?,
            last_block_app_hash: if height == 0 {
                Default::default()
            } else {
                self.app_hash().to_vec().into()
            },
        })
    }

    /// Builds the genesis state. Nothing is written: the first block is committed together with it.
    pub fn init_chain(&self, request: RequestInitChain) -> Result<ResponseInitChain> {
        *self.shared.pending.lock() = None;
        if self.height() > 0 {
            return Err(Error::fault(format!("InitChain on a state of height {}", self.height())));
        }
        let initial_height = u64::try_from(request.initial_height).unwrap_or(0).max(1);
        let time = request.time.as_ref().and_then(wire::time).unwrap_or_default();
        let block = BlockInfo {
            chain_id: request.chain_id.clone(),
            height: initial_height.saturating_sub(1),
            time,
            ..BlockInfo::default()
        };
        let ((validators, consensus_params), changes) =
            self.with_context(Default::default(), &block, |cx| {
                genesis::init(&self.shared.modules, cx, &request, initial_height)?;
                let validators = powr::validator_updates(cx)?;
                Ok((validators, consensus::params(cx)?))
            })?;
        let app_hash =
            self.shared.db.prepare(initial_height, changes.clone(), IndexChanges::new())?.app_hash();
        *self.shared.genesis.write() = Some(Genesis { changes, block });
        self.reset_check()?;
        Ok(ResponseInitChain {
            consensus_params: Some(consensus_params.to_proto(APP_VERSION)),
            validators: validators.iter().map(wire::validator_update).collect::<Result<_>>()?,
            app_hash: app_hash.to_vec().into(),
        })
    }

    /// Checks a transaction for the mempool. `recheck` skips what cannot have changed.
    pub fn check_tx(&self, bytes: &[u8], recheck: bool) -> Result<ResponseCheckTx> {
        let tx = match Tx::decode(bytes) {
            Ok(tx) => tx,
            Err(e) => return Ok(wire::check_tx(&undecodable(&e))),
        };
        let mode = if recheck { Mode::Recheck } else { Mode::Check };
        let mut check = self.shared.check.lock();
        let CheckState { changes, block } = &mut *check;
        // The checks fork: a transaction that fails leaves nothing behind, and nothing has to be copied for that.
        let result = self.run_on(changes, block, |cx| execute::transaction(cx, self.ante(), &tx, mode))?;
        Ok(wire::check_tx(&result))
    }

    /// Runs a transaction on what CheckTx sees, without signatures or limits, and forgets it.
    pub fn simulate(&self, bytes: &[u8]) -> Result<TxResult> {
        let tx = Tx::decode(bytes).map_err(errors::refused)?;
        let (changes, block) = {
            let check = self.shared.check.lock();
            (check.changes.clone(), check.block.clone())
        };
        let run = self
            .with_context(changes, &block, |cx| execute::transaction(cx, self.ante(), &tx, Mode::Simulate));
        Ok(run?.0)
    }

    /// Executes a block and computes the app hash. Nothing is written before [`App::commit`]; a second call for the same
    /// height starts again.
    pub fn finalize_block(&self, request: RequestFinalizeBlock) -> Result<ResponseFinalizeBlock> {
        *self.shared.pending.lock() = None;
        let block = self.block_info(&request)?;
        let before = self.params_before()?;
        let ((events, results, validators, after), changes) =
            self.with_context(self.genesis_changes(), &block, |cx| {
                let modules = &self.shared.modules;
                for module in &modules.pre_block {
                    hook(*module, "pre_block", cx, |m, cx| m.pre_block(cx))?;
                }
                for module in &modules.begin_block {
                    hook(*module, "begin_block", cx, |m, cx| m.begin_block(cx))?;
                }
                let mut events = labelled(cx.take_events(), "BeginBlock");
                let results = self.deliver_all(cx, &request.txs)?;
                for module in &modules.end_block {
                    hook(*module, "end_block", cx, |m, cx| m.end_block(cx))?;
                }
                let validators = no_refusal("validator updates", powr::validator_updates(cx))?;
                events.extend(labelled(cx.take_events(), "EndBlock"));
                Ok((events, results, validators, consensus::params(cx)?))
            })?;

        let mut index = IndexChanges::new();
        index.insert((TIMES, block.height.to_be_bytes().into()), Some(block.time.0.to_be_bytes().into()));
        if let Some(old) = block.height.checked_sub(KEPT_HEIGHTS.saturating_add(1)) {
            index.insert((TIMES, old.to_be_bytes().into()), None);
        }
        let prepared = self.shared.db.prepare(block.height, changes, index)?;
        let response = ResponseFinalizeBlock {
            events: events.iter().map(wire::event).collect(),
            tx_results: results.iter().map(wire::tx_result).collect::<Result<_>>()?,
            validator_updates: validators.iter().map(wire::validator_update).collect::<Result<_>>()?,
            consensus_param_updates: before.changes(&after),
            app_hash: prepared.app_hash().to_vec().into(),
        };
        let retain_height = retain_height(
            block.height,
            after.evidence.max_age_num_blocks,
            self.shared.options.min_retain_blocks,
        );
        *self.shared.pending.lock() = Some(Pending { prepared, retain_height });
        Ok(response)
    }

    /// Writes the block that was finalized last; when this returns it survives a power cut. The answer is the height
    /// below which CometBFT may prune, 0 for none.
    pub fn commit(&self) -> Result<u64> {
        let pending = self.shared.pending.lock().take();
        let Pending { prepared, retain_height } =
            pending.ok_or_else(|| Error::fault("Commit without FinalizeBlock"))?;
        self.shared.db.commit(prepared)?;
        *self.shared.genesis.write() = None;
        self.reset_check()?;
        Ok(retain_height)
    }

    /// Verifies signatures on all cores before transactions are executed one by one.
    pub(crate) fn verify_ahead<'a>(&self, cx: &Ctx<'_>, txs: impl Iterator<Item = &'a Tx>) -> Result<()> {
        let chain_id = &cx.block().chain_id;
        ante::verify_ahead(cx, chain_id, &self.shared.modules.messages, txs, &self.shared.signatures)
    }

    fn params_before(&self) -> Result<consensus::Params> {
        let state = self.shared.db.latest();
        consensus::params(&deepnode_store::Overlay::new(&state, self.genesis_changes()))
    }

    /// Decodes and verifies in parallel, since that touches no state, then executes one by one.
    fn deliver_all(&self, cx: &mut Ctx<'_>, txs: &[bytes::Bytes]) -> Result<Vec<TxResult>> {
        let decoded: Vec<_> = txs.par_iter().with_min_len(16).map(|bytes| Tx::decode(bytes)).collect();
        self.verify_ahead(cx, decoded.iter().flatten())?;
        let deliver = |tx: &_| match tx {
            Ok(tx) => execute::transaction(cx, self.ante(), tx, Mode::Deliver),
            Err(e) => Ok(undecodable(e)),
        };
        decoded.iter().map(deliver).collect()
    }

    fn block_info(&self, request: &RequestFinalizeBlock) -> Result<BlockInfo> {
        let committed = self.committed_block()?;
        let height = u64::try_from(request.height).unwrap_or(0);
        let expected = committed.height.saturating_add(1);
        if height != expected {
            return Err(Error::fault(format!("FinalizeBlock of height {height}, expected {expected}")));
        }
        let time = request
            .time
            .as_ref()
            .and_then(wire::time)
            .ok_or_else(|| Error::fault("FinalizeBlock without a valid time"))?;
        let votes = request.decided_last_commit.iter().flat_map(|commit| &commit.votes);
        Ok(BlockInfo {
            chain_id: committed.chain_id,
            height,
            time,
            proposer: wire::address(&request.proposer_address),
            hash: request.hash.as_ref().try_into().unwrap_or_default(),
            votes: votes
                .filter_map(|vote| {
                    let validator = vote.validator.as_ref()?;
                    Some(Vote {
                        validator: wire::address(&validator.address),
                        power: u64::try_from(validator.power).unwrap_or(0),
                        signed: !matches!(vote.block_id_flag(), BlockIdFlag::Absent | BlockIdFlag::Unknown),
                    })
                })
                .collect(),
            misbehavior: request.misbehavior.iter().filter_map(misbehavior).collect(),
        })
    }
}

fn misbehavior(m: &deepnode_proto::tendermint_proto::v0_38::abci::Misbehavior) -> Option<Misbehavior> {
    let kind = match m.r#type() {
        MisbehaviorType::DuplicateVote => MisbehaviorKind::DuplicateVote,
        MisbehaviorType::LightClientAttack => MisbehaviorKind::LightClientAttack,
        MisbehaviorType::Unknown => return None,
    };
    let validator = m.validator.as_ref()?;
    Some(Misbehavior {
        kind,
        validator: wire::address(&validator.address),
        height: u64::try_from(m.height).ok()?,
        time: m.time.as_ref().and_then(wire::time).unwrap_or(Time(0)),
        power: u64::try_from(validator.power).ok()?,
        total_power: u64::try_from(m.total_voting_power).ok()?,
    })
}

/// Code 2, gas 0: the only answer to bytes that are no transaction.
fn undecodable(e: &deepnode_tx::TxError) -> TxResult {
    TxResult { code: e.code(), codespace: "sdk", log: errors::brief(e.to_string()), ..TxResult::default() }
}

fn hook(
    module: &dyn Module,
    name: &str,
    cx: &mut Ctx<'_>,
    run: impl FnOnce(&dyn Module, &mut Ctx<'_>) -> Result<()>,
) -> Result<()> {
    no_refusal(format_args!("{name} of {}", module.name()), run(module, cx))
}

/// A hook has nobody to refuse: what a message could not have caused is a fault.
fn no_refusal<T>(what: impl std::fmt::Display, result: Result<T>) -> Result<T> {
    result.map_err(|e| match e {
        Error::Tx(e) => Error::fault(format!("{what}: {e}")),
        fault => fault,
    })
}

fn labelled(events: Vec<Event>, mode: &str) -> Vec<Event> {
    events.into_iter().map(|event| event.with("mode", mode)).collect()
}

/// Evidence must stay provable, and an operator may want more blocks than that.
fn retain_height(height: u64, evidence_blocks: u64, min_retain_blocks: u64) -> u64 {
    if min_retain_blocks == 0 {
        return 0;
    }
    height.saturating_sub(evidence_blocks.max(min_retain_blocks))
}
