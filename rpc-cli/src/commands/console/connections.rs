//! Serves HTTP on a limited number of connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How long the head of a request may take, from the accept of its connection or the end of the
/// request before. Connections that send nothing must not keep others out.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Serves up to `max_connections` at a time. Further ones wait until another one ends.
pub(super) async fn serve(mut listener: TcpListener, max_connections: usize, router: Router) -> Infallible {
    let permits = Arc::new(Semaphore::new(max_connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        // Retries after errors.
        let (stream, _) = Listener::accept(&mut listener).await;
        let service = TowerToHyperService::new(router.clone());
        let served = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // An error only ends this connection: the browser may have gone away.
            let _ = served.await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_makes_room() {
        let slow = get(async || {
            sleep(HEAD_LIMIT * 10).await;
            "done"
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, 1, Router::new().route("/", slow)));
        for part_of_head in ["", "GET / HTTP/1.1\r\nHost: "] {
            let mut first = TcpStream::connect(address).await.unwrap();
            first.write_all(part_of_head.as_bytes()).await.unwrap();
            let mut second = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
            second.write_all(request).await.unwrap();
            let mut answer = String::new();
            // The connection is also closed if no other request follows.
            let read = timeout(HEAD_LIMIT * 100, second.read_to_string(&mut answer)).await;
            read.expect("the first connection is closed").unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
                "{answer}"
            );
        }
        serving.abort();
    }
}
