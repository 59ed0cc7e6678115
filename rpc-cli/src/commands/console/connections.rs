//! Serves HTTP on a limited number of connections.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};

/// How long the head of a request may take, from the accept of its connection or the end of the
/// answer before. Connections that send nothing must not keep others out.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// How long a browser may read nothing of an answer. One that has stopped reading must not keep its
/// call or its place.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Serves up to `max_connections` at a time. Further ones wait until another one ends.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    max_connections: usize,
    router: Router,
) -> Infallible {
    let permits = Arc::new(Semaphore::new(max_connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        // `accept` retries after errors.
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        let connection = Connection { stream, timer: None };
        let served = http.serve_connection(TokioIo::new(connection), service);
        tokio::spawn(async move {
            // An error only ends this connection: the browser may have gone away.
            let _ = served.await;
            drop(permit);
        });
    }
}

/// A connection whose writes fail once one of them has waited for [`STALL_LIMIT`].
struct Connection<S> {
    stream: S,
    /// Completes at the limit. `None` if no write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    /// Passes on what polling a write returned, or fails the write if it has waited for
    /// [`STALL_LIMIT`].
    fn fail_if_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(STALL_LIMIT)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.fail_if_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.fail_if_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    /// Connections without sockets: paused time would not wait for those.
    struct InMemory(mpsc::UnboundedReceiver<DuplexStream>);

    impl Listener for InMemory {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.0.recv().await {
                Some(stream) => (stream, ()),
                None => pending().await,
            }
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Serves one connection at a time.
    struct Console(mpsc::UnboundedSender<DuplexStream>);

    impl Console {
        fn serving(router: Router) -> Self {
            let (connect, connections) = mpsc::unbounded_channel();
            tokio::spawn(serve(InMemory(connections), 1, router));
            Self(connect)
        }

        /// Sends the head of a request.
        async fn send(&self, head: &str) -> DuplexStream {
            let (mut browser, console) = duplex(64 * 1024);
            self.0.send(console).expect("the task runs");
            browser.write_all(head.as_bytes()).await.unwrap();
            browser
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_not_read_makes_room() {
        // More than the buffers hold.
        let large = get(async || vec![b'x'; 64 * 1024 * 1024]);
        let router = Router::new()
            .route("/large", large)
            .route("/", get(async || "done"));
        let console = Console::serving(router);
        let _first = console
            .send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let mut second = console.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut answer = String::new();
        let read = timeout(STALL_LIMIT * 100, second.read_to_string(&mut answer)).await;
        read.expect("the first connection is closed").unwrap();
        assert!(answer.ends_with("done"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_makes_room() {
        let slow = get(async || {
            sleep(HEAD_LIMIT * 10).await;
            "done"
        });
        let console = Console::serving(Router::new().route("/", slow));
        for part_of_head in ["", "GET / HTTP/1.1\r\nHost: "] {
            let _first = console.send(part_of_head).await;
            let mut second = console.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            let mut answer = String::new();
            // The connection is also closed if no other request follows.
            let read = timeout(HEAD_LIMIT * 100, second.read_to_string(&mut answer)).await;
            read.expect("the first connection is closed").unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
                "{answer}"
            );
        }
    }
}
