//! What a worker does with what others send.

use super::*;

#[tokio::test]
async fn garbage_is_a_bad_request_in_its_own_content_type() {
    let deep_json = "[".repeat(100_000);
    let deep_argument = format!(r#"{{"name":"Ann","extra":{deep_json}"#);
    let deep_batch = vec![0x91; 100_000];
    let garbage: &[(&str, &[u8])] = &[
        ("application/msgpack", b"\xc1"),
        ("application/msgpack", b"\x81\xa4name"),
        ("application/msgpack", b"Ann"),
        ("application/msgpack", b"\x81\xa4name\x07"),
        ("application/msgpack", b"\x81\xa4name\xa3Ann\xc0"),
        ("application/msgpack", b"\x80"),
        ("application/msgpack", b""),
        // Lengths that nothing stands behind.
        ("application/msgpack", b"\xdf\xff\xff\xff\xff"),
        ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
        ("application/msgpack", b"\x81\xa4name\xdb\xff\xff\xff\xff"),
        ("application/msgpack", b"\x81\xa4name\xc6\xff\xff\xff\xff"),
        ("application/msgpack", &deep_batch),
        ("application/json", b"{"),
        ("application/json", b"Ann"),
        ("application/json", b"null"),
        ("application/json", br#"{"name":7}"#),
        ("application/json", br#"{"name":"Ann"} {"name":"Bob"}"#),
        ("application/json", br#"{"name":"Ann","name":"Bob"}"#),
        ("application/json", b"{}"),
        ("application/json", b"[]"),
        ("application/json", b""),
        ("application/json", b"\xff\xfe"),
        ("application/json", deep_json.as_bytes()),
        ("application/json", deep_argument.as_bytes()),
        ("text/plain", b"\xff\xfe"),
    ];
    let mut foreign = Foreign::new().await;
    for (content_type, body) in garbage {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let (kind, answered_in, reply) = foreign.answer(request("greet", content_type), body).await;
        assert_eq!(
            (kind.as_str(), answered_in.as_str()),
            ("fault", *content_type),
            "{shown}"
        );
        assert_eq!(fault_code(content_type, &reply), "bad_request", "{shown}");
        // With nobody to tell, it is settled all the same.
        foreign.send(request("greet", content_type), body).await;
    }
    // A method with several arguments cannot be called in plain text.
    let (kind, _, reply) = foreign.answer(request("pair", "text/plain"), b"Ann").await;
    assert_eq!(
        (kind.as_str(), fault_code("text/plain", &reply).as_str()),
        ("fault", "bad_request")
    );
    assert_eq!(foreign.host.runs(), 0, "none of it ran");
    foreign.ends_well().await;
}

#[tokio::test]
async fn an_unknown_content_type_is_answered_in_plain_text() {
    let mut foreign = Foreign::new().await;
    for content_type in ["image/png", "application/x-python-serialize", "é", "/"] {
        let (kind, answered_in, body) = foreign.answer(request("greet", content_type), b"Ann").await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("fault", "text/plain"));
        assert_eq!(fault_code("text/plain", &body), "unsupported_content_type");
        foreign.send(request("greet", content_type), b"Ann").await;
    }
    assert_eq!(foreign.host.runs(), 0);
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_compressed_request_is_refused_in_its_own_content_type() {
    let mut foreign = Foreign::new().await;
    for content_type in CONTENT_TYPES {
        for encoding in ["gzip", "deflate", "Zstd", "base64", "utf-16", "latin-1"] {
            let asked = request("greet", content_type).with_content_encoding(encoding.into());
            let (kind, answered_in, body) = foreign.answer(asked.clone(), b"Ann").await;
            assert_eq!((kind.as_str(), answered_in.as_str()), ("fault", content_type));
            assert_eq!(fault_code(content_type, &body), "unsupported_content_type");
            foreign.send(asked, b"Ann").await;
        }
    }
    // Not the encoding, but the charset of the content type.
    let asked = request("greet", "text/plain; charset=latin-1");
    let (kind, _, body) = foreign.answer(asked, b"Ann").await;
    assert_eq!(kind, "fault");
    assert_eq!(fault_code("text/plain", &body), "unsupported_content_type");
    assert_eq!(foreign.host.runs(), 0);
    for encoding in ["", "identity", "utf-8", "UTF-8", "us-ascii", "binary"] {
        let asked = request("greet", "text/plain").with_content_encoding(encoding.into());
        assert_eq!(foreign.answer(asked, b"Ann").await.2, b"hello Ann", "{encoding}");
    }
    foreign.ends_well().await;
}

#[tokio::test]
async fn another_name_of_a_content_type_is_that_of_the_reply() {
    let mut foreign = Foreign::new().await;
    for (asked_in, body) in [
        ("application/x-msgpack", &b"\x91\xa1A"[..]),
        ("application/vnd.msgpack", b"\x91\xa1A"),
        ("text/json", b"[\"A\"]"),
        ("Application/JSON; charset=utf-8", b"[\"A\"]"),
        ("text/plain; charset=utf-8", b"A"),
    ] {
        // A fault, too.
        for (method, kind) in [("greet", "result"), ("nonsense", "fault")] {
            let answer = foreign.answer(request(method, asked_in), body).await;
            assert_eq!((answer.0.as_str(), answer.1.as_str()), (kind, asked_in));
        }
    }
    // A sender that says no more than that these are bytes is answered as one that says nothing.
    let answer = foreign
        .answer(request("greet", "application/octet-stream"), b"Ann")
        .await;
    assert_eq!(
        answer,
        ("result".into(), "text/plain".into(), b"hello Ann".to_vec())
    );
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_request_with_neither_type_nor_content_type_is_plain_text_for_the_default_method() {
    let mut foreign = Foreign::new().await;
    for asked in [BasicProperties::default(), request("", "")] {
        let answer = foreign.answer(asked.clone(), b"Ann").await;
        assert_eq!(
            answer,
            ("result".into(), "text/plain".into(), b"hello Ann".to_vec())
        );
        let answer = foreign.answer(asked, b"").await;
        assert_eq!(answer.2, b"hello ", "an empty text is a text");
    }
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_request_that_wants_no_reply_runs_and_is_acked() {
    let foreign = Foreign::new().await;
    for asked in [
        BasicProperties::default(),
        BasicProperties::default().with_reply_to("".into()),
        BasicProperties::default().with_correlation_id("7".into()),
    ] {
        foreign.send(asked, b"Ann").await;
    }
    foreign.send(request("nonsense", "text/plain"), b"").await;
    let host = foreign.host.clone();
    foreign.ends_well().await;
    // The last one is that of the end.
    assert_eq!(host.runs(), 4);
}

#[tokio::test]
async fn nothing_is_written_into_a_queue_that_is_no_reply_address() {
    let payments = unique("payments");
    let foreign = Foreign::new().await;
    foreign.peer.declare(&payments).await.unwrap();
    for asked in [
        request("greet", "text/plain"),
        // Not by way of a fault either.
        request("nonsense", "text/plain"),
        request("greet", "image/png"),
    ] {
        foreign
            .send(asked.with_reply_to(payments.as_str().into()), b"Ann")
            .await;
    }
    let (host, channel) = (foreign.host.clone(), foreign.peer.channel().clone());
    foreign.ends_well().await;
    // One request at a time: theirs were all done with before the one of the end.
    assert_eq!(host.runs(), 1, "none of them ran");
    let deleted = channel
        .queue_delete(payments.as_str().into(), Default::default())
        .await;
    assert_eq!(deleted.unwrap(), 0, "nothing was written");
}

#[tokio::test]
async fn an_allowed_reply_address_is_answered() {
    let (name, prefix) = (unique("replies"), unique("billing"));
    let prefixed = format!("{prefix}.7");
    let addresses = ReplyAddresses::default().allow(&name).allow_prefix(&prefix);
    let foreign = Foreign::with(addresses).await;
    for queue in [&name, &prefixed] {
        foreign.peer.declare(queue).await.unwrap();
        let mut replies = foreign.peer.consume(queue).await.unwrap();
        let asked = BasicProperties::default().with_reply_to(queue.as_str().into());
        foreign.send(asked, b"Ann").await;
        let reply = next(&mut replies, SOON).await.unwrap().expect("a reply");
        assert_eq!(reply.data, b"hello Ann");
    }
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_reply_to_a_caller_that_is_gone_affects_nothing_else() {
    let foreign = Foreign::new().await;
    let gone = format!("{DIRECT}{}", gone_direct_address().await);
    for reply_to in ["amq.gen-gone", "rpc.reply.gone", &gone] {
        foreign
            .send(BasicProperties::default().with_reply_to(reply_to.into()), b"Ann")
            .await;
    }
    let host = foreign.host.clone();
    foreign.ends_well().await;
    assert_eq!(host.runs(), 4);
}

/// RabbitMQ 3.10 ends the whole connection of whoever publishes to some of these (541,
/// INTERNAL_ERROR): a worker that answers there loses its broker, and so does the next one, to
/// which the request is delivered again.
#[tokio::test]
async fn a_malformed_direct_reply_address_harms_nothing() {
    let gone = gone_direct_address().await;
    let (process, _) = gone.split_once('.').expect("it has two parts");
    // Erlang's external form of an atom, where that of a process should stand.
    let atom = "g3cBYQ==.key";
    for forged in ["", ".", "gone", "a.b.c", process, "gone.gone", "!!.!!", atom] {
        ask_for_a_direct_reply(forged).await.ends_well().await;
    }
}

/// As above: this one is well-formed, and of a node that is not (or no longer) in the cluster.
#[tokio::test]
async fn a_direct_reply_address_of_an_unknown_node_harms_nothing() {
    let process_of_node_99999 = "g1h2AAtyZXBseUA5OTk5OQAAAAEAAAAAAAAAAQ==";
    let foreign = ask_for_a_direct_reply(&format!("{process_of_node_99999}.Fe2bNGE4m+N8KWXJWL9nEA==")).await;
    foreign.ends_well().await;
}

/// Forged addresses take the connection that direct replies share; the honest ones are answered all
/// the same.
#[tokio::test]
async fn forged_direct_reply_addresses_starve_no_honest_caller() {
    // All at once, so that honest replies are under way when a forged one takes the connection.
    let foreign = Foreign::start(ReplyAddresses::default(), 64).await;
    let honest = RawPeer::connect(shared().await).await.unwrap();
    let mut replies = honest.consume("amq.rabbitmq.reply-to").await.unwrap();
    let forged = BasicProperties::default().with_reply_to(format!("{DIRECT}gone.gone").into());
    let real = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    for _ in 0..5 {
        foreign.send(forged.clone(), b"Ann").await;
        for _ in 0..5 {
            honest
                .publish(&foreign.queue, real.clone(), b"Ann")
                .await
                .unwrap();
        }
    }
    for _ in 0..25 {
        let reply = next(&mut replies, SOON)
            .await
            .unwrap()
            .expect("each honest request is answered");
        assert_eq!(reply.data, b"hello Ann");
    }
    foreign.ends_well().await;
}

/// A worker that was sent a request with this direct reply-to address.
async fn ask_for_a_direct_reply(address: &str) -> Foreign {
    let foreign = Foreign::new().await;
    let reply_to = format!("{DIRECT}{address}");
    foreign
        .send(BasicProperties::default().with_reply_to(reply_to.into()), b"Ann")
        .await;
    foreign
}

/// How RabbitMQ's names of direct reply-to begin.
const DIRECT: &str = "amq.rabbitmq.reply-to.";

/// The address of a caller that used direct reply-to and whose channel is closed; without
/// [`DIRECT`].
async fn gone_direct_address() -> String {
    let caller = RawPeer::connect(shared().await).await.unwrap();
    let _replies = caller.consume("amq.rabbitmq.reply-to").await.unwrap();
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let queue = peer.declare_exclusive().await.unwrap();
    let mut requests = peer.consume(&queue).await.unwrap();
    let properties = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    caller.publish(&queue, properties, b"").await.unwrap();
    let request = next(&mut requests, SOON).await.unwrap().expect("the request");
    caller.channel().close(200, "gone".into()).await.unwrap();
    text(request.properties.reply_to())
        .strip_prefix(DIRECT)
        .expect("a direct address")
        .to_owned()
}

#[tokio::test]
async fn arguments_may_come_by_position_with_strangers_or_not_at_all() {
    let mut foreign = Foreign::new().await;
    let mut result = async |method: &str, content_type: &str, body: &[u8]| {
        let (kind, _, reply) = foreign.answer(request(method, content_type), body).await;
        assert_eq!(kind, "result", "{}", String::from_utf8_lossy(&reply));
        reply
    };
    // By position.
    assert_eq!(
        result("pair", "application/json", br#"["A", [1, 2]]"#).await,
        b"[65,1,2]"
    );
    assert_eq!(
        result("pair", "application/msgpack", b"\x92\xa1A\xc4\x01\x02").await,
        b"\xc4\x02\x41\x02"
    );
    // By name in any order, with names that the method does not know.
    assert_eq!(
        result(
            "pair",
            "application/json",
            br#"{"bytes": [1], "later": {"x": [null]}, "name": "A"}"#
        )
        .await,
        b"[65,1]"
    );
    assert_eq!(
        result(
            "pair",
            "application/msgpack",
            b"\x83\xa5later\x91\xc0\xa5bytes\xc4\x00\xa4name\xa1A"
        )
        .await,
        b"\xc4\x01\x41"
    );
    // Bytes as an array of numbers, for codecs that have no bytes.
    assert_eq!(
        result("pair", "application/msgpack", b"\x92\xa1A\x92\x01\x02").await,
        b"\xc4\x03\x41\x01\x02"
    );
    // None at all, in each way to say so.
    let mut count = 5;
    for (content_type, body) in [
        ("application/json", &b""[..]),
        ("application/json", b"{}"),
        ("application/json", b"[]"),
        ("application/msgpack", b""),
        ("application/msgpack", b"\x80"),
        ("application/msgpack", b"\x90"),
        ("text/plain", b""),
    ] {
        count += 1;
        let reply = result("count", content_type, body).await;
        let expected = match content_type {
            "application/msgpack" => written(content_type, &count),
            _ => count.to_string().into_bytes(),
        };
        assert_eq!(reply, expected, "{content_type} {body:?}");
    }
    // Other spellings of the same content types.
    assert_eq!(
        result("greet", "Application/JSON; charset=utf-8", br#"["A"]"#).await,
        br#""hello A""#
    );
    assert_eq!(
        result("greet", "application/x-msgpack", b"\x91\xa1A").await,
        b"\xa7hello A"
    );
    foreign.ends_well().await;
}
