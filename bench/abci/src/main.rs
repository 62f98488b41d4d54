//! One client against four servers: our ABCI socket (unix and TCP), tendermint-abci's own server (TCP), and a bare unix
//! socket that reads frames and answers bytes made beforehand, which is what the kernel alone costs.
//!
//! An echo wakes two threads. Where the cores sleep between, as on an idle virtual machine, that is most of its time; so
//! it is measured with sleeping cores and with cores that threads of the lowest priority keep awake.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use deepnode_abci_server::abci::frame::Frames;
use deepnode_abci_server::abci::{Address, Listener, Prefetch, Server};
use prost::Message;
use tendermint_abci::{Application, ServerBuilder};
use tendermint_proto::v0_38::abci::{
    request::Value as Req, response::Value as Res, ExecTxResult, Request, RequestEcho, RequestFinalizeBlock,
    RequestFlush, Response, ResponseEcho, ResponseFinalizeBlock, ResponseFlush,
};

const TX: usize = 300;
const BLOCK: usize = 64 << 20;
/// What we promise of the unix socket: p50 of an echo with cores awake, median of a block.
const ECHO_BOUND: Duration = Duration::from_micros(20);
const BLOCK_BOUND: Duration = Duration::from_millis(160);

#[derive(Clone)]
struct App;

impl Prefetch for App {}

impl Application for App {
    fn finalize_block(&self, request: RequestFinalizeBlock) -> ResponseFinalizeBlock {
        finalized(request.txs.len())
    }
}

fn finalized(txs: usize) -> ResponseFinalizeBlock {
    let result = ExecTxResult { gas_wanted: 1, ..Default::default() };
    ResponseFinalizeBlock { tx_results: vec![result; txs], ..Default::default() }
}

fn frame(value: Req) -> Vec<u8> {
    Request { value: Some(value) }.encode_length_delimited_to_vec()
}

fn answer(value: Res) -> Vec<u8> {
    Response { value: Some(value) }.encode_length_delimited_to_vec()
}

/// A call as CometBFT makes it: the request and a Flush in one write, both answers awaited. Returns the first answer and
/// the time until the last byte.
fn call(
    stream: &mut impl Write,
    frames: &mut Frames<impl Read>,
    bytes: &[u8],
) -> Result<(Bytes, Duration), Box<dyn Error>> {
    let begun = Instant::now();
    stream.write_all(bytes)?;
    let first = frames.read()?.ok_or("no answer")?;
    frames.read()?.ok_or("no answer to Flush")?;
    Ok((first, begun.elapsed()))
}

struct Times(Vec<Duration>);

impl Times {
    fn at(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        self.0[((self.0.len() - 1) as f64 * share).round() as usize]
    }
}

/// Echo round trips, then blocks there and back; each after a tenth more to warm up.
fn measure<S: Read + Write>(
    connect: impl Fn() -> io::Result<(S, S)>,
    echoes: usize,
    blocks: usize,
) -> Result<(Times, Times), Box<dyn Error>> {
    let (mut stream, reader) = connect()?;
    let mut frames = Frames::new(reader);
    let flush = frame(Req::Flush(RequestFlush {}));

    let bytes = [frame(Req::Echo(RequestEcho { message: "hello".into() })), flush.clone()].concat();
    let mut echo = Vec::new();
    for n in 0..echoes + echoes / 10 {
        let (got, took) = call(&mut stream, &mut frames, &bytes)?;
        let Some(Res::Echo(got)) = Response::decode(got)?.value else { return Err("not an Echo".into()) };
        assert_eq!(got.message, "hello");
        if n >= echoes / 10 {
            echo.push(took);
        }
    }

    let txs: Vec<Bytes> =
        (0..BLOCK / TX).map(|n| n.to_be_bytes().repeat(TX / 8 + 1)[..TX].to_vec().into()).collect();
    let count = txs.len();
    let block = frame(Req::FinalizeBlock(RequestFinalizeBlock { txs, height: 1, ..Default::default() }));
    let bytes = [block, flush].concat();
    let mut block = Vec::new();
    for n in 0..=blocks {
        let (got, took) = call(&mut stream, &mut frames, &bytes)?;
        let Some(Res::FinalizeBlock(got)) = Response::decode(got)?.value else {
            return Err("not a FinalizeBlock".into());
        };
        assert_eq!(got.tx_results.len(), count);
        if n > 0 {
            block.push(took);
        }
    }
    Ok((Times(echo), Times(block)))
}

/// Reads frames and answers by their kind with bytes made beforehand, nothing decoded.
fn bare(stream: UnixStream) -> io::Result<()> {
    let echo = answer(Res::Echo(ResponseEcho { message: "hello".into() }));
    let flush = answer(Res::Flush(ResponseFlush {}));
    let block = answer(Res::FinalizeBlock(finalized(BLOCK / TX)));
    let (mut frames, mut stream) = (Frames::new(stream.try_clone()?), stream);
    let mut pending = Vec::new();
    while let Ok(Some(request)) = frames.read() {
        match request.first() {
            Some(0x0a) => pending.extend_from_slice(&echo),
            Some(0x12) => {
                pending.extend_from_slice(&flush);
                stream.write_all(&pending)?;
                pending.clear();
            }
            _ => pending.extend_from_slice(&block),
        }
    }
    Ok(())
}

/// Keeps every core from sleeping while it lives, in time that nobody else wants.
struct Awake(Arc<AtomicBool>);

impl Awake {
    fn new() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism()?.get() {
            let stop = stop.clone();
            thread::spawn(move || {
                let priority = libc::sched_param { sched_priority: 0 };
                // SAFETY: the parameters live; 0 is this thread.
                let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &priority) };
                while set == 0 && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Ok(Awake(stop))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn unix(path: &std::path::Path) -> io::Result<(UnixStream, UnixStream)> {
    let stream = UnixStream::connect(path)?;
    Ok((stream.try_clone()?, stream))
}

fn tcp(addr: std::net::SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?; // as Go does
    Ok((stream.try_clone()?, stream))
}

fn print(name: &str, (mut echo, mut block): (Times, Times)) -> (Duration, Duration) {
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let (e, b) = (echo.at(0.5), block.at(0.5));
    let (e99, least, most) = (echo.at(0.99), block.at(0.0), block.at(1.0));
    let block = format!("{:.0} ({:.0}-{:.0})", ms(b), ms(least), ms(most));
    println!("| {name:<28} | {:>10.1} | {:>10.1} | {block:>21} |", us(e), us(e99));
    (e, b)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    println!("Echo + Flush, and FinalizeBlock of {} MiB in {} transactions:\n", BLOCK >> 20, BLOCK / TX);
    println!("| {:<28} | p50, us    | p99, us    | median (range), ms    |", "server");
    println!("|------------------------------|-----------:|-----------:|----------------------:|");

    let path = dir.path().join("bare.sock");
    let listener = UnixListener::bind(&path)?;
    thread::spawn(move || listener.incoming().try_for_each(|stream| bare(stream?)));
    print("bare loop, unix", measure(|| unix(&path), 20_000, 15)?);
    let awake = Awake::new()?;
    print("  with cores awake", measure(|| unix(&path), 20_000, 15)?);
    drop(awake);

    let path = dir.path().join("abci.sock");
    let server =
        Server::start(Listener::bind(&Address::Unix(path.clone()))?, App, |fault| panic!("{fault}"))?;
    let (_, block) = print("deepnode, unix", measure(|| unix(&path), 20_000, 15)?);
    let awake = Awake::new()?;
    let (echo, _) = print("  with cores awake", measure(|| unix(&path), 20_000, 15)?);
    drop(awake);
    server.stop(Duration::from_secs(1))?;

    let server =
        Server::start(Listener::bind(&"tcp://127.0.0.1:0".parse()?)?, App, |fault| panic!("{fault}"))?;
    let Address::Tcp(addr) = *server.address() else { unreachable!("bound to TCP") };
    print("deepnode, TCP", measure(|| tcp(addr), 20_000, 15)?);
    server.stop(Duration::from_secs(1))?;

    let server = ServerBuilder::default().bind("127.0.0.1:0", App)?;
    let addr = server.local_addr().parse()?;
    thread::spawn(move || server.listen());
    print("tendermint-abci 0.40.4, TCP", measure(|| tcp(addr), 200, 3)?);

    let verdict = |met| if met { "met" } else { "MISSED (is the machine busy?)" };
    println!("\necho p50 with cores awake <= {ECHO_BOUND:?}: {}", verdict(echo <= ECHO_BOUND));
    println!("block median <= {BLOCK_BOUND:?}: {}", verdict(block <= BLOCK_BOUND));
    Ok(())
}
