//! What fails: each kind with its exit code, and with what to do.

use std::io::Write as _;

use rpc_tests::rabbit::{Vhost, unique};
use rpc_tests::raw::RawPeer;
use serde_json::{Value, json};

use crate::program::{directory_on, is_late, library, program, rpc, rpc_at, rpc_once, rpc_until};

#[tokio::test]
async fn an_unreachable_broker_is_reported_with_its_address() {
    for url in [
        "amqp://alice:s3cret@127.0.0.1:1",
        "amqps://alice:s3cret@127.0.0.1:1",
    ] {
        for arguments in [
            &["list"][..],
            &["call", "S", "m"],
            &["list", "--json"],
            &["ping", "-v"],
        ] {
            let failed = rpc_at(url, arguments).await;
            let told = failed.failure(5);
            assert!(told.contains("127.0.0.1:1") && told.contains("--url"), "{told}");
            assert!(!told.contains("s3cret"), "{told}");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_reported_and_never_shown() {
    let vhost = Vhost::new().await;
    let wrong = vhost.url().replace("guest:guest@", "guest:s3cret@");
    let failed = rpc_at(&wrong, &["list", "-v"]).await;
    assert_eq!((failed.code, failed.stdout.as_str()), (5, ""), "{failed:?}");
    assert!(
        failed.stderr.contains("the user or the password is wrong"),
        "{failed:?}"
    );
    assert!(!failed.stderr.contains("s3cret"), "{failed:?}");
    let elsewhere = rpc_at(&format!("{}x", vhost.url()), &["list"]).await;
    assert!(
        elsewhere.failure(5).contains("no such virtual host"),
        "{elsewhere:?}"
    );
    // What the command line says wins.
    let right = rpc_at(&wrong, &["list", "--json", "--url", &vhost.url()]).await;
    assert_eq!(right.json()["services"], json!([]));
}

#[tokio::test]
async fn failures_of_tls_are_explained() {
    let vhost = Vhost::new().await;
    let tls = vhost.url().replace("amqp://", "amqps://");
    let failed = rpc_at(&tls, &["list"]).await;
    assert!(
        failed.failure(5).contains("the port does not speak TLS"),
        "{failed:?}"
    );
    let mut without_file = program(&["list", "--url", &tls]);
    without_file.env("RPC_RUNTIME_TLS_CA_FILE", "/nowhere/ca.pem");
    let output = rpc_tests::programs::run(&mut without_file).await;
    let told = rpc_tests::programs::text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told.contains("RPC_RUNTIME_TLS_CA_FILE names a file that cannot be read: No such file"),
        "{told}"
    );
}

#[tokio::test]
async fn invalid_certificates_are_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"no certificate").unwrap();
    let mut unusable = program(&["list", "--url", "amqps://127.0.0.1:1"]);
    unusable.env("RPC_RUNTIME_TLS_CA_FILE", file.path());
    let output = rpc_tests::programs::run(&mut unusable).await;
    let told = rpc_tests::programs::text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("the TLS options cannot be used"), "{told}");
}

#[tokio::test]
async fn an_invalid_address_is_refused_and_not_shown() {
    for url in [
        "amqp://alice:s3cret@host:port",
        "http://alice:s3cret@host",
        "s3cret",
    ] {
        let failed = rpc_at(url, &["list"]).await;
        let told = failed.failure(2);
        assert!(told.contains("amqp://user:password@host:port/vhost"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    let mut misspelt = program(&["list"]);
    misspelt.env("RPC_RUNTIME_REPLAY_QUEUE", "s3cret");
    let output = rpc_tests::programs::run(&mut misspelt).await;
    let told = rpc_tests::programs::text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told.contains("RPC_RUNTIME_REPLAY_QUEUE is unknown") && !told.contains("s3cret"),
        "{told}"
    );
}

#[tokio::test]
async fn close_names_are_suggested() {
    let vhost = Vhost::new().await;
    let nobody = rpc_once(&vhost, &["call", "UserDirectory", "count"]).await;
    assert!(nobody.failure(3).contains("no worker answered"), "{nobody:?}");
    let nobody = rpc(&vhost, &["describe", "--queue", "rpc_queue"]).await;
    assert!(
        nobody.failure(3).contains("there is no queue \"rpc_queue\""),
        "{nobody:?}"
    );

    let _worker = directory_on(&vhost, "rpc_queue").await;
    for command in [
        &["describe", "UserDirectry"][..],
        &["call", "UserDirectry", "count"],
    ] {
        assert_eq!(
            rpc(&vhost, command).await.failure(3),
            "rpc: no service UserDirectry was found\n     did you mean UserDirectory?\n"
        );
    }
    for command in [
        &["call", "UserDirectory", "get_emial"][..],
        &["call", "--queue", "rpc_queue", "get_emial"],
        &["bench", "UserDirectory", "get_emial"],
    ] {
        assert_eq!(
            rpc(&vhost, command).await.failure(3),
            "rpc: UserDirectory has no method get_emial\n     did you mean get_email?\n"
        );
    }
    let failed = rpc_until(&vhost, &["stats", "UserDirectry"], |failed| {
        failed.stderr.contains("did you mean")
    })
    .await;
    assert!(
        failed.failure(3).contains("did you mean UserDirectory?"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn invalid_arguments_are_refused_before_anything_is_sent() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let call = |arguments: &'static [&str]| {
        let vhost = &vhost;
        async move {
            rpc(
                vhost,
                &[&["call", "UserDirectory", "get_email"], arguments].concat(),
            )
            .await
        }
    };
    for (arguments, told) in [
        (&["{id: 1}"][..], "is not JSON: key must be a string"),
        (&["user:12345"], "neither a JSON object nor an array"),
        (&["@/nowhere"], "/nowhere: No such file"),
        (
            &["{\"name\": 1}"],
            "the method has no argument \"name\": it has id",
        ),
        (&["[1, 2]"], "2 arguments are too many"),
        (&["{}", "--arg", "id=1"], "arguments are given twice"),
        (&["--timeout", "10"], "10s or 10ms"),
        (&["--undescribed"], "--queue"),
        (&["--jsn"], "unexpected argument '--jsn'"),
        (&["-x"], "unexpected argument '-x'"),
    ] {
        let failed = call(arguments).await;
        assert!(failed.failure(2).contains(told), "{arguments:?}: {failed:?}");
    }
    // What only the worker knows, it says.
    let failed = call(&["{}"]).await;
    assert!(failed.failure(3).contains("bad_request: "), "{failed:?}");
    assert!(failed.stderr.contains("rpc describe"), "{failed:?}");
    let failed = rpc(&vhost, &["call", "--queue", "rpc_queue", "--undescribed", "burn"]).await;
    assert!(failed.failure(3).contains("unknown_method: "), "{failed:?}");
}

#[tokio::test]
async fn a_failed_call_reports_whether_its_method_ran() {
    let vhost = Vhost::new().await;
    let _worker = library(&vhost).await;
    let late = rpc(
        &vhost,
        &["call", "Library", "search", "--timeout", "5s", "--json"],
    )
    .await;
    let told: Value = serde_json::from_str(late.failure(4)).unwrap();
    assert!(is_late(told["failure"].as_str().unwrap()), "{told}");
    assert_eq!(told["executed"], "maybe");
    let panicked = rpc(&vhost, &["call", "Library", "burn"]).await;
    assert!(panicked.failure(4).contains("panicked: "), "{panicked:?}");
}

#[tokio::test]
async fn a_queue_without_workers_is_not_a_missing_queue() {
    let vhost = Vhost::new().await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    let queue = unique("deserted");
    peer.declare(&queue).await.unwrap();
    let failed = rpc(&vhost, &["call", "--queue", &queue, "count"]).await;
    assert!(
        failed.failure(3).contains("its workers are down or too busy"),
        "{failed:?}"
    );
}
