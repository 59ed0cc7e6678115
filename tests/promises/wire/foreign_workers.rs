//! What a caller does with what others reply.

use super::*;

#[tokio::test]
async fn a_tutorial_worker_answers_a_plain_text_client() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Text);
    let answer = worker
        .exchange(client.greet("Ann"), BasicProperties::default(), b"hello Ann")
        .await;
    assert_eq!(answer.unwrap(), "hello Ann");
    let answer = worker
        .exchange(client.count(), BasicProperties::default(), b"17")
        .await;
    assert_eq!(answer.unwrap(), 17);
    // The same worker, answering a client that speaks JSON.
    let client = worker.client(Codec::Json);
    let answer = worker
        .exchange(client.count(), BasicProperties::default(), b"18")
        .await;
    assert_eq!(answer.unwrap(), 18);
}

#[tokio::test]
async fn replies_that_no_call_waits_for_are_discarded() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    let call = tokio::spawn(client.count());
    let request = worker.request().await;
    let stranger = Uuid::new_v4().to_string();
    for id in [None, Some(""), Some("7"), Some(stranger.as_str())] {
        for (kind, body) in [("result", &b"1"[..]), ("fault", b"{"), ("what?", b"\xff")] {
            let mut reply = BasicProperties::default().with_type(kind.into());
            if let Some(id) = id {
                reply = reply.with_correlation_id(id.into());
            }
            worker.reply_raw(&request, reply, body).await;
        }
    }
    worker.reply(&request, BasicProperties::default(), b"2").await;
    // Twice is once.
    worker.reply(&request, BasicProperties::default(), b"3").await;
    assert_eq!(soon("its own reply", call).await.unwrap().unwrap(), 2);

    let answer = worker
        .exchange(client.count(), BasicProperties::default(), b"4")
        .await;
    assert_eq!(answer.unwrap(), 4);
    // All of them were settled, and the reply queue goes with its handle.
    let reply_to = text(request.properties.reply_to());
    assert_eq!(worker.peer.queue_depth(&reply_to).await.unwrap(), Some(0));
    worker.broker.close().await;
    assert_eq!(worker.peer.queue_depth(&reply_to).await.unwrap(), None);
}

#[tokio::test]
async fn a_type_of_the_workers_own_is_taken_for_a_result() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    for kind in ["", "count", "call", "RESULT", "CountReply"] {
        let answer = worker
            .exchange(client.count(), request(kind, "application/json"), b"17")
            .await;
        assert_eq!(answer.unwrap(), 17, "{kind}");
    }
}

#[tokio::test]
async fn an_empty_reply_is_none() {
    let mut worker = ForeignWorker::new().await;
    for codec in [Codec::MessagePack, Codec::Json] {
        let client = worker.client(codec);
        for properties in [
            BasicProperties::default(),
            request("result", "text/plain"),
            request("result", "application/octet-stream"),
            request("result", codec.content_type()),
        ] {
            let found = worker.exchange(client.find("Ann"), properties.clone(), b"").await;
            assert_eq!(found.unwrap(), None, "{properties:?}");
            let done = worker.exchange(client.forget("Ann"), properties, b"").await;
            done.unwrap();
        }
    }
}

#[tokio::test]
async fn a_compressed_reply_is_an_error_that_says_so() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    let reply = |encoding: &str| request("result", "application/json").with_content_encoding(encoding.into());
    for encoding in ["gzip", "DEFLATE", "utf-16"] {
        let error = worker
            .exchange(client.count(), reply(encoding), b"17")
            .await
            .unwrap_err();
        assert!(matches!(error, CallError::BadReply { .. }), "{error:?}");
        let error = Chain(&error).to_string();
        assert!(
            error.contains(&format!("content encoding {encoding:?}")),
            "{error}"
        );
    }
    for encoding in ["", "identity", "utf-8", "binary"] {
        let answer = worker.exchange(client.count(), reply(encoding), b"17").await;
        assert_eq!(answer.unwrap(), 17, "{encoding}");
    }
}

#[tokio::test]
async fn the_code_of_a_fault_counts_without_a_message() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    for (content_type, body) in [
        ("application/json", &br#"{"code":"rejected"}"#[..]),
        ("application/json", br#"{"code":"rejected","message":null}"#),
        ("application/msgpack", b"\x81\xa4code\xa8rejected"),
        ("text/plain", b"rejected"),
    ] {
        let error = worker
            .exchange(client.count(), request("fault", content_type), body)
            .await
            .unwrap_err();
        assert_eq!(error.executed(), Executed::No, "{content_type}");
        match error {
            CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Rejected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn replies_that_cannot_be_read_end_their_call() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    let in_json = |kind: &str| request(kind, "application/json");
    for (properties, body, executed) in [
        // It may be a refusal, in words of a later version.
        (in_json("what?"), &b"\"no\""[..], Executed::Maybe),
        (request("result", "image/png"), b"1", Executed::Maybe),
        (in_json("result"), b"", Executed::Yes),
        (in_json("result"), b"\"one\"", Executed::Yes),
        (in_json("result"), b"1 2", Executed::Yes),
        // The method has no error of its own.
        (in_json("error"), b"1", Executed::Yes),
    ] {
        let shown = format!("{properties:?} {body:?}");
        let error = worker
            .exchange(client.count(), properties, body)
            .await
            .expect_err(&shown);
        assert_eq!(error.executed(), executed, "{shown}");
        assert!(matches!(error, CallError::BadReply { .. }), "{shown}: {error:?}");
    }

    // A fault is a fault, whatever it says.
    for (properties, body, code) in [
        (in_json("fault"), &b"{"[..], "fault"),
        (
            in_json("fault"),
            br#"{"code":"out_of_ink","message":"-"}"#,
            "out_of_ink",
        ),
        (request("fault", "text/plain"), b"out of ink", "fault"),
    ] {
        let error = worker
            .exchange(client.count(), properties, body)
            .await
            .unwrap_err();
        assert_eq!(error.executed(), Executed::Maybe);
        match error {
            CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Other(code.into())),
            other => panic!("{other:?}"),
        }
    }

    // An error in another content type than the method's own error can be read from.
    let error = worker
        .exchange(client.greet("Ann"), request("error", "text/plain"), b"not today")
        .await
        .unwrap_err();
    match error {
        CallError::ServiceText(text) => assert_eq!(text, "not today"),
        other => panic!("{other:?}"),
    }
}
