//! Publishes through one channel. Any task hands messages to lapin, and one task waits for all
//! confirms.
//!
//! lapin takes a confirm's number and queues the message's frames under two separate locks, so two
//! tasks that publish at once could swap their confirms. Both happen at the first poll of a
//! publish, which is done here under one lock. The frames of concurrent publishes still leave in
//! one write.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::channel::OpenChannel;
use super::super::connection::ConnectionState;
use super::super::task_group::TaskGroup;
use super::deferred::{ConfirmFuture, ConfirmReport};
use super::in_flight::{InFlightMessages, Outcome, Wake};
use crate::error::{BrokerError, Cause};
use crate::transport::{ConfirmListener, Outgoing, Panicked, Published, Publisher, catch_panic};

/// How many KiB of messages may be in flight. With a slow broker, each publisher stores up to
/// this much.
const MAX_PERMITS: u32 = 64 * 1024;

/// The permits of the smallest message. So at most 4096 messages are in flight.
const MIN_PERMITS: u32 = 16;

/// How often listeners hear that their messages are still unconfirmed.
const UNCONFIRMED_INTERVAL: Duration = Duration::from_secs(5);

/// Publishes through one channel.
#[derive(Debug)]
pub(crate) struct AmqpPublisher {
    channel: Arc<OpenChannel>,
    exchange: &'static str,
    shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
}

/// The state that senders and the task share.
#[derive(Debug)]
struct Shared {
    in_flight: Mutex<InFlightMessages>,
    /// Permits for messages in flight. Closed once nothing can be sent any more.
    permits: Semaphore,
    /// Why nothing can be sent any more. `None` until all outcomes are decided.
    lost: watch::Sender<Option<BrokerError>>,
    wake: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            in_flight: Mutex::default(),
            permits: Semaphore::new(MAX_PERMITS as usize),
            lost: watch::Sender::new(None),
            wake: Notify::new(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, InFlightMessages> {
        // A panic in lapin leaves a message without a confirm. It fails when the task ends, like
        // those of a lost connection.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports outcomes. Must be called without the lock, because a listener may send the next
    /// message.
    fn report(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        for outcome in outcomes {
            self.permits.add_permits(outcome.permits as usize);
            outcome.listener.published(outcome.published);
        }
    }

    /// Fails all messages. Does not poll for more confirms, which is what may have panicked.
    fn abandon(&self, reason: BrokerError) {
        self.permits.close();
        let outcomes = {
            let mut in_flight = self.lock();
            // An earlier reason is kept.
            let (outcomes, reason) = in_flight.abandon(reason);
            self.lost.send_replace(Some(reason));
            outcomes
        };
        self.report(outcomes);
    }
}

fn permits_for(outgoing: &Outgoing) -> u32 {
    let size = outgoing.message.body.len().div_ceil(1024);
    u32::try_from(size)
        .unwrap_or(u32::MAX)
        .clamp(MIN_PERMITS, MAX_PERMITS)
}

impl AmqpPublisher {
    /// Starts the task of a channel in confirm mode, which publishes to this exchange. The task
    /// ends with the publisher or the transport.
    ///
    /// While the broker blocks the connection, no message is sent. Messages that wait meanwhile can
    /// still be withdrawn.
    pub(crate) fn start(channel: Arc<OpenChannel>, exchange: &'static str, tasks: &TaskGroup) -> Self {
        let connection = channel.connection();
        let shared = Arc::<Shared>::default();
        let task = ConfirmTask::new(Arc::clone(&shared), connection.clone());
        let (used, ending) = (Arc::clone(&channel), tasks.ending.clone());
        tasks.spawn(async move {
            if task.run_to_end(ending).await.is_err() {
                // Some of the outcomes may be lost, and a consumer of replies may share the
                // channel. Once the channel is closed, the owner opens another publisher and
                // consumer.
                used.close().await;
            }
        });
        Self {
            channel,
            exchange,
            shared,
            connection,
        }
    }

    /// Hands a message to lapin. Its permits must have been taken.
    fn send(&self, outgoing: Outgoing, listener: Arc<dyn ConfirmListener>, confirm_interval: usize) {
        let permits = permits_for(&outgoing);
        let sent = self.shared.lock().send(
            &self.channel,
            self.exchange,
            outgoing,
            listener,
            permits,
            confirm_interval,
        );
        match sent {
            Ok(Wake::Now) => self.shared.wake.notify_one(),
            Ok(Wake::Later) => {}
            Err(outcome) => self.shared.report([outcome]),
        }
    }

    fn is_blocked(&self) -> bool {
        self.connection.borrow().blocked.is_some()
    }

    /// Waits until the connection is not blocked, or is lost. Cancel safe.
    async fn wait_unblocked(&self) {
        if self.is_blocked() {
            let is_over = |state: &ConnectionState| state.blocked.is_none() || state.lost.is_some();
            // An error means that the connection was dropped. The task notices that.
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
        confirm_interval: usize,
    ) -> Result<(), Box<Outgoing>> {
        if self.is_blocked() {
            return Err(Box::new(outgoing));
        }
        match self.shared.permits.try_acquire_many(permits_for(&outgoing)) {
            Ok(permits) => permits.forget(),
            Err(_) => return Err(Box::new(outgoing)),
        }
        self.send(outgoing, listener, confirm_interval);
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
            match self.shared.permits.acquire_many(permits_for(&outgoing)).await {
                // The broker may have blocked the connection while the message waited.
                Ok(_) if self.is_blocked() && !self.connection.borrow().is_lost() => {}
                Ok(permits) => {
                    permits.forget();
                    break;
                }
                Err(_) => {
                    return Published::Failed {
                        source: self.wait_closed().await,
                        written: false,
                    };
                }
            }
        }
        let send_token = outgoing.send_token.clone();
        let (listener, outcome) = OneshotListener::new();
        self.send(outgoing, listener, 1);
        match outcome.await {
            Ok(published) => published,
            // Each listener is used, unless a panic loses it.
            Err(_) => Published::Failed {
                source: self.wait_closed().await,
                written: !send_token.withdraw(),
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

/// Waits for the confirms of all messages in flight.
struct ConfirmTask {
    shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
    confirms: FuturesUnordered<ConfirmFuture>,
    /// Whether all outcomes were reported.
    has_ended: bool,
}

impl ConfirmTask {
    fn new(shared: Arc<Shared>, connection: watch::Receiver<ConnectionState>) -> Self {
        Self {
            shared,
            connection,
            confirms: FuturesUnordered::new(),
            has_ended: false,
        }
    }

    /// Runs, and reports the outcome of all messages, however the task ends. A panic loses those
    /// that were being reported.
    ///
    /// # Errors
    ///
    /// Fails if the task panicked.
    async fn run_to_end(mut self, ending: CancellationToken) -> Result<(), Panicked> {
        let running = async {
            let reason = self.run(ending).await;
            self.end(reason);
        };
        let ended = catch_panic("publisher", running).await;
        if let Err(panicked) = ended {
            self.shared.abandon(panicked.into());
        }
        self.has_ended = true;
        ended
    }

    /// Processes confirms until nothing can be sent any more, or nobody will send anything more.
    /// Returns why.
    async fn run(&mut self, ending: CancellationToken) -> BrokerError {
        let shared = Arc::clone(&self.shared);
        let mut ended = pin!(ending.cancelled());
        let mut is_poll_due = false;
        let mut reminder = pin!(sleep(UNCONFIRMED_INTERVAL));
        loop {
            let (outcomes, close_deadline, overdue, next_poll, is_idle, is_unused) = {
                let mut in_flight = shared.lock();
                self.confirms.extend(in_flight.take_awaited());
                let outcomes = if std::mem::take(&mut is_poll_due) {
                    in_flight.poll_deferred(Instant::now())
                } else {
                    Vec::new()
                };
                let is_idle = self.confirms.is_empty() && in_flight.has_no_deferred();
                (
                    outcomes,
                    in_flight.close_deadline(),
                    in_flight.next_overdue(),
                    in_flight.next_poll(),
                    is_idle,
                    in_flight.is_publisher_dropped && is_idle || in_flight.has_no_listener(),
                )
            };
            shared.report(outcomes);
            if let Some(reason) = self.lost() {
                return reason;
            }
            if close_deadline.is_some() {
                // Nothing more is sent. The channel waits only for its last confirms.
                shared.permits.close();
            }
            if is_unused {
                return BrokerError::Closed;
            }
            if is_idle && close_deadline.is_some() {
                return everything_refused();
            }
            tokio::select! {
                () = &mut ended => return BrokerError::Closed,
                Some(confirmed) = self.confirms.next() => {
                    let mut all = vec![confirmed];
                    all.extend(take_ready(&mut self.confirms));
                    let outcomes = shared.lock().process_all(all, Instant::now());
                    shared.report(outcomes);
                }
                () = shared.wake.notified() => is_poll_due = true,
                () = until(next_poll) => is_poll_due = true,
                () = until(overdue) => {
                    let confirmed = take_ready(&mut self.confirms);
                    let outcomes = shared.lock().decide_overdue(confirmed, Instant::now());
                    shared.report(outcomes);
                }
                () = &mut reminder => {
                    reminder.as_mut().reset(Instant::now() + UNCONFIRMED_INTERVAL);
                    let unconfirmed = shared.lock().old_messages();
                    unconfirmed.iter().for_each(|listener| listener.still_unconfirmed());
                }
                () = until(close_deadline) => return everything_refused(),
                changed = self.connection.changed() => if changed.is_err() {
                    return BrokerError::Lost { source: None };
                },
            }
        }
    }

    /// Why nothing can be sent any more. `None` while messages can be sent.
    fn lost(&self) -> Option<BrokerError> {
        let of_channel = self.shared.lock().lost().cloned();
        of_channel.or_else(|| self.connection.borrow().lost.clone())
    }

    /// Reports the outcome of all messages, because no more confirms will arrive.
    fn end(&mut self, reason: BrokerError) {
        self.shared.permits.close();
        let outcomes = {
            let mut in_flight = self.shared.lock();
            self.confirms.extend(in_flight.take_awaited());
            let confirmed = take_ready(&mut self.confirms);
            let mut outcomes = in_flight.process_all(confirmed, Instant::now());
            let (others, reason) = in_flight.end(reason);
            outcomes.extend(others);
            self.shared.lost.send_replace(Some(reason));
            outcomes
        };
        self.shared.report(outcomes);
    }
}

impl Drop for ConfirmTask {
    /// Unless the task has reported all outcomes, its runtime has ended.
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.abandon(BrokerError::RuntimeEnded);
        }
    }
}

/// Takes the reports that have arrived.
fn take_ready(confirms: &mut FuturesUnordered<ConfirmFuture>) -> Vec<ConfirmReport> {
    std::iter::from_fn(|| confirms.next().now_or_never().flatten()).collect()
}

/// Why a channel is given up although the broker has not closed it: see
/// [`refusals`](super::refusals). Its messages then go through another channel, as after a lost
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

    use lapin::Confirmation;
    use tokio::time::timeout;

    use super::*;
    use crate::protocol::ShortStr;

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

    /// Adds a message that is confirmed once `confirmed` ends.
    fn add(
        shared: &Shared,
        confirm_interval: usize,
        confirmed: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Recorder> {
        let recorder = Arc::<Recorder>::default();
        let (queue, listener) = (ShortStr::from_static("q"), Arc::clone(&recorder));
        shared
            .lock()
            .add(queue, None, listener, 0, confirm_interval, |sequence| {
                Box::pin(confirmed.map(move |()| ConfirmReport {
                    sequence,
                    written: true,
                    confirmation: Ok(Confirmation::Ack(None)),
                }))
            });
        recorder
    }

    #[tokio::test]
    async fn a_deferred_message_that_was_never_polled_keeps_the_task_running() {
        let shared = Arc::<Shared>::default();
        let (confirm, confirmed) = oneshot::channel();
        let awaited = add(&shared, 1, async {});
        let deferred = add(&shared, 64, async { confirmed.await.unwrap() });
        shared.lock().is_publisher_dropped = true;
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let mut running = pin!(task.run_to_end(CancellationToken::new()));
        // The task sees the confirm before it is woken for the deferred message.
        assert!(running.as_mut().now_or_never().is_none());
        assert!(matches!(awaited.outcome(), Some(Published::Confirmed)));
        assert!(deferred.outcome().is_none());
        confirm.send(()).unwrap();
        shared.wake.notify_one();
        running.await.unwrap();
        assert!(matches!(deferred.outcome(), Some(Published::Confirmed)));
    }

    /// Its channel would stay open for as long as a queue confirms nothing.
    #[tokio::test(start_paused = true)]
    async fn a_dropped_publisher_ends_once_nobody_waits_for_its_messages() {
        let shared = Arc::<Shared>::default();
        let (listener, outcome) = OneshotListener::new();
        let queue = ShortStr::from_static("q");
        shared
            .lock()
            .add(queue, None, listener, 0, 1, |_| Box::pin(std::future::pending()));
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let mut running = pin!(task.run_to_end(CancellationToken::new()));
        shared.lock().is_publisher_dropped = true;
        assert!(running.as_mut().now_or_never().is_none());
        drop(outcome);
        shared.wake.notify_one();
        let ended = timeout(Duration::from_secs(60), running).await;
        ended.expect("it ends").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_hear_that_their_messages_stay_unconfirmed() {
        let shared = Arc::<Shared>::default();
        let confirmed = add(&shared, 1, async {});
        let old = [1, 64].map(|interval| add(&shared, interval, std::future::pending()));
        let (_connection, state) = watch::channel(ConnectionState::default());
        let task = ConfirmTask::new(Arc::clone(&shared), state);
        let running = tokio::spawn(task.run_to_end(CancellationToken::new()));
        sleep(UNCONFIRMED_INTERVAL + Duration::from_secs(1)).await;
        let new = add(&shared, 1, std::future::pending());
        shared.wake.notify_one();
        let mut seen = Vec::new();
        for _ in 0..2 {
            sleep(UNCONFIRMED_INTERVAL).await;
            seen.push([&confirmed, &old[0], &old[1], &new].map(|listener| listener.reminders()));
        }
        assert_eq!(seen, [[0, 1, 1, 0], [0, 2, 2, 1]]);
        running.abort();
    }

    #[tokio::test]
    async fn a_panic_while_the_task_ends_fails_all_messages() {
        let shared = Arc::<Shared>::default();
        let mut polls = 0;
        let panics = add(
            &shared,
            64,
            std::future::poll_fn(move |_| {
                polls += 1;
                match polls {
                    1 => std::task::Poll::Pending,
                    _ => resume_unwind(Box::new("injected")),
                }
            }),
        );
        let other = add(&shared, 1, std::future::pending());
        let (_connection, state) = watch::channel(ConnectionState::default());
        let ending = CancellationToken::new();
        ending.cancel();
        let ended = ConfirmTask::new(Arc::clone(&shared), state)
            .run_to_end(ending)
            .await;
        assert!(ended.is_err());
        for recorder in [panics, other] {
            let Some(Published::Failed { source, .. }) = recorder.outcome() else {
                panic!("the message did not fail");
            };
            assert!(matches!(source, BrokerError::Panicked { .. }));
        }
        assert!(matches!(
            *shared.lost.borrow(),
            Some(BrokerError::Panicked { .. })
        ));
    }
}
