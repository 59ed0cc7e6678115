//! Messages that no caller or worker of this library sends.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{Broker, Codec, GatherEnd};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::rabbit::{Vhost, shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::stranger::{Properties, Property, Stranger};
use rpc_tests::world::World;

use super::{CacheClient, ForeignWorker, Part, by_name, client, serve, serve_with};

#[tokio::test]
async fn a_malformed_broadcast_is_answered() {
    let queue = unique("cache");
    let part = Part::new("one");
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let mut stranger = Stranger::connect(shared().await).await.unwrap();
    let replies = stranger.declare_exclusive().await.unwrap();
    let request = Properties::default()
        .text(Property::ReplyTo, &replies)
        .text(Property::CorrelationId, "7")
        .text(Property::Type, "count");
    let malformed = request.clone().text(Property::MessageId, b"\xff");
    let large = vec![b'x'; 2 * 1024 * 1024];
    for (properties, body, code) in [
        (&malformed, &b"{}"[..], "bad_request"),
        (&request, &large[..], "too_large"),
    ] {
        stranger
            .publish_to("rpc.control", queue.as_bytes(), properties, body)
            .await
            .unwrap();
        let (_, fault) = stranger.get(&replies).await.unwrap();
        let fault = String::from_utf8(fault).unwrap();
        assert!(fault.contains(code), "{fault}");
    }
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 0);
}

#[tokio::test]
async fn foreign_and_repeated_answers_are_ignored() {
    let url = shared().await;
    let queue = unique("cache");
    let server = serve(&World::RabbitMq, &queue, &Part::new("honest")).await;
    let mut foreign = ForeignWorker::of(url, &queue).await;
    let cache = CacheClient::builder(&World::RabbitMq.broker().await)
        .queue(&queue)
        .codec(Codec::Json)
        .build();
    let sent = cache
        .count("a")
        .expect_workers(3)
        .limit(Duration::from_secs(5))
        .send()
        .await;
    let gather = sent.unwrap();
    let request = foreign.request().await;
    let properties = &request.properties;
    assert!(properties.expiration().is_some());
    let reply_to = properties.reply_to().as_ref().unwrap().as_str().to_owned();
    let id = properties.correlation_id().as_ref().unwrap().clone();
    let reply = |id: &str, worker: &str| {
        let mut headers = FieldTable::default();
        let worker = AMQPValue::LongString(worker.into());
        headers.insert("rpc-worker".into(), worker);
        BasicProperties::default()
            .with_correlation_id(id.into())
            .with_content_type("application/json".into())
            .with_headers(headers)
    };
    for (id, worker) in [
        ("another", r#"{"id":"foreign"}"#),
        (
            id.as_str(),
            r#"{"id":"foreign","name":"stranger","shoe_size":43}"#,
        ),
        (id.as_str(), r#"{"id":"foreign"}"#),
    ] {
        foreign
            .peer
            .publish(&reply_to, reply(id, worker), b"7")
            .await
            .unwrap();
    }
    let gathered = soon("it ends", gather.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Limit), "{:?}", gathered.end);
    assert_eq!(gathered.missing, Some(1));
    let answers = by_name(gathered);
    let answers: Vec<_> = answers
        .iter()
        .map(|(name, answer)| (name.as_str(), *answer.as_ref().unwrap()))
        .collect();
    assert_eq!(answers, [("honest", 1), ("stranger", 7)]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn foreign_control_messages_affect_no_worker() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let part = Part::new("one");
    let server = serve_with(&broker, "cache", &part).await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable("payments").await.unwrap();
    let reply_to = peer.declare_exclusive().await.unwrap();
    let queues = vhost.all_queues(&["name"]).await;
    let control = queues
        .iter()
        .find(|queue| queue.starts_with("rpc.control."))
        .unwrap();

    let request = |kind: &str, reply_to: &str| {
        BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("application/json".into())
            .with_reply_to(reply_to.into())
    };
    // Not through the exchange.
    for kind in ["clear", "count", "rpc.ping"] {
        peer.publish(control, request(kind, &reply_to), br#"{"prefix":"a"}"#)
            .await
            .unwrap();
    }
    for properties in [
        request("get", &reply_to),
        request("count", &reply_to).with_content_type("image/png".into()),
        request("count", "payments"),
        request("", &reply_to),
        request("rpc.batch", &reply_to),
        BasicProperties::default(),
    ] {
        for body in [&b"\xc1"[..], &vec![0xdd; 2 * 1024 * 1024]] {
            let publishing = peer.channel().basic_publish(
                "rpc.control".into(),
                "cache".into(),
                BasicPublishOptions::default(),
                body,
                properties.clone(),
            );
            assert!(publishing.await.unwrap().await.unwrap().is_ack());
        }
    }
    let cache = client(&broker, "cache");
    let sent = cache.count("abc").expect_workers(1).limit(SOON).send().await;
    let gathered = soon("it answers", sent.unwrap().collect()).await;
    assert_eq!(gathered.missing, Some(0), "{gathered:?}");
    assert_eq!(peer.queue_depth("payments").await.unwrap(), Some(0));
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 1);
}
