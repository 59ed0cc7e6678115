//! What a reply looks like.

use super::*;

#[tokio::test]
async fn a_reply_echoes_the_correlation_id_and_nothing_else() {
    let mut foreign = Foreign::new().await;
    let long = "x".repeat(255);
    for id in [
        "",
        "42",
        "-1",
        "tutorial ü/\" id",
        "00000000-0000-0000-0000-000000000000",
        &long,
    ] {
        let mut headers = FieldTable::default();
        headers.insert("tenant".into(), AMQPValue::LongString("a".into()));
        let asked = request("greet", "application/json")
            .with_correlation_id(id.into())
            .with_expiration("20000".into())
            .with_delivery_mode(2)
            .with_priority(3)
            .with_app_id("shop".into())
            .with_user_id("guest".into())
            .with_message_id("m".into())
            .with_timestamp(7)
            .with_headers(headers);
        let reply = foreign.ask(asked, br#"{"name":"Ann"}"#).await;
        let expected = BasicProperties::default()
            .with_type("result".into())
            .with_content_type("application/json".into())
            .with_correlation_id(id.into())
            .with_delivery_mode(1);
        assert_eq!(reply.properties, expected);
        assert_eq!(reply.data, br#""hello Ann""#);
    }
    let reply = foreign.ask(request("greet", "text/plain"), b"Ann").await;
    assert_eq!(*reply.properties.correlation_id(), None);
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_reply_says_whether_it_is_a_result_an_error_or_a_fault() {
    let mut foreign = Foreign::new().await;
    for content_type in ["application/msgpack", "application/json"] {
        let asked = written(content_type, &[("name", "Ann")].into_iter().collect::<Map<'_>>());
        let (kind, answered_in, body) = foreign.answer(request("greet", content_type), &asked).await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("result", content_type));
        assert_eq!(read::<String>(content_type, &body), "hello Ann");

        let asked = written(
            content_type,
            &[("name", "nobody")].into_iter().collect::<Map<'_>>(),
        );
        let (kind, answered_in, body) = foreign.answer(request("greet", content_type), &asked).await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("error", content_type));
        assert_eq!(
            read::<Refusal>(content_type, &body),
            Refusal::Unwelcome("nobody".into())
        );
    }
    let answer = foreign.answer(request("greet", "text/plain"), b"nobody").await;
    assert_eq!(
        answer,
        (
            "error".into(),
            "text/plain".into(),
            b"no greeting for nobody".to_vec()
        )
    );
    for content_type in CONTENT_TYPES {
        let (kind, answered_in, body) = foreign.answer(request("nonsense", content_type), b"").await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("fault", content_type));
        assert_eq!(fault_code(content_type, &body), "unknown_method");
    }
    foreign.ends_well().await;
}

type Map<'a> = std::collections::BTreeMap<&'a str, &'a str>;
