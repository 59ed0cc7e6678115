use std::pin::pin;
use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::codec::Codec;
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::error::BrokerError;
use crate::protocol::{
    Asks, BatchedCall, COPY_HEADER, DeadLettered, DeathReason, Fault, FaultCode, Headers, IncomingGrant,
    ItemWriter, Malformed, Message, Properties, Reply, ReplyAddresses, ReplyKind, ShortStr, Volume,
    failed_attempts, write_batch,
};
use crate::server::worker_identity::WorkerIdentity;
use crate::service::{Answer, Invocation, ReplyTo, Service, StreamRequest};
use crate::transport::{
    ConfirmListener, Connectivity, ControlQueue, Depth, Outgoing, Published, Publisher, ReplyQueue,
    ReplySubscription, RequestQueue, StatusBoard, Subscription, Transport, injected,
};

/// A broker that answers publishes with these results in turn, and records what happens.
#[derive(Debug, Clone)]
struct RecordingBroker {
    results: Arc<Mutex<Vec<Published>>>,
    events: Arc<Mutex<Vec<&'static str>>>,
    /// The messages that were published.
    sent: Arc<Mutex<Vec<Message>>>,
    /// Where each of them was sent to, and whether it was mandatory.
    sent_to: Arc<Mutex<Vec<(String, bool)>>>,
    board: Arc<StatusBoard>,
    /// Whether messages leave at once.
    sends_at_once: bool,
    never_confirms: bool,
    unconfirmed: Arc<Mutex<Vec<SendToken>>>,
}

impl RecordingBroker {
    fn sent_to(&self) -> Vec<(&'static str, bool)> {
        let sent_to = self.sent_to.lock().unwrap().clone();
        let to = |(queue, mandatory): (String, bool)| (&*queue.leak(), mandatory);
        sent_to.into_iter().map(to).collect()
    }

    fn note(&self, what: &'static str) {
        self.events.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Transport for RecordingBroker {
    async fn queue_exists(&self, _: &ShortStr) -> Option<bool> {
        None
    }

    async fn depth(&self, _: &ShortStr) -> Option<Depth> {
        None
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        Ok(Arc::new(self.clone()))
    }

    async fn open_replies(
        &self,
        _: ReplyQueue,
        _: Option<&ShortStr>,
    ) -> Result<ReplySubscription, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn open_answers(&self) -> Result<ReplySubscription, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn declare_requests(&self, _: &RequestQueue) -> Result<(), BrokerError> {
        self.note("queue declared");
        Ok(())
    }

    async fn delete_if_unused(&self, _: &RequestQueue) -> bool {
        false
    }

    async fn open_requests(&self, _: &RequestQueue, _: u16) -> Result<Subscription, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn open_control(&self, _: &ControlQueue) -> Result<Subscription, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn publish_control(&self, _: &ShortStr, _: Message, _: SendToken) -> Published {
        Published::Withdrawn
    }

    async fn open_control_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        Err(BrokerError::Closed)
    }

    fn status(&self) -> &Arc<StatusBoard> {
        &self.board
    }

    fn runtime(&self) -> tokio::runtime::Handle {
        tokio::runtime::Handle::current()
    }

    async fn close(&self) {}
}

#[async_trait]
impl Publisher for RecordingBroker {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>> {
        if !self.sends_at_once {
            return Err(Box::new(outgoing));
        }
        let broker = self.clone();
        if self.never_confirms {
            self.note("reply sent");
            self.sent.lock().unwrap().push(outgoing.message);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    listener.still_unconfirmed();
                }
            });
            return Ok(());
        }
        tokio::spawn(async move { listener.published(broker.publish(outgoing).await) });
        Ok(())
    }

    async fn wait_ready(&self) {}

    async fn publish(&self, outgoing: Outgoing) -> Published {
        self.note("reply sent");
        let to = (outgoing.queue.to_string(), outgoing.mandatory);
        self.sent_to.lock().unwrap().push(to);
        if self.never_confirms {
            let send_token = outgoing
                .send_token
                .expect("only requests that are moved are never confirmed");
            send_token.claim();
            self.unconfirmed.lock().unwrap().push(send_token);
            self.sent.lock().unwrap().push(outgoing.message);
            return std::future::pending().await;
        }
        self.sent.lock().unwrap().push(outgoing.message);
        // A handler that does not wait for the confirm acks the request here.
        tokio::task::yield_now().await;
        self.note("reply confirmed");
        self.results.lock().unwrap().remove(0)
    }

    async fn wait_closed(&self) -> BrokerError {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        BrokerError::Lost { source: None }
    }
}

#[async_trait]
impl Control for RecordingBroker {
    fn ack(&self, _tag: u64) {
        self.note("request acked");
    }

    fn reject(&self, _tag: u64) {
        self.note("request rejected");
    }

    fn ack_up_to(&self, tag: u64) {
        self.ack(tag);
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) {}

    async fn close_and_delete(&self) {}
}

/// Handles one request that expects a reply, with a broker that answers publishes with these
/// results. The events are the same whether or not the reply leaves at once.
async fn serve(results: Vec<Published>) -> Vec<&'static str> {
    let events = serve_with(results.clone(), false).await;
    assert_eq!(serve_with(results, true).await, events);
    events
}

fn broker(results: Vec<Published>, sends_at_once: bool) -> RecordingBroker {
    RecordingBroker {
        sends_at_once,
        never_confirms: false,
        unconfirmed: Arc::default(),
        results: Arc::new(Mutex::new(results)),
        events: Arc::default(),
        sent: Arc::default(),
        sent_to: Arc::default(),
        board: Arc::new(StatusBoard::new(&Connectivity::Up)),
    }
}

fn handler(channel: Arc<ReplyChannel>, reply_sender: ReplySender) -> RequestHandler {
    handler_of(Dispatcher::default(), channel, reply_sender)
}

fn handler_of(
    dispatcher: Dispatcher,
    channel: Arc<ReplyChannel>,
    reply_sender: ReplySender,
) -> RequestHandler {
    let rules = Rules {
        reply_addresses: ReplyAddresses::default(),
        max_accepted_bytes: 100,
        max_sent_bytes: 100,
        max_deliveries: 20,
        is_classic: false,
        admission: true,
        layers_may_answer: false,
    };
    RequestHandler::new(
        "q".into(),
        dispatcher,
        rules,
        channel,
        reply_sender,
        1,
        Arc::new(Probes::new()),
    )
}

async fn serve_with(results: Vec<Published>, sends_at_once: bool) -> Vec<&'static str> {
    let properties = Properties {
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        ..Properties::default()
    };
    serve_one(results, sends_at_once, properties, None, false).await
}

/// The channel, the sender, and their tasks.
async fn reply_parts(
    broker: &RecordingBroker,
) -> (Arc<ReplyChannel>, ReplySender, [AbortOnDropHandle<()>; 2]) {
    let (channel, keep_open) = ReplyChannel::new(Arc::new(broker.clone()));
    let channel_task = AbortOnDropHandle::new(tokio::spawn(keep_open));
    channel.wait_ready().await.unwrap();
    let channel = Arc::new(channel);
    let (reply_sender, sending) = ReplySender::new(Arc::clone(&channel), 100);
    let sender_task = AbortOnDropHandle::new(tokio::spawn(sending));
    (channel, reply_sender, [channel_task, sender_task])
}

async fn serve_one(
    results: Vec<Published>,
    sends_at_once: bool,
    properties: Properties,
    malformed: Option<Malformed>,
    is_batched: bool,
) -> Vec<&'static str> {
    serve_on(&broker(results, sends_at_once), properties, malformed, is_batched).await
}

async fn serve_on(
    broker: &RecordingBroker,
    properties: Properties,
    malformed: Option<Malformed>,
    is_batched: bool,
) -> Vec<&'static str> {
    let (channel, reply_sender, _tasks) = reply_parts(broker).await;
    let handler = Arc::new(handler(channel, reply_sender));
    let delivery = Delivery {
        message: Message {
            properties,
            ..Message::default()
        },
        redelivered: false,
        tag: 1,
        malformed,
        control_key: None,
    };
    let in_progress = RequestsInProgress::default();
    handler
        .handle(
            Box::new(delivery),
            is_batched,
            Arc::new(broker.clone()),
            Received::at(Instant::now()),
            &in_progress,
        )
        .await;
    in_progress.wait_idle().await;
    broker.events.lock().unwrap().clone()
}

/// Each request in progress has a task with this future, which is moved several times. The limit
/// leaves room for other versions of the compiler; here it takes some 3,300 bytes.
#[tokio::test(start_paused = true)]
async fn a_request_in_progress_takes_little_memory() {
    let (channel, reply_sender, _tasks) = reply_parts(&broker(vec![], true)).await;
    let handler = Arc::new(handler(channel, reply_sender));
    let control: Arc<dyn Control> = Arc::new(broker(vec![], true));
    let (delivery, received) = (Box::new(job(false)), Received::at(Instant::now()));
    let in_progress = RequestsInProgress::default();
    let handling = handler.handle(delivery, false, control, received, &in_progress);
    assert!(size_of_val(&handling) <= 4096, "{}", size_of_val(&handling));
}

#[tokio::test(start_paused = true)]
async fn a_panic_abandons_the_requests_whose_replies_were_being_sent_and_no_others() {
    let broker = broker(vec![Published::Confirmed], false);
    let (channel, reply_sender, _tasks) = reply_parts(&broker).await;
    let handler = Arc::new(handler(channel, reply_sender));
    let serve = async |in_progress: &RequestsInProgress| {
        let properties = Properties {
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            ..Properties::default()
        };
        let message = Message {
            properties,
            ..Message::default()
        };
        let delivery = Delivery {
            message,
            redelivered: false,
            tag: 1,
            malformed: None,
            control_key: None,
        };
        handler
            .handle(
                Box::new(delivery),
                false,
                Arc::new(broker.clone()),
                Received::at(Instant::now()),
                in_progress,
            )
            .await;
    };
    let in_progress = RequestsInProgress::default();
    serve(&in_progress).await;
    // Wait until the task has the reply.
    while broker.events.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    injected::panic_next("replies");
    let abandoned = tokio::time::timeout(Duration::from_secs(60), in_progress.wait_abandoned());
    abandoned.await.expect("the request is abandoned");
    in_progress.wait_idle().await;
    assert_eq!(*broker.events.lock().unwrap(), ["reply sent"]);
    let in_progress = RequestsInProgress::default();
    serve(&in_progress).await;
    in_progress.wait_idle().await;
    let events = ["reply sent", "reply sent", "reply confirmed", "request acked"];
    assert_eq!(*broker.events.lock().unwrap(), events);
}

fn failed(source: BrokerError) -> Published {
    Published::Failed {
        source,
        written: true,
    }
}

const SENT: [&str; 2] = ["reply sent", "reply confirmed"];

#[tokio::test(start_paused = true)]
async fn a_request_is_acked_only_after_its_reply_is_confirmed() {
    for published in [Published::Confirmed, Published::Refused] {
        assert_eq!(
            serve(vec![published]).await,
            [&SENT[..], &["request acked"]].concat()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_may_be_lost_is_sent_again_before_its_request_is_acked() {
    let results = vec![failed(BrokerError::Lost { source: None }), Published::Confirmed];
    assert_eq!(
        serve(results).await,
        [&SENT[..], &SENT, &["request acked"]].concat()
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_reply_may_be_lost_is_not_acked() {
    assert_eq!(serve(vec![failed(BrokerError::Closed)]).await, SENT);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_closes_its_channels_is_replaced_by_a_fault() {
    let closed = || {
        failed(BrokerError::ChannelClosed {
            source: crate::error::Cause::new("PRECONDITION_FAILED"),
        })
    };
    let results = vec![closed(), closed(), Published::Confirmed];
    let events = [&SENT[..], &SENT, &SENT, &["request acked"]].concat();
    assert_eq!(serve(results).await, events);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_is_answered_and_acked_or_else_rejected() {
    let malformed = Some(Malformed::HeaderName);
    let answered = Properties {
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        correlation_id: Some(ShortStr::from_static("7")),
        ..Properties::default()
    };
    let forbidden = Properties {
        reply_to: Some(ShortStr::from_static("orders")),
        ..Properties::default()
    };
    let dead_lettered = Properties {
        dead_lettered: Some(DeadLettered {
            rejections: MAX_REJECTIONS,
            ..DeadLettered::default()
        }),
        ..Properties::default()
    };
    for is_batched in [false, true] {
        let (answered, results) = (answered.clone(), vec![Published::Confirmed]);
        let events = serve_one(results, true, answered, malformed, is_batched).await;
        assert_eq!(events, [&SENT[..], &["request acked"]].concat());
        for (properties, events) in [
            (Properties::default(), "request rejected"),
            (forbidden.clone(), "request rejected"),
            (dead_lettered.clone(), "request acked"),
        ] {
            let done = serve_one(Vec::new(), true, properties, malformed, is_batched).await;
            assert_eq!(done, [events]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_messages_on_the_queue_for_batches_are_batches() {
    let request = Properties {
        kind: Some(ShortStr::from_static("rpc.batch")),
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        correlation_id: Some(ShortStr::from_static("7")),
        ..Properties::default()
    };
    // As a request, the service does not have its method. As a batch, it cannot be read.
    for is_batched in [false, true] {
        let (request, results) = (request.clone(), vec![Published::Confirmed]);
        let events = serve_one(results, true, request, None, is_batched).await;
        assert_eq!(events, [&SENT[..], &["request acked"]].concat());
        let events = serve_one(Vec::new(), true, Properties::default(), None, is_batched).await;
        assert_eq!(events, ["request rejected"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_read_is_rejected_until_it_was_rejected_too_often() {
    for (rejections, events) in [(0, "request rejected"), (MAX_REJECTIONS, "request acked")] {
        let properties = Properties {
            dead_lettered: Some(DeadLettered {
                rejections,
                ..DeadLettered::default()
            }),
            ..Properties::default()
        };
        assert_eq!(
            serve_one(Vec::new(), true, properties, None, true).await,
            [events]
        );
    }
}

#[test]
fn a_request_without_a_reply_address_is_recognized_only_by_a_uuid() {
    let is_recognized = |reply_to, id: &str| {
        let message = Message {
            properties: Properties {
                reply_to,
                correlation_id: Some(ShortStr::new(id).unwrap()),
                ..Properties::default()
            },
            ..Message::default()
        };
        let delivery = Delivery {
            message,
            redelivered: false,
            tag: 1,
            malformed: None,
            control_key: None,
        };
        request_key(&delivery).is_some()
    };
    let address = || Some(ShortStr::from_static("amq.gen-1"));
    let uuid = uuid::Uuid::new_v4().to_string();
    assert!(is_recognized(address(), "order-7"));
    assert!(is_recognized(address(), &uuid));
    assert!(is_recognized(None, &uuid));
    assert!(!is_recognized(None, "order-7"));
    assert!(!is_recognized(Some(ShortStr::from_static("")), "order-7"));
}

const READ: MethodDescriptor = MethodDescriptor::new("read", &[]).idempotent().default_method();
static STORE: ServiceDescriptor = ServiceDescriptor::new("Store", "store", &[READ]);

struct Store;

impl Service for Store {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &STORE
    }

    fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async { invocation.answer(()) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_request_expires_at_its_deadline() {
    let second = Duration::from_secs(1);
    let broker = broker(vec![Published::Confirmed; 3], true);
    let (channel, reply_sender, _tasks) = reply_parts(&broker).await;
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Store), "q").unwrap();
    let handler = Arc::new(handler_of(dispatcher, channel, reply_sender));
    let batch = [Some(3 * second), Some(second), None].map(|time| batched_call("read", time));
    let properties = Properties {
        content_type: Some(ShortStr::from_static("application/json")),
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        ..Properties::default()
    };
    let delivery = Delivery {
        message: Message {
            properties,
            body: write_batch(&batch),
        },
        redelivered: true,
        tag: 1,
        malformed: None,
        control_key: None,
    };
    let received = Received {
        waited: second,
        ..Received::at(Instant::now())
    };
    let in_progress = RequestsInProgress::default();
    handler
        .handle(
            Box::new(delivery),
            true,
            Arc::new(broker.clone()),
            received,
            &in_progress,
        )
        .await;
    in_progress.wait_idle().await;
    let mut sent = broker.sent.lock().unwrap().clone();
    sent.sort_by_key(|message| message.properties.kind.clone().map(|kind| kind.to_string()));
    let sent: Vec<_> = sent
        .iter()
        .map(|message| {
            let Properties { kind, expiration, .. } = &message.properties;
            (kind.as_ref().map(ShortStr::as_str), *expiration)
        })
        .collect();
    // The request whose deadline has passed is answered.
    let copies = [
        (Some("fault"), None),
        (Some("read"), Some(2 * second)),
        (Some("read"), None),
    ];
    assert_eq!(sent, copies);
}

/// As in a request of its own.
#[tokio::test(start_paused = true)]
async fn a_batched_request_whose_method_is_empty_runs_the_default_one() {
    let broker = broker(vec![Published::Confirmed], true);
    let (channel, reply_sender, _tasks) = reply_parts(&broker).await;
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Store), "q").unwrap();
    let handler = Arc::new(handler_of(dispatcher, channel, reply_sender));
    let properties = Properties {
        content_type: Some(ShortStr::from_static("application/json")),
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        ..Properties::default()
    };
    let delivery = Delivery {
        message: Message {
            properties,
            body: write_batch(&[batched_call("", None)]),
        },
        redelivered: false,
        tag: 1,
        malformed: None,
        control_key: None,
    };
    let in_progress = RequestsInProgress::default();
    handler
        .handle(
            Box::new(delivery),
            true,
            Arc::new(broker.clone()),
            Received::at(Instant::now()),
            &in_progress,
        )
        .await;
    in_progress.wait_idle().await;
    let sent = broker.sent.lock().unwrap().clone();
    let reply = Reply::from_message(sent[0].clone(), Codec::Json).unwrap();
    assert_eq!(reply.kind, ReplyKind::Result);
}

/// As a request of its own would be.
#[tokio::test(start_paused = true)]
async fn a_batched_request_that_expects_a_reply_does_not_run_after_it_expired() {
    let broker = broker(vec![Published::Confirmed], true);
    let (channel, reply_sender, _tasks) = reply_parts(&broker).await;
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Store), "q").unwrap();
    let handler = Arc::new(handler_of(dispatcher, channel, reply_sender));
    let mut dead = DeadLettered::default();
    dead.add(DeathReason::Expired, 1, None);
    let properties = Properties {
        content_type: Some(ShortStr::from_static("application/json")),
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        dead_lettered: Some(dead),
        ..Properties::default()
    };
    let call = BatchedCall {
        id: uuid::Uuid::new_v4(),
        method: ShortStr::from_static("read"),
        time_to_live: None,
        arguments: bytes::Bytes::from_static(b"[]"),
        headers: Headers::default(),
    };
    let delivery = Delivery {
        message: Message {
            properties,
            body: write_batch(&[call]),
        },
        redelivered: false,
        tag: 1,
        malformed: None,
        control_key: None,
    };
    let in_progress = RequestsInProgress::default();
    handler
        .handle(
            Box::new(delivery),
            true,
            Arc::new(broker.clone()),
            Received::at(Instant::now()),
            &in_progress,
        )
        .await;
    in_progress.wait_idle().await;
    let sent = broker.sent.lock().unwrap().clone();
    let reply = Reply::from_message(sent[0].clone(), Codec::Json).unwrap();
    assert_eq!(reply.read_fault().code, FaultCode::Expired);
}

const SEND: MethodDescriptor = MethodDescriptor::new("send", &[]).oneway().idempotent();
static MAIL: ServiceDescriptor = ServiceDescriptor::new("Mail", "mail", &[SEND]);

/// Its only job always fails.
struct Mail;

impl Service for Mail {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &MAIL
    }

    fn handle<'a>(&'a self, _: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async { Err(Fault::new(FaultCode::Panicked, "a planned panic")) })
    }
}

/// A handler of jobs, whose copies go to the first broker and whose replies go to the second one.
async fn job_handler(
    copies: &RecordingBroker,
    replies: &RecordingBroker,
) -> (Arc<RequestHandler>, impl Sized + use<>) {
    let (channel, reply_sender, tasks) = reply_parts(replies).await;
    let (job_channel, _, job_tasks) = reply_parts(copies).await;
    let transport: Arc<dyn Transport> = Arc::new(copies.clone());
    let jobs = JobQueues::new(&RequestQueue::new("q"), Arc::downgrade(&transport), job_channel);
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Mail), "q").unwrap();
    let handler = handler_of(dispatcher, channel, reply_sender).with_jobs(Some(jobs));
    (Arc::new(handler), (transport, tasks, job_tasks))
}

fn job(redelivered: bool) -> Delivery {
    Delivery {
        message: Message {
            properties: Properties {
                kind: Some(ShortStr::from_static("send")),
                content_type: Some(ShortStr::from_static("application/json")),
                correlation_id: Some(ShortStr::from_uuid(uuid::Uuid::new_v4())),
                ..Properties::default()
            },
            body: bytes::Bytes::from_static(b"[]"),
        },
        redelivered,
        tag: 1,
        malformed: None,
        control_key: None,
    }
}

/// What a retry queue says about a message.
fn waited() -> DeadLettered {
    let mut waited = DeadLettered::default();
    waited.add(DeathReason::Expired, 1, None);
    waited
}

fn batched_call(method: &'static str, time_to_live: Option<Duration>) -> BatchedCall {
    BatchedCall {
        id: uuid::Uuid::new_v4(),
        method: ShortStr::from_static(method),
        time_to_live,
        arguments: bytes::Bytes::from_static(b"[]"),
        headers: Headers::default(),
    }
}

fn redelivered_batch(jobs: usize) -> Delivery {
    let calls: Vec<_> = (0..jobs).map(|_| batched_call("send", None)).collect();
    let mut delivery = job(true);
    delivery.message.body = write_batch(&calls);
    delivery
}

/// Handles a job. If `loses_delivery`, its subscription is lost after two copies were published.
/// Returns the broker for copies.
async fn serve_job(results: Vec<Published>, redelivered: bool, loses_delivery: bool) -> RecordingBroker {
    let (copies, replies) = (broker(results, false), broker(Vec::new(), false));
    let (handler, _tasks) = job_handler(&copies, &replies).await;
    let control: Arc<dyn Control> = Arc::new(copies.clone());
    let in_progress = RequestsInProgress::default();
    let received = Received::at(Instant::now());
    let handling = handler.handle(
        Box::new(job(redelivered)),
        false,
        Arc::clone(&control),
        received,
        &in_progress,
    );
    let losing = async {
        while loses_delivery && copies.events.lock().unwrap().len() < 2 * SENT.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if loses_delivery {
            handler.forget_deliveries(&control);
        }
    };
    tokio::join!(handling, losing);
    in_progress.wait_idle().await;
    assert!(
        replies.sent.lock().unwrap().is_empty(),
        "no copy goes to the channel of replies"
    );
    copies
}

#[tokio::test(start_paused = true)]
async fn a_job_is_acked_only_after_its_copy_is_confirmed() {
    let results = vec![Published::Refused, Published::Confirmed];
    let copies = serve_job(results, false, false).await;
    let events = [&SENT[..], &SENT, &["request acked"]].concat();
    assert_eq!(*copies.events.lock().unwrap(), events);
}

/// The broker delivers it again, possibly to another worker, which moves it.
#[tokio::test(start_paused = true)]
async fn a_job_is_not_moved_any_more_once_its_delivery_is_lost() {
    let results = vec![Published::Refused, Published::Refused, Published::Confirmed];
    let copies = serve_job(results, false, true).await;
    assert_eq!(*copies.events.lock().unwrap(), [SENT, SENT].concat());
}

/// A quorum queue without a leader confirms nothing. Publishing again would only add copies.
#[tokio::test(start_paused = true)]
async fn a_job_whose_copy_is_never_confirmed_is_kept_until_its_delivery_is_lost() {
    let mut copies = broker(Vec::new(), false);
    copies.never_confirms = true;
    let (handler, _tasks) = job_handler(&copies, &copies).await;
    let control: Arc<dyn Control> = Arc::new(copies.clone());
    let in_progress = RequestsInProgress::default();
    let received = Received::at(Instant::now());
    let mut handling = pin!(handler.handle(
        Box::new(job(false)),
        false,
        Arc::clone(&control),
        received,
        &in_progress
    ));
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, &mut handling).await.is_err());
    handler.forget_deliveries(&control);
    tokio::time::timeout(hour, handling)
        .await
        .expect("it is forgotten");
    in_progress.wait_idle().await;
    assert_eq!(*copies.events.lock().unwrap(), ["reply sent"]);
}

/// The queue of a redelivered job exists, because its worker consumes it. The confirm of a
/// mandatory copy may come only after the copy was delivered.
#[tokio::test(start_paused = true)]
async fn a_copy_is_mandatory_unless_it_returns_to_its_queue() {
    for (redelivered, to) in [(false, ("q.dead", true)), (true, ("q", false))] {
        let copies = serve_job(vec![Published::Confirmed], redelivered, false).await;
        assert_eq!(copies.sent_to(), [to]);
    }
}

/// One of them may crash the worker, and must not do so again before the batch is acked.
#[tokio::test(start_paused = true)]
async fn the_jobs_of_a_redelivered_batch_wait_in_a_retry_queue() {
    let copies = broker(vec![Published::Confirmed; 2], false);
    let (handler, _tasks) = job_handler(&copies, &copies).await;
    let delivery = redelivered_batch(2);
    let in_progress = RequestsInProgress::default();
    let (control, received) = (Arc::new(copies.clone()), Received::at(Instant::now()));
    handler
        .handle(Box::new(delivery), true, control, received, &in_progress)
        .await;
    assert_eq!(copies.sent_to(), [("q.retry.10000", true); 2]);
    for message in &*copies.sent.lock().unwrap() {
        let headers = &message.properties.headers;
        assert_eq!(redelivery_count(headers), 1);
        assert_eq!(failed_attempts(headers), 0);
    }
    assert_eq!(copies.events.lock().unwrap().last(), Some(&"request acked"));
}

/// If the jobs stayed, so would their batch. One of them may crash the worker that gets it.
#[tokio::test(start_paused = true)]
async fn jobs_of_a_redelivered_batch_that_no_retry_queue_takes_return_and_wait_with_their_worker() {
    for published in [Published::Refused, Published::Returned] {
        let is_declared = matches!(published, Published::Returned);
        let attempts = if is_declared { 4 } else { 2 };
        let results = [vec![published; attempts], vec![Published::Confirmed; 3]].concat();
        let copies = broker(results, false);
        let (handler, _tasks) = job_handler(&copies, &copies).await;
        let in_progress = RequestsInProgress::default();
        let control: Arc<dyn Control> = Arc::new(copies.clone());
        let received = Received::at(Instant::now());
        handler
            .handle(
                Box::new(redelivered_batch(2)),
                true,
                Arc::clone(&control),
                received,
                &in_progress,
            )
            .await;
        let sent_to = copies.sent_to();
        assert_eq!(sent_to[..attempts], vec![("q.retry.10000", true); attempts]);
        assert_eq!(sent_to[attempts..], [("q", false); 2]);
        assert_eq!(copies.events.lock().unwrap().last(), Some(&"request acked"));

        // One of them is delivered. It fails, and has no retries.
        let mut delivery = job(false);
        delivery.message = copies.sent.lock().unwrap().last().unwrap().clone();
        assert_eq!(redelivery_count(&delivery.message.properties.headers), 1);
        let received = Received::at(Instant::now());
        handler
            .handle(Box::new(delivery), false, control, received, &in_progress)
            .await;
        // The channel may be opening, which takes up to a second.
        assert!((2..=4).contains(&received.at.elapsed().as_secs()));
        assert_eq!(copies.sent_to().last(), Some(&("q.dead", true)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_redelivered_job_pauses_unless_it_has_waited() {
    for (dead_lettered, pauses) in [(None, true), (Some(waited()), false)] {
        let copies = broker(vec![Published::Confirmed], false);
        let (handler, _tasks) = job_handler(&copies, &copies).await;
        let mut delivery = job(false);
        let properties = &mut delivery.message.properties;
        properties.dead_lettered = dead_lettered;
        Origin::mark_moved(&mut properties.headers);
        set_redelivery_count(&mut properties.headers, 1);
        let in_progress = RequestsInProgress::default();
        let (control, received) = (Arc::new(copies.clone()), Received::at(Instant::now()));
        handler
            .handle(Box::new(delivery), false, control, received, &in_progress)
            .await;
        assert_eq!(received.at.elapsed() >= COPY_PAUSE, pauses);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_queue_is_declared_once_for_all_jobs_that_need_it() {
    let returned = vec![Published::Returned; 3];
    let results = [returned, vec![Published::Confirmed; 3]].concat();
    let copies = broker(results, false);
    let (handler, _tasks) = job_handler(&copies, &copies).await;
    let in_progress = RequestsInProgress::default();
    let (control, received) = (Arc::new(copies.clone()), Received::at(Instant::now()));
    let delivery = redelivered_batch(3);
    handler
        .handle(Box::new(delivery), true, control, received, &in_progress)
        .await;
    assert_eq!(copies.sent_to(), [("q.retry.10000", true); 6]);
    let events = copies.events.lock().unwrap().clone();
    let declares = events.iter().filter(|event| **event == "queue declared");
    assert_eq!(declares.count(), 1);
    assert_eq!(events.last(), Some(&"request acked"));
    assert!(received.at.elapsed() < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn few_forwarded_requests_are_unconfirmed_and_the_others_wait_for_their_deadline() {
    let mut broker = broker(Vec::new(), false);
    broker.never_confirms = true;
    let (channel, reply_sender, _tasks) = reply_parts(&broker).await;
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Store), "q").unwrap();
    let handler = Arc::new(handler_of(dispatcher, channel, reply_sender));
    let minute = Duration::from_secs(60);
    let batch: Vec<_> = (0..100).map(|_| batched_call("read", Some(minute))).collect();
    let mut delivery = job(true);
    delivery.message.properties.reply_to = Some(ShortStr::from_static("amq.gen-1"));
    delivery.message.body = write_batch(&batch);
    let in_progress = RequestsInProgress::default();
    let (control, received) = (Arc::new(broker.clone()), Received::at(Instant::now()));
    let handling = handler.handle(Box::new(delivery), true, control, received, &in_progress);
    let mut handling = pin!(handling);
    let waiting = tokio::time::timeout(minute / 2, &mut handling).await;
    assert!(waiting.is_err());
    assert_eq!(broker.sent_to(), [("q", false); MAX_UNCONFIRMED]);
    handling.await;
    assert_eq!(in_progress.count(), 0);
}

/// Each of them may keep the broker from reading the channel, and many of them the connection.
#[tokio::test(start_paused = true)]
async fn a_queue_that_confirms_nothing_keeps_a_few_copies_and_delays_no_other_queue() {
    let mut copies = broker(Vec::new(), false);
    copies.never_confirms = true;
    let (handler, _tasks) = job_handler(&copies, &copies).await;
    let in_progress = RequestsInProgress::default();
    let control: Arc<dyn Control> = Arc::new(copies.clone());
    let received = Received::at(Instant::now());
    let handle = |delivery, is_batch| {
        handler.handle(
            Box::new(delivery),
            is_batch,
            control.clone(),
            received,
            &in_progress,
        )
    };
    let handling = join(handle(redelivered_batch(100), true), handle(job(false), false));
    let mut handling = pin!(handling);
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, &mut handling).await.is_err());
    let sent = |queue| copies.sent_to().iter().filter(|(to, _)| *to == queue).count();
    assert_eq!((sent("q.retry.10000"), sent("q.dead")), (MAX_UNCONFIRMED, 1));
    // After half a minute, the jobs of the batch try another queue.
    assert_eq!(sent("q"), MAX_UNCONFIRMED);

    // The copies stay unconfirmed although the broker delivers the jobs again.
    handler.forget_deliveries(&control);
    let forgetting = tokio::time::timeout(hour, handling);
    forgetting.await.expect("they are forgotten");
    let again = handle(redelivered_batch(100), true);
    assert!(tokio::time::timeout(hour, again).await.is_err());
    assert_eq!(
        (sent("q.retry.10000"), sent("q")),
        (MAX_UNCONFIRMED, MAX_UNCONFIRMED)
    );
}

/// A job that the dead-letter queue does not take waits elsewhere, and does not run again.
#[tokio::test(start_paused = true)]
async fn a_job_that_was_given_up_waits_until_the_dead_letter_queue_takes_it() {
    let begun = Instant::now();
    let copies = serve_job(vec![Published::Refused, Published::Confirmed], false, false).await;
    assert_eq!(copies.sent_to(), [("q.dead", true), ("q.retry.10000", true)]);
    assert!(begun.elapsed() < Duration::from_secs(1));
    let sent = copies.sent.lock().unwrap().clone();
    assert!(!is_given_up(&sent[0].properties.headers));
    assert!(is_given_up(&sent[1].properties.headers));

    // It comes back.
    let copies = broker(vec![Published::Confirmed], false);
    let (handler, _tasks) = job_handler(&copies, &copies).await;
    let mut delivery = job(false);
    delivery.message = sent[1].clone();
    delivery.message.properties.dead_lettered = Some(waited());
    let in_progress = RequestsInProgress::default();
    let (control, received) = (Arc::new(copies.clone()), Received::at(Instant::now()));
    handler
        .handle(Box::new(delivery), false, control, received, &in_progress)
        .await;
    assert_eq!(copies.sent_to(), [("q.dead", true)]);
    let letter = copies.sent.lock().unwrap().remove(0);
    let without_token = |message: &Message| {
        let mut headers = message.properties.headers.clone();
        headers.remove(COPY_HEADER);
        headers
    };
    assert_eq!(without_token(&letter), without_token(&sent[0]));
    assert_eq!(copies.events.lock().unwrap().last(), Some(&"request acked"));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_no_queue_takes_is_offered_to_both_in_turn() {
    for (redelivered, queues) in [
        (false, [("q.dead", true), ("q.retry.10000", true)]),
        (true, [("q", false), ("q.retry.100", true)]),
    ] {
        let begun = Instant::now();
        let refused = vec![Published::Refused; 4];
        let results = [refused, vec![Published::Confirmed]].concat();
        let copies = serve_job(results, redelivered, false).await;
        let [wanted, fallback] = queues;
        assert_eq!(copies.sent_to(), [wanted, fallback, wanted, fallback, wanted]);
        assert!(begun.elapsed() >= 3 * Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_batching_off_asks_for_single_requests_after_a_reconnect_too() {
    let (channel, reply_sender, _tasks) = reply_parts(&broker(vec![], true)).await;
    let handler = handler(channel, reply_sender);
    handler.pause_batches();
    handler.resume_batches();
    assert_eq!(handler.advised_batch_size(Some(7)), 1);
    handler.advise_batches();
    handler.resume_batches();
    assert_eq!(handler.advised_batch_size(Some(7)), 7);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_never_confirmed_is_given_up_half_a_minute_after_its_deadline() {
    for sends_at_once in [false, true] {
        for (expiration, deadline) in [(Some(Duration::from_secs(60)), 60), (None, 3600)] {
            let broker = RecordingBroker {
                never_confirms: true,
                ..broker(vec![], sends_at_once)
            };
            let properties = Properties {
                reply_to: Some(ShortStr::from_static("rpc.reply.1")),
                expiration,
                ..Properties::default()
            };
            let begun = Instant::now();
            let events = serve_on(&broker, properties, None, false).await;
            assert_eq!(events, ["reply sent", "request acked"]);
            let took = begun.elapsed().as_secs();
            assert!((30..=36).contains(&(took - deadline)), "{took} s, {expiration:?}");
        }
    }
}

/// All messages in flight fail with a channel, so many may want one of their own at once.
#[tokio::test(start_paused = true)]
async fn few_messages_have_a_channel_of_their_own_at_once_and_none_keeps_it() {
    let begun = Instant::now();
    let broker = RecordingBroker {
        never_confirms: true,
        ..broker(vec![], false)
    };
    let (channel, _, _tasks) = reply_parts(&broker).await;
    let outgoing = || Outgoing {
        queue: ShortStr::from_static("q"),
        mandatory: false,
        message: Message::default(),
        send_token: None,
    };
    let sending = (0..100).map(|_| channel.send(outgoing(), None, true));
    let mut sending = pin!(futures_util::future::join_all(sending));
    // Each that is not confirmed for half a minute leaves its channel to another one, and is sent
    // on the shared channel, once that is open.
    for (until, sent) in [(29, 4), (59, 12), (89, 20)] {
        let waiting = timeout_at(begun + Duration::from_secs(until), &mut sending);
        assert!(waiting.await.is_err());
        assert_eq!(broker.events.lock().unwrap().len(), sent);
    }
}

/// A sender of grants and of items, whose messages go to this broker.
async fn stream_sender(broker: &RecordingBroker) -> (StreamSender, [AbortOnDropHandle<()>; 2]) {
    let identity = WorkerIdentity::new(None, None, None);
    stream_sender_of(&Arc::new(Streams::new(&identity)), broker).await
}

async fn stream_sender_of(
    streams: &Arc<Streams>,
    broker: &RecordingBroker,
) -> (StreamSender, [AbortOnDropHandle<()>; 2]) {
    let (channel, _, tasks) = reply_parts(broker).await;
    let request = StreamRequest {
        id: uuid::Uuid::new_v4(),
        credit: Some(Volume::MAX),
        sends_items: true,
        is_resent: false,
    };
    let to = ReplyTo {
        address: ShortStr::from_static("rpc.reply.1"),
        correlation_id: None,
        content_type: None,
    };
    let queued = Duration::from_millis(7);
    let sender = StreamSender::begin(streams, request, to, Codec::Json, queued, &channel);
    (sender.unwrap(), tasks)
}

const GRANT: IncomingGrant = IncomingGrant {
    credit: 1024,
    taken: 0,
    asks: Asks::Nothing,
};

#[tokio::test(start_paused = true)]
async fn a_grant_that_fails_is_no_failure_of_the_method() {
    for (published, is_gone) in [(Published::Refused, false), (Published::Returned, true)] {
        let broker = broker(vec![published], true);
        let (sender, _tasks) = stream_sender(&broker).await;
        sender.grant(GRANT).await;
        let reply = sender
            .finish(Reply::new(ReplyKind::Result, Codec::Json, "7".into()))
            .await;
        assert_eq!((reply.kind, &reply.body[..]), (ReplyKind::Result, &b"7"[..]));
        assert_eq!(sender.gone().is_cancelled(), is_gone);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_name_their_run_and_until_one_is_confirmed_how_long_the_request_waited() {
    let confirms = std::iter::repeat_with(|| Published::Confirmed).take(6);
    let broker = broker(confirms.collect(), true);
    let streams = Arc::new(Streams::new(&WorkerIdentity::new(None, None, None)));
    for run in [1, 2] {
        broker.sent.lock().unwrap().clear();
        let (sender, _tasks) = stream_sender_of(&streams, &broker).await;
        for _ in 0..2 {
            let permit = sender.reserve().await.unwrap();
            sender.send(permit, 0, ItemWriter::default(), Volume::MAX);
        }
        sender.begun().await;
        sender.grant(GRANT).await;
        sender
            .finish(Reply::new(ReplyKind::Result, Codec::Json, "7".into()))
            .await;
        let sent = broker.sent.lock().unwrap();
        let header = |message: &Message, name| message.properties.headers.get(name).map(str::to_owned);
        let waited: Vec<_> = sent.iter().map(|it| header(it, "rpc-queue-time")).collect();
        assert_eq!(waited, [Some("7".to_owned()), Some("7".to_owned()), None]);
        let expected = format!(r#""run":{run}}}"#);
        assert!(
            sent.iter()
                .all(|it| header(it, "rpc-worker").unwrap().ends_with(&expected))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn grants_take_no_place_of_items() {
    let broker = RecordingBroker {
        never_confirms: true,
        ..broker(vec![], true)
    };
    let (sender, _tasks) = stream_sender(&broker).await;
    for _ in 0..16 {
        sender.grant(GRANT).now_or_never().expect("there is a place");
        let permit = sender
            .reserve()
            .now_or_never()
            .expect("there is a place")
            .unwrap();
        sender.send(permit, 0, ItemWriter::default(), Volume::MAX);
    }
    assert!(sender.grant(GRANT).now_or_never().is_none());
    assert!(sender.reserve().now_or_never().is_none());
}

/// Messages that are not confirmed are given up, so their items may be missing.
#[tokio::test(start_paused = true)]
async fn the_end_of_an_aborted_stream_counts_items_that_have_all_arrived() {
    for (never_confirms, count) in [(false, Some("1")), (true, None)] {
        let broker = RecordingBroker {
            never_confirms,
            ..broker(vec![Published::Confirmed, Published::Confirmed], true)
        };
        let (sender, _tasks) = stream_sender(&broker).await;
        sender.set_owes_end(true);
        let permit = sender.reserve().await.unwrap();
        let mut items = ItemWriter::default();
        items.push(b"1");
        sender.send(permit, 0, items, Volume::MAX);
        let run_tasks = async || {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        };
        run_tasks().await;
        drop(sender);
        run_tasks().await;
        let sent = broker.sent.lock().unwrap();
        let [items, end] = &sent[..] else {
            panic!("{sent:?}");
        };
        let kind = |message: &Message| message.properties.kind.as_ref().map(ToString::to_string);
        assert_eq!(kind(items).as_deref(), Some("rpc.items"));
        assert_eq!(kind(end).as_deref(), Some("fault"));
        assert_eq!(end.properties.headers.get("rpc-items"), count);
    }
}

/// A request of a batch and the copy of it that another worker forwarded come from two
/// subscriptions. Each must end: no ack of their deliveries will follow.
#[tokio::test]
async fn an_abandoned_request_ends_all_subscriptions_that_delivered_it() {
    let control: Arc<dyn Control> = Arc::new(broker(Vec::new(), false));
    let deduplicator = Arc::<SharedDeduplicator>::default();
    let (batches, singles, others) =
        <(RequestsInProgress, RequestsInProgress, RequestsInProgress)>::default();
    let key = || RequestKey::new(None, CorrelationId::Text(ShortStr::from_static("1")));
    let share = |consumer| RequestShare::whole(Arc::clone(&control), 1, consumer);
    let mut headers = Headers::default();
    let add = |origin, consumer| deduplicator.lock().add(key(), origin, share(consumer));

    let DeliveryAction::Run(tracked) = add(Origin::New, &batches) else {
        panic!("a new request runs");
    };
    Origin::mark_forwarded(&mut headers);
    let copy = Origin::new(false, false, &headers);
    assert_eq!(add(copy, &singles), DeliveryAction::Join);
    let acks = PendingAcks::of_one(&deduplicator, &batches, PendingAck::Tracked(tracked));
    assert_eq!((batches.unacked(), singles.unacked()), (1, 1));
    drop(acks);

    assert_eq!((batches.unacked(), singles.unacked()), (0, 0));
    let has_ended = |consumer: &RequestsInProgress| consumer.wait_abandoned().now_or_never().is_some();
    assert!(has_ended(&batches));
    assert!(has_ended(&singles));
    assert!(!has_ended(&others));
}
