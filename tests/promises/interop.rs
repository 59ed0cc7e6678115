//! The examples, as programs, among themselves and with Python clients that have never heard of
//! this library.
//!
//! The service has a queue of a fixed name, so each test has a virtual host to itself.

use std::process::{Output, Stdio};

use rpc_tests::programs::{LIMIT, example, printed, run, text};
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::RawPeer;
use rpc_tests::{python, until};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A program that serves; it ends with this handle.
struct Worker(Child);

impl Worker {
    /// Starts it and waits until requests find their queue.
    async fn start(command: &mut Command, vhost: &Vhost) -> Self {
        let child = command
            .env("AMQP_URL", vhost.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let peer = RawPeer::connect(&vhost.url()).await.unwrap();
        until("the worker declares its queue", LIMIT, async || {
            Ok(peer.queue_depth("rpc_queue").await?.is_some())
        })
        .await
        .unwrap();
        Self(child)
    }

    async fn directory_server(vhost: &Vhost) -> Self {
        Self::start(&mut example("directory_server").await, vhost).await
    }

    /// Sends it a signal and waits for its end.
    async fn end_by(self, signal: &str) -> Output {
        let id = self.0.id().expect("it runs");
        // The shell's own `kill`: not every machine has the program.
        let mut kill = Command::new("/bin/sh");
        printed(kill.args(["-c", &format!("kill -{signal} {id}")])).await;
        timeout(LIMIT, self.0.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("it does not end within {LIMIT:?} of SIG{signal}"))
            .unwrap()
    }
}

/// One of `tests/python`, with its arguments.
fn script(name: &str, arguments: &[&str], vhost: &Vhost) -> Command {
    let mut script = python::script(name).unwrap();
    script.args(arguments).env("AMQP_URL", vhost.url());
    script
}

/// The reply that `typed_caller.py` got.
async fn typed_reply(codec: &str, method: &str, arguments: Value, vhost: &Vhost) -> Value {
    let arguments = arguments.to_string();
    let mut caller = script("typed_caller.py", &[codec, method, &arguments], vhost);
    let reply: Value = serde_json::from_str(&printed(&mut caller).await).unwrap();
    assert_eq!(reply["content_type"], format!("application/{codec}"), "{method}");
    reply
}

#[tokio::test]
async fn callers_of_the_rabbitmq_tutorial_get_raw_answers_and_readable_errors() {
    let vhost = Vhost::new().await;
    let worker = Worker::directory_server(&vhost).await;
    let ids = ["user:12345", "user:67890", "user:99999"];
    for caller in ["tutorial_caller.py", "direct_caller.py"] {
        assert_eq!(
            printed(&mut script(caller, &ids, &vhost)).await,
            "alice@example.com\nbob@example.com\nno user user:99999\n",
            "{caller}"
        );
    }
    worker.end_by("TERM").await;
}

#[tokio::test]
async fn callers_of_another_language_get_typed_answers_errors_and_faults() {
    let vhost = Vhost::new().await;
    let worker = Worker::directory_server(&vhost).await;
    for codec in ["json", "msgpack"] {
        let known = json!({"id": "user:12345"});
        let reply = typed_reply(codec, "get_email", known, &vhost).await;
        assert_eq!(reply["type"], "result", "{codec}");
        assert_eq!(reply["body"], "alice@example.com", "{codec}");

        // Arguments in their order are as good as by their names.
        let reply = typed_reply(codec, "get_email", json!(["user:67890"]), &vhost).await;
        assert_eq!(reply["body"], "bob@example.com", "{codec}");

        let reply = typed_reply(codec, "count", json!({}), &vhost).await;
        assert_eq!(reply["type"], "result", "{codec}");
        assert_eq!(reply["body"], 2, "{codec}");

        let unknown = json!({"id": "user:99999"});
        let reply = typed_reply(codec, "get_email", unknown, &vhost).await;
        assert_eq!(reply["type"], "error", "{codec}");
        let error = json!({"UnknownUser": {"id": "user:99999"}});
        assert_eq!(reply["body"], error, "{codec}");

        let reply = typed_reply(codec, "rpc.ping", json!({}), &vhost).await;
        assert_eq!(reply["type"], "result", "{codec}");
        assert!(reply["body"]["pid"].is_u64(), "{codec}: {reply}");
        let reply = typed_reply(codec, "rpc.describe", json!({}), &vhost).await;
        assert_eq!(
            reply["body"]["queues"][0]["services"][0]["methods"][0]["name"], "get_email",
            "{codec}: {reply}"
        );

        let reply = typed_reply(codec, "erase", json!({}), &vhost).await;
        assert_eq!(reply["type"], "fault", "{codec}");
        assert_eq!(reply["body"]["code"], "unknown_method", "{codec}");
        let message = reply["body"]["message"].as_str().unwrap();
        assert!(message.contains("erase"), "{codec}: {message}");
    }
    worker.end_by("TERM").await;
}

#[tokio::test]
async fn a_script_in_python_calls_a_worker_in_json() {
    let vhost = Vhost::new().await;
    let mut program = example("json_from_python").await;
    program
        .env("AMQP_URL", vhost.url())
        .env("PYTHON", python::interpreter().unwrap())
        // The worker warns of the method that there is not.
        .env("RUST_LOG", "error");
    assert_eq!(
        printed(&mut program).await,
        "books: 1\n\
         books: 2\n\
         found: {'title': 'Frankenstein', 'year': 1818}\n\
         found: {'title': 'A book without a year', 'year': None}\n\
         error: {'Unknown': {'isbn': '42'}}\n\
         error: Closed\n\
         fault: unknown_method: the service has no method \"burn\"\n"
    );
}

#[tokio::test]
async fn a_client_in_plain_text_calls_the_worker_of_the_rabbitmq_tutorial() {
    let vhost = Vhost::new().await;
    let _worker = Worker::start(&mut script("tutorial_worker.py", &[], &vhost), &vhost).await;
    let mut client = example("directory_client").await;
    client.args(["--text", "user:12345", "user:67890"]);
    assert_eq!(
        printed(client.env("AMQP_URL", vhost.url())).await,
        "user:12345 -> alice@example.com\nuser:67890 -> bob@example.com\n"
    );
}

#[tokio::test]
async fn client_and_server_are_two_programs_that_meet_at_the_broker() {
    let vhost = Vhost::new().await;
    let worker = Worker::directory_server(&vhost).await;
    let mut client = example("directory_client").await;
    client.args(["user:67890", "user:12345"]);
    assert_eq!(
        printed(client.env("AMQP_URL", vhost.url())).await,
        "user:67890 -> bob@example.com\nuser:12345 -> alice@example.com\n"
    );

    // A failed call is told apart from the others, on the other stream.
    let mut client = example("directory_client").await;
    client.args(["user:99999", "user:12345"]);
    let output = run(client.env("AMQP_URL", vhost.url())).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "user:12345 -> alice@example.com\n");
    assert_eq!(
        text(&output.stderr),
        "user:99999: the method failed: no user user:99999\n"
    );
    worker.end_by("TERM").await;
}

#[tokio::test]
async fn a_client_without_a_server_fails_at_once_and_says_so() {
    let vhost = Vhost::new().await;
    for options in [&[][..], &["--text"]] {
        let mut client = example("directory_client").await;
        client.args(options).arg("user:12345");
        let output = run(client.env("AMQP_URL", vhost.url())).await;
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        assert_eq!(text(&output.stdout), "", "{options:?}");
        assert_eq!(
            text(&output.stderr),
            "user:12345: no server: there is no queue \"rpc_queue\"\n",
            "{options:?}"
        );
    }
}

#[tokio::test]
async fn a_stopped_server_exits_cleanly_and_leaves_only_its_queue() {
    let vhost = Vhost::new().await;
    for signal in ["TERM", "INT"] {
        let worker = Worker::directory_server(&vhost).await;
        // It serves by now, not only has its queue.
        let mut caller = script("tutorial_caller.py", &["user:12345"], &vhost);
        assert_eq!(printed(&mut caller).await, "alice@example.com\n");

        let output = worker.end_by(signal).await;
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "SIG{signal}: {stderr}");
        assert_eq!(stderr, "", "SIG{signal}");
        assert_eq!(text(&output.stdout), "", "SIG{signal}");
    }
    let columns = ["name", "durable", "messages", "consumers"];
    assert_eq!(vhost.queues(&columns).await, ["rpc_queue\ttrue\t0\t0"]);
}

#[tokio::test]
async fn the_shortest_example_prints_the_same_with_and_without_rabbitmq() {
    const EXPECTED: &str = "\
        user:12345 -> alice@example.com\n\
        user:67890 -> bob@example.com\n\
        user:99999 -> no user user:99999\n";

    let mut alone = example("user_directory").await;
    assert_eq!(printed(alone.env_remove("AMQP_URL")).await, EXPECTED);

    let vhost = Vhost::new().await;
    let mut over_rabbitmq = example("user_directory").await;
    assert_eq!(
        printed(over_rabbitmq.env("AMQP_URL", vhost.url())).await,
        EXPECTED
    );
    assert_eq!(vhost.queues(&["name"]).await, ["rpc_queue"]);
}
