//! A worker that is none of ours, and does nothing by itself.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use lapin::Consumer;
use rpc_runtime::{Broker, Call, CallError, Codec};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use tokio::task::JoinHandle;

use super::*;

/// A worker that consumes from both queues, and does nothing by itself.
pub(super) struct RawWorker {
    pub(super) peer: RawPeer,
    pub(super) queue: String,
    pub(super) alone: Consumer,
    pub(super) together: Consumer,
    /// Messages go back when it is gone, unless they were settled: as those are that it teaches by.
    settles: bool,
}

/// A message that came, and the calls in it: one, unless it is a batched one.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) delivery: Delivery,
    pub(super) calls: Vec<BatchedCall>,
}

impl Arrival {
    pub(super) fn is_batched(&self) -> bool {
        is_batched(&self.delivery)
    }

    pub(super) fn reply_to(&self) -> String {
        text(self.delivery.properties.reply_to())
    }

    pub(super) fn content_type(&self) -> String {
        text(self.delivery.properties.content_type())
    }

    /// The numbers that its calls were given.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.calls.iter().map(|call| self.number(call)).collect()
    }

    /// Zero where a call has others.
    pub(super) fn number(&self, call: &BatchedCall) -> u64 {
        match self.content_type().as_str() {
            "text/plain" => std::str::from_utf8(&call.arguments).unwrap().parse().unwrap(),
            _ if call.method == "weigh" => 0,
            structured => read::<Numbered>(structured, &call.arguments).n,
        }
    }

    /// An answer to one of its calls: the number that it was given.
    pub(super) fn answer(&self, call: &BatchedCall, wanted: u16) -> BatchedAnswer {
        let body = written(&self.content_type(), &self.number(call)).into();
        BatchedAnswer {
            id: call.id.clone(),
            kind: 0,
            body,
            wanted,
        }
    }
}

pub(super) fn arrival(delivery: Delivery) -> Arrival {
    let properties = &delivery.properties;
    let calls = match is_batched(&delivery) {
        true => unbatched(&delivery.data),
        false => {
            let id = Uuid::parse_str(&text(properties.correlation_id())).expect("a UUID");
            let millis = properties.expiration().as_ref();
            vec![BatchedCall {
                id: Bytes::copy_from_slice(id.as_bytes()),
                method: text(properties.kind()),
                millis: millis.map(|millis| millis.to_string().parse().unwrap()),
                arguments: delivery.data.clone().into(),
                headers: headers(properties),
            }]
        }
    };
    Arrival { delivery, calls }
}

impl RawWorker {
    pub(super) async fn new() -> Self {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let queue = unique("kiosk");
        let batched = batched(&queue);
        for queue in [&queue, &batched] {
            peer.declare(queue).await.unwrap();
        }
        Self {
            alone: peer.consume(&queue).await.unwrap(),
            together: peer.consume(&batched).await.unwrap(),
            peer,
            queue,
            settles: false,
        }
    }

    /// One whose queues, and what it was sent, are there for another one after it.
    pub(super) async fn lost_later() -> Self {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let queue = unique("kiosk");
        let batched = batched(&queue);
        for queue in [&queue, &batched] {
            peer.declare_durable(queue).await.unwrap();
        }
        Self {
            alone: peer.consume_unsettled(&queue).await.unwrap(),
            together: peer.consume_unsettled(&batched).await.unwrap(),
            peer,
            queue,
            settles: true,
        }
    }

    pub(super) async fn client(&self, codec: Codec) -> KioskClient {
        let broker = Broker::connect(shared().await).await.unwrap();
        self.client_of(&broker, codec)
    }

    pub(super) fn client_of(&self, broker: &Broker, codec: Codec) -> KioskClient {
        let builder = KioskClient::builder(broker).queue(&self.queue);
        builder.codec(codec).timeout(SOON).build()
    }

    /// The messages with the next calls, as many as are expected.
    pub(super) async fn arrivals(&mut self, calls: usize) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut arrived = 0;
        while arrived < calls {
            let next = async {
                tokio::select! {
                    alone = self.alone.next() => alone,
                    together = self.together.next() => together,
                }
            };
            let delivery = soon("calls arrive", next).await.expect("it consumes").unwrap();
            let is_alone = delivery.routing_key.as_str() == self.queue;
            assert_ne!(is_batched(&delivery), is_alone, "{delivery:?}");
            let arrival = arrival(delivery);
            arrived += arrival.calls.len();
            arrivals.push(arrival);
        }
        assert_eq!(arrived, calls, "each call once");
        arrivals
    }

    pub(super) async fn reply_batched(&self, to: &Arrival, answers: &[BatchedAnswer]) {
        self.reply_batched_raw(to, &batch(answers)).await;
    }

    pub(super) async fn reply_batched_raw(&self, to: &Arrival, body: &[u8]) {
        let properties = BasicProperties::default()
            .with_type("rpc.batch".into())
            .with_content_type(to.content_type().into());
        self.peer.publish(&to.reply_to(), properties, body).await.unwrap();
    }

    /// Answers a call by itself, with or without a word on how many are wanted in one message.
    pub(super) async fn reply_alone(&self, to: &Arrival, call: &BatchedCall, wanted: Option<&str>) {
        let properties = BasicProperties::default()
            .with_type("result".into())
            .with_content_type(to.content_type().into())
            .with_correlation_id(call.id().to_string().into())
            .with_headers(wanted.map_or_else(FieldTable::default, |wanted| header(BATCHING, wanted)));
        let body = to.answer(call, 0).body;
        self.peer
            .publish(&to.reply_to(), properties, &body)
            .await
            .unwrap();
    }

    /// Answers everything, batched where it came so.
    pub(super) async fn answer(&self, arrivals: &[Arrival], wanted: u16) {
        for arrival in arrivals {
            match arrival.is_batched() {
                true => {
                    let answers = arrival.calls.iter().map(|call| arrival.answer(call, wanted));
                    self.reply_batched(arrival, &answers.collect::<Vec<_>>()).await;
                }
                false => self.reply_alone(arrival, &arrival.calls[0], None).await,
            }
        }
    }

    /// Answers a call, and with it how many of them are wanted in one message.
    pub(super) async fn teach(&mut self, call: Call<u64>, wanted: &str) {
        let call = tokio::spawn(call);
        let arrival = self.arrivals(1).await.remove(0);
        self.reply_alone(&arrival, &arrival.calls[0], Some(wanted)).await;
        if self.settles {
            arrival.delivery.acker.ack(Default::default()).await.unwrap();
        }
        soon("the call ends", call).await.unwrap().unwrap();
    }

    /// So many calls, made at once by a client that was taught that 1000 are wanted in one message.
    pub(super) async fn made_at_once(
        &mut self,
        client: &KioskClient,
        numbers: std::ops::Range<u64>,
    ) -> Calls {
        self.teach(client.echo(0), "1000").await;
        at_once(numbers.map(|n| client.echo(n)))
    }
}

pub(super) type Calls<T = u64> = JoinHandle<Vec<Result<T, CallError>>>;

/// Makes all calls before any of them can leave.
pub(super) fn at_once<T: Send + 'static>(calls: impl Iterator<Item = Call<T>>) -> Calls<T> {
    tokio::spawn(join_all(calls))
}

pub(super) async fn outcomes<T>(calls: Calls<T>) -> Vec<Result<T, CallError>> {
    soon("the calls end", calls).await.unwrap()
}

pub(super) async fn assert_answered(calls: Calls, numbers: std::ops::Range<u64>) {
    let answers: Vec<_> = outcomes(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, numbers.collect::<Vec<_>>());
}

pub(super) fn numbers(arrivals: &[Arrival]) -> BTreeSet<u64> {
    arrivals.iter().flat_map(Arrival::numbers).collect()
}

impl RawWorker {
    /// As [`arrivals`](Self::arrivals), where there is no batched queue.
    pub(super) async fn arrivals_alone(&mut self, calls: usize) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        while arrivals.len() < calls {
            let next = soon("calls arrive", self.alone.next()).await;
            arrivals.push(arrival(next.expect("it consumes").unwrap()));
        }
        arrivals
    }
}
