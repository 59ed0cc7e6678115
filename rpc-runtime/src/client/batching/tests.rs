use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::LearnedBatchSize;
use super::held_requests::MAX_HOLD;
use crate::client::called_method::{CalledMethod, CalledService};
use crate::client::destination::Destination;
use crate::client::in_flight_call::InFlightCall;
use crate::client::in_flight_calls::InFlightCalls;
use crate::client::limiter::{Limiter, Permit, WhenFull};
use crate::client::options::CallerOptions;
use crate::client::plan::{Arguments, CallPlan};
use crate::client::queued_request::{PendingConfirm, QueuedRequest};
use crate::client::request_sender::RequestSender;
use crate::codec::Codec;
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::error::BrokerError;
use crate::protocol::{BATCH_HEADER, BatchedCall, Headers, ShortStr, read_batch};
use crate::transport::{ConfirmListener, HasLatestSend, Outgoing, Published, Publisher, ReplyQueue};

/// Records messages. Confirms those of `try_publish` at once, and those of `publish` as `confirms`
/// permits.
#[derive(Debug)]
struct TestPublisher {
    /// The number of calls in each message.
    messages: Mutex<Vec<usize>>,
    /// How many messages ask for the batch size.
    asks: AtomicUsize,
    /// One permit for each message that is to be confirmed.
    confirms: Semaphore,
    /// Whether messages leave, and [`Publisher::wait_ready`] returns.
    is_free: watch::Sender<bool>,
}

impl Default for TestPublisher {
    fn default() -> Self {
        Self {
            messages: Mutex::default(),
            asks: AtomicUsize::new(0),
            confirms: Semaphore::new(Semaphore::MAX_PERMITS),
            is_free: watch::Sender::new(true),
        }
    }
}

impl TestPublisher {
    fn record(&self, outgoing: &Outgoing) {
        let calls = if outgoing.queue.as_str() == "q.batch" {
            read_batch::<BatchedCall>(&outgoing.message.body).unwrap().len()
        } else {
            1
        };
        self.lock().push(calls);
        if outgoing.message.properties.headers.get(BATCH_HEADER).is_some() {
            self.asks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_messages(&self) -> Vec<usize> {
        std::mem::take(&mut self.lock())
    }
}

#[async_trait]
impl Publisher for TestPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>> {
        if !*self.is_free.borrow() {
            return Err(Box::new(outgoing));
        }
        self.record(&outgoing);
        listener.published(Published::Confirmed);
        Ok(())
    }

    async fn wait_ready(&self) {
        self.is_free
            .subscribe()
            .wait_for(|is_free| *is_free)
            .await
            .unwrap();
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        self.record(&outgoing);
        self.confirms.acquire().await.unwrap().forget();
        Published::Confirmed
    }

    async fn wait_closed(&self) -> BrokerError {
        std::future::pending().await
    }
}

static STORE: ServiceDescriptor = ServiceDescriptor::new("Store", "q", &[MethodDescriptor::new("read", &[])]);

/// A client, its request sender, and the publisher that receives its messages.
struct TestClient {
    publisher: Arc<TestPublisher>,
    in_flight: Arc<InFlightCalls>,
    destination: Arc<Destination>,
    sender: RequestSender,
    /// The permits of all calls, which never end.
    permits: Mutex<Vec<Permit>>,
    _send_task: AbortOnDropHandle<()>,
}

impl TestClient {
    fn new() -> Self {
        Self::with(TestPublisher::default())
    }

    fn with(publisher: TestPublisher) -> Self {
        let (test_publisher, in_flight) = (Arc::new(publisher), Arc::new(InFlightCalls::default()));
        let options = CallerOptions {
            reply_queue: ReplyQueue::default(),
            max_sent_bytes: usize::MAX,
            max_accepted_bytes: usize::MAX,
            app_id: None,
            user_id: None,
        };
        let publisher = Arc::clone(&test_publisher) as Arc<dyn Publisher>;
        let reply_to = ShortStr::from_static("rpc.reply.1");
        let (sender, send_task) =
            RequestSender::new(publisher, reply_to, Arc::new(options), Arc::clone(&in_flight));
        let limiter = Limiter::new("q", 10_000, WhenFull::Wait, true);
        Self {
            publisher: test_publisher,
            in_flight,
            destination: Arc::new(Destination::new(
                ShortStr::from_static("q"),
                CalledService::Static(&STORE),
                true,
                limiter,
            )),
            sender,
            permits: Mutex::default(),
            _send_task: AbortOnDropHandle::new(tokio::spawn(send_task)),
        }
    }

    fn batch_size(&self) -> &LearnedBatchSize {
        self.destination
            .batch_size(self.destination.method_index("read"))
            .unwrap()
    }

    /// Makes this many calls at once.
    fn call(&self, calls: usize) -> Vec<Arc<InFlightCall>> {
        let one = |_| {
            let permit = self.destination.limiter.try_acquire(0).unwrap();
            self.permits.lock().unwrap().push(permit);
            let call = Arc::new(InFlightCall::new(CallPlan {
                method: CalledMethod::Static(&STORE.methods[0]),
                method_index: self.destination.method_index("read"),
                destination: Arc::clone(&self.destination),
                codec: Codec::Json,
                arguments: Arguments(Bytes::from_static(b"{}")),
                timeout: Duration::from_secs(30),
                headers: Headers::default(),
                priority: None,
                wait_for_server: false,
                is_detached: false,
            }));
            let request = QueuedRequest {
                confirm: PendingConfirm::new(&call, call.latest_send().begin()),
                deadline: Instant::now() + Duration::from_secs(30),
                is_resent: false,
                built: None,
            };
            self.sender.send(request, false);
            call
        };
        (0..calls).map(one).collect()
    }

    /// Returns the number of calls in each message published since the previous check.
    async fn published(&self) -> Vec<usize> {
        // Lets the task run until it waits.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        self.publisher.take_messages()
    }
}

const FIRST: usize = 64;

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_first_burst_is_batched_once_a_worker_asks_for_it() {
    let client = TestClient::new();
    client.call(300);
    assert_eq!(client.published().await, [1; FIRST]);
    assert!(client.batch_size().learn(1000));
    client.in_flight.first_reply.notify_one();
    assert_eq!(client.published().await, [128, 300 - FIRST - 128]);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_first_burst_is_held_back_only_briefly_without_a_reply() {
    let client = TestClient::new();
    client.call(300);
    assert_eq!(client.published().await.len(), FIRST);
    // The first reply to a call of another method does not prolong that.
    for _ in 0..4 {
        tokio::time::advance(MAX_HOLD / 5).await;
        client.in_flight.first_reply.notify_one();
        assert!(client.published().await.is_empty());
    }
    tokio::time::advance(MAX_HOLD / 5 + Duration::from_millis(1)).await;
    assert_eq!(client.published().await, [1; 300 - FIRST]);
    // Later calls are not held back.
    client.call(300);
    assert_eq!(client.published().await, [1; 300]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_without_a_batch_size_releases_held_requests() {
    let client = TestClient::new();
    client.call(300);
    assert_eq!(client.published().await.len(), FIRST);
    assert!(client.batch_size().stop_holding_back());
    client.in_flight.first_reply.notify_one();
    assert_eq!(client.published().await, [1; 300 - FIRST]);
}

#[tokio::test(start_paused = true)]
async fn a_message_has_at_most_a_quarter_of_the_calls_in_flight() {
    let client = TestClient::new();
    assert!(client.batch_size().learn(1000));
    client.call(1000);
    assert_eq!(client.published().await, [250; 4]);
}

/// Like a broker with a memory alarm: messages are not confirmed, and later not accepted.
#[tokio::test(start_paused = true)]
async fn withdrawn_requests_do_not_block_later_ones() {
    let client = TestClient::with(TestPublisher {
        confirms: Semaphore::new(0),
        ..TestPublisher::default()
    });
    assert!(client.batch_size().learn(50));
    let mut given_up = client.call(1000);
    assert_eq!(client.published().await, [50; 4]);
    client.publisher.is_free.send_replace(false);
    given_up.extend(client.call(4000));
    assert!(client.published().await.is_empty());
    for call in given_up {
        call.latest_send().withdraw(1);
    }
    // One message is confirmed before the broker accepts messages again.
    client.publisher.confirms.add_permits(1);
    assert!(client.published().await.is_empty());
    client.publisher.is_free.send_replace(true);
    assert!(client.published().await.is_empty());
    client.publisher.confirms.add_permits(10);
    client.call(1);
    assert_eq!(client.published().await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_leave_at_once_is_counted_once() {
    let client = TestClient::new();
    client.batch_size().learn(1);
    // Each of these may be the one that asks for the batch size again.
    for _ in 0..64 {
        client.publisher.is_free.send_replace(false);
        client.call(1);
        assert!(client.published().await.is_empty());
        client.publisher.is_free.send_replace(true);
        assert_eq!(client.published().await, [1]);
    }
    assert_eq!(client.publisher.asks.load(Ordering::Relaxed), 2);
}
