//! A caller that is none of ours, and does nothing by itself.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt as _;
use lapin::Consumer;
use rpc_runtime::RunningServer;
use rpc_tests::gate::{SOON, soon};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;

use super::*;

/// A caller that does nothing by itself, and its reply queue.
pub(super) struct RawCaller {
    pub(super) peer: RawPeer,
    pub(super) queue: String,
    pub(super) reply_to: String,
    replies: Consumer,
    /// Whose answers may come again: their worker could not know that they had arrived.
    pub(super) repeated: HashSet<Uuid>,
}

/// An answer, as it came.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) kind: u8,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    /// How many calls are wanted in one message, where that was said.
    pub(super) wanted: Option<u16>,
}

impl Answered {
    #[track_caller]
    pub(super) fn value<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.kind, 0, "{self:?}");
        read(&self.content_type, &self.body)
    }

    #[track_caller]
    pub(super) fn fault(&self) -> String {
        assert_eq!(self.kind, 2, "{self:?}");
        let FaultBody { code, message } = read(&self.content_type, &self.body);
        assert!(!message.is_empty());
        code
    }
}

impl RawCaller {
    pub(super) async fn new() -> Self {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let reply_to = peer.declare_exclusive().await.unwrap();
        Self {
            queue: unique("kiosk"),
            replies: peer.consume(&reply_to).await.unwrap(),
            reply_to,
            peer,
            repeated: HashSet::new(),
        }
    }

    /// The properties of a batched request, with calls in this content type.
    pub(super) fn request(&self, content_type: &str) -> BasicProperties {
        BasicProperties::default()
            .with_type("rpc.batch".into())
            .with_content_type(content_type.into())
            .with_correlation_id("any".into())
            .with_reply_to(self.reply_to.as_str().into())
            .with_expiration("30000".into())
    }

    /// The same without a correlation id: nobody can tell what an answer would be to.
    pub(super) fn request_without_id(&self, content_type: &str) -> BasicProperties {
        BasicProperties::default()
            .with_type("rpc.batch".into())
            .with_content_type(content_type.into())
            .with_reply_to(self.reply_to.as_str().into())
            .with_expiration("30000".into())
    }

    pub(super) async fn send(&self, calls: &[BatchedCall]) {
        self.send_raw(self.request(MESSAGE_PACK), &batch(calls)).await;
    }

    pub(super) async fn send_raw(&self, properties: BasicProperties, body: &[u8]) {
        let queue = batched(&self.queue);
        self.peer.publish(&queue, properties, body).await.unwrap();
    }

    pub(super) async fn reply(&mut self) -> Delivery {
        let reply = soon("a reply comes", self.replies.next()).await;
        reply.expect("it consumes").unwrap()
    }

    /// The next so many answers, by the ids of their calls.
    pub(super) async fn answers(&mut self, count: usize) -> HashMap<Uuid, Answered> {
        let mut answers = HashMap::new();
        let repeated = self.repeated.clone();
        let mut add = |id, answer| {
            if repeated.contains(&id) {
                return answers.len();
            }
            let repeated = answers.insert(id, answer);
            assert!(repeated.is_none(), "answered again: {repeated:?}");
            answers.len()
        };
        let mut answered = 0;
        while answered < count {
            let reply = self.reply().await;
            let content_type = text(reply.properties.content_type());
            match is_batched(&reply) {
                true => {
                    let expected = BasicProperties::default()
                        .with_type("rpc.batch".into())
                        .with_content_type(content_type.as_str().into())
                        .with_delivery_mode(1);
                    assert_eq!(reply.properties, expected);
                    for answer in unbatched::<BatchedAnswer>(&reply.data) {
                        let id = Uuid::from_slice(&answer.id).unwrap();
                        let answer = Answered {
                            kind: answer.kind,
                            content_type: content_type.clone(),
                            body: answer.body.to_vec(),
                            wanted: Some(answer.wanted).filter(|wanted| *wanted > 0),
                        };
                        answered = add(id, answer);
                    }
                }
                false => {
                    let id = Uuid::parse_str(&text(reply.properties.correlation_id())).unwrap();
                    let kinds = ["result", "error", "fault"];
                    let kind = text(reply.properties.kind());
                    let kind = kinds.iter().position(|known| *known == kind).unwrap();
                    let answer = Answered {
                        kind: kind as u8,
                        content_type,
                        body: reply.data,
                        wanted: headers(&reply.properties)
                            .get(BATCHING)
                            .map(|wanted| wanted.parse().unwrap()),
                    };
                    answered = add(id, answer);
                }
            }
        }
        assert_eq!(answered, count, "no more than were asked");
        answers
    }

    /// All that was sent is settled: else the batched queue would not go with its worker. And no
    /// answer is left.
    pub(super) async fn ends_well(mut self, server: RunningServer) {
        let last = BatchedCall::numbered("echo", 77);
        self.send(std::slice::from_ref(&last)).await;
        let answer = self.answers(1).await;
        assert_eq!(answer[&last.id()].value::<u64>(), 77);
        soon("the drain", server.stop()).await.unwrap();
        assert_eq!(
            self.peer.queue_depth(&batched(&self.queue)).await.unwrap(),
            None,
            "all was settled"
        );
        self.peer.wait_until_empty(&self.queue, SOON).await.unwrap();
        let deleted = self
            .peer
            .channel()
            .queue_delete(self.queue.as_str().into(), Default::default());
        deleted.await.unwrap();
        let more = futures_util::FutureExt::now_or_never(self.replies.next());
        assert!(more.is_none(), "one call, one answer: {more:?}");
    }
}

pub(super) async fn broker() -> Broker {
    Broker::connect(shared().await).await.unwrap()
}
