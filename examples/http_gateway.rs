//! An HTTP gateway: [axum](https://docs.rs/axum) in front of a service. Each HTTP request for an
//! e-mail address is one call, and each error of the call becomes a status code.
//!
//! ```sh
//! cargo run --example http_gateway                        # sends itself some requests, and ends
//! cargo run --example http_gateway -- 127.0.0.1:8080      # serves until Ctrl-C
//! curl -i http://127.0.0.1:8080/users/user:12345/email
//! AMQP_URL=amqp://localhost cargo run --example http_gateway -- 127.0.0.1:8080
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rpc_examples::{
    Directory, DirectoryError, UserDirectoryClient, UserDirectoryServer, broker, log_to_stderr,
};
use rpc_runtime::{Broker, CallError, Chain, FaultCode, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What the handlers share. Clones are cheap.
#[derive(Clone)]
struct Gateway {
    broker: Broker,
    directory: UserDirectoryClient,
}

fn router(broker: &Broker) -> Router {
    let gateway = Gateway {
        broker: broker.clone(),
        // HTTP clients wait this long at most.
        directory: UserDirectoryClient::builder(broker)
            .timeout(Duration::from_secs(2))
            .build(),
    };
    Router::new()
        .route("/users/{id}/email", get(email))
        .route("/ready", get(ready))
        .with_state(gateway)
}

/// Responds with a user's e-mail address. If the HTTP client disconnects, axum drops this future,
/// and the call with it.
async fn email(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<String, Failure> {
    Ok(gateway.directory.get_email(&id).await?)
}

/// A readiness probe: whether the gateway can send requests right now. It cannot while a connection
/// is lost, or while the broker blocks publishers.
async fn ready(State(gateway): State<Gateway>) -> StatusCode {
    if gateway.broker.status().is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// A failed call, as an HTTP response.
struct Failure(CallError<DirectoryError>);

impl From<CallError<DirectoryError>> for Failure {
    fn from(error: CallError<DirectoryError>) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            // The method's own error is meant for the caller.
            CallError::Service(error @ DirectoryError::UnknownUser { .. }) => {
                return (StatusCode::NOT_FOUND, error.to_string()).into_response();
            }
            CallError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            CallError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            // The method did not run, for example because of too much load or a lost connection:
            // another attempt may succeed.
            error if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            CallError::Fault(fault) if fault.code == FaultCode::Unauthorized => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_GATEWAY,
        };
        // The details are for the operator, not for the HTTP client.
        tracing::warn!(error = %Chain(&self.0), "a call failed");
        let mut response = status.into_response();
        if let Some(pause) = self.0.retry_after() {
            let seconds = pause.as_millis().div_ceil(1000).to_string();
            if let Ok(value) = HeaderValue::from_str(&seconds) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0"))
        .await
        .context("an address to serve at, such as 127.0.0.1:8080")?;
    let served_at = listener.local_addr()?;

    let broker = broker().await?;
    // An application would run the worker as a separate program.
    let worker = Server::new(&broker)
        .serve(UserDirectoryServer::new(Directory::default()))
        .start()
        .await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let gateway = axum::serve(listener, router(&broker)).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let gateway = tokio::spawn(gateway.into_future());

    if address.is_some() {
        eprintln!("serving at http://{served_at}");
        tokio::signal::ctrl_c().await?;
        worker.stop().await?;
    } else {
        for path in ["/ready", "/users/user:12345/email", "/users/user:99999/email"] {
            println!("{path}: {}", fetch(served_at, path).await?);
        }
        worker.stop().await?;
        let path = "/users/user:12345/email";
        println!("{path}, without a worker: {}", fetch(served_at, path).await?);
    }

    // The last HTTP requests end before the connections to the broker.
    let _ = stop.send(());
    gateway.await??;
    broker.close().await;
    Ok(())
}

/// Sends a GET request, and returns the status and the body of the response as one text.
async fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").context("a response has a head")?;
    let status = head.lines().next().unwrap_or_default();
    let status = status.strip_prefix("HTTP/1.1 ").unwrap_or(status);
    Ok(format!("{status} {body}").trim_end().to_owned())
}
