//! The application behind ABCI's trait. All methods are overridden: the trait's defaults accept everything.

use std::time::Instant;

use bytes::Bytes;
use deepnode_app::App;
use deepnode_core::{Result, Time};
use tendermint_abci::Application;
use tendermint_proto::v0_38::abci::{
    response_apply_snapshot_chunk, response_offer_snapshot, response_process_proposal::ProposalStatus,
    response_verify_vote_extension::VerifyStatus, CheckTxType, RequestApplySnapshotChunk, RequestCheckTx,
    RequestEcho, RequestExtendVote, RequestFinalizeBlock, RequestInfo, RequestInitChain,
    RequestLoadSnapshotChunk, RequestOfferSnapshot, RequestPrepareProposal, RequestProcessProposal,
    RequestQuery, RequestVerifyVoteExtension, ResponseApplySnapshotChunk, ResponseCheckTx, ResponseCommit,
    ResponseEcho, ResponseExtendVote, ResponseFinalizeBlock, ResponseFlush, ResponseInfo, ResponseInitChain,
    ResponseListSnapshots, ResponseLoadSnapshotChunk, ResponseOfferSnapshot, ResponsePrepareProposal,
    ResponseProcessProposal, ResponseQuery, ResponseVerifyVoteExtension,
};
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::abci::{Fault, Prefetch};
use crate::node::Node;

/// An application that CometBFT can call, and the node around it, which answers queries.
#[derive(Clone)]
pub struct AbciApp {
    node: Node,
    runtime: Handle,
}

impl AbciApp {
    /// `runtime` is where queries wait for CometBFT; the calls themselves must come from outside of it.
    pub fn new(node: Node, runtime: Handle) -> Self {
        node.metrics.height(node.app.height());
        AbciApp { node, runtime }
    }

    fn app(&self) -> &App {
        &self.node.app
    }
}

/// What the application cannot answer ends the node, by way of the transport's fault policy.
fn or_fault<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| Fault::new(e).raise())
}

fn block(height: i64, time: Option<&tendermint_proto::google::protobuf::Timestamp>) -> (u64, Time) {
    (u64::try_from(height).unwrap_or(0), time.and_then(deepnode_app::time).unwrap_or_default())
}

impl Application for AbciApp {
    fn echo(&self, request: RequestEcho) -> ResponseEcho {
        ResponseEcho { message: request.message }
    }

    fn flush(&self) -> ResponseFlush {
        ResponseFlush {}
    }

    fn info(&self, _: RequestInfo) -> ResponseInfo {
        or_fault(self.app().info())
    }

    fn init_chain(&self, request: RequestInitChain) -> ResponseInitChain {
        info!(chain_id = request.chain_id, "genesis");
        or_fault(self.app().init_chain(request))
    }

    fn query(&self, request: RequestQuery) -> ResponseQuery {
        self.node.abci_query(&request, &self.runtime)
    }

    fn check_tx(&self, request: RequestCheckTx) -> ResponseCheckTx {
        let recheck = request.r#type() == CheckTxType::Recheck;
        let answer = or_fault(self.app().check_tx(&request.tx, recheck));
        self.node.metrics.checked(recheck, answer.code == 0);
        answer
    }

    fn prepare_proposal(&self, request: RequestPrepareProposal) -> ResponsePrepareProposal {
        let (height, time) = block(request.height, request.time.as_ref());
        let room = u64::try_from(request.max_tx_bytes).unwrap_or(0);
        let txs = self.app().prepare_proposal(&request.txs, height, time, room).unwrap_or_else(|e| {
            warn!(height, "proposing an empty block: {e}");
            Vec::new()
        });
        ResponsePrepareProposal { txs }
    }

    fn process_proposal(&self, request: RequestProcessProposal) -> ResponseProcessProposal {
        let (height, time) = block(request.height, request.time.as_ref());
        let refusal = or_fault(self.app().process_proposal(&request.txs, height, time));
        self.node.metrics.proposal(refusal.is_none());
        let status = match refusal {
            None => ProposalStatus::Accept,
            Some(why) => {
                warn!(height, "rejecting a proposal: {why}");
                ProposalStatus::Reject
            }
        };
        ResponseProcessProposal { status: status.into() }
    }

    /// No rule uses vote extensions: they stay empty, and anything else is malformed.
    fn extend_vote(&self, _: RequestExtendVote) -> ResponseExtendVote {
        ResponseExtendVote { vote_extension: Bytes::new() }
    }

    fn verify_vote_extension(&self, request: RequestVerifyVoteExtension) -> ResponseVerifyVoteExtension {
        let status =
            if request.vote_extension.is_empty() { VerifyStatus::Accept } else { VerifyStatus::Reject };
        ResponseVerifyVoteExtension { status: status.into() }
    }

    fn finalize_block(&self, request: RequestFinalizeBlock) -> ResponseFinalizeBlock {
        let (height, txs) = (request.height, request.txs.len());
        let begin = Instant::now();
        let response = or_fault(self.app().finalize_block(request));
        self.node.metrics.executed(begin, response.tx_results.iter().map(|r| (r.code, r.gas_used)));
        info!(height, txs, updates = response.validator_updates.len(), "block");
        response
    }

    fn commit(&self) -> ResponseCommit {
        let begin = Instant::now();
        let retain_height = or_fault(self.app().commit());
        self.node.metrics.committed(begin, self.app().height());
        ResponseCommit { retain_height: i64::try_from(retain_height).unwrap_or(0) }
    }

    /// This node makes no state sync snapshots and takes none.
    fn list_snapshots(&self) -> ResponseListSnapshots {
        ResponseListSnapshots::default()
    }

    fn offer_snapshot(&self, _: RequestOfferSnapshot) -> ResponseOfferSnapshot {
        ResponseOfferSnapshot { result: response_offer_snapshot::Result::Reject.into() }
    }

    fn load_snapshot_chunk(&self, _: RequestLoadSnapshotChunk) -> ResponseLoadSnapshotChunk {
        ResponseLoadSnapshotChunk::default()
    }

    fn apply_snapshot_chunk(&self, _: RequestApplySnapshotChunk) -> ResponseApplySnapshotChunk {
        ResponseApplySnapshotChunk {
            result: response_apply_snapshot_chunk::Result::Abort.into(),
            ..ResponseApplySnapshotChunk::default()
        }
    }
}

impl Prefetch for AbciApp {
    fn prefetch(&self, txs: &[Bytes]) {
        self.app().prefetch(txs);
    }
}
