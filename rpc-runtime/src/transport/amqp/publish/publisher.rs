//! Publishes through one channel. Any task sends messages, and the task that owns the socket
//! reports their confirms. The frames of concurrent publishes can leave in one write.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::channel::OpenChannel;
use super::super::connection::ConnectionState;
use super::super::task_group::TaskGroup;
use super::super::wire::{Confirm, ConfirmSink, ContentChannel, NotSent, return_id};
use super::in_flight::{InFlight, InFlightMessages, Outcome};
use crate::error::{BrokerError, Cause};
use crate::protocol::ShortStr;
use crate::transport::{ConfirmListener, Outgoing, Panicked, Published, Publisher, catch_panic};

/// How many KiB of messages may be in flight. With a slow broker, each publisher stores up to
/// this much, or a single message that is larger.
const MAX_PERMITS: u32 = 64 * 1024;

/// The permits of the smallest message. So at most 4096 messages are in flight.
const MIN_PERMITS: u32 = 16;

/// How often listeners hear that their messages are still unconfirmed.
const UNCONFIRMED_INTERVAL: Duration = Duration::from_secs(5);

/// Publishes through one channel.
#[derive(Debug)]
pub(crate) struct AmqpPublisher {
    shared: Arc<Shared>,
    exchange: &'static str,
    connection: watch::Receiver<ConnectionState>,
    /// Closed when its last user drops it: the publisher, its task, or a consumer that shares it.
    _channel: Arc<OpenChannel>,
}

/// What senders, the task of the socket and the publisher's own task share.
#[derive(Debug)]
struct Shared {
    /// `None` in tests.
    content: Option<Arc<ContentChannel>>,
    in_flight: Mutex<InFlightMessages>,
    /// Permits for messages in flight. Closed once nothing can be sent any more.
    permits: Semaphore,
    /// Why nothing can be sent any more. `None` until all outcomes are decided.
    lost: watch::Sender<Option<BrokerError>>,
    /// Wakes the publisher's task.
    wake: Notify,
}

impl Shared {
    fn new(content: Option<Arc<ContentChannel>>) -> Self {
        Self {
            content,
            in_flight: Mutex::default(),
            permits: Semaphore::new(MAX_PERMITS as usize),
            lost: watch::Sender::new(None),
            wake: Notify::new(),
        }
    }

    /// Sends a message, which is in flight then, or returns the outcome of one that was not sent.
    /// If the connection is lost, the message counts as sent, and fails with the others.
    fn send(
        &self,
        exchange: &'static str,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
        permits: u32,
    ) -> Result<(), Outcome> {
        // Locked until the message is added: the broker numbers messages in the order in which they
        // are sent.
        let mut in_flight = self.lock();
        let position = match self.write(&in_flight, exchange, &outgoing) {
            Ok(position) => position,
            Err(published) => {
                return Err(Outcome {
                    listener,
                    published,
                    permits,
                });
            }
        };
        let properties = &outgoing.message.properties;
        let id = outgoing.mandatory.then(|| return_id(properties)).flatten();
        in_flight.add(InFlight {
            queue: outgoing.queue,
            id,
            listener,
            permits,
            position,
            _send_token: outgoing.send_token,
            is_returned: false,
        });
        Ok(())
    }

    /// Gives a message to the connection. Returns its [position](InFlight::position), or as an
    /// error, what became of a message that was not sent.
    fn write(
        &self,
        in_flight: &InFlightMessages,
        exchange: &'static str,
        outgoing: &Outgoing,
    ) -> Result<Option<u64>, Published> {
        let unwritten = |source| Published::Failed {
            source,
            written: false,
        };
        if let Some(reason) = in_flight.lost() {
            return Err(unwritten(reason.clone()));
        }
        if outgoing.send_token.as_ref().is_some_and(|token| !token.claim()) {
            return Err(Published::Withdrawn);
        }
        let Some(content) = &self.content else {
            return Ok(None);
        };
        match content.publish(exchange, &outgoing.queue, outgoing.mandatory, &outgoing.message) {
            Ok(position) => Ok(Some(position)),
            Err(NotSent::Unsendable(source)) => Err(unwritten(source)),
            Err(NotSent::ChannelClosed) => Err(unwritten(BrokerError::Lost { source: None })),
            // The publisher's task fails this message once it knows why the connection is lost.
            Err(NotSent::ConnectionLost) => Ok(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, InFlightMessages> {
        // Each operation leaves the messages consistent, so a panic elsewhere has broken nothing.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back the permits of messages, and reports their outcomes. Must be called without the
    /// lock, because a listener may send the next message. If a listener panics, ends the
    /// publisher.
    fn report(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        let mut has_panicked = false;
        for outcome in outcomes {
            self.permits.add_permits(outcome.permits as usize);
            let report = AssertUnwindSafe(|| outcome.listener.published(outcome.published));
            has_panicked |= std::panic::catch_unwind(report).is_err();
        }
        if has_panicked {
            let task = "publisher";
            tracing::error!(task, "a listener of confirms panicked");
            self.end(Panicked { task }.into());
        }
    }

    /// Ends the publisher: nothing can be sent any more, and all messages in flight fail. The
    /// connection may still write some of them.
    fn end(&self, reason: BrokerError) {
        self.end_with(reason, ContentChannel::may_be_written);
    }

    /// Like [`end`](Self::end). `is_written` tells whether the broker may have got what ends at a
    /// position of the content.
    fn end_with(&self, reason: BrokerError, is_written: impl Fn(&ContentChannel, u64) -> bool) {
        self.permits.close();
        let is_written = |position| {
            let content = self.content.as_ref();
            content.is_some_and(|content| is_written(content, position))
        };
        let outcomes = {
            let mut in_flight = self.lock();
            // An earlier reason is kept if it says more than that the connection is lost.
            let (outcomes, reason) = in_flight.end(reason, is_written);
            self.lost.send_replace(Some(reason));
            outcomes
        };
        self.wake.notify_one();
        self.report(outcomes);
    }
}

impl ConfirmSink for Shared {
    fn returned(&self, routing_key: &ShortStr, id: Option<&ShortStr>) {
        self.lock().record_return(routing_key, id);
    }

    fn confirmed(&self, confirm: Confirm) {
        let (outcomes, is_task_due) = {
            let mut in_flight = self.lock();
            let outcomes = in_flight.confirm(confirm, Instant::now());
            let is_task_due = in_flight.is_publisher_dropped || in_flight.close_deadline().is_some();
            (outcomes, is_task_due)
        };
        self.report(outcomes);
        if is_task_due {
            self.wake.notify_one();
        }
    }

    fn closed(&self, reason: BrokerError) {
        // What the socket has not taken yet is not written any more, or the broker ignores it.
        self.end_with(reason, ContentChannel::is_written);
    }
}

/// How many permits a message takes: one for each KiB of its body, within limits.
fn permits_for(outgoing: &Outgoing) -> u32 {
    let size = outgoing.message.body.len().div_ceil(1024);
    u32::try_from(size)
        .unwrap_or(u32::MAX)
        .clamp(MIN_PERMITS, MAX_PERMITS)
}

impl AmqpPublisher {
    /// Makes a publisher to this exchange on a channel in confirm mode, and starts its
    /// [`ConfirmTask`].
    ///
    /// While the broker blocks the connection, no further message is sent. Messages that wait
    /// meanwhile can still be withdrawn.
    pub(crate) fn start(channel: Arc<OpenChannel>, exchange: &'static str, tasks: &TaskGroup) -> Self {
        let connection = channel.connection();
        let content = Arc::clone(channel.content());
        let shared = Arc::new(Shared::new(Some(Arc::clone(&content))));
        let sink = Arc::downgrade(&shared);
        content.report_confirms(sink as Weak<dyn ConfirmSink>);
        let task = ConfirmTask::new(Arc::clone(&shared), connection.clone());
        let (used, ending) = (Arc::clone(&channel), tasks.ending.clone());
        tasks.spawn(async move {
            let ended = task.run_to_end(ending).await;
            if matches!(ended, Err(Panicked { .. }) | Ok(BrokerError::Panicked { .. })) {
                // Some of the outcomes may be lost, and a consumer of replies may share the
                // channel. Once the channel is closed, the owner opens another publisher and
                // consumer.
                used.close().await;
            }
        });
        Self {
            shared,
            exchange,
            connection,
            _channel: channel,
        }
    }

    /// Sends a message. Its permits must have been taken.
    fn send(&self, outgoing: Outgoing, listener: Arc<dyn ConfirmListener>) {
        let permits = permits_for(&outgoing);
        if let Err(outcome) = self.shared.send(self.exchange, outgoing, listener, permits) {
            self.shared.report([outcome]);
        }
    }

    /// Whether the broker blocks the connection.
    fn is_blocked(&self) -> bool {
        self.connection.borrow().blocked.is_some()
    }

    /// Waits until the connection is not blocked, or is lost. Cancel safe.
    async fn wait_unblocked(&self) {
        if self.is_blocked() {
            let is_over = |state: &ConnectionState| state.blocked.is_none() || state.lost.is_some();
            // An error means that the connection was dropped. `ConfirmTask` then closes the
            // permits, so the next step of the caller fails.
            let _ = self.connection.clone().wait_for(is_over).await;
        }
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>> {
        if self.is_blocked() {
            return Err(Box::new(outgoing));
        }
        match self.shared.permits.try_acquire_many(permits_for(&outgoing)) {
            Ok(permits) => permits.forget(),
            Err(_) => return Err(Box::new(outgoing)),
        }
        self.send(outgoing, listener);
        Ok(())
    }

    async fn wait_ready(&self) {
        self.wait_unblocked().await;
        // The permits are given back at once. An error means that nothing can be sent any more. The
        // next publish reports why.
        let _ = self.shared.permits.acquire_many(MIN_PERMITS).await;
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        loop {
            self.wait_unblocked().await;
            let Ok(permits) = self.shared.permits.acquire_many(permits_for(&outgoing)).await else {
                return Published::Failed {
                    source: self.wait_closed().await,
                    written: false,
                };
            };
            let is_blocked_again = self.is_blocked() && !self.connection.borrow().is_lost();
            if !is_blocked_again {
                permits.forget();
                break;
            }
            // The permits are given back here, and the message waits again.
        }
        let send_token = outgoing.send_token.clone();
        let (listener, outcome) = OneshotListener::new();
        self.send(outgoing, listener);
        match outcome.await {
            Ok(published) => published,
            // A panic has lost the listener. A message that can still be withdrawn was not written.
            Err(_) => Published::Failed {
                source: self.wait_closed().await,
                written: send_token.is_none_or(|token| !token.withdraw()),
            },
        }
    }

    async fn wait_closed(&self) -> BrokerError {
        let mut lost = self.shared.lost.subscribe();
        match lost.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            // Not reached: the sender is borrowed, so it still exists.
            Ok(None) | Err(_) => BrokerError::Closed,
        }
    }
}

impl Drop for AmqpPublisher {
    fn drop(&mut self) {
        self.shared.lock().is_publisher_dropped = true;
        self.shared.wake.notify_one();
    }
}

/// A listener that a future waits for.
struct OneshotListener(Mutex<Option<oneshot::Sender<Published>>>);

impl OneshotListener {
    fn new() -> (Arc<Self>, oneshot::Receiver<Published>) {
        let (sender, receiver) = oneshot::channel();
        (Arc::new(Self(Mutex::new(Some(sender)))), receiver)
    }
}

impl ConfirmListener for OneshotListener {
    fn published(self: Arc<Self>, published: Published) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // The receiver is gone if the reply arrived before the confirm, or the call was
            // dropped.
            let _ = sender.send(published);
        }
    }

    fn is_abandoned(&self) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// Ends the publisher once nothing can be sent any more or the publisher is no longer used, and
/// reminds the listeners of messages that stay unconfirmed.
struct ConfirmTask {
    shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
    /// Whether the publisher was ended, so that no message is in flight.
    has_ended: bool,
}

impl ConfirmTask {
    fn new(shared: Arc<Shared>, connection: watch::Receiver<ConnectionState>) -> Self {
        Self {
            shared,
            connection,
            has_ended: false,
        }
    }

    /// Runs, and fails the messages that are still in flight, however the task ends. Returns why it
    /// ended.
    ///
    /// # Errors
    ///
    /// Fails if the task panicked. That loses the outcomes that were being reported.
    async fn run_to_end(mut self, ending: CancellationToken) -> Result<BrokerError, Panicked> {
        let running = async {
            let reason = self.run(ending).await;
            self.shared.end(reason.clone());
            reason
        };
        let ended = catch_panic("publisher", running).await;
        if let Err(panicked) = &ended {
            self.shared.end((*panicked).into());
        }
        self.has_ended = true;
        ended
    }

    /// Waits until nothing can be sent any more, or the publisher was dropped and nobody waits for
    /// an outcome. Returns why.
    async fn run(&mut self, ending: CancellationToken) -> BrokerError {
        let shared = Arc::clone(&self.shared);
        let mut ended = pin!(ending.cancelled());
        let mut reminder = pin!(sleep(UNCONFIRMED_INTERVAL));
        loop {
            let (close_deadline, is_empty, is_unused) = {
                let in_flight = shared.lock();
                (
                    in_flight.close_deadline(),
                    in_flight.is_empty(),
                    in_flight.is_unused(),
                )
            };
            if let Some(reason) = self.lost() {
                return reason;
            }
            if is_unused {
                return BrokerError::Closed;
            }
            if close_deadline.is_some() {
                // Nothing more is sent. The channel waits only for its last confirms.
                shared.permits.close();
                if is_empty {
                    return everything_refused();
                }
            }
            tokio::select! {
                () = &mut ended => return BrokerError::Closed,
                () = shared.wake.notified() => {}
                () = &mut reminder => {
                    reminder.as_mut().reset(Instant::now() + UNCONFIRMED_INTERVAL);
                    let unconfirmed = shared.lock().old_listeners();
                    unconfirmed.iter().for_each(|listener| listener.still_unconfirmed());
                }
                () = until(close_deadline) => return everything_refused(),
                changed = self.connection.changed() => if changed.is_err() {
                    return BrokerError::Lost { source: None };
                },
            }
        }
    }

    /// Why the publisher has ended or the connection is lost. `None` if neither is so.
    fn lost(&self) -> Option<BrokerError> {
        let of_channel = self.shared.lock().lost().cloned();
        of_channel.or_else(|| self.connection.borrow().lost.clone())
    }
}

impl Drop for ConfirmTask {
    /// If the task has not ended the publisher, its runtime has ended.
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.end(BrokerError::RuntimeEnded);
        }
    }
}

/// Why a channel is given up although the broker has not closed it: see
/// [`refusals`](super::refusals). Messages then go through another channel, as after a lost
/// connection.
fn everything_refused() -> BrokerError {
    let source = Cause::new(
        "this channel was given up: a queue refused every message sent to it through the channel for ten seconds",
    );
    BrokerError::Lost { source: Some(source) }
}

/// Waits until this time, or forever if it is `None`.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    /// Records the outcome of one message, and how often it was still unconfirmed.
    #[derive(Default)]
    struct Recorder(Mutex<Option<Published>>, AtomicUsize);

    impl Recorder {
        fn outcome(&self) -> Option<Published> {
            self.0.lock().unwrap().clone()
        }

        fn reminders(&self) -> usize {
            self.1.load(Ordering::Relaxed)
        }
    }

    impl ConfirmListener for Recorder {
        fn published(self: Arc<Self>, published: Published) {
            assert!(self.0.lock().unwrap().replace(published).is_none());
        }

        fn still_unconfirmed(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a message.
    fn add(shared: &Shared, listener: Arc<dyn ConfirmListener>) {
        shared.lock().add(InFlight {
            queue: ShortStr::from_static("q"),
            id: None,
            listener,
            permits: 0,
            position: None,
            _send_token: None,
            is_returned: false,
        });
    }

    fn confirm(shared: &Shared, tag: u64) {
        shared.confirmed(Confirm {
            tag,
            multiple: false,
            is_ack: true,
        });
    }

    fn drop_publisher(shared: &Shared) {
        shared.lock().is_publisher_dropped = true;
        shared.wake.notify_one();
    }

    #[tokio::test]
    async fn the_task_of_a_dropped_publisher_ends_with_its_last_confirm() {
        let shared = Arc::new(Shared::new(None));
        let recorder = Arc::<Recorder>::default();
        add(&shared, Arc::clone(&recorder) as _);
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let mut running = pin!(task.run_to_end(CancellationToken::new()));
        drop_publisher(&shared);
        assert!(running.as_mut().now_or_never().is_none());
        confirm(&shared, 1);
        assert!(matches!(recorder.outcome(), Some(Published::Confirmed)));
        running.await.unwrap();
    }

    /// Its channel would stay open for as long as a queue confirms nothing.
    #[tokio::test(start_paused = true)]
    async fn a_dropped_publisher_ends_once_nobody_waits_for_its_messages() {
        let shared = Arc::new(Shared::new(None));
        let (listener, outcome) = OneshotListener::new();
        add(&shared, listener);
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let mut running = pin!(task.run_to_end(CancellationToken::new()));
        drop_publisher(&shared);
        assert!(running.as_mut().now_or_never().is_none());
        drop(outcome);
        shared.wake.notify_one();
        let ended = timeout(Duration::from_secs(60), running).await;
        ended.expect("it ends").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_hear_that_their_messages_stay_unconfirmed() {
        let shared = Arc::new(Shared::new(None));
        let [confirmed, old, new] = [(); 3].map(|()| Arc::<Recorder>::default());
        add(&shared, Arc::clone(&confirmed) as _);
        add(&shared, Arc::clone(&old) as _);
        confirm(&shared, 1);
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let running = tokio::spawn(task.run_to_end(CancellationToken::new()));
        sleep(UNCONFIRMED_INTERVAL + Duration::from_secs(1)).await;
        add(&shared, Arc::clone(&new) as _);
        let mut seen = Vec::new();
        for _ in 0..2 {
            sleep(UNCONFIRMED_INTERVAL).await;
            seen.push([&confirmed, &old, &new].map(|listener| listener.reminders()));
        }
        assert_eq!(seen, [[0, 1, 0], [0, 2, 1]]);
        running.abort();
    }

    /// The task of the socket reports confirms, and must survive.
    #[tokio::test]
    async fn a_listener_that_panics_fails_the_others_and_nothing_else() {
        struct Panics;

        impl ConfirmListener for Panics {
            fn published(self: Arc<Self>, _: Published) {
                resume_unwind(Box::new("injected"));
            }
        }

        let shared = Arc::new(Shared::new(None));
        add(&shared, Arc::new(Panics));
        let other = Arc::<Recorder>::default();
        add(&shared, Arc::clone(&other) as _);
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        confirm(&shared, 1);
        let ended = task.run_to_end(CancellationToken::new()).await;
        assert!(matches!(ended, Ok(BrokerError::Panicked { .. })));
        let Some(Published::Failed { source, .. }) = other.outcome() else {
            panic!("the message did not fail");
        };
        assert!(matches!(source, BrokerError::Panicked { .. }));
        assert!(matches!(
            *shared.lost.borrow(),
            Some(BrokerError::Panicked { .. })
        ));
    }

    #[tokio::test]
    async fn a_closed_channel_fails_its_messages() {
        let shared = Arc::new(Shared::new(None));
        let recorder = Arc::<Recorder>::default();
        add(&shared, Arc::clone(&recorder) as _);
        shared.closed(BrokerError::Lost { source: None });
        let outcome = recorder.outcome();
        assert!(matches!(outcome, Some(Published::Failed { written: false, .. })));
        assert!(shared.permits.try_acquire().is_err());
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let ended = task.run_to_end(CancellationToken::new()).await;
        assert!(matches!(ended, Ok(BrokerError::Lost { .. })));
    }
}
