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
async fn replies_that_cannot_be_read_end_their_call() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    let in_json = |kind: &str| request(kind, "application/json");
    for (properties, body, executed) in [
        // It may be a refusal, in words of a later version.
        (in_json("what?"), &b"1"[..], Executed::Maybe),
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
