//! What a request looks like.

use super::*;

#[tokio::test]
async fn a_request_has_the_documented_properties_and_no_others() {
    let mut worker = ForeignWorker::new().await;
    let limit = Duration::from_secs(20);
    let call = worker.client(Codec::MessagePack).pair("Ann", &[0, 255]);
    let call = tokio::spawn(call.timeout(limit));

    let Delivery {
        properties,
        data,
        exchange,
        routing_key,
        redelivered,
        ..
    } = worker.request().await;
    assert_eq!((exchange.as_str(), routing_key.as_str()), ("", &*worker.queue));
    assert!(!redelivered);
    assert_eq!(text(properties.kind()), "pair");
    assert_eq!(text(properties.content_type()), "application/msgpack");
    let id = Uuid::parse_str(&text(properties.correlation_id())).expect("a UUID");
    assert_eq!(id.get_version_num(), 4, "random");
    let reply_to = text(properties.reply_to());
    assert!(reply_to.starts_with("rpc.reply."), "{reply_to}");
    let expiration: u128 = text(properties.expiration()).parse().expect("milliseconds");
    assert!((1..=limit.as_millis()).contains(&expiration), "{expiration}");
    assert_eq!(*properties.delivery_mode(), Some(1));
    // By name, and bytes as `bin`.
    assert_eq!(data, b"\x82\xa4name\xa3Ann\xa5bytes\xc4\x02\x00\xff");

    // Its caller can batch, should the worker say so.
    let mut headers = FieldTable::default();
    headers.insert("rpc-batch".into(), AMQPValue::LongString("".into()));
    let expected = BasicProperties::default()
        .with_headers(headers)
        .with_type("pair".into())
        .with_content_type("application/msgpack".into())
        .with_correlation_id(properties.correlation_id().clone().unwrap())
        .with_reply_to(properties.reply_to().clone().unwrap())
        .with_expiration(properties.expiration().clone().unwrap())
        .with_delivery_mode(1);
    assert_eq!(properties, expected);
    call.abort();
}

#[tokio::test]
async fn options_of_a_call_are_properties_of_its_request() {
    let mut worker = ForeignWorker::new().await;
    worker.broker = World::RabbitMq
        .broker_with(Broker::builder().app_id("shop").send_user_id(true))
        .await;
    let call = worker.client(Codec::Json).greet("Ann");
    let call = tokio::spawn(call.header("tenant", "a").header("tenant", "b").priority(3));

    let properties = worker.request().await.properties;
    assert_eq!(text(properties.app_id()), "shop");
    assert_eq!(text(properties.user_id()), "guest");
    assert_eq!(*properties.priority(), Some(3));
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), AMQPValue::LongString("b".into()));
    headers.insert("rpc-batch".into(), AMQPValue::LongString("".into()));
    assert_eq!(*properties.headers(), Some(headers));
    call.abort();
}

#[tokio::test]
async fn a_one_way_request_is_persistent_and_wants_no_reply() {
    let mut worker = ForeignWorker::new().await;
    worker.client(Codec::Json).note("Ann").await.unwrap();
    let request = worker.request().await;
    assert_eq!(text(request.properties.kind()), "note");
    assert_eq!(*request.properties.delivery_mode(), Some(2));
    assert_eq!(*request.properties.reply_to(), None);
    assert_eq!(*request.properties.expiration(), None);
    assert_eq!(request.data, br#"{"name":"Ann"}"#);
}

#[tokio::test]
async fn each_codec_writes_its_own_body() {
    let mut worker = ForeignWorker::new().await;
    for (codec, content_type, greet, count) in [
        (
            Codec::MessagePack,
            "application/msgpack",
            &b"\x81\xa4name\xa3Ann"[..],
            &b"\x80"[..],
        ),
        (Codec::Json, "application/json", br#"{"name":"Ann"}"#, b"{}"),
        (Codec::Text, "text/plain", b"Ann", b""),
    ] {
        let call = tokio::spawn(worker.client(codec).greet("Ann"));
        let request = worker.request().await;
        assert_eq!(text(request.properties.content_type()), content_type);
        assert_eq!(request.data, greet);
        call.abort();
        let call = tokio::spawn(worker.client(codec).count());
        assert_eq!(worker.request().await.data, count);
        call.abort();
    }
    let call = tokio::spawn(worker.client(Codec::Json).pair("Ann", &[0, 255]));
    assert_eq!(worker.request().await.data, br#"{"name":"Ann","bytes":[0,255]}"#);
    call.abort();
}
