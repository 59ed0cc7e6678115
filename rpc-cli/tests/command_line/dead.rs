//! `dead`: dead letters are listed, shown, retried and dropped, and none is ever lost.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use rpc_runtime::{Broker, Context, RequestQueue, RunningServer, Server, service};
use rpc_tests::programs::LIMIT;
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::{Node, Permissions, Vhost};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::stranger::{Properties, Property, Stranger, nested};
use rpc_tests::until;
use serde_json::Value;

use crate::program::{Printed, interrupt, program, rpc, rpc_at};

#[service]
trait Mail {
    #[rpc(oneway, idempotent)]
    async fn send(&self, #[rpc(context)] cx: &Context, to: &str) -> Result<(), String>;
}

/// Fails for "nowhere".
struct Office;

impl Mail for Office {
    async fn send(&self, _: &Context, to: &str) -> Result<(), String> {
        match to {
            "nowhere" => Err("no route\nto nowhere\u{1b}[2J".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The queue `mail`, or another one, and its dead letters.
struct Scene {
    vhost: Vhost,
    peer: RawPeer,
}

impl Scene {
    async fn new() -> Self {
        let vhost = Vhost::new().await;
        let peer = RawPeer::connect(&vhost.url()).await.unwrap();
        Self { vhost, peer }
    }

    /// A scene with the queues `mail` and `mail.dead` as a worker declares them.
    async fn with_queues(kind: &str) -> Self {
        let scene = Self::new().await;
        scene.declare("mail", &[("x-queue-type", text(kind))]).await;
        scene.declare_dead(kind).await;
        scene
    }

    async fn declare_dead(&self, kind: &str) {
        let mut arguments = vec![("x-queue-type", text(kind))];
        if kind == "quorum" {
            arguments.push(("x-delivery-limit", AMQPValue::LongLongInt(1_000_000_000)));
        }
        self.declare("mail.dead", &arguments).await;
    }

    async fn declare(&self, queue: &str, arguments: &[(&'static str, AMQPValue)]) {
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let channel = self.peer.channel();
        let declaring = channel.queue_declare(queue.into(), options, table(arguments));
        declaring.await.unwrap();
    }

    /// Starts a worker, which declares the queues.
    async fn worker(&self, queue: RequestQueue) -> (Broker, RunningServer) {
        let broker = Broker::connect(&self.vhost.url()).await.unwrap();
        let server = Server::new(&broker).serve_on(queue, MailServer::new(Office));
        let server = server.start().await.unwrap();
        (broker, server)
    }

    async fn put(&self, properties: BasicProperties, body: &[u8]) {
        self.peer.publish("mail.dead", properties, body).await.unwrap();
    }

    /// Puts letters with these numbers as their bodies.
    async fn put_numbers(&self, numbers: std::ops::Range<u32>) {
        let mut confirms = Vec::new();
        for number in numbers {
            let body = number.to_string();
            let (channel, options) = (self.peer.channel(), BasicPublishOptions::default());
            let publishing = channel.basic_publish(
                "".into(),
                "mail.dead".into(),
                options,
                body.as_bytes(),
                letter("send", "error"),
            );
            confirms.push(publishing.await.unwrap());
        }
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
    }

    async fn depth(&self, queue: &str) -> u32 {
        self.peer.queue_depth(queue).await.unwrap().unwrap()
    }

    async fn until_depth(&self, queue: &str, depth: u32) {
        until(&format!("{queue} has {depth} messages"), LIMIT, async || {
            Ok(self.depth(queue).await == depth)
        })
        .await
        .unwrap();
    }

    /// Takes all messages of a queue.
    async fn take_all(&self, queue: &str) -> Vec<(BasicProperties, Vec<u8>)> {
        let count = self.depth(queue).await;
        let mut consumer = self.peer.consume(queue).await.unwrap();
        let mut messages = Vec::new();
        for _ in 0..count {
            let message = next(&mut consumer, LIMIT).await.unwrap().expect("a message");
            messages.push((message.properties, message.data));
        }
        messages
    }

    async fn dead(&self, arguments: &[&str]) -> Printed {
        rpc(&self.vhost, &[&["dead", "mail"], arguments].concat()).await
    }

    /// Runs a command that takes no letter away, and waits until the letters are ready again. The
    /// command itself waits only half a second for that.
    async fn look(&self, arguments: &[&str]) -> Printed {
        let letters = self.depth("mail.dead").await;
        let looked = self.dead(arguments).await;
        self.until_depth("mail.dead", letters).await;
        looked
    }

    async fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let listed = self.look(&[&["list", "--json"], arguments].concat()).await;
        listed.json()["letters"].as_array().unwrap().clone()
    }

    async fn ids(&self) -> Vec<String> {
        let letters = self.list(&[]).await;
        letters
            .iter()
            .map(|letter| letter["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn number_in(body: &[u8]) -> u32 {
    String::from_utf8_lossy(body).parse().unwrap()
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table(entries: &[(&'static str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// The properties of a letter as workers write them.
fn letter(method: &'static str, reason: &'static str) -> BasicProperties {
    BasicProperties::default()
        .with_type(method.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(table(&[
            ("rpc-reason", text(reason)),
            ("rpc-error", text("no route")),
            ("rpc-attempts", text("3")),
            ("rpc-first-failure", text("1000")),
            ("rpc-last-failure", text("2000")),
            ("rpc-origin", text("mail")),
            ("tenant", text("acme")),
        ]))
}

#[tokio::test]
async fn a_job_that_died_is_listed_shown_and_retried() {
    for queue in [RequestQueue::new("mail"), RequestQueue::new("mail").quorum()] {
        let scene = Scene::new().await;
        let (broker, server) = scene.worker(queue.clone()).await;
        let mail = MailClient::builder(&broker).queue("mail").build();
        mail.send("nowhere").header("tenant", "acme").await.unwrap();
        scene.until_depth("mail.dead", 1).await;
        server.stop().await.unwrap();

        let listed = scene.look(&["list"]).await;
        let lines: Vec<_> = listed.result().lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("ID"), "{lines:?}");
        assert!(lines[1].contains("  send    error          1  "), "{lines:?}");
        assert!(lines[1].ends_with(" B  no route"), "{lines:?}");
        let id = &lines[1][..16];

        let shown = scene.look(&["show", &id[..8]]).await;
        for expected in [
            "method        send\n",
            "attempts      1\n",
            "origin        mail\n",
            "error\n    no route\n    to nowhere\\u001b[2J\n",
            "    tenant: acme\n",
            "    rpc-reason: error\n",
            "\"nowhere\"",
        ] {
            assert!(shown.result().contains(expected), "{expected:?}: {shown:?}");
        }
        let shown = scene.look(&["show", id, "--json"]).await.json();
        assert_eq!(shown["arguments"]["to"], "nowhere");
        assert_eq!(
            (&shown["headers"]["tenant"], &shown["method"]),
            (&"acme".into(), &"send".into())
        );

        assert_eq!(scene.dead(&["retry", id]).await.result(), "1 letter retried\n");
        assert_eq!(
            (scene.depth("mail").await, scene.depth("mail.dead").await),
            (1, 0)
        );
        // Its attempts begin anew.
        let (_, server) = scene.worker(queue).await;
        scene.until_depth("mail.dead", 1).await;
        assert_eq!(scene.list(&[]).await[0]["attempts"], 1);
        server.stop().await.unwrap();
        broker.close().await;
    }
}

#[tokio::test]
async fn options_select_letters() {
    let scene = Scene::with_queues("classic").await;
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let mut fresh = table(&[("rpc-error", text("timeout"))]);
    fresh.insert("rpc-last-failure".into(), text(&now.to_string()));
    scene.put(letter("send", "error"), b"1").await;
    scene.put(letter("note", "panicked"), b"2").await;
    scene
        .put(BasicProperties::default().with_headers(fresh), b"3")
        .await;
    for (arguments, expected) in [
        (&[][..], &[0, 1, 2][..]),
        (&["--method", "send"], &[0]),
        (&["--reason", "panicked"], &[1]),
        (&["--error", "time"], &[2]),
        (&["--older-than", "1h"], &[0, 1]),
        (&["--newer-than", "1h"], &[2]),
        (&["--older-than", "1h", "--method", "note"], &[1]),
        (&["--method", "none"], &[]),
        (&["--limit", "2"], &[0, 1]),
    ] {
        let all = scene.list(&[]).await;
        let expected: Vec<_> = expected.iter().map(|&index: &usize| all[index].clone()).collect();
        assert_eq!(scene.list(arguments).await, expected, "{arguments:?}");
    }
    let some = scene.look(&["list", "--limit", "1"]).await;
    assert_eq!(
        some.stderr,
        "rpc: 2 letters more in mail.dead; `--limit` lists more\n"
    );
    let some = scene.look(&["list", "--limit", "1", "--json"]).await;
    assert_eq!(some.json()["more"], 2);

    let late = scene.look(&["list", "--timeout", "1us"]).await;
    assert_eq!((late.code, late.stdout.lines().count()), (1, 2), "{late:?}");
    assert!(
        late.stderr
            .contains("held for 1us: 2 letters not looked at; `--timeout`"),
        "{late:?}"
    );

    let tried = scene
        .look(&["drop", "--all", "--older-than", "1h", "--dry-run"])
        .await;
    assert!(
        tried.result().ends_with("\n2 letters would be dropped\n"),
        "{tried:?}"
    );
    let tried = scene
        .look(&["retry", "--all", "--dry-run", "--json"])
        .await
        .json();
    assert_eq!((&tried["retried"], &tried["dry_run"]), (&3.into(), &true.into()));
    assert_eq!(
        (scene.depth("mail.dead").await, scene.depth("mail").await),
        (3, 0)
    );
    let retried = scene.dead(&["retry", "--all", "--limit", "1"]).await;
    assert_eq!(retried.result(), "1 letter retried\n");
    scene.until_depth("mail.dead", 2).await;
    let dropped = scene
        .dead(&["drop", "--all", "--reason", "panicked", "--yes"])
        .await;
    assert_eq!(dropped.result(), "1 letter dropped\n");
    scene.until_depth("mail.dead", 1).await;
    assert_eq!(scene.list(&[]).await[0]["error"], "timeout");
    assert_eq!(scene.take_all("mail").await[0].1, b"1");
}

#[tokio::test]
async fn a_letter_is_named_by_the_beginning_of_its_id() {
    let scene = Scene::with_queues("classic").await;
    for token in ["abc0000000000001", "abc0000000000002", "def0000000000003"] {
        let headers = table(&[("rpc-copy", text(token))]);
        scene
            .put(BasicProperties::default().with_headers(headers), token.as_bytes())
            .await;
    }
    // Two equal letters of somebody else.
    for _ in 0..2 {
        scene.put(BasicProperties::default(), b"twin").await;
    }
    let ids = scene.ids().await;
    assert_eq!(ids[0], "abc0000000000001");
    assert_eq!(ids[4], format!("{}-2", ids[3]));
    assert_eq!(ids, scene.ids().await);

    let ambiguous = scene.look(&["show", "abc"]).await;
    assert_eq!(
        ambiguous.failure(2),
        "rpc: the id abc is ambiguous: abc0000000000001, abc0000000000002\n     write more digits\n"
    );
    let late = scene.look(&["drop", "abc", "--yes", "--timeout", "1us"]).await;
    assert_eq!((late.code, late.stdout.as_str()), (1, ""), "{late:?}");
    assert!(late.stderr.contains("the ids may fit further ones"), "{late:?}");
    // Nothing is done if one of several is wrong.
    let unknown = scene.look(&["drop", "def", "0123456789", "--yes"]).await;
    assert!(
        unknown
            .failure(3)
            .contains("no letter in mail.dead has the id 0123456789"),
        "{unknown:?}"
    );
    for (arguments, told) in [
        (&["show", "xyz"][..], "hexadecimal"),
        (&["drop", "def"], "--yes"),
        (&["retry"], "--all"),
        (&["retry", "def", "--all"], "--all"),
        (&["retry", "def", "--reason", "error"], "--all"),
    ] {
        let refused = scene.look(arguments).await;
        assert!(refused.failure(2).contains(told), "{arguments:?}: {refused:?}");
    }
    assert_eq!(scene.ids().await, ids);

    let dropped = scene.dead(&["drop", "def", &ids[4], "--yes"]).await;
    assert_eq!(dropped.result(), "2 letters dropped\n");
    scene.until_depth("mail.dead", 3).await;
    let retried = scene.dead(&["retry", &ids[3], "abc0000000000002"]).await;
    assert_eq!(retried.result(), "2 letters retried\n");
    scene.until_depth("mail.dead", 1).await;
    assert_eq!(scene.ids().await, ["abc0000000000001"]);
}

/// Letters that no worker wrote.
#[tokio::test]
async fn letters_of_others_are_listed_shown_and_retried() {
    for kind in ["classic", "quorum"] {
        let scene = Scene::with_queues(kind).await;
        // RabbitMQ itself adds `x-death`.
        let dying = [
            ("x-queue-type", text("classic")),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("mail.dead")),
            ("x-message-ttl", AMQPValue::LongInt(1)),
        ];
        for queue in ["mail.retry.1", "orders"] {
            scene.declare(queue, &dying).await;
            let properties = BasicProperties::default().with_message_id(queue.into());
            scene.peer.publish(queue, properties, b"expired").await.unwrap();
        }
        scene.until_depth("mail.dead", 2).await;
        let strange = table(&[
            ("rpc-attempts", AMQPValue::Double(0.5)),
            ("rpc-last-failure", AMQPValue::LongLongInt(-1)),
            ("rpc-error", text("\u{1b}[31m\u{202e}")),
            ("x-death", AMQPValue::FieldArray(FieldArray::default())),
            ("CC", AMQPValue::FieldArray(vec![text("elsewhere")].into())),
            ("void", AMQPValue::Void),
        ]);
        let strange = BasicProperties::default()
            .with_type("a\u{1b}]0;b\u{7}".into())
            .with_content_type("image/png".into())
            .with_user_id("guest".into())
            .with_timestamp(u64::MAX)
            .with_headers(strange);
        scene.put(strange, &[0xff; 1000]).await;
        let mut stranger = Stranger::connect(&scene.vhost.url()).await.unwrap();
        for malformed in [
            Properties::default().text(Property::Type, b"\xff"),
            Properties::default().headers(&nested(b'F', 1200)),
        ] {
            stranger.publish("mail.dead", &malformed, b"{}").await.unwrap();
        }
        scene.until_depth("mail.dead", 5).await;

        let listed = scene.look(&["list"]).await;
        assert_eq!(listed.result().lines().count(), 6, "{listed:?}");
        for id in scene.ids().await {
            let shown = scene.look(&["show", &id]).await;
            for printed in [shown.result(), listed.result()] {
                assert!(!printed.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{printed:?}");
            }
            scene.look(&["show", &id, "--json"]).await.json();
        }
        let letters = scene.list(&[]).await;
        let expired = letters.iter().filter(|letter| letter["reason"] == "expired");
        assert_eq!(expired.count(), 2);

        let retried = scene.dead(&["retry", "--all"]).await;
        assert_eq!(retried.code, 1, "{retried:?}");
        assert!(
            retried
                .stdout
                .contains("stays: it comes from the queue \"orders\"\n"),
            "{retried:?}"
        );
        assert!(
            retried
                .stdout
                .contains("stays: it cannot be copied: its type is not UTF-8\n"),
            "{retried:?}"
        );
        assert!(
            retried
                .stdout
                .ends_with("2 letters retried\n3 letters left in mail.dead\n"),
            "{retried:?}"
        );
        for (properties, _) in scene.take_all("mail").await {
            let headers = properties.headers().clone().unwrap_or_default();
            let names: Vec<_> = headers.inner().keys().map(ToString::to_string).collect();
            let own = properties.message_id().is_none();
            assert_eq!(names.is_empty(), !own, "{names:?}");
            assert!(names.iter().all(|name| name == "void"), "{names:?}");
            assert_eq!(
                (*properties.delivery_mode(), properties.user_id()),
                (Some(2), &None)
            );
        }
        scene.until_depth("mail.dead", 3).await;
        let dropped = scene.dead(&["drop", "--all", "--yes", "--json"]).await.json();
        assert_eq!(dropped["dropped"], 3);
    }
}

/// As after a kill at the wrong moment.
#[tokio::test]
async fn a_letter_that_was_retried_twice_runs_once_on_a_worker() {
    let scene = Scene::new().await;
    let (broker, server) = scene.worker(RequestQueue::new("mail")).await;
    let mail = MailClient::builder(&broker).queue("mail").build();
    mail.send("nowhere").await.unwrap();
    scene.until_depth("mail.dead", 1).await;
    server.stop().await.unwrap();
    scene.dead(&["retry", "--all"]).await.result();
    let (properties, body) = scene.take_all("mail").await.remove(0);
    for _ in 0..2 {
        let copy = properties.clone();
        scene.peer.publish("mail", copy, &body).await.unwrap();
    }
    let (_, server) = scene.worker(RequestQueue::new("mail")).await;
    scene.until_depth("mail", 0).await;
    server.stop().await.unwrap();
    assert_eq!(
        (scene.depth("mail").await, scene.depth("mail.dead").await),
        (0, 1)
    );
}

#[tokio::test]
async fn looking_at_letters_changes_nothing() {
    for kind in ["classic", "quorum"] {
        let scene = Scene::with_queues(kind).await;
        scene.put_numbers(0..20).await;
        let ids = scene.ids().await;
        for round in 0..25 {
            let listed = scene.look(&["list", "--limit", "15", "--json"]).await;
            assert_eq!(listed.json()["letters"].as_array().unwrap().len(), 15);
            let shown = scene.look(&["show", &ids[round % 15]]).await;
            shown.result();
        }
        assert_eq!(scene.ids().await, ids);
        let bodies = scene.take_all("mail.dead").await;
        let bodies: Vec<_> = bodies.into_iter().map(|(_, body)| number_in(&body)).collect();
        let expected: Vec<_> = (0..20).collect();
        assert_eq!(bodies, expected);
    }
}

/// RabbitMQ 4 drops messages of such a queue.
#[tokio::test]
async fn a_quorum_queue_with_a_delivery_limit_is_reported() {
    let scene = Scene::new().await;
    scene
        .declare("mail.dead", &[("x-queue-type", text("quorum"))])
        .await;
    scene.put(letter("send", "error"), b"1").await;
    let mut notes = Vec::new();
    for _ in 0..14 {
        notes.push(scene.look(&["list"]).await.stderr);
    }
    // RabbitMQ 4.3 does not count that a consumer puts a message back.
    let counts = scene.vhost.version().await < (4, 3);
    assert_eq!(notes[0], "");
    assert_eq!(notes[13].contains("x-delivery-limit"), counts, "{notes:?}");
    assert_eq!(scene.depth("mail.dead").await, 1);

    // The queue of a worker is known.
    let scene = Scene::with_queues("quorum").await;
    scene.put(letter("send", "error"), b"1").await;
    for _ in 0..14 {
        scene.look(&["list"]).await.result();
    }
}

#[tokio::test]
async fn letters_stay_if_their_queue_is_missing_or_full() {
    let scene = Scene::new().await;
    scene.declare_dead("classic").await;
    scene.put_numbers(0..3).await;
    for arguments in [&["retry", "--all"][..], &["retry", "--all", "--json"]] {
        let missing = scene.look(arguments).await;
        assert!(
            missing.failure(3).contains("there is no queue mail"),
            "{missing:?}"
        );
    }
    let nothing = rpc(&scene.vhost, &["dead", "mail.dead", "list"]).await;
    assert!(
        nothing.failure(3).contains("there is no queue mail.dead.dead")
            && nothing.stderr.contains("dead mail "),
        "{nothing:?}"
    );
    for kind in ["classic", "quorum"] {
        let options = QueueDeleteOptions::default();
        let deleting = scene.peer.channel().queue_delete("mail".into(), options);
        deleting.await.unwrap();
        let full = [
            ("x-queue-type", text(kind)),
            ("x-max-length", AMQPValue::LongInt(1)),
            ("x-overflow", text("reject-publish")),
        ];
        scene.declare("mail", &full).await;
        let before = scene.depth("mail.dead").await;
        let refused = scene.dead(&["retry", "--all"]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(
            refused.stderr.contains("the queue mail refuses messages"),
            "{refused:?}"
        );
        // A quorum queue may take one more than its limit.
        let taken = scene.depth("mail").await;
        scene.until_depth("mail.dead", before - taken).await;
        scene.put_numbers(10..12).await;
    }
}

/// The broker takes no message of this size any more.
#[tokio::test]
async fn a_letter_that_is_too_large_does_not_stop_the_others() {
    let node = Node::start().await.unwrap();
    let peer = RawPeer::connect(node.url()).await.unwrap();
    peer.declare_durable("mail").await.unwrap();
    peer.declare_durable("mail.dead").await.unwrap();
    for size in [10, 100_000, 20] {
        let properties = BasicProperties::default();
        peer.publish("mail.dead", properties, &vec![b'x'; size])
            .await
            .unwrap();
    }
    let limit =
        "application:set_env(rabbit, max_message_size, 1000), persistent_term:put(max_message_size, 1000).";
    node.ctl(&["eval", limit]).await.unwrap();
    let retried = rpc_at(node.url(), &["dead", "mail", "retry", "--all"]).await;
    assert_eq!(retried.code, 1, "{retried:?}");
    assert!(
        retried.stdout.contains("stays: ") && retried.stdout.contains("message size 100000"),
        "{retried:?}"
    );
    assert!(
        retried
            .stdout
            .ends_with("2 letters retried\n1 letter left in mail.dead\n"),
        "{retried:?}"
    );
    assert_eq!(peer.queue_depth("mail").await.unwrap(), Some(2));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn the_documented_permissions_are_enough() {
    let scene = Scene::with_queues("classic").await;
    scene.put_numbers(0..3).await;
    let reads = Permissions {
        configure: "^$",
        write: "^$",
        read: "^mail[.]dead$",
    };
    let retries = Permissions {
        write: "^amq[.]default$",
        ..reads
    };
    let (reader, retrier) = (
        scene.vhost.url_of_user(reads).await,
        scene.vhost.url_of_user(retries).await,
    );
    let id = scene.ids().await.remove(0);
    let all =
        async |url: &str, arguments: &[&str]| rpc_at(url, &[&["dead", "mail"], arguments].concat()).await;
    all(&reader, &["list"]).await.result();
    scene.until_depth("mail.dead", 3).await;
    all(&reader, &["show", &id]).await.result();
    scene.until_depth("mail.dead", 3).await;
    all(&reader, &["drop", &id, "--yes"]).await.result();
    scene.until_depth("mail.dead", 2).await;
    let denied = all(&reader, &["retry", "--all"]).await;
    assert!(denied.failure(5).contains("write to amq.default"), "{denied:?}");
    scene.until_depth("mail.dead", 2).await;
    all(&retrier, &["retry", "--all"]).await.result();
    assert_eq!(scene.depth("mail").await, 2);

    scene.put_numbers(3..4).await;
    let none = Permissions { read: "^$", ..reads };
    let denied = all(&scene.vhost.url_of_user(none).await, &["list"]).await;
    assert!(
        denied.failure(5).contains("permission to read this queue"),
        "{denied:?}"
    );
}

/// However often `retry` is killed, each job is still there, and at most one a kill is there twice.
#[tokio::test]
async fn a_killed_retry_loses_no_letter() {
    const LETTERS: u32 = 1000;
    for kind in ["classic", "quorum"] {
        let scene = Scene::with_queues(kind).await;
        scene.put_numbers(0..LETTERS).await;
        // Without a limit, a retry may end before a slow machine kills it.
        let proxy = Proxy::start(&scene.vhost.url()).await.unwrap();
        let _limit = proxy.throttle(Target::All, Direction::ToBroker, 50_000);
        let mut kills = 0;
        for millis in [60, 90, 120, 150, 200, 300, 400] {
            let before = scene.depth("mail").await;
            let mut retry = program(&["dead", "mail", "retry", "--all"])
                .env("AMQP_URL", proxy.url())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            until("a letter is retried", LIMIT, async || {
                Ok(scene.depth("mail").await > before || retry.try_wait()?.is_some())
            })
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if retry.try_wait().unwrap().is_none() {
                retry.kill().await.unwrap();
                kills += 1;
            }
            // The broker puts the letters back once it has noticed.
            until("all letters are ready", LIMIT, async || {
                Ok(scene.depth("mail").await + scene.depth("mail.dead").await >= LETTERS)
            })
            .await
            .unwrap();
        }
        assert!(kills >= 3, "{kills} of the retries lived long enough");
        let left = scene.depth("mail.dead").await;
        assert!(left > 0, "nothing is left to retry");
        until("all letters are retried", LIMIT, async || {
            scene.dead(&["retry", "--all"]).await.result();
            Ok(scene.depth("mail.dead").await == 0)
        })
        .await
        .unwrap();

        let mut times = BTreeMap::new();
        for (_, body) in scene.take_all("mail").await {
            *times.entry(number_in(&body)).or_insert(0) += 1;
        }
        assert!((0..LETTERS).all(|number| times.contains_key(&number)));
        let doubled = times.values().filter(|times| **times > 1).count();
        println!("{kind}: {kills} kills, {left} letters left, {doubled} doubled");
        assert!(doubled <= kills, "{doubled} of {kills}");
    }
}

/// All letters are selected before the first is deleted, so Ctrl-C until then deletes none.
#[tokio::test]
async fn an_interrupted_drop_deletes_nothing() {
    const LETTERS: u32 = 5000;
    for kind in ["classic", "quorum"] {
        let scene = Scene::with_queues(kind).await;
        scene.put_numbers(0..LETTERS).await;
        // Without a limit, it may have all letters before a slow machine interrupts it.
        let proxy = Proxy::start(&scene.vhost.url()).await.unwrap();
        let _limit = proxy.throttle(Target::All, Direction::FromBroker, 200_000);
        let dropping = program(&["dead", "mail", "drop", "--all", "--yes"])
            .env("AMQP_URL", proxy.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("it holds letters", LIMIT, async || {
            Ok(scene.depth("mail.dead").await < LETTERS)
        })
        .await
        .unwrap();
        interrupt(dropping.id().unwrap()).await;
        let ended = tokio::time::timeout(LIMIT, dropping.wait_with_output()).await;
        let output = ended.expect("it ends").unwrap();
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(notes.contains("interrupted: "), "{notes}");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("0 letters dropped"), "{told} {notes}");
        scene.until_depth("mail.dead", LETTERS).await;
    }
}
