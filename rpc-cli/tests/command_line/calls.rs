//! `call`: JSON in and out.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::{Broker, Incoming, Server, service};
use rpc_tests::programs::{LIMIT, text};
use rpc_tests::python;
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::program::{
    Printed, directory_server, interrupt, library, program, rpc, rpc_until, rpc_with_input,
};

#[tokio::test]
async fn all_forms_of_arguments_work() {
    let vhost = Vhost::new().await;
    let _worker = directory_server(&vhost).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"{\"id\": \"user:12345\"}\n").unwrap();
    let file = format!("@{}", file.path().display());
    for arguments in [
        &["UserDirectory", "get_email", "{\"id\": \"user:12345\"}"][..],
        &[
            "UserDirectory",
            "get_email",
            "[\"user:12345\"]",
            "--codec",
            "msgpack",
        ],
        &["UserDirectory", "get_email", "--arg", "id=user:12345"],
        &["UserDirectory", "get_email", &file, "--json"],
        &["--queue", "rpc_queue", "get_email", "{\"id\": \"user:12345\"}"],
        &[
            "--queue",
            "rpc_queue",
            "UserDirectory",
            "get_email",
            "[\"user:12345\"]",
        ],
        &[
            "--queue",
            "rpc_queue",
            "get_email",
            "[\"user:12345\"]",
            "--codec",
            "text",
        ],
        &[
            "--queue",
            "rpc_queue",
            "--undescribed",
            "get_email",
            "{\"id\": \"user:12345\"}",
        ],
    ] {
        let called = rpc(&vhost, &[&["call"], arguments].concat()).await;
        assert_eq!(called.result(), "\"alice@example.com\"\n", "{arguments:?}");
    }
    let called = rpc_with_input(
        &vhost,
        &["call", "UserDirectory", "get_email", "-"],
        "[\"user:67890\"]",
    )
    .await;
    assert_eq!(called.result(), "\"bob@example.com\"\n");
    assert_eq!(
        rpc(&vhost, &["call", "UserDirectory", "count"]).await.result(),
        "2\n"
    );
}

#[tokio::test]
async fn the_methods_own_error_is_json_with_exit_code_1() {
    let vhost = Vhost::new().await;
    let _worker = directory_server(&vhost).await;
    let call = ["call", "UserDirectory", "get_email", "--arg", "id=user:1"];
    let failed = rpc(&vhost, &call).await;
    assert_eq!(
        failed.failure(1),
        "rpc: the method failed with its own error\n{\"UnknownUser\":{\"id\":\"user:1\"}}\n"
    );
    let failed = rpc(&vhost, &[&call[..], &["--json"]].concat()).await;
    let told: Value = serde_json::from_str(failed.failure(1)).unwrap();
    assert_eq!(told["error"], json!({"UnknownUser": {"id": "user:1"}}));
    assert_eq!(
        (&told["executed"], &told["exit_code"]),
        (&json!("yes"), &json!(1))
    );
}

#[tokio::test]
async fn arguments_and_results_are_json() {
    let vhost = Vhost::new().await;
    let _worker = library(&vhost).await;
    for (arguments, printed) in [
        (&["lend", "{\"title\": \"Emma\"}"][..], "14\n"),
        (&["lend", "[\"Emma\", 7]"], "7\n"),
        (&["lend", "--arg", "title=Emma", "--arg", "days=3"], "3\n"),
        (&["bytes"], "[1,2,255]\n"),
        (&["bytes", "--codec", "msgpack"], "[1,2,255]\n"),
        (
            &["aside", "--header", "tenant=a=b", "--priority", "3"],
            "[\"a=b\",3]\n",
        ),
        // Confirmed, and never answered.
        (&["note", "{\"text\": \"closed on Sundays\"}"], ""),
    ] {
        let called = rpc(&vhost, &[&["call", "--queue", "books"], arguments].concat()).await;
        assert_eq!(called.result(), printed, "{arguments:?}");
    }
}

#[service(queue = "sums")]
trait Sums {
    async fn wide(&self, unsigned: u128, signed: i128) -> Result<(u128, i128), u128>;
}

struct Sum;

impl Sums for Sum {
    async fn wide(&self, unsigned: u128, signed: i128) -> Result<(u128, i128), u128> {
        match signed {
            0 => Err(unsigned),
            signed => Ok((unsigned, signed)),
        }
    }
}

#[tokio::test]
async fn large_integers_are_exact() {
    const MAX: &str = "340282366920938463463374607431768211455";
    const MIN: &str = "-170141183460469231731687303715884105728";
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker).serve(SumsServer::new(Sum)).start();
    let _server = server.await.unwrap();
    async fn call(vhost: &Vhost, arguments: &[&str]) -> Printed {
        rpc(vhost, &[&["call", "Sums", "wide"], arguments].concat()).await
    }

    let by_name = format!("{{\"unsigned\": {MAX}, \"signed\": {MIN}}}");
    let (unsigned, signed) = (format!("unsigned={MAX}"), format!("signed={MIN}"));
    for arguments in [&[by_name.as_str()][..], &["--arg", &unsigned, "--arg", &signed]] {
        let called = call(&vhost, arguments).await;
        assert_eq!(called.result(), format!("[{MAX},{MIN}]\n"), "{arguments:?}");
    }
    // MessagePack has no integers of this size: they are text there.
    let called = call(&vhost, &[&by_name, "--codec", "msgpack"]).await;
    assert_eq!(called.result(), format!("[\"{MAX}\",\"{MIN}\"]\n"));
    let called = call(&vhost, &["[7, -7]", "--codec", "msgpack"]).await;
    assert_eq!(called.result(), "[7,-7]\n");

    // The method's own error, too.
    let failing = format!("[{MAX}, 0]");
    let failed = call(&vhost, &[&failing]).await;
    assert_eq!(
        failed.failure(1),
        format!("rpc: the method failed with its own error\n{MAX}\n")
    );
    let failed = call(&vhost, &[&failing, "--json"]).await;
    assert!(failed.failure(1).contains(&format!("\"error\":{MAX},")));

    // What does not fit is refused, in each codec.
    for codec in ["json", "msgpack"] {
        for beyond in ["[340282366920938463463374607431768211456, 1]", "[-1, 1]"] {
            let failed = call(&vhost, &[beyond, "--codec", codec]).await;
            assert_ne!(failed.code, 0, "{beyond} {codec}");
        }
    }
}

#[tokio::test]
async fn a_worker_without_self_description_is_called_undescribed() {
    let vhost = Vhost::new().await;
    let _worker = python::script("tutorial_worker.py")
        .unwrap()
        .env("AMQP_URL", vhost.url())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    until(
        "the worker declares its queue",
        rpc_tests::programs::LIMIT,
        async || Ok(peer.queue_depth("rpc_queue").await?.is_some()),
    )
    .await
    .unwrap();
    let call = [
        "call",
        "--queue",
        "rpc_queue",
        "get_email",
        "{\"id\": \"user:12345\"}",
        "--codec",
        "text",
    ];
    let refused = rpc(&vhost, &call).await;
    assert!(
        refused.failure(3).contains("`rpc call --undescribed`"),
        "{refused:?}"
    );
    let called = rpc(&vhost, &[&call[..], &["--undescribed"]].concat()).await;
    assert_eq!(called.result(), "\"alice@example.com\"\n");
}

#[tokio::test]
async fn a_closed_pipe_is_not_a_failure() {
    let vhost = Vhost::new().await;
    let _worker = library(&vhost).await;
    let rpc = env!("CARGO_BIN_EXE_rpc");
    let mut shell = tokio::process::Command::new("/bin/sh");
    // The reader is gone before anything is written.
    let script = format!("( sleep 1; '{rpc}' asyncapi Library; echo $? >&2 ) | true");
    let environment: Vec<_> = program(&[])
        .as_std()
        .get_envs()
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in environment {
        shell.env_remove(name);
    }
    shell.args(["-c", &script]).env("AMQP_URL", vhost.url());
    let mut told = String::new();
    until("the worker is found", LIMIT, async || {
        told = text(&rpc_tests::programs::run(&mut shell).await.stderr);
        Ok(!told.contains("no worker answered"))
    })
    .await
    .unwrap();
    assert_eq!(told, "0\n");
}

#[service(queue = "caches")]
trait Cache {
    /// Returns how many entries there were, in the worker of this name.
    #[rpc(broadcast)]
    async fn clear(&self, of: &str) -> Result<u64, String>;
    #[rpc(broadcast, oneway)]
    async fn warm(&self);
}

struct Part(&'static str);

impl Cache for Part {
    async fn clear(&self, of: &str) -> Result<u64, String> {
        match self.0 {
            name if name == of => Ok(u64::MAX),
            name => Err(name.to_owned()),
        }
    }

    async fn warm(&self) {}
}

#[tokio::test]
async fn a_broadcast_prints_the_answer_of_each_worker() {
    let vhost = Vhost::new().await;
    let mut servers = Vec::new();
    for name in ["one", "two"] {
        let broker = Broker::connect(&vhost.url()).await.unwrap();
        let server = Server::new(&broker)
            .worker_name(name)
            .serve(CacheServer::new(Part(name)));
        servers.push(server.start().await.unwrap());
    }
    let call = ["call", "Cache", "clear", "--arg", "of=one"];
    let both = [&call[..], &["--workers", "2"]].concat();
    let answers = rpc_until(&vhost, &both, |answers| answers.stdout.lines().count() == 2).await;
    assert_eq!((answers.code, answers.stderr.as_str()), (1, ""), "{answers:?}");
    let mut answers: Vec<Value> = answers
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    answers.sort_by_key(|answer| answer["worker"]["name"].to_string());
    assert_eq!(answers[0]["result"], u64::MAX);
    assert_eq!(
        (&answers[1]["error"], &answers[1]["executed"]),
        (&json!("two"), &json!("yes"))
    );

    servers.pop().unwrap().stop().await.unwrap();
    assert_eq!(rpc(&vhost, &call).await.json_lines().len(), 1);
    let missing = rpc(
        &vhost,
        &[&call[..], &["--workers", "3", "--timeout", "5s"]].concat(),
    )
    .await;
    assert_eq!(
        (missing.code, missing.stdout.lines().count()),
        (1, 1),
        "{missing:?}"
    );
    assert!(missing.stderr.contains("2 workers did not answer"), "{missing:?}");
    assert_eq!(rpc(&vhost, &["call", "Cache", "warm"]).await.result(), "");
    let shown = rpc(&vhost, &["describe", "Cache"]).await;
    assert!(shown.result().contains("#[rpc(oneway, broadcast)]"), "{shown:?}");
    rpc(&vhost, &[&call[..], &["--priority", "5"]].concat())
        .await
        .failure(2);
    let unanswered = rpc(&vhost, &["call", "Cache", "warm", "--workers", "2"]).await;
    assert!(
        unanswered.failure(2).contains("no worker answers"),
        "{unanswered:?}"
    );
    for server in servers {
        server.stop().await.unwrap();
    }
}

/// Counts up, slowly if it is told to.
struct Counter;

#[service(queue = "numbers")]
trait Numbers {
    #[rpc(idempotent)]
    fn count(&self, to: u64) -> impl Stream<Item = Result<u64, String>>;
    #[rpc(idempotent)]
    fn tick(&self) -> impl Stream<Item = u64>;
}

impl Numbers for Counter {
    fn count(&self, to: u64) -> impl Stream<Item = Result<u64, String>> {
        let numbers = stream::iter(0..to).map(Ok);
        numbers.chain(stream::iter((to > 3).then(|| Err(format!("{to} is too far")))))
    }

    fn tick(&self) -> impl Stream<Item = u64> {
        stream::unfold(0, async |number| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((number, number + 1))
        })
    }
}

#[tokio::test]
async fn a_stream_prints_a_line_for_each_item() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker).serve(NumbersServer::new(Counter));
    let server = server.start().await.unwrap();
    let counted = rpc(&vhost, &["call", "Numbers", "count", "--arg", "to=3"]).await;
    assert_eq!(counted.result(), "0\n1\n2\n");
    let failed = rpc(&vhost, &["call", "Numbers", "count", "--arg", "to=4"]).await;
    assert_eq!(
        (failed.code, failed.stdout.as_str()),
        (1, "0\n1\n2\n3\n"),
        "{failed:?}"
    );
    assert!(failed.stderr.contains("4 is too far"), "{failed:?}");
    let benched = rpc(
        &vhost,
        &[
            "bench", "Numbers", "count", "--arg", "to=3", "--count", "20", "--json",
        ],
    );
    let benched = benched.await.json();
    assert_eq!(
        (&benched["calls"], &benched["items"]),
        (&json!(20), &json!(60)),
        "{benched}"
    );

    let mut ticking = program(&["call", "--queue", "numbers", "tick"])
        .env("AMQP_URL", vhost.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ticking.stdout.take().unwrap()).lines();
    for number in 0..5 {
        assert_eq!(lines.next_line().await.unwrap().unwrap(), number.to_string());
    }
    interrupt(ticking.id().unwrap()).await;
    let ended = tokio::time::timeout(LIMIT, ticking.wait())
        .await
        .expect("it ends");
    assert_eq!(ended.unwrap().code(), Some(0));
    // The worker was told, so it does not wait for the stream.
    let stopped = tokio::time::timeout(Duration::from_secs(20), server.stop()).await;
    stopped.expect("no stream runs").unwrap();
}

/// Adds numbers up, and repeats them.
struct Adder;

#[service(queue = "sums")]
trait Adding {
    /// Fails after a number that is too large.
    async fn add(&self, numbers: Incoming<u64>, limit: Option<u64>) -> Result<u128, String>;
    fn repeat(&self, lines: Incoming<String>, times: usize) -> impl Stream<Item = String>;
    async fn bytes(&self, blocks: Incoming<Vec<u8>>) -> usize;
}

impl Adding for Adder {
    async fn add(&self, mut numbers: Incoming<u64>, limit: Option<u64>) -> Result<u128, String> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            let number = number.map_err(|error| error.to_string())?;
            if limit.is_some_and(|limit| number > limit) {
                return Err(format!("{number} is too much"));
            }
            sum += u128::from(number);
        }
        Ok(sum)
    }

    fn repeat(&self, lines: Incoming<String>, times: usize) -> impl Stream<Item = String> {
        lines.map(move |line| line.unwrap_or_default().repeat(times))
    }

    async fn bytes(&self, blocks: Incoming<Vec<u8>>) -> usize {
        blocks
            .fold(0, async |sum, block| sum + block.unwrap().len())
            .await
    }
}

#[tokio::test]
async fn a_method_that_receives_a_stream_gets_the_lines_of_standard_input() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker).serve(AddingServer::new(Adder));
    let server = server.start().await.unwrap();
    // More than the caller may send ahead, and a number that a float would round.
    let mut numbers: Vec<_> = (0..5000).map(|number: u64| number.to_string()).collect();
    numbers.push(u64::MAX.to_string());
    let sum = (0..5000).sum::<u128>() + u128::from(u64::MAX);
    for (options, input, printed) in [
        (&["add"][..], numbers.join("\n"), format!("{sum}\n")),
        (&["add"], String::new(), "0\n".into()),
        (&["add", "--codec", "msgpack"], "1\n\n 2 \n".into(), "3\n".into()),
        (
            &["repeat", "--arg", "times=2"],
            "\"ab\"\n\"c\"\n".into(),
            "\"abab\"\n\"cc\"\n".into(),
        ),
        (&["bytes"], "[1, 2]\n[3]\n".into(), "3\n".into()),
        (
            &["bytes", "--codec", "msgpack"],
            "[1, 2]\n[3]".into(),
            "3\n".into(),
        ),
    ] {
        let arguments = [&["call", "--queue", "sums"], options].concat();
        let called = rpc_with_input(&vhost, &arguments, &input).await;
        assert_eq!(called.result(), printed, "{options:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn items_that_end_a_call_early_say_why() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker).serve(AddingServer::new(Adder));
    let server = server.start().await.unwrap();
    let call = |arguments: &[&'static str], input: &'static str| {
        let arguments = [&["call", "Adding"], arguments].concat();
        let vhost = &vhost;
        async move { rpc_with_input(vhost, &arguments, input).await }
    };
    let bad_line = call(&["add"], "1\n2\nthree\n4\n").await;
    assert_eq!(
        bad_line.failure(4),
        "rpc: line 3 of standard input is not JSON: expected ident at column 2\n     \
         write each item as JSON on a line of its own; the call was cancelled\n"
    );
    // JSON, and no number: only the method can know.
    let wrong_type = call(&["add"], "1\n\"two\"\n").await;
    assert!(
        wrong_type.failure(1).contains("an item cannot be read"),
        "{wrong_type:?}"
    );
    let refused = call(&["add", "--arg", "limit=1"], "1\n2\n").await;
    assert!(refused.failure(1).contains("2 is too much"), "{refused:?}");
    let twice = call(&["add", "-"], "{}").await;
    assert!(twice.failure(2).contains("read from standard input"), "{twice:?}");

    // Ctrl-C ends a call whose standard input does not end, and the method.
    let mut adding = program(&["call", "--queue", "sums", "repeat", "--arg", "times=1"])
        .env("AMQP_URL", vhost.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = adding.stdin.take().unwrap();
    input.write_all(b"\"first\"\n").await.unwrap();
    let mut lines = BufReader::new(adding.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "\"first\"");
    interrupt(adding.id().unwrap()).await;
    let ended = tokio::time::timeout(LIMIT, adding.wait()).await.expect("it ends");
    assert_eq!(ended.unwrap().code(), Some(0));
    let stopped = tokio::time::timeout(Duration::from_secs(20), server.stop()).await;
    stopped.expect("no method runs").unwrap();
}
