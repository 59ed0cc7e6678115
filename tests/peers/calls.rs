//! Calls between a program of a page and a service in Rust.

use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use rpc_runtime::{Broker, CallError, Codec, FaultCode, Server};
use rpc_tests::programs::{LIMIT, run, text};
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::until;
use tokio::process::Command;

use crate::directory::{
    Directory, DirectoryError, NewerClient, OlderClient, UserDirectoryClient, UserDirectoryServer,
};

const QUEUE: &str = "user-directory";

/// Half of the time that a report takes in the workers.
const QUICKLY: Duration = Duration::from_secs(30);

/// What each caller prints.
pub(crate) const PRINTED: &str = "alice@example.com\nno user user:99999\nunknown_method\nno reply in time\n";

/// Runs a program that calls a service in Rust.
pub(crate) async fn calls_rust(program: &mut Command) {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let directory = Directory::default();
    let server = Server::new(&broker)
        .serve(UserDirectoryServer::new(directory.clone()))
        .start()
        .await
        .unwrap();

    let output = run(program.env("AMQP_URL", vhost.url())).await;
    let stderr = text(&output.stderr);
    assert_eq!(text(&output.stdout), PRINTED, "{program:?}: {stderr}");
    assert!(
        output.status.success(),
        "{program:?}: {}\n{stderr}",
        output.status
    );

    // The worker stops the report at the caller's deadline, if the request has one.
    until("the report has begun", LIMIT, async || {
        Ok(directory.reports.of("2026") > 0)
    })
    .await
    .unwrap();
    directory.reports.end(LIMIT).await;
    assert_eq!(directory.reports.of("2026"), 1);
    server.stop().await.unwrap();
    broker.close().await;
}

/// Runs a program that calls a service which nobody has ever served. Its error must contain this
/// text.
pub(crate) async fn reports_a_missing_queue(program: &mut Command, error: &str) {
    let vhost = Vhost::new().await;
    let output = run(program.env("AMQP_URL", vhost.url())).await;
    let stderr = text(&output.stderr);
    assert!(!output.status.success(), "{program:?}: {stderr}");
    assert!(stderr.contains(error), "{program:?}: {stderr}");
}

/// Calls a program that serves the directory from Rust.
pub(crate) async fn is_called_by_rust(program: &mut Command) {
    let vhost = Vhost::new().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    // A file, because Node.js makes its standard error non-blocking.
    let output = log.reopen().unwrap();
    let mut worker = program
        .env("AMQP_URL", vhost.url())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let printed = Printed(log);
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    until("the worker declares its queue", LIMIT, async || {
        anyhow::ensure!(worker.try_wait()?.is_none(), "the worker has ended");
        Ok(peer.queue_depth(QUEUE).await?.is_some())
    })
    .await
    .unwrap();

    call_from_rust(&vhost).await;
    answers_without_the_library(&peer).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker has ended");
    worker.kill().await.unwrap();
    drop(printed);
}

/// Makes calls that succeed, fail, time out, and are of other versions of the service.
async fn call_from_rust(vhost: &Vhost) {
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let directory = UserDirectoryClient::builder(&broker).codec(Codec::Json).build();
    let email = directory.get_email("user:12345").timeout(LIMIT).await.unwrap();
    assert_eq!(email, "alice@example.com");
    match directory.get_email("user:99999").await.unwrap_err() {
        CallError::Service(DirectoryError::UnknownUser { id }) => assert_eq!(id, "user:99999"),
        other => panic!("{other:?}"),
    }
    let late = directory.report(2026).timeout(Duration::from_millis(300)).await;
    // The worker may answer at the deadline, a moment before the caller notices it. It may also get
    // the request too late to begin.
    match late.unwrap_err() {
        CallError::TimedOut { .. } => {}
        CallError::Fault(fault) if matches!(fault.code, FaultCode::Abandoned | FaultCode::Expired) => {}
        other => panic!("{other:?}"),
    }

    let newer = NewerClient::builder(&broker).codec(Codec::Json).build();
    let email = newer.get_email("user:12345", "de").await.unwrap();
    assert_eq!(email, "alice@example.com");
    let older = OlderClient::builder(&broker).codec(Codec::Json).build();
    assert_eq!(fault(older.erase("user:12345").await), FaultCode::UnknownMethod);
    assert_eq!(fault(older.get_email().await), FaultCode::BadRequest);

    let message_pack = UserDirectoryClient::new(&broker);
    let code = fault(message_pack.get_email("user:12345").await);
    assert!(
        matches!(code, FaultCode::UnsupportedContentType | FaultCode::UnknownMethod),
        "{code}"
    );
    broker.close().await;
}

/// Returns the code of the fault with which a call failed.
fn fault<T: std::fmt::Debug, E: std::fmt::Debug>(reply: Result<T, CallError<E>>) -> FaultCode {
    match reply {
        Err(CallError::Fault(fault)) => fault.code,
        other => panic!("{other:?}"),
    }
}

/// What a client of this library does not show: the worker stops at the deadline, answers the
/// probes of Rust workers of the same queue, and runs several requests at once.
async fn answers_without_the_library(peer: &RawPeer) {
    let reply_queue = peer.declare_exclusive().await.unwrap();
    let mut replies = peer.consume(&reply_queue).await.unwrap();
    let request = |kind: &str, id: &str| {
        BasicProperties::default()
            .with_type(kind.into())
            .with_reply_to(reply_queue.as_str().into())
            .with_correlation_id(id.into())
    };

    peer.publish(QUEUE, request("rpc.probe", "probe of a worker"), b"")
        .await
        .unwrap();
    let probe = next(&mut replies, LIMIT)
        .await
        .unwrap()
        .expect("an answer to the probe");
    let id = probe.properties.correlation_id().as_ref().unwrap();
    assert_eq!(id.as_str(), "probe of a worker");

    let json = |method, id| request(method, id).with_content_type("application/json".into());
    let report = br#"{"year": 2026}"#;
    let with_deadline = json("report", "late").with_expiration("300".into());
    peer.publish(QUEUE, with_deadline, report).await.unwrap();
    let late = next(&mut replies, LIMIT)
        .await
        .unwrap()
        .expect("an answer at the deadline");
    assert_eq!(late.properties.kind().as_ref().unwrap().as_str(), "fault");
    let fault: serde_json::Value = serde_json::from_slice(&late.data).unwrap();
    assert_eq!(fault["code"], "abandoned");

    // A report takes twice as long as this waits.
    peer.publish(QUEUE, json("report", "slow"), report).await.unwrap();
    let user = br#"{"id": "user:12345"}"#;
    peer.publish(QUEUE, json("get_email", "quick"), user)
        .await
        .unwrap();
    let quick = next(&mut replies, QUICKLY)
        .await
        .unwrap()
        .expect("an answer beside a slow method");
    assert_eq!(
        quick.properties.correlation_id().as_ref().unwrap().as_str(),
        "quick"
    );
}

/// What a program printed. It is shown if the test fails meanwhile.
struct Printed(tempfile::NamedTempFile);

impl Drop for Printed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let printed = std::fs::read(self.0.path()).unwrap_or_default();
            eprintln!("the worker printed:\n{}", text(&printed));
        }
    }
}
