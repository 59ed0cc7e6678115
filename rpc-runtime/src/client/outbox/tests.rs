use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::super::limiter::{Limiter, WhenFull};
use super::*;
use crate::client::plan::Arguments;
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::protocol::{BatchedCall, read_batch};
use crate::transport::{Receipt, ReplyQueue};

/// Takes all messages, and says that each is in its queue.
#[derive(Debug)]
struct Taker {
    /// How many calls each message had.
    messages: Mutex<Vec<usize>>,
    /// As many messages are confirmed.
    confirms: Semaphore,
    /// Messages can leave.
    is_free: watch::Sender<bool>,
}

impl Default for Taker {
    fn default() -> Self {
        Self {
            messages: Mutex::default(),
            confirms: Semaphore::new(Semaphore::MAX_PERMITS),
            is_free: watch::Sender::new(true),
        }
    }
}

impl Taker {
    fn take(&self, outgoing: &Outgoing) {
        let is_batched = outgoing.queue.as_str() == "q.batch";
        let calls = match is_batched {
            true => read_batch::<BatchedCall>(&outgoing.message.body).unwrap().len(),
            false => 1,
        };
        self.lock().push(calls);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn messages(&self) -> Vec<usize> {
        std::mem::take(&mut self.lock())
    }
}

#[async_trait]
impl Publisher for Taker {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        _: usize,
    ) -> Result<(), Box<Outgoing>> {
        self.take(&outgoing);
        receipt.published(Published::Routed);
        Ok(())
    }

    async fn ready(&self) {
        self.is_free
            .subscribe()
            .wait_for(|is_free| *is_free)
            .await
            .unwrap();
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        self.take(&outgoing);
        self.confirms.acquire().await.unwrap().forget();
        Published::Routed
    }

    async fn closed(&self) -> BrokerError {
        std::future::pending().await
    }
}

static STORE: ServiceDescriptor = ServiceDescriptor::new("Store", "q", &[MethodDescriptor::new("read", &[])]);

/// A client, its outbox, and what leaves.
struct Scene {
    taker: Arc<Taker>,
    pending: Arc<Pending>,
    destination: Arc<Destination>,
    outbox: Outbox,
    _emptied: AbortOnDropHandle<()>,
}

impl Scene {
    fn new() -> Self {
        Self::with(Taker::default())
    }

    fn with(taker: Taker) -> Self {
        let (taker, pending) = (Arc::new(taker), Arc::new(Pending::default()));
        let options = CallerOptions {
            replies: ReplyQueue::default(),
            max_sent_bytes: usize::MAX,
            max_accepted_bytes: usize::MAX,
            app_id: None,
            user_id: None,
        };
        let publisher = Arc::clone(&taker) as Arc<dyn Publisher>;
        let reply_to = ShortStr::from_static("rpc.reply.1");
        let (outbox, emptying) = Outbox::new(publisher, reply_to, Arc::new(options), Arc::clone(&pending));
        let limiter = Limiter::new("q", 1, WhenFull::Wait, true);
        Self {
            taker,
            pending,
            destination: Arc::new(Destination::new(
                ShortStr::from_static("q"),
                &STORE,
                true,
                limiter,
            )),
            outbox,
            _emptied: AbortOnDropHandle::new(tokio::spawn(emptying)),
        }
    }

    /// Makes so many calls at once.
    fn call(&self, calls: usize) -> Vec<Arc<Slot>> {
        let one = |_| {
            let slot = Arc::new(Slot::new(CallPlan {
                method: &STORE.methods[0],
                method_index: self.destination.method("read"),
                destination: Arc::clone(&self.destination),
                codec: Codec::Json,
                arguments: Arguments(Bytes::from_static(b"{}")),
                timeout: Duration::from_secs(30),
                headers: Headers::default(),
                priority: None,
                wait_for_server: false,
                is_detached: false,
            }));
            let parcel = Parcel {
                slot: Untold::new(&slot, slot.departures().begin()),
                deadline: Instant::now() + Duration::from_secs(30),
                is_resent: false,
            };
            self.outbox.post(parcel, false);
            slot
        };
        (0..calls).map(one).collect()
    }

    /// What has left by now, in messages of so many calls.
    async fn left(&self) -> Vec<usize> {
        // Until all that can go on has.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        self.taker.messages()
    }
}

const FIRST: usize = 64;

#[tokio::test(start_paused = true)]
async fn of_a_first_burst_some_leave_and_the_others_together_once_a_worker_wants_it() {
    let scene = Scene::new();
    scene.call(300);
    assert_eq!(scene.left().await, [1; FIRST]);
    let read = scene.destination.method("read");
    assert!(scene.destination.note_wanted(read, 1000));
    scene.pending.first_answer.notify_one();
    assert_eq!(scene.left().await, [300 - FIRST]);
}

#[tokio::test(start_paused = true)]
async fn where_no_worker_says_anything_a_first_burst_waits_for_a_moment_only() {
    let scene = Scene::new();
    scene.call(300);
    assert_eq!(scene.left().await.len(), FIRST);
    // The first answer of another method makes it no longer.
    for _ in 0..4 {
        tokio::time::advance(LONGEST_WAIT / 5).await;
        scene.pending.first_answer.notify_one();
        assert!(scene.left().await.is_empty());
    }
    tokio::time::advance(LONGEST_WAIT / 5 + Duration::from_millis(1)).await;
    assert_eq!(scene.left().await, [1; 300 - FIRST]);
    // Nor do those that come later.
    scene.call(300);
    assert_eq!(scene.left().await, [1; 300]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_answers_and_says_nothing_has_nobody_wait() {
    let scene = Scene::new();
    scene.call(300);
    assert_eq!(scene.left().await.len(), FIRST);
    assert!(scene.destination.wait_no_more(scene.destination.method("read")));
    scene.pending.first_answer.notify_one();
    assert_eq!(scene.left().await, [1; 300 - FIRST]);
}

/// As during a memory alarm: messages are not confirmed, and then nothing can leave.
#[tokio::test(start_paused = true)]
async fn calls_that_are_all_given_up_while_they_wait_take_no_later_ones_along() {
    let scene = Scene::with(Taker {
        confirms: Semaphore::new(0),
        ..Taker::default()
    });
    let read = scene.destination.method("read");
    assert!(scene.destination.note_wanted(read, 50));
    let mut given_up = scene.call(1000);
    assert_eq!(scene.left().await, [50; 3]);
    scene.taker.is_free.send_replace(false);
    given_up.extend(scene.call(4000));
    assert!(scene.left().await.is_empty());
    for call in given_up {
        call.departures().withdraw(1);
    }
    // One is confirmed before messages can leave again, so that those behind it may.
    scene.taker.confirms.add_permits(1);
    assert!(scene.left().await.is_empty());
    scene.taker.is_free.send_replace(true);
    assert!(scene.left().await.is_empty());
    scene.taker.confirms.add_permits(10);
    scene.call(1);
    assert_eq!(scene.left().await, [1]);
}

#[test]
fn time_to_live_is_rounded_up_and_never_zero() {
    let now = Instant::now();
    let of = |left| time_to_live(now + left, now);
    assert_eq!(of(Duration::ZERO), Duration::from_millis(1));
    assert_eq!(of(Duration::from_micros(1500)), Duration::from_millis(2));
    assert_eq!(of(Duration::from_millis(30)), Duration::from_millis(30));
}

#[test]
fn times_that_are_alike_differ_by_little() {
    for number in [0, 1, 63, 64, 29_999, 30_000, u32::MAX] {
        let rough = roughly(number);
        assert!(
            rough <= number && number - rough <= number / 32,
            "{number}: {rough}"
        );
    }
    assert_ne!(roughly(1000), roughly(1050));
}
