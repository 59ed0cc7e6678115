//! Answers the requests that reach a worker through the control exchange.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::answers::Answers;
use super::broadcasts::{Broadcasts, ReceivedBroadcast, TIME_TO_LIVE};
use super::calls::{Calls, ControlLog};
use super::methods::ControlMethods;
use crate::protocol::{DISCOVERY_KEY, Message, ShortStr};
use crate::server::reply_channel::ReplyChannel;
use crate::service::{Decision, Executor, Received, RequestLabel, RequestSource, Rules};
use crate::transport::Delivery;

/// How long a worker tries to answer a discovery request, and how long its sender waits by default.
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers control messages.
pub(super) struct Responder {
    /// By routing key.
    executors: HashMap<ShortStr, Arc<Executor>>,
    pub(super) calls: Calls,
    broadcasts: Broadcasts,
    answers: Answers,
}

impl Responder {
    pub(super) fn new(methods: ControlMethods, rules: &Rules, channel: Arc<ReplyChannel>) -> Self {
        Self {
            calls: Calls {
                worker: methods.identity.id(),
                cancellations: methods.cancellations(),
                streams: methods.streams.clone(),
                log: ControlLog::default(),
            },
            answers: Answers {
                channel,
                identity: Arc::clone(&methods.identity),
                describes_itself: methods.discovery.is_some(),
            },
            broadcasts: Broadcasts::default(),
            executors: methods.executors(rules),
        }
    }

    /// The routing keys of the messages that it handles.
    pub(super) fn keys(&self) -> Arc<[ShortStr]> {
        let of_streams = self.calls.streams.is_some().then(|| self.calls.worker.clone());
        let keys = self.executors.keys().cloned().chain(of_streams);
        keys.collect::<HashSet<_>>().into_iter().collect()
    }

    /// Answers a control message. `ack` acknowledges it.
    pub(super) async fn answer(&self, delivery: Delivery, ack: impl FnOnce() + Send) {
        // A message that was sent directly to the queue has no key. The key of this worker has no
        // executor if the worker does not describe itself.
        let key = delivery.control_key.as_ref();
        let Some((key, executor)) = key.and_then(|key| self.executors.get_key_value(key)) else {
            ack();
            let reason = "it did not come through the control exchange";
            return self.calls.log.ignored("foreign", reason);
        };
        match (executor.source(), delivery.malformed) {
            (RequestSource::Discovery, Some(malformed)) => {
                ack();
                self.calls.log.ignored("malformed", malformed);
            }
            (RequestSource::Discovery, None) => {
                // Layers may delay the method for longer than the sender waits.
                let answering = self.answer_discovery(executor, delivery.message, delivery.redelivered);
                if timeout(DISCOVERY_TIMEOUT, answering).await.is_err() {
                    executor.log.discovery_timed_out();
                }
                ack();
            }
            (RequestSource::Queue | RequestSource::InProcess, malformed) => {
                let broadcast = ReceivedBroadcast {
                    queue: key.as_str(),
                    executor,
                    arrived: Instant::now(),
                    label: RequestLabel::of(&delivery.message.properties),
                    wait: delivery.message.properties.expiration.unwrap_or(TIME_TO_LIVE),
                    redelivered: delivery.redelivered,
                };
                self.broadcasts
                    .answer(&self.answers, broadcast, delivery.message, malformed, ack)
                    .await;
            }
        }
    }

    /// Runs a built-in method for a discovery request, and replies.
    async fn answer_discovery(&self, executor: &Executor, message: Message, redelivered: bool) {
        let now = Instant::now();
        let decided = executor.decide(message, redelivered, Received::at(now), now);
        let expects_no_reply = |decision: &Decision<'_>| decision.reply_to().is_none();
        if decided.as_ref().is_ok_and(expects_no_reply) {
            // The built-in methods do nothing but reply.
            return;
        }
        let label = RequestLabel::default();
        let executing = self.answers.execute(DISCOVERY_KEY, executor, decided, &label);
        if let Some(reply) = executing.await {
            self.answers.reply(reply, now + DISCOVERY_TIMEOUT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;
    use tokio_util::task::AbortOnDropHandle;

    use super::super::broadcasts::{MAX_REPLIES, MAX_REPLY_WAIT};
    use super::super::methods::ControlledQueue;
    use super::*;
    use crate::codec::Codec;
    use crate::protocol::{Headers, ReplyAddresses, Request};
    use crate::server::worker_identity::WorkerIdentity;
    use crate::service;
    use crate::service::Dispatcher;
    use crate::transport::memory::{InProcessBroker, MemoryTransport};

    #[service(queue = "cache")]
    trait Cache {
        #[rpc(broadcast)]
        async fn clear(&self);
    }

    /// Counts how often the cache was cleared.
    #[derive(Clone, Default)]
    struct Cleared(Arc<AtomicUsize>);

    impl Cache for Cleared {
        async fn clear(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn responder(cleared: &Cleared, channel: ReplyChannel) -> Responder {
        let mut dispatcher = Dispatcher::default();
        let service = Arc::new(CacheServer::new(cleared.clone()));
        dispatcher.add(service, "cache").unwrap();
        let identity = Arc::new(WorkerIdentity::new(None, None, None));
        let methods = ControlMethods {
            identity: Arc::clone(&identity),
            streams: None,
            discovery: None,
            queues: vec![ControlledQueue {
                name: ShortStr::from_static("cache"),
                broadcasts: dispatcher.take_broadcasts(),
                cancellations: None,
            }],
        };
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: 1000,
            max_sent_bytes: 1000,
            max_deliveries: 0,
            is_classic: false,
            admission: true,
            layers_may_answer: false,
        };
        Responder::new(methods, &rules, Arc::new(channel))
    }

    fn broadcast(method: &'static str) -> Delivery {
        let request = Request {
            method: Some(ShortStr::from_static(method)),
            codec: Codec::MessagePack,
            correlation_id: Some(ShortStr::from_static("1")),
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            time_to_live: Some(Duration::from_secs(3600)),
            persistent: false,
            priority: None,
            app_id: None,
            user_id: None,
            headers: Headers::default(),
            asks_batch_size: false,
            credit: None,
            sends_items: false,
            dead_lettered: None,
            arguments: bytes::Bytes::from_static(b"\x80"),
        };
        Delivery {
            message: request.into_message(),
            redelivered: false,
            tag: 1,
            malformed: None,
            control_key: Some(ShortStr::from_static("cache")),
        }
    }

    /// Each caller waits for an hour, and the broker blocks publishers all the time.
    #[tokio::test(start_paused = true)]
    async fn replies_that_cannot_be_sent_hold_up_no_broadcast() {
        for (method, runs) in [("clear", 200), ("unknown", 0)] {
            let transport = Arc::new(MemoryTransport::new(&InProcessBroker::new()));
            let (channel, keeping) = ReplyChannel::new(Arc::clone(&transport) as _);
            let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
            channel.wait_ready().await.unwrap();
            transport.block(true);
            let cleared = Cleared::default();
            let responder = Arc::new(responder(&cleared, channel));
            let acked = Arc::new(AtomicUsize::new(0));
            let mut answers = Vec::new();
            for _ in 0..200 {
                let (responder, acked) = (Arc::clone(&responder), Arc::clone(&acked));
                answers.push(AbortOnDropHandle::new(tokio::spawn(async move {
                    let ack = || _ = acked.fetch_add(1, Ordering::Relaxed);
                    responder.answer(broadcast(method), ack).await;
                })));
                sleep(Duration::from_millis(100)).await;
            }
            sleep(2 * MAX_REPLY_WAIT).await;
            assert_eq!(cleared.0.load(Ordering::Relaxed), runs);
            assert_eq!(acked.load(Ordering::Relaxed), 200);
            let waiting = answers.iter().filter(|answer| !answer.is_finished());
            assert_eq!(waiting.count(), MAX_REPLIES);
        }
    }
}
