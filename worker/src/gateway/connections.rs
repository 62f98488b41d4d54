//! Connections: how many there are, and how slow each may be.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, Instant, Sleep};

/// How long the listener rests when the machine has no room for another connection.
const REST: Duration = Duration::from_millis(100);
/// Greatest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Bounds that keep slow or many clients from using up the machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more wait until one ends.
    pub connections: usize,
    /// A request's head must be there this long after the connection, or the answer before it.
    pub head: Duration,
    /// A request's body must be complete this long after its head.
    pub body: Duration,
    /// A client that takes nothing of its answer for this long is gone.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: 1024, head: seconds(30), body: seconds(30), stall: seconds(60) }
    }
}

/// Serves until `stop` resolves, and then until every request under way is answered.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MAX_HEAD);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    sleep(REST).await;
                    continue;
                }
            };
            // Without it each token of a stream would wait for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            let io = TokioIo::new(Impatient::new(stream, limits.stall));
            let service = TowerToHyperService::new(router.clone());
            let connection = graceful.watch(http.serve_connection(io, service));
            tokio::spawn(async move {
                // How a connection ended concerns nobody but its client.
                let _ = connection.await;
                drop(slot);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A connection that breaks when nothing of what is written is taken for a while.
struct Impatient {
    stream: TcpStream,
    patience: Duration,
    /// Set while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    fn bound<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let until = Instant::now() + self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(20);

    /// Tells when the answer ends that it belongs to.
    struct Ends(mpsc::UnboundedSender<()>);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    /// `/` says hello, `/flood` sends for as long as somebody takes it and tells when it ends, `/soon` tells that it was
    /// asked and answers after a while.
    async fn server(
        limits: Limits,
    ) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<()>, oneshot::Sender<()>, JoinHandle<()>) {
        let (sender, told) = mpsc::unbounded_channel();
        let asked = sender.clone();
        let flood = move || async move {
            let ends = Ends(sender);
            let chunks = futures::stream::repeat_with(move || {
                let _ = &ends;
                Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 1 << 16]))
            });
            Body::from_stream(chunks)
        };
        let soon = move || async move {
            asked.send(()).unwrap();
            sleep(Duration::from_millis(300)).await;
            "soon"
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/flood", get(flood))
            .route("/soon", get(soon));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, router, limits, async {
            let _ = stopped.await;
        }));
        (address, told, stop, serving)
    }

    fn hasty() -> Limits {
        let hasty = Duration::from_secs(1);
        Limits { head: hasty, stall: hasty, ..Limits::default() }
    }

    async fn send(address: std::net::SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// All that comes until the other side closes the connection.
    async fn rest(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let (address, _told, _stop, _serving) = server(hasty()).await;
        for head in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            let answer = rest(send(address, head).await).await;
            assert!(!answer.contains("hello"), "{answer}");
        }
        let whole = rest(send(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
        assert!(whole.ends_with("hello"), "{whole}");
        let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * MAX_HEAD));
        assert!(rest(send(address, &huge).await).await.contains(" 431 "));
    }

    #[tokio::test]
    async fn who_takes_nothing_is_given_up_and_who_takes_slowly_is_not() {
        let (address, mut told, _stop, _serving) = server(hasty()).await;
        let stalled = send(address, "GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await;
        timeout(LONG, told.recv()).await.expect("the answer is given up").unwrap();
        drop(stalled);

        let mut slow = send(address, "GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut buffer = vec![0; 1 << 22];
        for _ in 0..10 {
            slow.read_exact(&mut buffer).await.unwrap();
            sleep(Duration::from_millis(150)).await;
        }
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait() {
        let (address, _told, _stop, _serving) =
            server(Limits { connections: 1, head: LONG, ..Limits::default() }).await;
        let first = send(address, "GET").await;
        sleep(Duration::from_millis(50)).await;
        let mut second = send(address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let waits = timeout(Duration::from_millis(200), second.read_u8()).await;
        assert!(waits.is_err());
        drop(first);
        assert!(rest(second).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn a_stop_waits_for_answers_and_not_for_idle_connections() {
        let (address, mut told, stop, serving) = server(Limits::default()).await;
        let idle = send(address, "").await;
        let asked = send(address, "GET /soon HTTP/1.1\r\nhost: x\r\n\r\n").await;
        timeout(LONG, told.recv()).await.expect("it is asked").unwrap();
        stop.send(()).unwrap();
        assert!(rest(asked).await.ends_with("soon"));
        timeout(LONG, serving).await.expect("it ends").unwrap();
        drop(idle);
    }
}
