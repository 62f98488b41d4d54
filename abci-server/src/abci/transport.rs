//! Serves an application to CometBFT, one blocking thread a connection.
//!
//! CometBFT opens four connections (query, snapshot, mempool, consensus) and does not say which is which, so nothing here
//! depends on the connection. Requests of a connection are answered in order. Answers go out on `Flush`, and when no
//! further request is waiting.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tendermint_abci::Application;
use tendermint_proto::v0_38::abci::{request::Value as Req, response::Value as Res, CheckTxType, Response};

use super::address::{Address, Listener, Stream};
use super::frame::{FrameWriter, Frames};
use super::policy::{self, Call, Failure, Fault, Undecoded};

/// How many connections a running CometBFT holds.
pub const CONNECTIONS: usize = 4;
/// More than a CometBFT that goes and one that comes need; what is over is closed at once.
const MAX_CONNECTIONS: usize = 16;
/// Requests of a connection that are looked at together.
const READ_AHEAD: usize = 1024;
/// A block runs on a connection's thread.
const STACK: usize = 8 << 20;

/// What an application may do with transactions that wait to be checked.
pub trait Prefetch {
    /// Hears of new transactions shortly before [`Application::check_tx`] gets them one by one: CometBFT sends CheckTx
    /// without waiting for answers. The place to verify signatures in parallel. Only a hint: it need not come, recheck has
    /// none, and what it panics with is only logged.
    fn prefetch(&self, txs: &[Bytes]) {
        let _ = txs;
    }
}

/// A running server. Stops accepting when dropped; [`Server::stop`] also waits.
pub struct Server {
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

/// Calls were still running when the time to stop was over.
#[derive(Debug, thiserror::Error)]
#[error("{0} ABCI connections are still in a call")]
pub struct Still(pub usize);

struct Shared {
    address: Address,
    stopping: AtomicBool,
    open: Mutex<BTreeMap<u64, Arc<Stream>>>,
    closed: Condvar,
    on_fault: Box<dyn Fn(Fault) + Send + Sync>,
}

impl Server {
    /// Serves until stopped. `on_fault` is called after CometBFT was told, with no further request answered on any
    /// connection; it is expected to end the process.
    pub fn start<A: Application + Prefetch>(
        listener: Listener,
        app: A,
        on_fault: impl Fn(Fault) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            address: listener.address().clone(),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            closed: Condvar::new(),
            on_fault: Box::new(on_fault),
        });
        let accept = Builder::new().name("abci-accept".into()).spawn({
            let shared = shared.clone();
            move || accept(&listener, &app, &shared)
        })?;
        Ok(Self { shared, accept: Some(accept) })
    }

    /// What CometBFT's `proxy_app` must say.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Tells, for as long as anybody asks, whether CometBFT holds all its connections. One that lost any of them ends.
    pub fn linked(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.open.lock().len() >= CONNECTIONS
    }

    /// Closes the listener, lets each connection finish the call that it is in, and closes it. CometBFT ends when its
    /// connections do: stop it first. After `grace` the connections are cut.
    pub fn stop(mut self, grace: Duration) -> Result<(), Still> {
        self.close();
        let deadline = Instant::now() + grace;
        let mut open = self.shared.open.lock();
        while !open.is_empty() {
            if self.shared.closed.wait_until(&mut open, deadline).timed_out() {
                for stream in open.values() {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                return if open.is_empty() { Ok(()) } else { Err(Still(open.len())) };
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        self.shared.quiesce();
        let Some(accept) = self.accept.take() else { return };
        // The thread sleeps in accept(2): a connection wakes it. Without one (somebody took the socket file away) it is
        // left behind.
        if Stream::connect(&self.shared.address).is_ok() {
            let _ = accept.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.shared.address)
    }
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// From here on no request is begun; threads that wait for one wake up.
    fn quiesce(&self) {
        self.stopping.store(true, Ordering::Release);
        for stream in self.open.lock().values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

fn accept<A: Application + Prefetch>(listener: &Listener, app: &A, shared: &Arc<Shared>) {
    for id in 0.. {
        let accepted = listener.accept();
        if shared.stopping() {
            return;
        }
        let begun = accepted.and_then(|stream| connect(id, stream, app.clone(), shared.clone()));
        if let Err(e) = begun {
            tracing::warn!("ABCI connection {id} refused: {e}");
            std::thread::sleep(Duration::from_millis(50)); // out of file descriptors: do not spin
        }
    }
}

fn connect<A: Application + Prefetch>(
    id: u64,
    stream: Stream,
    app: A,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let stream = Arc::new(stream);
    {
        let mut open = shared.open.lock();
        if open.len() >= MAX_CONNECTIONS {
            return Err(io::Error::other(format!("{MAX_CONNECTIONS} are open already")));
        }
        open.insert(id, stream.clone());
    }
    let on_thread = shared.clone();
    let spawned = Builder::new().name(format!("abci-{id}")).stack_size(STACK).spawn(move || {
        let shared = on_thread;
        let end = serve(&*stream, &app, || shared.stopping());
        if matches!(end, End::Fault(_)) {
            shared.quiesce();
        }
        drop(stream);
        drop(app);
        close(id, &shared);
        match end {
            End::Closed => tracing::debug!("ABCI connection {id} closed"),
            End::Io(e) => tracing::debug!("ABCI connection {id} lost: {e}"),
            End::Protocol(e) => tracing::error!("ABCI connection {id}: {e}"),
            End::Fault(fault) => {
                tracing::error!(%fault, "the application cannot go on");
                (shared.on_fault)(fault);
            }
        }
    });
    spawned.map(drop).inspect_err(|_| close(id, &shared))
}

fn close(id: u64, shared: &Shared) {
    shared.open.lock().remove(&id);
    shared.closed.notify_all();
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    Closed,
    Io(io::Error),
    Protocol(String),
    Fault(Fault),
}

/// Serves one connection until it ends.
fn serve<S, A>(stream: S, app: &A, stopping: impl Fn() -> bool) -> End
where
    S: io::Read + io::Write + Copy,
    A: Application + Prefetch,
{
    let mut frames = Frames::new(stream);
    let mut out = FrameWriter::new(stream);
    loop {
        let mut calls = match frames.read() {
            Ok(Some(frame)) => vec![policy::decode(frame)],
            Ok(None) => return End::Closed,
            Err(super::frame::FrameError::Io(e)) => return End::Io(e),
            Err(e) => vec![Err(Undecoded::Other(e.to_string()))],
        };
        while calls.len() < READ_AHEAD {
            let Some(frame) = frames.buffered() else { break };
            calls.push(policy::decode(frame));
        }
        prefetch(app, &calls);
        for call in calls {
            if stopping() {
                return out.flush().map_or_else(End::Io, |()| End::Closed);
            }
            let (response, end) = match policy::answer(app, call) {
                Ok(response) => (response, None),
                Err(Failure::Protocol(e)) => (policy::exception(&e), Some(End::Protocol(e))),
                Err(Failure::Fault(f)) => (policy::exception(&f), Some(End::Fault(f))),
            };
            let flush = end.is_some() || matches!(response, Res::Flush(_));
            let written = out.write(&Response { value: Some(response) }).and_then(|()| {
                if flush {
                    out.flush()
                } else {
                    Ok(())
                }
            });
            match (end, written) {
                (Some(end), _) => return end,
                (None, Err(e)) => return End::Io(e),
                (None, Ok(())) => {}
            }
        }
        if frames.idle() {
            if let Err(e) = out.flush() {
                return End::Io(e);
            }
        }
    }
}

fn prefetch(app: &impl Prefetch, calls: &[Call]) {
    let new = |call: &Call| match call {
        Ok(Req::CheckTx(r)) if r.r#type == CheckTxType::New as i32 => Some(r.tx.clone()),
        _ => None,
    };
    let txs: Vec<Bytes> = calls.iter().filter_map(new).collect();
    if txs.len() > 1 && catch_unwind(AssertUnwindSafe(|| app.prefetch(&txs))).is_err() {
        tracing::error!("prefetch of {} transactions panicked", txs.len());
    }
}
