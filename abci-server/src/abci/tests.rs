//! What a peer on the wire sees: order, bad frames, failures by kind of request, and the end of a server.

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tendermint_abci::Application;
use tendermint_proto::v0_38::abci::{request::Value as Req, response::Value as Res, *};

use super::address::Stream;
use super::frame::{FrameWriter, Frames, MAX_FRAME};
use super::policy::{Fault, INVALID_REQUEST_CODE, PANIC_CODE};
use super::{Address, Listener, Prefetch, Server};

/// What [`Probe`] does in the call that it is set to misbehave in.
#[derive(Clone, Copy)]
enum How {
    Panic,
    Fault,
}

/// Answers, or fails in every call but Echo and Flush. Counts what it prefetches; blocks in Commit while `gate` has nothing.
#[derive(Clone, Default)]
struct Probe {
    fail: Option<How>,
    prefetched: Arc<Mutex<Vec<usize>>>,
    gate: Option<Arc<Gate>>,
}

/// Commit says that it is inside, and waits to be let out.
struct Gate {
    entered: Sender<()>,
    leave: Mutex<Receiver<()>>,
}

impl Probe {
    fn failing(how: How) -> Self {
        Self { fail: Some(how), ..Self::default() }
    }

    fn step<T: Default>(&self) -> T {
        match self.fail {
            None => T::default(),
            Some(How::Panic) => panic!("index {} out of range", 7),
            Some(How::Fault) => Fault::new("disk full").raise(),
        }
    }
}

impl Application for Probe {
    fn info(&self, _: RequestInfo) -> ResponseInfo {
        self.step()
    }
    fn init_chain(&self, _: RequestInitChain) -> ResponseInitChain {
        self.step()
    }
    fn query(&self, request: RequestQuery) -> ResponseQuery {
        let huge = if request.path == "huge" { MAX_FRAME } else { 0 };
        ResponseQuery { value: vec![0; huge].into(), ..self.step() }
    }
    fn check_tx(&self, request: RequestCheckTx) -> ResponseCheckTx {
        ResponseCheckTx { data: request.tx, ..self.step() }
    }
    fn commit(&self) -> ResponseCommit {
        if let Some(gate) = &self.gate {
            gate.entered.send(()).unwrap();
            gate.leave.lock().recv().unwrap();
        }
        self.step()
    }
    fn list_snapshots(&self) -> ResponseListSnapshots {
        self.step()
    }
    fn offer_snapshot(&self, _: RequestOfferSnapshot) -> ResponseOfferSnapshot {
        self.step()
    }
    fn load_snapshot_chunk(&self, _: RequestLoadSnapshotChunk) -> ResponseLoadSnapshotChunk {
        self.step()
    }
    fn apply_snapshot_chunk(&self, _: RequestApplySnapshotChunk) -> ResponseApplySnapshotChunk {
        self.step()
    }
    fn prepare_proposal(&self, request: RequestPrepareProposal) -> ResponsePrepareProposal {
        self.step::<()>();
        ResponsePrepareProposal { txs: request.txs }
    }
    fn process_proposal(&self, _: RequestProcessProposal) -> ResponseProcessProposal {
        self.step()
    }
    fn extend_vote(&self, _: RequestExtendVote) -> ResponseExtendVote {
        self.step()
    }
    fn verify_vote_extension(&self, _: RequestVerifyVoteExtension) -> ResponseVerifyVoteExtension {
        self.step()
    }
    fn finalize_block(&self, _: RequestFinalizeBlock) -> ResponseFinalizeBlock {
        self.step()
    }
}

impl Prefetch for Probe {
    fn prefetch(&self, txs: &[Bytes]) {
        self.prefetched.lock().push(txs.len());
        self.step::<()>();
    }
}

/// A server on a socket of its own, one client, and the faults that were reported.
struct Bench {
    server: Server,
    faults: Receiver<Fault>,
    _dir: tempfile::TempDir,
}

struct Client {
    frames: Frames<&'static Stream>,
    out: FrameWriter<&'static Stream>,
}

impl Bench {
    fn new(app: Probe) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&Address::Unix(dir.path().join("abci.sock"))).unwrap();
        let (report, faults) = channel();
        let server = Server::start(listener, app, move |fault| report.send(fault).unwrap()).unwrap();
        Self { server, faults, _dir: dir }
    }

    fn client(&self) -> Client {
        let stream: &Stream = Box::leak(Box::new(Stream::connect(self.server.address()).unwrap()));
        Client { frames: Frames::new(stream), out: FrameWriter::new(stream) }
    }
}

impl Client {
    fn send(&mut self, requests: impl IntoIterator<Item = Req>) {
        for request in requests {
            self.out.write(&Request { value: Some(request) }).unwrap();
        }
        self.out.flush().unwrap();
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        use std::io::Write;
        let mut stream: &Stream = self.out.inner();
        stream.write_all(bytes).unwrap();
    }

    /// The next answer, or `None` at the end of the connection.
    fn receive(&mut self) -> Option<Res> {
        let frame = self.frames.read().ok().flatten()?;
        Some(Response::decode(frame).unwrap().value.unwrap())
    }

    fn call(&mut self, request: Req) -> Option<Res> {
        self.send([request]);
        self.receive()
    }
}

fn echo(message: &str) -> Req {
    Req::Echo(RequestEcho { message: message.into() })
}

fn check(tx: impl ToString) -> Req {
    Req::CheckTx(RequestCheckTx { tx: tx.to_string().into(), r#type: CheckTxType::New as i32 })
}

#[test]
fn answers_in_order_without_waiting_for_flush() {
    let bench = Bench::new(Probe::default());
    let mut client = bench.client();
    client.send([echo("a"), Req::Commit(RequestCommit {}), echo("b")]);
    assert!(matches!(client.receive(), Some(Res::Echo(e)) if e.message == "a"));
    assert!(matches!(client.receive(), Some(Res::Commit(_))));
    assert!(matches!(client.receive(), Some(Res::Echo(e)) if e.message == "b"));
}

#[test]
fn pipelined_transactions_are_announced_together_and_answered_in_order() {
    let app = Probe::default();
    let bench = Bench::new(app.clone());
    let mut client = bench.client();
    let recheck = Req::CheckTx(RequestCheckTx { tx: "old".into(), r#type: CheckTxType::Recheck as i32 });
    client.send((0..500).map(check).chain([recheck, Req::Flush(RequestFlush {})]));
    for n in 0..500 {
        assert!(matches!(client.receive(), Some(Res::CheckTx(r)) if r.data == n.to_string()));
    }
    assert!(matches!(client.receive(), Some(Res::CheckTx(r)) if r.data == "old"));
    assert!(matches!(client.receive(), Some(Res::Flush(_))));
    // One write of 5 kB: the kernel hands it over whole, so all but at most one wait together. Never the recheck.
    let told: usize = app.prefetched.lock().iter().sum();
    assert_eq!(told, 500);
}

#[test]
fn what_cannot_touch_the_state_fails_in_its_own_answer() {
    for how in [How::Panic, How::Fault] {
        let bench = Bench::new(Probe::failing(how));
        let mut client = bench.client();
        let text = match how {
            How::Panic => "panic: index 7 out of range",
            How::Fault => "disk full",
        };
        client.send([check(1), check(2)]); // prefetch fails too
        for _ in 0..2 {
            let Some(Res::CheckTx(r)) = client.receive() else { panic!() };
            assert_eq!((r.code, r.log), (PANIC_CODE, format!("CheckTx: {text}")));
        }
        let Some(Res::Query(r)) = client.call(Req::Query(RequestQuery::default())) else { panic!() };
        assert_eq!((r.code, r.log), (PANIC_CODE, format!("Query: {text}")));
        let snapshots = client.call(Req::ListSnapshots(RequestListSnapshots {}));
        assert!(matches!(snapshots, Some(Res::ListSnapshots(r)) if r.snapshots.is_empty()));
        let chunk = client.call(Req::LoadSnapshotChunk(RequestLoadSnapshotChunk::default()));
        assert!(matches!(chunk, Some(Res::LoadSnapshotChunk(r)) if r.chunk.is_empty()));
        let txs = vec!["what the mempool offers".into()];
        let proposal =
            client.call(Req::PrepareProposal(RequestPrepareProposal { txs, ..Default::default() }));
        assert!(matches!(proposal, Some(Res::PrepareProposal(r)) if r.txs.is_empty()));
        assert!(matches!(client.call(echo("alive")), Some(Res::Echo(_))));
        assert!(bench.faults.try_recv().is_err());
    }
}

#[test]
fn everything_else_is_a_fault_told_to_cometbft_first() {
    let fatal = [
        ("Info", Req::Info(RequestInfo::default())),
        ("InitChain", Req::InitChain(RequestInitChain::default())),
        ("ProcessProposal", Req::ProcessProposal(RequestProcessProposal::default())),
        ("ExtendVote", Req::ExtendVote(RequestExtendVote::default())),
        ("VerifyVoteExtension", Req::VerifyVoteExtension(RequestVerifyVoteExtension::default())),
        ("FinalizeBlock", Req::FinalizeBlock(RequestFinalizeBlock::default())),
        ("Commit", Req::Commit(RequestCommit {})),
        ("OfferSnapshot", Req::OfferSnapshot(RequestOfferSnapshot::default())),
        ("ApplySnapshotChunk", Req::ApplySnapshotChunk(RequestApplySnapshotChunk::default())),
    ];
    for (name, request) in fatal {
        let bench = Bench::new(Probe::failing(How::Fault));
        let (mut client, mut other) = (bench.client(), bench.client());
        assert!(other.call(echo("before")).is_some());
        let Some(Res::Exception(e)) = client.call(request) else { panic!("{name}") };
        assert_eq!(e.error, format!("{name}: disk full"));
        assert_eq!(bench.faults.recv().unwrap().to_string(), e.error);
        assert!(client.receive().is_none());
        assert!(other.receive().is_none(), "no connection answers after a fault");
    }
}

#[test]
fn a_query_that_does_not_decode_is_a_failed_query() {
    let bench = Bench::new(Probe::default());
    let mut client = bench.client();
    client.send_raw(&[0x05, 0x32, 0x03, 0x12, 0x01, 0xff]); // query { path: "\xff" }
    assert!(matches!(client.receive(), Some(Res::Query(r)) if r.code == INVALID_REQUEST_CODE));
    assert!(matches!(client.call(echo("alive")), Some(Res::Echo(_))));
}

#[test]
fn an_answer_too_long_to_send_is_a_failed_query() {
    let bench = Bench::new(Probe::default());
    let mut client = bench.client();
    let huge = Req::Query(RequestQuery { path: "huge".into(), ..Default::default() });
    let Some(Res::Query(r)) = client.call(huge) else { panic!() };
    assert!(
        r.code == PANIC_CODE && r.value.is_empty() && r.log.contains("134217728 bytes allowed"),
        "{}",
        r.log
    );
}

#[test]
fn other_bad_frames_end_the_connection_with_an_exception() {
    let bench = Bench::new(Probe::default());
    let bad: [(&str, &[u8]); 5] = [
        ("unknown kind", &[0x00]),
        ("unknown kind", &[0x02, 0x22, 0x00]), // field 4: the SetOption of old
        ("bytes allowed", &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("not a varint", &[0xff; 11]),
        ("does not decode", &[0x02, 0x0a, 0x05]), // an Echo shorter than it says
    ];
    for (why, input) in bad {
        let mut client = bench.client();
        client.send_raw(input);
        let Some(Res::Exception(e)) = client.receive() else { panic!("{input:?}") };
        assert!(e.error.contains(why), "{}", e.error);
        assert!(client.receive().is_none());
    }
    assert!(bench.client().call(echo("the others live")).is_some());
}

#[test]
fn stop_finishes_the_call_in_flight_and_frees_the_address() {
    let (entered, inside) = channel();
    let (release, leave) = channel();
    let app = Probe { gate: Some(Arc::new(Gate { entered, leave: Mutex::new(leave) })), ..Probe::default() };
    let bench = Bench::new(app);
    let address = bench.server.address().clone();
    let (mut busy, mut idle) = (bench.client(), bench.client());
    idle.call(echo("hello")).unwrap();
    busy.send([Req::Commit(RequestCommit {}), echo("too late")]);
    inside.recv().unwrap();

    let linked = bench.server.linked();
    assert!(!linked(), "two connections are not a CometBFT");
    let stopping = thread::spawn(move || bench.server.stop(Duration::from_secs(10)));
    assert!(idle.receive().is_none());
    release.send(()).unwrap();
    assert!(matches!(busy.receive(), Some(Res::Commit(_))));
    assert!(busy.receive().is_none());
    stopping.join().unwrap().unwrap();
    Listener::bind(&address).expect("the address is free");
}

#[test]
fn stop_does_not_wait_longer_than_told() {
    let (entered, inside) = channel();
    let (release, leave) = channel();
    let bench = Bench::new(Probe {
        gate: Some(Arc::new(Gate { entered, leave: Mutex::new(leave) })),
        ..Probe::default()
    });
    let mut busy = bench.client();
    busy.send([Req::Commit(RequestCommit {})]);
    inside.recv().unwrap();
    assert_eq!(bench.server.stop(Duration::from_millis(20)).unwrap_err().0, 1);
    release.send(()).unwrap();
}
