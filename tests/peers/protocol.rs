//! Tables of `docs/protocol.md`, compared with what the library does.

use std::collections::BTreeSet;
use std::fs;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{Broker, Executed, FaultCode, Incoming, ReplyAddresses, ReplyQueue, Server, service};
use rpc_tests::programs::LIMIT;
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::{RawPeer, next};

use crate::pages::root;

/// A service that needs all queues.
#[service(queue = "everything")]
trait Everything {
    async fn call(&self);
    #[rpc(oneway, idempotent)]
    async fn job(&self);
    async fn receive(&self, items: Incoming<u8>);
}

struct Worker;

impl Everything for Worker {
    async fn call(&self) {}
    async fn job(&self) {}
    async fn receive(&self, _items: Incoming<u8>) {}
}

/// Returns the cells of the rows of the first table after a heading.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let (_, section) = page
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("docs/protocol.md has no {heading:?}"));
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells = row.trim_start_matches("| ").trim_end_matches(" |").split(" | ");
        cells.map(str::to_owned).collect()
    })
    .collect()
}

/// Returns the first code in a cell.
fn code(cell: &str) -> &str {
    cell.split('`')
        .nth(1)
        .unwrap_or_else(|| panic!("no code in {cell:?}"))
}

#[tokio::test]
async fn the_queues_in_the_protocol_are_those_that_are_declared() {
    let vhost = Vhost::new().await;
    let worker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&worker)
        .serve(EverythingServer::new(Worker))
        .start()
        .await
        .unwrap();
    let mut callers = Vec::new();
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive] {
        let caller = Broker::builder().reply_queue(replies).address(vhost.url());
        let caller = caller.connect().await.unwrap();
        EverythingClient::new(&caller).call().await.unwrap();
        callers.push(caller);
    }

    let columns = ["name", "durable", "exclusive", "auto_delete", "arguments"];
    let listed = vhost.all_queues(&columns).await;
    let declared: BTreeSet<_> = listed.iter().map(|line| as_documented(line)).collect();
    let documented: BTreeSet<_> = table("## Queues and exchanges")
        .into_iter()
        .map(|mut row| {
            let name = code(&row[0]).to_owned();
            row.splice(..2, [name]);
            row
        })
        .collect();
    assert_eq!(documented, declared, "documented, and declared");

    for caller in callers {
        caller.close().await;
    }
    server.stop().await.unwrap();
    worker.close().await;
}

/// Writes a queue as the table does, from a line of RabbitMQ's list. The column of who declares it
/// is left out.
fn as_documented(line: &str) -> Vec<String> {
    let columns: Vec<_> = line.split('\t').collect();
    let [name, durable, exclusive, auto_delete, arguments] = columns[..] else {
        panic!("{line:?}");
    };
    // The wait of a retry queue is in its name and in an argument. Other queues have none.
    let (queue, millis) = match name.strip_prefix("everything.retry.") {
        Some(millis) => ("`<queue>.retry.<milliseconds>`", millis),
        None => (name, "-"),
    };
    let queue = match queue {
        "everything" => "<queue>".to_owned(),
        "everything.batch" | "everything.dead" => queue.replace("everything", "<queue>"),
        _ if queue.starts_with("amq.gen-") => "amq.gen-…".to_owned(),
        _ => match queue.rsplit_once('.') {
            Some((start @ ("rpc.reply" | "rpc.control"), _)) => format!("{start}.<uuid>"),
            _ => queue.trim_matches('`').to_owned(),
        },
    };
    let yes_or_no = |flag: &str| match flag {
        "true" => "yes".to_owned(),
        _ => "no".to_owned(),
    };
    let mut row = vec![queue];
    row.extend([durable, exclusive, auto_delete].map(yes_or_no));
    row.push(arguments_as_documented(arguments, millis));
    row
}

/// Writes arguments such as `[{"x-expires",60000}]` as the table does.
fn arguments_as_documented(arguments: &str, millis: &str) -> String {
    let arguments = arguments.trim_start_matches("[{").trim_end_matches("}]");
    let mut arguments: Vec<_> = arguments
        .split("},{")
        .map(|argument| argument.split_once(',').unwrap_or_else(|| panic!("{argument:?}")))
        .collect();
    arguments.sort_by_key(|(name, _)| name.trim_matches('"').to_owned());
    let documented = arguments.into_iter().map(|(name, value)| {
        let value = match value.trim_matches('"') {
            // rabbitmqctl does not tell empty text from an empty list.
            "[]" => "empty".to_owned(),
            "everything" => "`<queue>`".to_owned(),
            number if number == millis => "`<milliseconds>`".to_owned(),
            _ if value.starts_with('"') => value.replace('"', "`"),
            number => number.to_owned(),
        };
        format!("{} {value}", name.replace('"', "`"))
    });
    documented.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_faults_in_the_protocol_are_those_of_the_code() {
    let source = fs::read_to_string(root().join("rpc-runtime/src/protocol/fault.rs")).unwrap();
    let rows = table("### Faults");
    for row in &rows {
        let code: FaultCode = code(&row[0]).parse().unwrap();
        assert!(!matches!(code, FaultCode::Other(_)), "{code} is no code");
        let executed = match row[2].as_str() {
            "no" => Executed::No,
            "perhaps" => Executed::Maybe,
            "yes" => Executed::Yes,
            other => panic!("{code}: {other:?}"),
        };
        assert_eq!(code.executed(), executed, "{code}");
    }
    let documented: BTreeSet<_> = rows.iter().map(|row| code(&row[0])).collect();
    let known = source.lines().filter_map(|line| {
        let (variant, code) = line.trim().split_once(" => \"")?;
        variant
            .starts_with("Self::")
            .then(|| code.trim_end_matches("\","))
    });
    assert_eq!(documented, known.collect(), "documented, and known");
}

#[test]
fn the_reply_addresses_in_the_protocol_are_those_that_are_allowed() {
    let digits = "5ee4ef3a6d5f4c8ab4e1bb2a6a1b9a50";
    let default = ReplyAddresses::default();
    for row in table("## Reply addresses") {
        let start = code(&row[0]);
        assert!(default.allows(&format!("{start}{digits}")), "{start}");
        assert!(!default.allows(&format!("x{start}{digits}")), "{start}");
    }
    // Those of libraries that need an option.
    let uuid = "3f2a1c9e-8d4b-3b6f-9a51-7a2f1f0c4d11";
    for (address, option) in [
        (uuid, ReplyAddresses::default().allow_uuids()),
        ("reply-1", ReplyAddresses::default().allow_prefix("reply-")),
    ] {
        assert!(!default.allows(address) && option.allows(address), "{address}");
    }
}

/// Returns headers with one header.
fn header(name: &str, value: AMQPValue) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), value);
    headers
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Returns tables that are nested this deep.
fn nested(levels: u32) -> AMQPValue {
    (0..levels).fold(AMQPValue::Void, |inner, _| {
        AMQPValue::FieldTable(header("a", inner))
    })
}

/// Not those of middleware, of sizes of frames and of dead letters, which tests of their own have.
#[tokio::test]
async fn what_is_refused_shows_as_the_protocol_says() {
    let vhost = Vhost::new().await;
    let worker = Broker::builder().max_accepted_bytes(64).address(vhost.url());
    let worker = worker.connect().await.unwrap();
    let server = Server::new(&worker)
        .serve(EverythingServer::new(Worker))
        .start()
        .await
        .unwrap();
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    let mut replies = peer
        .consume(&peer.declare_exclusive().await.unwrap())
        .await
        .unwrap();
    let reply_to = replies.queue();
    peer.declare("forbidden").await.unwrap();

    let rows = table("## What is refused");
    let good = || {
        BasicProperties::default()
            .with_type("call".into())
            .with_content_type("application/json".into())
            // A worker takes a request with an earlier id for the same request.
            .with_correlation_id(uuid::Uuid::new_v4().to_string().into())
            .with_reply_to(reply_to.clone())
    };
    let large = [b' '; 65];
    let malformed = header("a", nested(40));
    let came_before = header("x-first-death-reason", text("rejected"));
    let stream = || header("rpc-incoming", text("1"));
    let no_uuid = good().with_type("receive".into()).with_correlation_id("1".into());
    let cases: [(&str, BasicProperties, &[u8]); 12] = [
        (
            "has a `reply_to`",
            good().with_reply_to("forbidden".into()),
            b"{}",
        ),
        ("is [malformed]", good().with_headers(malformed), b"{}"),
        (
            "names an unknown `content_type`",
            good().with_content_type("image/png".into()),
            b"{}",
        ),
        (
            "names an unknown `content_type`",
            good().with_content_encoding("gzip".into()),
            b"{}",
        ),
        ("is larger than", good(), &large),
        (
            "names a method that does not exist",
            good().with_type("erase".into()),
            b"{}",
        ),
        (
            "names a method that does not exist",
            good().with_type("".into()),
            b"{}",
        ),
        ("came before", good().with_headers(came_before), b"{}"),
        ("has no time left", good().with_expiration("0".into()), b"{}"),
        ("sends a stream", good().with_headers(stream()), b"{}"),
        ("sends a stream", no_uuid.with_headers(stream()), b"{}"),
        ("has arguments", good(), b"{"),
    ];
    for (start, properties, body) in cases {
        let row = rows.iter().find(|row| row[0].starts_with(start));
        let row = row.unwrap_or_else(|| panic!("no row begins with {start:?}"));
        peer.publish("everything", properties, body).await.unwrap();
        if row[2].starts_with("nothing") {
            continue;
        }
        let reply = next(&mut replies, LIMIT).await.unwrap();
        let reply = reply.unwrap_or_else(|| panic!("no reply to a request that {start}"));
        let kind = reply.properties.kind().as_ref().unwrap();
        assert_eq!(kind.as_str(), "fault", "{start}");
        let body = String::from_utf8_lossy(&reply.data);
        // In JSON, or in plain text if the codec is unknown.
        let code = row[1].split('`').nth(1).unwrap();
        let begins = [format!("{{\"code\":\"{code}\""), format!("{code}: ")];
        assert!(
            begins.iter().any(|begin| body.starts_with(begin)),
            "{start}: {body}"
        );
    }
    // All are settled, and the forbidden address got nothing.
    assert_eq!(peer.queue_depth("forbidden").await.unwrap(), Some(0));
    server.stop().await.unwrap();
    peer.wait_until_empty("everything", LIMIT).await.unwrap();
    worker.close().await;
}
