use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::codec::Codec;
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::error::BrokerError;
use crate::protocol::{
    BatchedCall, DeadLettered, FaultCode, Headers, Malformed, Message, Properties, Reply, ReplyAddresses,
    ShortStr, write_batch,
};
use crate::service::{Answer, Invocation, Service};
use crate::transport::{
    Broadcasts, Connectivity, Depth, Outgoing, Published, Publisher, Receipt, ReplyLink, ReplyQueue,
    RequestQueue, StatusBoard, Subscription, Transport, injected,
};

/// A broker that answers publishes with these words in turn, and notes what it is told, in order.
#[derive(Debug, Clone)]
struct Notes {
    words: Arc<Mutex<Vec<Published>>>,
    told: Arc<Mutex<Vec<&'static str>>>,
    /// What it was given to send.
    sent: Arc<Mutex<Vec<Message>>>,
    board: Arc<StatusBoard>,
    /// Messages can leave at once.
    is_free: bool,
}

impl Notes {
    fn note(&self, what: &'static str) {
        self.told.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Transport for Notes {
    async fn is_there(&self, _: &ShortStr) -> Option<bool> {
        None
    }

    async fn depth(&self, _: &ShortStr) -> Option<Depth> {
        None
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        Ok(Arc::new(self.clone()))
    }

    async fn open_replies(&self, _: ReplyQueue, _: Option<&ShortStr>) -> Result<ReplyLink, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn declare_requests(&self, _: &RequestQueue) -> Result<(), BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn retire_requests(&self, _: &RequestQueue) -> bool {
        false
    }

    async fn open_requests(&self, _: &RequestQueue, _: u16) -> Result<Subscription, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn open_broadcasts(&self, _: &Broadcasts) -> Result<Subscription, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn broadcast(&self, _: &str, _: Message) -> Result<Published, BrokerError> {
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
impl Publisher for Notes {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        _: usize,
    ) -> Result<(), Box<Outgoing>> {
        if !self.is_free {
            return Err(Box::new(outgoing));
        }
        let notes = self.clone();
        tokio::spawn(async move { receipt.published(notes.publish(outgoing).await) });
        Ok(())
    }

    async fn ready(&self) {}

    async fn publish(&self, outgoing: Outgoing) -> Published {
        self.note("reply sent");
        self.sent.lock().unwrap().push(outgoing.message);
        // Long enough for whatever would not wait for the confirm.
        tokio::task::yield_now().await;
        self.note("reply confirmed");
        self.words.lock().unwrap().remove(0)
    }

    async fn closed(&self) -> BrokerError {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        BrokerError::Lost { source: None }
    }
}

#[async_trait]
impl Control for Notes {
    fn settle(&self, _tag: u64) {
        self.note("request settled");
    }

    fn reject(&self, _tag: u64) {
        self.note("request rejected");
    }

    fn settle_up_to(&self, tag: u64) {
        self.settle(tag);
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) {}

    async fn retire(&self) {}
}

/// Serves one request that wants an answer, with a broker that says these words of its replies.
///
/// It is told the same in the same order whether the reply leaves at once or waits until it can.
async fn serve(words: Vec<Published>) -> Vec<&'static str> {
    let told = serve_where(words.clone(), false).await;
    assert_eq!(serve_where(words, true).await, told);
    told
}

fn notes(words: Vec<Published>, is_free: bool) -> Notes {
    Notes {
        is_free,
        words: Arc::new(Mutex::new(words)),
        told: Arc::default(),
        sent: Arc::default(),
        board: Arc::new(StatusBoard::new(&Connectivity::Up)),
    }
}

fn desk(outlet: Arc<Outlet>, post: Post) -> Desk {
    desk_of(Dispatcher::default(), outlet, post)
}

fn desk_of(dispatcher: Dispatcher, outlet: Arc<Outlet>, post: Post) -> Desk {
    let rules = Rules {
        reply_addresses: ReplyAddresses::default(),
        max_accepted_bytes: 100,
        max_sent_bytes: 100,
        max_deliveries: 20,
        admission: true,
    };
    Desk::new(
        "q".into(),
        dispatcher,
        rules,
        outlet,
        post,
        1,
        Arc::new(Probes::new()),
    )
}

async fn serve_where(words: Vec<Published>, is_free: bool) -> Vec<&'static str> {
    let properties = Properties {
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        ..Properties::default()
    };
    serve_one(words, is_free, properties, None, false).await
}

/// What replies leave by, and the tasks behind it.
async fn ways_out(notes: &Notes) -> (Arc<Outlet>, Post, [AbortOnDropHandle<()>; 2]) {
    let (outlet, keep) = Outlet::new(Arc::new(notes.clone()));
    let kept = AbortOnDropHandle::new(tokio::spawn(keep));
    outlet.ready().await.unwrap();
    let outlet = Arc::new(outlet);
    let (post, emptying) = Post::new(Arc::clone(&outlet));
    let emptied = AbortOnDropHandle::new(tokio::spawn(emptying));
    (outlet, post, [kept, emptied])
}

async fn serve_one(
    words: Vec<Published>,
    is_free: bool,
    properties: Properties,
    malformed: Option<Malformed>,
    is_batched: bool,
) -> Vec<&'static str> {
    let notes = notes(words, is_free);
    let (outlet, post, _tasks) = ways_out(&notes).await;
    let desk = Arc::new(desk(outlet, post));
    let delivery = Delivery {
        message: Message {
            properties,
            ..Message::default()
        },
        redelivered: false,
        tag: 1,
        malformed,
    };
    let served = Served::default();
    desk.serve(
        delivery,
        is_batched,
        Arc::new(notes.clone()),
        Received::at(Instant::now()),
        &served,
    )
    .await;
    served.ends().await;
    notes.told.lock().unwrap().clone()
}

/// A task that panics while it sends replies.
#[tokio::test(start_paused = true)]
async fn requests_whose_replies_are_lost_in_a_panic_are_given_up_and_later_ones_are_answered() {
    let notes = notes(vec![Published::Routed], false);
    let (outlet, post, _tasks) = ways_out(&notes).await;
    let desk = Arc::new(desk(outlet, post));
    let serve = async |served: &Served| {
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
        };
        desk.serve(
            delivery,
            false,
            Arc::new(notes.clone()),
            Received::at(Instant::now()),
            served,
        )
        .await;
    };
    let served = Served::default();
    serve(&served).await;
    // Once the reply is in its hands.
    while notes.told.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    injected::panic_next("replies");
    let gave_up = tokio::time::timeout(Duration::from_secs(60), served.gave_up());
    gave_up.await.expect("the line is told");
    served.ends().await;
    assert_eq!(*notes.told.lock().unwrap(), ["reply sent"]);
    let served = Served::default();
    serve(&served).await;
    served.ends().await;
    let told = ["reply sent", "reply sent", "reply confirmed", "request settled"];
    assert_eq!(*notes.told.lock().unwrap(), told);
}

fn failed(source: BrokerError) -> Published {
    Published::Failed {
        source,
        written: true,
    }
}

const SENT: [&str; 2] = ["reply sent", "reply confirmed"];

#[tokio::test(start_paused = true)]
async fn a_request_is_settled_only_after_its_reply_is_confirmed() {
    for word in [Published::Routed, Published::Refused] {
        assert_eq!(
            serve(vec![word]).await,
            [&SENT[..], &["request settled"]].concat()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_may_be_lost_is_sent_again_before_its_request_is_settled() {
    let words = vec![failed(BrokerError::Lost { source: None }), Published::Routed];
    assert_eq!(
        serve(words).await,
        [&SENT[..], &SENT, &["request settled"]].concat()
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_reply_may_be_lost_is_not_settled() {
    assert_eq!(serve(vec![failed(BrokerError::Closed)]).await, SENT);
}

#[tokio::test(start_paused = true)]
async fn a_reply_over_which_channels_are_closed_is_replaced_by_a_fault() {
    let closed = || {
        failed(BrokerError::ChannelClosed {
            source: crate::error::Cause::new("PRECONDITION_FAILED"),
        })
    };
    let words = vec![closed(), closed(), Published::Routed];
    let told = [&SENT[..], &SENT, &SENT, &["request settled"]].concat();
    assert_eq!(serve(words).await, told);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_is_answered_and_settled_or_else_rejected() {
    let malformed = Some(Malformed::HeaderName);
    let answered = Properties {
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        correlation_id: Some(ShortStr::from_static("7")),
        ..Properties::default()
    };
    let to_nobody = Properties {
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
        let (answered, routed) = (answered.clone(), vec![Published::Routed]);
        let told = serve_one(routed, true, answered, malformed, is_batched).await;
        assert_eq!(told, [&SENT[..], &["request settled"]].concat());
        for (properties, told) in [
            (Properties::default(), "request rejected"),
            (to_nobody.clone(), "request rejected"),
            (dead_lettered.clone(), "request settled"),
        ] {
            let done = serve_one(Vec::new(), true, properties, malformed, is_batched).await;
            assert_eq!(done, [told]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_a_batch_if_its_queue_is_one_for_batches() {
    let request = Properties {
        kind: Some(ShortStr::from_static("rpc.batch")),
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        correlation_id: Some(ShortStr::from_static("7")),
        ..Properties::default()
    };
    // Of a method that the service does not have, and what cannot be read as a batch.
    for is_batched in [false, true] {
        let (request, routed) = (request.clone(), vec![Published::Routed]);
        let told = serve_one(routed, true, request, None, is_batched).await;
        assert_eq!(told, [&SENT[..], &["request settled"]].concat());
        let told = serve_one(Vec::new(), true, Properties::default(), None, is_batched).await;
        assert_eq!(told, ["request rejected"]);
    }
}

#[test]
fn what_is_refused_says_nothing_of_how_long_a_method_takes() {
    let (outlet, _) = Outlet::new(Arc::new(notes(Vec::new(), true)));
    let outlet = Arc::new(outlet);
    let (post, _) = Post::new(Arc::clone(&outlet));
    let desk = desk(outlet, post);
    desk.take_batched();
    let record = Record::new("Store", "write");
    let ended = |took, outcome, ran| {
        let reply = Reply::fault(Codec::Json, &Fault::new(FaultCode::Rejected, ""));
        desk.ended(&record, true, took, &Handled { reply, outcome, ran })
    };
    let (slow, at_once) = (Duration::from_millis(50), Duration::from_micros(1));
    assert_eq!(ended(slow, Outcome::Ok, true), 1);
    for _ in 0..200 {
        assert_eq!(ended(at_once, Outcome::Fault("rejected"), false), 1);
    }
    let stats = record.stats.snapshot();
    assert_eq!((stats.calls, stats.failures, stats.mean), (1, 0, slow));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_read_is_rejected_until_it_was_rejected_too_often() {
    for (rejections, told) in [(0, "request rejected"), (MAX_REJECTIONS, "request settled")] {
        let properties = Properties {
            dead_lettered: Some(DeadLettered {
                rejections,
                ..DeadLettered::default()
            }),
            ..Properties::default()
        };
        assert_eq!(serve_one(Vec::new(), true, properties, None, true).await, [told]);
    }
}

#[test]
fn a_request_without_a_reply_address_is_recognised_by_a_unique_id_alone() {
    let is_recognised = |reply_to, id: &str| {
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
        };
        key(&delivery).is_some()
    };
    let address = || Some(ShortStr::from_static("amq.gen-1"));
    let uuid = uuid::Uuid::new_v4().to_string();
    assert!(is_recognised(address(), "order-7"));
    assert!(is_recognised(address(), &uuid));
    assert!(is_recognised(None, &uuid));
    assert!(!is_recognised(None, "order-7"));
    assert!(!is_recognised(Some(ShortStr::from_static("")), "order-7"));
}

const READ: MethodDescriptor = MethodDescriptor::new("read", &[]).idempotent();
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
async fn a_copy_of_a_batched_request_that_came_back_lives_for_what_is_left_of_its_time() {
    let second = Duration::from_secs(1);
    let notes = notes(vec![Published::Routed; 3], true);
    let (outlet, post, _tasks) = ways_out(&notes).await;
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Store), "q").unwrap();
    let desk = Arc::new(desk_of(dispatcher, outlet, post));
    let batch = [Some(3 * second), Some(second), None].map(|time_to_live| BatchedCall {
        id: uuid::Uuid::new_v4(),
        method: ShortStr::from_static("read"),
        time_to_live,
        arguments: bytes::Bytes::from_static(b"[]"),
        headers: Headers::default(),
    });
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
    };
    let received = Received {
        waited: second,
        ..Received::at(Instant::now())
    };
    let served = Served::default();
    desk.serve(delivery, true, Arc::new(notes.clone()), received, &served)
        .await;
    served.ends().await;
    let mut sent = notes.sent.lock().unwrap().clone();
    sent.sort_by_key(|message| message.properties.kind.clone().map(|kind| kind.to_string()));
    let sent: Vec<_> = sent
        .iter()
        .map(|message| {
            let Properties { kind, expiration, .. } = &message.properties;
            (kind.as_ref().map(ShortStr::as_str), *expiration)
        })
        .collect();
    // The one whose time is over is answered.
    let copies = [
        (Some("fault"), None),
        (Some("read"), Some(2 * second)),
        (Some("read"), None),
    ];
    assert_eq!(sent, copies);
}
