//! What CometBFT hears when a call fails.
//!
//! CometBFT stops on any Exception and on any lost connection, and never reconnects. So a failed call ends the node only
//! where going on could damage state or consensus:
//!
//! | request | a panic, or an answer too long to send |
//! |---|---|
//! | CheckTx, Query, ListSnapshots, LoadSnapshotChunk | an error inside the answer of that call |
//! | PrepareProposal | a proposal without transactions |
//! | all others | a [`Fault`]: Exception, flush, and the process must end |
//!
//! The methods of [`Application`] return no `Result`, so a failure leaves them as a panic: [`Fault::raise`] for what the
//! application found itself (a disk error), or any other. Locks that poison turn one such panic into many: prefer
//! `parking_lot`.

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use bytes::Bytes;
use prost::Message;
use tendermint_abci::Application;
use tendermint_proto::v0_38::abci::{
    request::Value as Req, response::Value as Res, Request, Response, ResponseCheckTx, ResponseException,
    ResponseListSnapshots, ResponseLoadSnapshotChunk, ResponsePrepareProposal, ResponseQuery,
};

use super::frame::MAX_FRAME;

/// Code and codespace that the Cosmos SDK gives a recovered panic.
pub const PANIC_CODE: u32 = 111_222;
pub const PANIC_CODESPACE: &str = "undefined";
/// Code and codespace of the Cosmos SDK's ErrInvalidRequest.
pub const INVALID_REQUEST_CODE: u32 = 18;
pub const SDK_CODESPACE: &str = "sdk";

/// The application cannot go on: its state may be damaged or unreachable, and the process must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    pub fn new(cause: impl ToString) -> Self {
        Self(cause.to_string())
    }

    /// Leaves the current call of the application. Prints nothing: whoever catches it reports it.
    pub fn raise(self) -> ! {
        resume_unwind(Box::new(self))
    }

    fn from_panic(payload: Box<dyn Any + Send>) -> Self {
        let payload = match payload.downcast::<Self>() {
            Ok(fault) => return *fault,
            Err(other) => other,
        };
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self(format!("panic: {}", text.as_deref().unwrap_or("without a text")))
    }
}

/// A frame, understood or not.
pub(super) type Call = Result<Req, Undecoded>;

#[derive(Debug)]
pub(super) enum Undecoded {
    /// CometBFT hands on the path of `/abci_query?path=0xff` unchecked, prost wants UTF-8, and no stranger may stop the
    /// node with one GET.
    Query(String),
    /// The two sides do not speak one protocol.
    Other(String),
}

pub(super) fn decode(frame: Bytes) -> Call {
    const QUERY: u8 = 6 << 3 | 2; // the key of `Request.query`
    let first = frame.first().copied();
    match Request::decode(frame) {
        Ok(Request { value: Some(request) }) => Ok(request),
        Ok(Request { value: None }) => Err(Undecoded::Other("request of an unknown kind".into())),
        Err(e) if first == Some(QUERY) => Err(Undecoded::Query(format!("query does not decode: {e}"))),
        Err(e) => Err(Undecoded::Other(format!("request does not decode: {e}"))),
    }
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(super) enum Failure {
    Protocol(String),
    Fault(Fault),
}

/// Makes the call, or what stands for it.
pub(super) fn answer(app: &impl Application, call: Call) -> Result<Res, Failure> {
    let request = match call {
        Ok(request) => request,
        Err(Undecoded::Query(log)) => return Ok(failed_query(INVALID_REQUEST_CODE, SDK_CODESPACE, log)),
        Err(Undecoded::Other(why)) => return Err(Failure::Protocol(why)),
    };
    let (kind, fallback) = (kind(&request), fallback(&request));
    let outcome = catch_unwind(AssertUnwindSafe(|| invoke(app, request)))
        .map_err(Fault::from_panic)
        .and_then(fits)
        .map_err(|Fault(cause)| Fault(format!("{kind}: {cause}")));
    match (outcome, fallback) {
        (Ok(response), _) => Ok(response),
        (Err(fault), None) => Err(Failure::Fault(fault)),
        (Err(fault), Some(fallback)) => {
            tracing::error!(%fault, "ABCI call failed");
            Ok(fallback(fault.0))
        }
    }
}

pub(super) fn exception(error: impl ToString) -> Res {
    Res::Exception(ResponseException { error: error.to_string() })
}

/// The answer that stands for a failed call; `None` where there is none.
fn fallback(request: &Req) -> Option<fn(String) -> Res> {
    match request {
        Req::CheckTx(_) => Some(|log| {
            Res::CheckTx(ResponseCheckTx {
                code: PANIC_CODE,
                codespace: PANIC_CODESPACE.into(),
                log,
                ..Default::default()
            })
        }),
        Req::Query(_) => Some(|log| failed_query(PANIC_CODE, PANIC_CODESPACE, log)),
        Req::ListSnapshots(_) => Some(|_| Res::ListSnapshots(ResponseListSnapshots::default())),
        Req::LoadSnapshotChunk(_) => Some(|_| Res::LoadSnapshotChunk(ResponseLoadSnapshotChunk::default())),
        Req::PrepareProposal(_) => Some(|_| Res::PrepareProposal(ResponsePrepareProposal::default())),
        Req::Echo(_)
        | Req::Flush(_)
        | Req::Info(_)
        | Req::InitChain(_)
        | Req::ProcessProposal(_)
        | Req::ExtendVote(_)
        | Req::VerifyVoteExtension(_)
        | Req::FinalizeBlock(_)
        | Req::Commit(_)
        | Req::OfferSnapshot(_)
        | Req::ApplySnapshotChunk(_) => None,
    }
}

fn failed_query(code: u32, codespace: &str, log: String) -> Res {
    Res::Query(ResponseQuery { code, codespace: codespace.into(), log, ..Default::default() })
}

fn fits(value: Res) -> Result<Res, Fault> {
    let response = Response { value: Some(value) };
    match (response.encoded_len(), response.value) {
        (len, Some(value)) if len <= MAX_FRAME => Ok(value),
        (len, _) => Err(Fault(format!("answer of {len} bytes is over the {MAX_FRAME} bytes allowed"))),
    }
}

fn kind(request: &Req) -> &'static str {
    match request {
        Req::Echo(_) => "Echo",
        Req::Flush(_) => "Flush",
        Req::Info(_) => "Info",
        Req::InitChain(_) => "InitChain",
        Req::Query(_) => "Query",
        Req::CheckTx(_) => "CheckTx",
        Req::Commit(_) => "Commit",
        Req::ListSnapshots(_) => "ListSnapshots",
        Req::OfferSnapshot(_) => "OfferSnapshot",
        Req::LoadSnapshotChunk(_) => "LoadSnapshotChunk",
        Req::ApplySnapshotChunk(_) => "ApplySnapshotChunk",
        Req::PrepareProposal(_) => "PrepareProposal",
        Req::ProcessProposal(_) => "ProcessProposal",
        Req::ExtendVote(_) => "ExtendVote",
        Req::VerifyVoteExtension(_) => "VerifyVoteExtension",
        Req::FinalizeBlock(_) => "FinalizeBlock",
    }
}

fn invoke(app: &impl Application, request: Req) -> Res {
    match request {
        Req::Echo(r) => Res::Echo(app.echo(r)),
        Req::Flush(_) => Res::Flush(app.flush()),
        Req::Info(r) => Res::Info(app.info(r)),
        Req::InitChain(r) => Res::InitChain(app.init_chain(r)),
        Req::Query(r) => Res::Query(app.query(r)),
        Req::CheckTx(r) => Res::CheckTx(app.check_tx(r)),
        Req::Commit(_) => Res::Commit(app.commit()),
        Req::ListSnapshots(_) => Res::ListSnapshots(app.list_snapshots()),
        Req::OfferSnapshot(r) => Res::OfferSnapshot(app.offer_snapshot(r)),
        Req::LoadSnapshotChunk(r) => Res::LoadSnapshotChunk(app.load_snapshot_chunk(r)),
        Req::ApplySnapshotChunk(r) => Res::ApplySnapshotChunk(app.apply_snapshot_chunk(r)),
        Req::PrepareProposal(r) => Res::PrepareProposal(app.prepare_proposal(r)),
        Req::ProcessProposal(r) => Res::ProcessProposal(app.process_proposal(r)),
        Req::ExtendVote(r) => Res::ExtendVote(app.extend_vote(r)),
        Req::VerifyVoteExtension(r) => Res::VerifyVoteExtension(app.verify_vote_extension(r)),
        Req::FinalizeBlock(r) => Res::FinalizeBlock(app.finalize_block(r)),
    }
}
