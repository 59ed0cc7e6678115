//! The server without its page: who is refused, and what callers of its API get.

use std::process::Stdio;

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_tests::gate::SOON;
use rpc_tests::programs::{LIMIT, run, text};
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::console::{Console, program};
use crate::services::{LARGE, MailClient, Shop};

fn call(method: &str, arguments: &Value) -> Value {
    json!({"service": "Orders", "queue": "orders", "method": method, "arguments": arguments.to_string()})
}

#[tokio::test]
async fn requests_of_others_are_refused() {
    let vhost = Vhost::new().await;
    let console = Console::start(&vhost.url(), &[]).await;
    let host = ("Host", console.host.as_str());
    let token = format!("Bearer {}", console.token);
    let token = ("Authorization", token.as_str());
    let own_origin = format!("http://{}", console.host);
    let wrong = format!("Bearer {}", "0".repeat(console.token.len()));
    for (status, headers) in [
        (401, vec![host]),
        (401, vec![host, ("Authorization", wrong.as_str())]),
        (401, vec![host, ("Authorization", "Bearer ")]),
        (403, vec![("Host", "evil.example"), token]),
        (403, vec![token]),
        (403, vec![host, token, ("Origin", "http://evil.example")]),
        (403, vec![host, token, ("Origin", "null")]),
        (403, vec![host, token, ("Sec-Fetch-Site", "cross-site")]),
        (404, vec![host, token]),
        (404, vec![host, token, ("Origin", own_origin.as_str())]),
    ] {
        // The service does not exist, so a request that is not refused has this status.
        let body = json!({"service": "None", "queue": "none", "method": "m", "arguments": "{}"});
        for path in ["/api/call", "/api/letters/list"] {
            let body = match path {
                "/api/call" => &body,
                _ => &json!({"queue": "none"}),
            };
            let answer = console.send(path, &headers, Some(body)).await.unwrap();
            assert_eq!(answer.status, status, "{path} {headers:?}: {answer:?}");
            assert!(!answer.body.contains(&console.token), "{answer:?}");
        }
    }
    // The page itself has no secrets, but nobody may frame it or serve it under another name.
    let page = console.send("/", &[host], None).await.unwrap();
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<title>rpc console</title>") && !page.body.contains(&console.token));
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    let rebound = console
        .send("/", &[("Host", "evil.example")], None)
        .await
        .unwrap();
    assert_eq!(rebound.status, 403);
}

#[tokio::test]
async fn other_machines_may_only_connect_if_that_is_allowed() {
    let vhost = Vhost::new().await;
    let refused = run(program(&["--listen", "0.0.0.0:0"]).env("AMQP_URL", vhost.url())).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--allow-remote"), "{refused:?}");

    let arguments = ["--listen", "0.0.0.0:0", "--allow-remote", "--host", "localhost"];
    let console = Console::start(&vhost.url(), &arguments).await;
    let token = format!("Bearer {}", console.token);
    for (host, status) in [("192.0.2.7:80", 404), ("localhost", 404), ("evil.example", 403)] {
        let headers = [("Host", host), ("Authorization", token.as_str())];
        let answer = console
            .send("/api/letters/list", &headers, Some(&json!({"queue": "none"})))
            .await;
        assert_eq!(answer.unwrap().status, status, "{host}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let vhost = Vhost::new().await;
    let console = Console::start(&vhost.url(), &[]).await;
    let mut second = program(&["--listen", &console.host]);
    let second = run(second.env("AMQP_URL", vhost.url()).stdin(Stdio::null())).await;
    assert_eq!(second.status.code(), Some(2));
    let stderr = text(&second.stderr);
    assert!(
        stderr.contains(&format!("cannot listen at {}", console.host)),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_call_is_answered_in_lines_with_all_digits() {
    let vhost = Vhost::new().await;
    let _worker = Shop::new().start(&vhost.url(), "shop-1").await;
    let console = Console::start(&vhost.url(), &[]).await;

    let number = LARGE;
    let answer = console
        .ask("/api/call", Some(&call("get", &json!({"number": number}))))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let [begin, result] = &answer.lines()[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(begin["event"], "begin");
    assert_eq!(begin["trace"].as_str().unwrap().len(), 32);
    assert_eq!(result["event"], "result");
    let value = result["value"].as_str().expect("JSON as text");
    assert!(value.contains(&format!("\"number\":{number}")), "{value}");

    // The worker has the trace that the page shows.
    let traced = console
        .ask("/api/call", Some(&call("trace", &json!({}))))
        .await
        .lines();
    let id = traced[0]["trace"].as_str().unwrap();
    let parent = traced[1]["value"].as_str().unwrap();
    assert!(parent.starts_with(&format!("\"00-{id}-")), "{parent}");

    // The method's own error.
    let failed = console
        .ask("/api/call", Some(&call("get", &json!({"number": 10}))))
        .await
        .lines();
    assert_eq!(failed[1]["event"], "failure");
    assert_eq!(failed[1]["error"], r#"{"UnknownOrder":{"number":10}}"#);
    assert_eq!(failed[1]["executed"], "yes");

    // A broadcast, and a call that sends items.
    let cleared = console
        .ask("/api/call", Some(&call("clear_cache", &json!({}))))
        .await
        .lines();
    assert_eq!(
        (&cleared[1]["event"], &cleared[1]["value"]),
        (&json!("answer"), &json!("42"))
    );
    assert_eq!(
        (&cleared[2]["event"], &cleared[2]["answered"]),
        (&json!("end"), &json!(1))
    );
    let mut restock = call("restock", &json!({"warehouse": "north"}));
    restock["items"] = json!(
        r#"{"article": "a", "count": 7, "price": 1}
{"article": "b", "count": 5, "price": 1}"#
    );
    let restocked = console.ask("/api/call", Some(&restock)).await.lines();
    assert_eq!(restocked[1]["value"], "12");

    // Nothing was sent, and the reason is told.
    for (request, status) in [
        (call("gte", &json!({})), 404),
        (json!({"service": "Orders"}), 422),
        (
            json!({"service": "Orders", "queue": "orders", "method": "get", "arguments": "@/etc/passwd"}),
            400,
        ),
        (
            json!({"service": "Orders", "queue": "orders", "method": "get", "arguments": "{"}),
            400,
        ),
    ] {
        let refused = console.ask("/api/call", Some(&request)).await;
        assert_eq!(refused.status, status, "{request}");
        assert!(!refused.body.contains("root:"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_page_that_goes_away_cancels_its_stream() {
    let vhost = Vhost::new().await;
    let shop = Shop::new();
    let _worker = shop.start(&vhost.url(), "shop-1").await;
    let console = Console::start(&vhost.url(), &[]).await;
    let streams = || shop.streams.load(std::sync::atomic::Ordering::SeqCst);

    let prices = call("prices", &json!({"article": "a"}));
    let connection = console.open("/api/call", &prices).await;
    until("the stream runs", SOON, async || Ok(streams() == 1))
        .await
        .unwrap();
    drop(connection);
    until("the stream is cancelled", SOON, async || Ok(streams() == 0))
        .await
        .unwrap();
}

#[tokio::test]
async fn only_some_calls_run_at_a_time() {
    let vhost = Vhost::new().await;
    let _worker = Shop::new().start(&vhost.url(), "shop-1").await;
    let console = Console::start(&vhost.url(), &[]).await;
    let mut running = Vec::new();
    for _ in 0..32 {
        // It does not end.
        let call = call("report", &json!({"year": 2026}));
        let mut connection = console.open("/api/call", &call).await;
        let mut head = [0; 12];
        connection.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        running.push(connection);
    }
    let call = call("get", &json!({"number": 1}));
    let refused = console.ask("/api/call", Some(&call)).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    // A page that goes away makes room.
    running.pop();
    until("there is room", SOON, async || {
        Ok(console.ask("/api/call", Some(&call)).await.status == 200)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_read_only_console_changes_nothing() {
    let vhost = Vhost::new().await;
    let shop = Shop::new();
    let (broker, _server) = shop.start(&vhost.url(), "shop-1").await;
    MailClient::new(&broker).send("nobody", "hello").await.unwrap();
    let console = Console::start(&vhost.url(), &["--read-only"]).await;
    let list = json!({"queue": "mail"});
    let letters = async || {
        let listed = console.ask("/api/letters/list", Some(&list)).await;
        assert_eq!(listed.status, 200, "{listed:?}");
        listed.lines()[0]["letters"].as_array().unwrap().clone()
    };
    until("the job is dead", LIMIT, async || Ok(letters().await.len() == 1))
        .await
        .unwrap();
    let called = console
        .ask("/api/call", Some(&call("get", &json!({"number": 1}))))
        .await;
    assert_eq!(called.status, 403, "{called:?}");
    for action in ["retry", "drop"] {
        let change = json!({"queue": "mail", "action": action, "letters": "all"});
        let changed = console.ask("/api/letters/change", Some(&change)).await;
        assert_eq!(changed.status, 403, "{changed:?}");
    }
    assert_eq!(letters().await.len(), 1);
}

#[tokio::test]
async fn dead_letters_are_retried_and_dropped() {
    let vhost = Vhost::new().await;
    let shop = Shop::new();
    let (broker, _server) = shop.start(&vhost.url(), "shop-1").await;
    let mail = MailClient::new(&broker);
    for to in ["alice", "bob", "carol"] {
        mail.send(to, "hello").await.unwrap();
    }
    let console = Console::start(&vhost.url(), &[]).await;
    let letters = async || {
        let listed = console
            .ask("/api/letters/list", Some(&json!({"queue": "mail"})))
            .await;
        listed.lines()[0]["letters"].as_array().unwrap().clone()
    };
    until(
        "the jobs are dead",
        LIMIT,
        async || Ok(letters().await.len() == 3),
    )
    .await
    .unwrap();
    let ids: Vec<_> = letters()
        .await
        .iter()
        .map(|letter| letter["id"].clone())
        .collect();

    let shown = console
        .ask("/api/letters/show", Some(&json!({"queue": "mail", "id": ids[0]})))
        .await;
    let arguments = shown.lines()[0]["arguments"].clone();
    assert!(arguments.as_str().unwrap().contains("\"hello\""), "{arguments}");
    // Text, because the page would round large numbers.
    for part in ["headers", "properties"] {
        let text = shown.lines()[0][part].as_str().expect("text").to_owned();
        assert!(
            serde_json::from_str::<Value>(&text).unwrap().is_object(),
            "{text}"
        );
    }

    shop.has_route.send_replace(true);
    // Without a selection, nothing is selected.
    let incomplete = json!({"queue": "mail", "action": "drop"});
    let refused = console.ask("/api/letters/change", Some(&incomplete)).await;
    assert_eq!((refused.status, letters().await.len()), (422, 3));
    let change = async |action: &str, letters: Value| {
        let change = json!({"queue": "mail", "action": action, "letters": letters});
        console.ask("/api/letters/change", Some(&change)).await.lines()[0].clone()
    };
    assert_eq!(change("retry", json!({"ids": [ids[0]]})).await["done"], 1);
    until("the mail is sent", SOON, async || {
        Ok(shop.mails.load(std::sync::atomic::Ordering::SeqCst) == 1)
    })
    .await
    .unwrap();
    assert_eq!(change("drop", json!({"ids": [ids[1]]})).await["done"], 1);
    assert_eq!(change("retry", json!("all")).await["done"], 1);
    assert_eq!(letters().await.len(), 0);
    until("the other mail is sent", SOON, async || {
        Ok(shop.mails.load(std::sync::atomic::Ordering::SeqCst) == 2)
    })
    .await
    .unwrap();
}

/// Declares the queues `mail` and `mail.dead`, and puts dead letters with these bodies there.
async fn dead_letters(vhost: &Vhost, mail: FieldTable, bodies: &[String]) -> RawPeer {
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    for (queue, arguments) in [("mail", mail), ("mail.dead", FieldTable::default())] {
        let declaring = peer.channel().queue_declare(queue.into(), options, arguments);
        declaring.await.unwrap();
    }
    for body in bodies {
        let properties = BasicProperties::default()
            .with_type("send".into())
            .with_delivery_mode(2);
        peer.publish("mail.dead", properties, body.as_bytes())
            .await
            .unwrap();
    }
    peer
}

fn text_value(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[tokio::test]
async fn a_retry_that_breaks_off_tells_what_it_has_done() {
    let vhost = Vhost::new().await;
    let mut mail = FieldTable::default();
    mail.insert("x-max-length".into(), AMQPValue::LongInt(1));
    mail.insert("x-overflow".into(), text_value("reject-publish"));
    let bodies = ["1", "2", "3"].map(str::to_owned);
    let _peer = dead_letters(&vhost, mail, &bodies).await;
    let console = Console::start(&vhost.url(), &[]).await;

    // The second one does not fit into the queue.
    let change = json!({"queue": "mail", "action": "retry", "letters": "all"});
    let answer = console.ask("/api/letters/change", Some(&change)).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let told = &answer.lines()[0];
    assert_eq!(
        told["changed"],
        json!({"done": 1, "stayed": 0, "reasons": [], "notes": []})
    );
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("the queue mail refuses messages"), "{message}");
    let listed = console
        .ask("/api/letters/list", Some(&json!({"queue": "mail"})))
        .await;
    assert_eq!(listed.lines()[0]["letters"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn signals_end_the_console() {
    let vhost = Vhost::new().await;
    for signal in ["INT", "TERM", "HUP"] {
        Console::start(&vhost.url(), &[]).await.end(signal).await;
    }
}

#[tokio::test]
async fn ctrl_c_stops_a_retry_between_two_letters() {
    const LETTERS: u32 = 200;
    let vhost = Vhost::new().await;
    let mut mail = FieldTable::default();
    mail.insert("x-queue-type".into(), text_value("quorum"));
    let bodies: Vec<_> = (0..LETTERS).map(|number| format!("{number:060000}")).collect();
    let peer = dead_letters(&vhost, mail, &bodies).await;
    let depth = async |queue| peer.queue_depth(queue).await.unwrap().unwrap();
    // Ten letters a second.
    let proxy = Proxy::start(&vhost.url()).await.unwrap();
    let _limit = proxy.throttle(Target::All, Direction::ToBroker, 600_000);
    let mut console = Console::start(proxy.url(), &[]).await;
    let listed = console
        .ask("/api/letters/list", Some(&json!({"queue": "mail"})))
        .await;
    let letters = listed.lines()[0]["letters"].as_array().unwrap().clone();
    let ids: Vec<_> = letters.iter().map(|letter| letter["id"].clone()).collect();
    assert_eq!(ids.len(), LETTERS as usize);

    let change = json!({"queue": "mail", "action": "retry", "letters": {"ids": ids}});
    let _connection = console.open("/api/letters/change", &change).await;
    until("a letter is retried", SOON, async || Ok(depth("mail").await > 0))
        .await
        .unwrap();
    console.end("INT").await;
    until("the others are back", SOON, async || {
        Ok(depth("mail").await + depth("mail.dead").await >= LETTERS)
    })
    .await
    .unwrap();
    let (retried, left) = (depth("mail").await, depth("mail.dead").await);
    assert!(left > 0, "none is left");
    assert_eq!(retried + left, LETTERS, "none is in both queues");
}
