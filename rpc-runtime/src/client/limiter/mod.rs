//! Limits the calls in flight of a client, or the encoded calls to a queue. Each needs a permit.
//!
//! A client has a fixed limit, `ClientBuilder::max_in_flight`. Below it, an adaptive limit follows
//! the reports of overloaded workers (see [`AdaptiveLimit`]). If no permit is free, a call waits
//! for one until its deadline, or fails at once (see [`WhenFull`]).
//!
//! A call with a stream counts towards the adaptive limit until its stream begins: then its request
//! no longer waits in the queue, and how long it takes is up to its reader.
//!
//! Calls with a priority above 0 are important: they go before ordinary calls.
//!
//! If a refusal reduces the limit to a single call, the client pauses for as long as the worker
//! says, but at most the call's time limit. During the pause the limit is zero: only an important
//! call may be sent, if no other important call is in flight.

mod adaptive;
mod generations;
mod waiting_calls;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use adaptive::{AdaptiveLimit, CallEnd, SentCall, Signal};
use generations::Count;
use waiting_calls::{Order, WaitingCalls, WaitingKey};

use crate::client::time_limit::TimeLimit;
use crate::error::CallError;
use crate::protocol::{Executed, FaultCode, Reply, ReplyKind};
use crate::telemetry::{self, Event, count};

/// The default of [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight), and the
/// limit of the encoded calls to a queue.
pub(super) const DEFAULT_IN_FLIGHT: usize = 10_000;

/// What a call does if the limit of calls in flight is reached; see
/// [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for a permit. If its deadline passes first, it fails with
    /// [`CallError::TooManyCalls`](crate::CallError::TooManyCalls) or
    /// [`CallError::Overloaded`](crate::CallError::Overloaded).
    #[default]
    Wait,
    /// It fails at once with [`CallError::TooManyCalls`](crate::CallError::TooManyCalls). If the
    /// limit is temporarily reduced because the workers are overloaded, it fails with
    /// [`CallError::Overloaded`](crate::CallError::Overloaded).
    Fail,
}

/// The permits of one client, or of the encoded calls to one queue: one for each call in flight.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Name of the RabbitMQ queue, for metrics.
    queue: Box<str>,
    in_flight: AtomicUsize,
    /// How many calls in flight no longer count towards the adaptive limit: their streams have
    /// begun.
    streaming: AtomicUsize,
    /// How many of the calls in flight are important, without those whose streams have begun.
    important: AtomicUsize,
    /// How many calls may be in flight, as last reported to the metrics.
    limit: AtomicUsize,
    /// Whether the limit is reduced, or may be reduced right now. Then calls acquire and release
    /// permits under the lock.
    is_reduced: AtomicBool,
    /// How many calls wait for a permit. Written only under the lock.
    ///
    /// Its order with `in_flight` is `SeqCst`. A call that waits counts itself here, and then looks
    /// for a free permit. A call that ends frees its permit, and then looks for waiting calls. So
    /// one of the two sees the other.
    waiting: AtomicUsize,
    /// The generation of calls that are sent now. Written only under the lock.
    generation: AtomicU32,
    /// Whether calls time out without any reply. Then the next reply is recorded.
    is_silent: AtomicBool,
    max: usize,
    when_full: WhenFull,
    is_adaptive: bool,
    created_at: Instant,
    state: Mutex<State>,
    /// Wakes waiting calls so that they recompute how long to sleep.
    limit_changed: Notify,
}

#[derive(Debug)]
struct State {
    adaptive: AdaptiveLimit,
    waiting: WaitingCalls<oneshot::Sender<Permit>>,
}

/// Permission for one call to be in flight. Dropping it frees it for another call.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    /// When it was taken, in nanoseconds after the limiter was created: an `Instant` takes twice
    /// the memory. Each attempt that layers make of a call takes another permit.
    taken_after: u64,
    /// How many calls counted towards the limit when it was taken, including this one.
    counted: u32,
    generation: u32,
    is_important: bool,
    /// Whether the call still counts towards the adaptive limit.
    counts: AtomicBool,
}

impl Limiter {
    /// Creates a limiter. `max` is raised to at least 1.
    pub(super) fn new(queue: &str, max: usize, when_full: WhenFull, is_adaptive: bool) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self {
            queue: queue.into(),
            in_flight: AtomicUsize::new(0),
            streaming: AtomicUsize::new(0),
            important: AtomicUsize::new(0),
            limit: AtomicUsize::new(max),
            is_reduced: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            generation: AtomicU32::new(0),
            is_silent: AtomicBool::new(false),
            max,
            when_full,
            is_adaptive,
            created_at: Instant::now(),
            state: Mutex::new(State {
                adaptive: AdaptiveLimit::new(max),
                waiting: WaitingCalls::default(),
            }),
            limit_changed: Notify::new(),
        })
    }

    /// Returns how many calls are in flight, without streams that have begun.
    pub(super) fn in_flight(&self) -> usize {
        self.counted(self.in_flight.load(Ordering::Relaxed))
    }

    /// Takes a permit if one is free. An ordinary call gets none while other calls wait.
    pub(super) fn try_acquire(self: &Arc<Self>, priority: u8) -> Option<Permit> {
        let is_important = is_important(priority);
        let must_wait = !is_important && self.waiting.load(Ordering::SeqCst) > 0;
        if must_wait {
            return None;
        }
        if self.is_reduced.load(Ordering::SeqCst) {
            return self.try_acquire_locked(is_important);
        }
        let sent = SentCall {
            counted: self.counted(self.try_add_in_flight()?),
            generation: self.generation.load(Ordering::Relaxed),
        };
        Some(Permit::new(self, sent, is_important, Instant::now()))
    }

    /// Takes a permit under the lock, as the limit is reduced.
    fn try_acquire_locked(self: &Arc<Self>, is_important: bool) -> Option<Permit> {
        let mut state = self.lock();
        let now = Instant::now();
        if !state.adaptive.has_permit(is_important, now) {
            return None;
        }
        let counted = self.counted(self.try_add_in_flight()?);
        let sent = state.adaptive.record_sent(counted, is_important, now);
        Some(Permit::new(self, sent, is_important, now))
    }

    /// Waits for a permit. If [`WhenFull::Fail`] is set, does not wait. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the deadline passes first or, with `WhenFull::Fail`, if no permit is free now.
    pub(super) fn acquire(
        self: &Arc<Self>,
        time_limit: TimeLimit,
        priority: u8,
    ) -> BoxFuture<'_, Result<Permit, CallError>> {
        Box::pin(async move {
            let permit = match self.when_full {
                WhenFull::Wait => self.wait(time_limit, priority).await,
                WhenFull::Fail => {
                    // A pause may be over, which the metrics must show.
                    self.store_adaptive(&self.lock(), Instant::now());
                    self.try_acquire(priority)
                }
            };
            permit.ok_or_else(|| self.full_error())
        })
    }

    /// Waits for a permit. `None` if the deadline passes first.
    async fn wait(self: &Arc<Self>, time_limit: TimeLimit, priority: u8) -> Option<Permit> {
        let begun = Instant::now();
        let (grant_sender, mut granted) = oneshot::channel();
        let key = {
            let mut state = self.lock();
            let key = state.waiting.add(priority, time_limit.deadline, grant_sender);
            self.store_waiting(&state);
            key
        };
        let _waiting = WaitingGuard::new(self, key, begun);
        loop {
            // Before the limit is read, so that no change is missed.
            let limit_changed = self.limit_changed.notified();
            // A permit may have become free before the call was added, or a pause may be over.
            self.grant_free_permits();
            let next_change = self.lock().adaptive.next_change(Instant::now());
            let until = next_change
                .unwrap_or(time_limit.deadline)
                .min(time_limit.deadline);
            tokio::select! {
                biased;
                permit = &mut granted => {
                    // An error means that `WaitingCalls` has removed a call whose deadline passed.
                    return permit.ok();
                }
                () = limit_changed => {}
                () = sleep_until(until) => if until == time_limit.deadline {
                    return None;
                }
            }
        }
    }

    /// Builds the error of a call that got no permit.
    fn full_error(&self) -> CallError {
        let (state, now) = (self.lock(), Instant::now());
        let limit = state.adaptive.limit(now);
        if limit == self.max {
            return CallError::TooManyCalls { limit };
        }
        let retry_after = state.adaptive.pause(now);
        CallError::Overloaded { limit, retry_after }
    }

    /// Counts another call in flight unless the fixed limit is reached. Returns the new number.
    fn try_add_in_flight(&self) -> Option<usize> {
        let add_one = |in_flight| (in_flight < self.max).then_some(in_flight + 1);
        let before = self
            .in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, add_one);
        before.ok().map(|before| before + 1)
    }

    /// Returns how many of this number of calls in flight count towards the adaptive limit.
    fn counted(&self, in_flight: usize) -> usize {
        in_flight.saturating_sub(self.streaming.load(Ordering::SeqCst))
    }

    /// Grants free permits to waiting calls, until none is left or none suits a call.
    fn grant_free_permits(self: &Arc<Self>) {
        loop {
            let next = self.dequeue_with_permit(&mut self.lock());
            let Some((waiter, permit)) = next else { return };
            // If the call was dropped meanwhile, the permit is dropped here, and becomes free.
            let _ = waiter.send(permit);
        }
    }

    /// Removes the next call from the waiting ones, and takes a permit for it. Returns the permit
    /// and the sender that hands it to the call. `None` if no free permit suits a waiting call.
    fn dequeue_with_permit(self: &Arc<Self>, state: &mut State) -> Option<(oneshot::Sender<Permit>, Permit)> {
        let now = Instant::now();
        // A pause may be over, which the metrics must show.
        self.store_adaptive(state, now);
        // A permit for any call goes to the most important one that waits.
        let has_permit = |is_important| state.adaptive.has_permit(is_important, now);
        let (is_free_for_all, is_free_for_important) = (has_permit(false), has_permit(true));
        let min_priority = if is_free_for_all {
            0
        } else if is_free_for_important {
            1
        } else {
            return None;
        };
        let order = if state.adaptive.is_reduced() {
            Order::NewestFirst
        } else {
            Order::OldestFirst
        };
        let counted = self.counted(self.try_add_in_flight()?);
        let next = state.waiting.take_next(min_priority, order, now);
        self.store_waiting(state);
        let Some((priority, waiter)) = next else {
            // No call waits that the permit suits.
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            return None;
        };
        let is_important = is_important(priority);
        let sent = state.adaptive.record_sent(counted, is_important, now);
        Some((waiter, Permit::new(self, sent, is_important, now)))
    }

    /// Copies the number of waiting calls to the atomic that lock-free readers use.
    fn store_waiting(&self, state: &State) {
        self.waiting.store(state.waiting.len(), Ordering::SeqCst);
    }

    /// Takes back the permit of a call that is no longer in flight, for a waiting call.
    fn release(self: &Arc<Self>, permit: &Permit) {
        let counts = permit.counts.load(Ordering::SeqCst);
        if counts {
            self.remove_from_counted(permit);
        }
        // Before `streaming`, so that `counted` is not too high in between: a reduction would count
        // a stream that has begun.
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !counts {
            self.streaming.fetch_sub(1, Ordering::SeqCst);
        }
        self.grant_if_calls_wait();
    }

    /// Takes the call that holds this permit out of those that count towards the adaptive limit.
    fn remove_from_counted(&self, permit: &Permit) {
        if self.is_reduced.load(Ordering::SeqCst) {
            let mut state = self.lock();
            state
                .adaptive
                .record_finished(permit.generation, permit.is_important);
        }
        if permit.is_important {
            self.important.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many calls in flight no longer count towards the adaptive limit.
    #[cfg(test)]
    pub(super) fn streaming(&self) -> usize {
        self.streaming.load(Ordering::SeqCst)
    }

    /// Grants free permits to waiting calls. Needs no lock if none waits.
    fn grant_if_calls_wait(self: &Arc<Self>) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant_free_permits();
        }
    }

    /// Adapts the limit to what the outcome of a call says about overload.
    fn adapt(&self, signal: Signal, time_limit: Duration, permit: &Permit) {
        let now = Instant::now();
        let mut state = self.lock();
        let was_reduced = state.adaptive.is_reduced();
        // Until `store_adaptive`, calls acquire and release permits under the lock too, so that the
        // adaptive limit counts them if it is reduced now.
        self.is_reduced.store(true, Ordering::SeqCst);
        state.adaptive.record_end(&CallEnd {
            signal,
            time_limit,
            sent_at: self.created_at + Duration::from_nanos(permit.taken_after),
            now,
            counted: usize::try_from(permit.counted).unwrap_or(usize::MAX),
            generation: permit.generation,
            is_important: permit.is_important,
            in_flight_now: Count {
                all: self.counted(self.in_flight.load(Ordering::SeqCst)),
                important: self.important.load(Ordering::SeqCst),
            },
            has_waiting_calls: self.waiting.load(Ordering::Relaxed) > 0,
        });
        self.store_adaptive(&state, now);
        if state.adaptive.is_paused(now) || state.adaptive.is_reduced() != was_reduced {
            self.limit_changed.notify_waiters();
        }
    }

    /// Copies the state of the adaptive limit to the atomics that lock-free readers use. Reports
    /// the limit to the metrics if it has changed, also if only a pause has begun or ended.
    fn store_adaptive(&self, state: &State, now: Instant) {
        self.is_reduced
            .store(state.adaptive.is_reduced(), Ordering::SeqCst);
        self.is_silent
            .store(state.adaptive.is_silent(), Ordering::Relaxed);
        let generation = state.adaptive.generation();
        self.generation.store(generation, Ordering::Relaxed);
        let limit = state.adaptive.limit(now);
        if limit != self.limit.load(Ordering::Relaxed) {
            self.limit.store(limit, Ordering::Relaxed);
            self.report_limit(limit);
        }
    }

    /// Reports the limit to the metrics.
    fn report_limit(&self, limit: usize) {
        let queue = &self.queue;
        count(Event::LimitChanged { queue, limit });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock should panic. If something does, a count may stay wrong by one
        // call, which is better than failing all later calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        // No client is left, so the metric must not keep showing the reduced limit.
        if *self.limit.get_mut() < self.max {
            self.report_limit(self.max);
        }
    }
}

impl Permit {
    /// Creates the permit of a call that was added to `in_flight`. Counts it if it is important.
    fn new(
        limiter: &Arc<Limiter>,
        SentCall { counted, generation }: SentCall,
        is_important: bool,
        taken_at: Instant,
    ) -> Self {
        if is_important {
            limiter.important.fetch_add(1, Ordering::Relaxed);
        }
        let taken_after = taken_at.saturating_duration_since(limiter.created_at);
        Self {
            limiter: Arc::clone(limiter),
            taken_after: u64::try_from(taken_after.as_nanos()).unwrap_or(u64::MAX),
            counted: u32::try_from(counted).unwrap_or(u32::MAX),
            generation,
            is_important,
            counts: AtomicBool::new(true),
        }
    }

    /// Reports the outcome of the call that holds the permit, which may adapt the limit.
    pub(super) fn record_outcome(&self, outcome: &Result<Reply, CallError>, time_limit: TimeLimit) {
        if let Some(signal) = signal_of(outcome) {
            self.record_signal(signal, time_limit);
        }
    }

    /// Records that the request of the call that holds the permit has begun a stream, after it had
    /// waited in the queue for `queued`.
    pub(super) fn record_begun(&self, queued: Duration, time_limit: TimeLimit) {
        self.record_signal(Signal::Answered { queued }, time_limit);
        self.stop_counting();
    }

    /// Lets the call no longer count towards the adaptive limit: its stream has begun, perhaps by
    /// the request of another attempt.
    pub(super) fn stop_counting(&self) {
        if self.counts.swap(false, Ordering::SeqCst) {
            // Before `remove_from_counted` reads `is_reduced`, so that later reductions do not
            // count the call.
            self.limiter.streaming.fetch_add(1, Ordering::SeqCst);
            self.limiter.remove_from_counted(self);
            self.limiter.grant_if_calls_wait();
        }
    }

    /// Adapts the limit, if it is adaptive and the signal may change it.
    fn record_signal(&self, signal: Signal, time_limit: TimeLimit) {
        let limiter = &self.limiter;
        if !limiter.is_adaptive {
            return;
        }
        // Most answers are no warnings and change nothing, so they do not need the lock.
        let is_reduced = limiter.is_reduced.load(Ordering::SeqCst);
        if signal.is_warning() || is_reduced || limiter.is_silent.load(Ordering::Relaxed) {
            limiter.adapt(signal, time_limit.limit, self);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.release(self);
    }
}

/// Returns whether a call of this priority is important: it goes before ordinary calls.
fn is_important(priority: u8) -> bool {
    priority > 0
}

/// Returns what the outcome of a call says about overload. `None` if it says nothing.
fn signal_of(outcome: &Result<Reply, CallError>) -> Option<Signal> {
    match outcome {
        Ok(reply) if reply.kind == ReplyKind::Fault => {
            let fault = reply.read_fault();
            let retry_after = fault.retry_after;
            let is_overload = match fault.code {
                // It waited too long in the queue or in the worker.
                FaultCode::Expired => true,
                // A layer of the worker rejects calls for its own reasons. It sets `retry_after` if
                // there are too many calls.
                FaultCode::Rejected => retry_after.is_some(),
                // A worker that refuses a redelivered or resent request answers `interrupted` in
                // place of `expired` or `rejected`, and keeps that fault's `retry_after`.
                FaultCode::Interrupted => retry_after.is_some(),
                _ => false,
            };
            Some(if is_overload {
                Signal::Refused { retry_after }
            } else {
                answered(reply)
            })
        }
        Ok(reply) => Some(answered(reply)),
        // The request was sent, and no worker answered, although no known obstacle (`source`)
        // prevented a reply.
        Err(CallError::TimedOut {
            executed: Executed::Maybe,
            source: None,
            ..
        }) => Some(Signal::TimedOut),
        Err(_) => None,
    }
}

/// Returns the signal of an answer. It is that of an idle worker if the reply does not say how long
/// the request waited.
fn answered(reply: &Reply) -> Signal {
    Signal::Answered {
        queued: reply.queue_time.as_duration(),
    }
}

/// Counts a call as waiting in the metrics until the guard is dropped. Then records in the call's
/// span how long it waited, and removes the call from the waiting ones if it got no permit.
struct WaitingGuard<'a> {
    limiter: &'a Limiter,
    key: WaitingKey,
    begun: Instant,
}

impl<'a> WaitingGuard<'a> {
    fn new(limiter: &'a Limiter, key: WaitingKey, begun: Instant) -> Self {
        let queue = &limiter.queue;
        count(Event::Waiting { queue, waits: true });
        Self { limiter, key, begun }
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        // A call that got a permit no longer waits.
        if state.waiting.remove(self.key) {
            self.limiter.store_waiting(&state);
        }
        drop(state);
        let queue = &self.limiter.queue;
        count(Event::Waiting { queue, waits: false });
        telemetry::record_client_wait(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use futures_util::poll;
    use tokio::time::sleep;

    use super::*;
    use crate::codec::Codec;
    use crate::protocol::{Fault, QueueTime};

    fn in_time(millis: u64) -> TimeLimit {
        let limit = Duration::from_millis(millis);
        TimeLimit {
            limit,
            deadline: Instant::now() + limit,
        }
    }

    fn limiter(max: usize) -> Arc<Limiter> {
        Limiter::new("q", max, WhenFull::Wait, true)
    }

    fn reply(queued: u64) -> Result<Reply, CallError> {
        let mut reply = Reply::new(ReplyKind::Result, Codec::Json, bytes::Bytes::new());
        reply.queue_time = QueueTime::from_millis(queued);
        Ok(reply)
    }

    fn refusal(retry_after: u64) -> Result<Reply, CallError> {
        let fault = Fault::new(FaultCode::Expired, "").with_retry_after(Duration::from_millis(retry_after));
        Ok(Reply::fault(Codec::Json, &fault))
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_goes_to_the_call_that_waits_longest() {
        let limiter = limiter(1);
        let permit = limiter.try_acquire(0).unwrap();
        let [mut first, mut second] = [0, 0].map(|priority| limiter.acquire(in_time(1000), priority));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert!(limiter.try_acquire(0).is_none());
        drop(permit);
        assert!(poll!(&mut second).is_pending());
        let Poll::Ready(Ok(permit)) = poll!(&mut first) else {
            panic!("the first call should hold the permit");
        };
        drop(permit);
        assert!(matches!(poll!(&mut second), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_a_higher_priority_goes_first() {
        let limiter = limiter(1);
        let permit = limiter.try_acquire(0).unwrap();
        let [mut first, mut second] = [0, 9].map(|priority| limiter.acquire(in_time(1000), priority));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(permit);
        assert!(poll!(&mut first).is_pending());
        assert!(matches!(poll!(&mut second), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_or_late_leaves_its_permit_to_others() {
        let limiter = limiter(1);
        let permit = limiter.try_acquire(0).unwrap();
        let mut dropped = limiter.acquire(in_time(1000), 0);
        assert!(poll!(&mut dropped).is_pending());
        let late = limiter.acquire(in_time(10), 0).await;
        assert!(
            matches!(late, Err(CallError::TooManyCalls { limit: 1 })),
            "{late:?}"
        );
        drop(permit);
        // It was granted the permit and was dropped before it was polled again.
        drop(dropped);
        assert_eq!(limiter.waiting.load(Ordering::Relaxed), 0);
        assert!(limiter.try_acquire(0).is_some());
        assert_eq!(limiter.in_flight.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn under_overload_fewer_calls_have_permits_and_the_newest_go_first() {
        let limiter = limiter(100);
        let time = in_time(1000);
        let mut permits: Vec<_> = (0..10).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_millis(300)).await;
        permits.pop().unwrap().record_outcome(&reply(200), time);
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 5);
        let [mut first, mut second] = [0, 0].map(|priority| limiter.acquire(in_time(1000), priority));
        assert!(limiter.try_acquire(0).is_none());
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        permits.truncate(5);
        assert!(poll!(&mut second).is_pending());
        permits.pop();
        assert!(poll!(&mut first).is_pending());
        assert!(matches!(poll!(&mut second), Poll::Ready(Ok(_))));
        let failed = limiter.acquire(in_time(0), 0).await;
        assert!(
            matches!(
                failed,
                Err(CallError::Overloaded {
                    limit: 5,
                    retry_after: None
                })
            ),
            "{failed:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_sent_when_it_takes_its_own_permit() {
        let limiter = limiter(100);
        let time = in_time(1000);
        let permits: Vec<_> = (0..10).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_millis(300)).await;
        permits.last().unwrap().record_outcome(&reply(200), time);
        drop(permits);
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 5);
        // A layer makes the call again, with the same deadline.
        let permits: Vec<_> = (0..5).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_millis(300)).await;
        permits.last().unwrap().record_outcome(&reply(200), time);
        assert!(limiter.limit.load(Ordering::Relaxed) < 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_burst_does_not_reduce_the_limit_to_its_own_number() {
        let limiter = limiter(1000);
        let time = in_time(1000);
        let mut permits: Vec<_> = (0..100).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_millis(200)).await;
        permits.drain(..90);
        // It waited for the ninety calls before it.
        permits.remove(0).record_outcome(&reply(180), time);
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn an_important_call_does_not_wait_for_others_of_an_overloaded_service() {
        let limiter = limiter(100);
        let time = in_time(1000);
        let mut permits: Vec<_> = (0..10).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_millis(300)).await;
        permits.pop().unwrap().record_outcome(&reply(200), time);
        assert!(limiter.try_acquire(0).is_none());
        let important: Vec<_> = std::iter::from_fn(|| limiter.try_acquire(1)).collect();
        assert_eq!(important.len(), 5);
        let mut waiting = limiter.acquire(in_time(1000), 1);
        assert!(poll!(&mut waiting).is_pending());
        drop(important);
        assert!(matches!(poll!(&mut waiting), Poll::Ready(Ok(_))));
        drop(waiting);
        drop(permits);
        let counts = [&limiter.in_flight, &limiter.important].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_do_not_keep_quick_calls_from_free_permits() {
        let limiter = limiter(100);
        let minute = in_time(60_000);
        let mut permits: Vec<_> = (0..2).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_secs(20)).await;
        for outcome in [refusal(0), reply(1)] {
            permits.pop().unwrap().record_outcome(&outcome, minute);
        }
        let mut permits: Vec<_> = std::iter::from_fn(|| limiter.try_acquire(0)).collect();
        let mut quick = limiter.acquire(in_time(1000), 0);
        assert!(poll!(&mut quick).is_pending());
        permits.pop();
        assert!(matches!(poll!(&mut quick), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_calls_that_hold_more_permits_than_there_are_do_not_hold_up_quick_ones() {
        let limiter = limiter(100);
        let minute = in_time(60_000);
        let mut polls: Vec<_> = (0..30).map(|_| limiter.try_acquire(0).unwrap()).collect();
        sleep(Duration::from_secs(10)).await;
        polls.pop().unwrap().record_outcome(&refusal(0), minute);
        assert!(limiter.limit.load(Ordering::Relaxed) < 20);
        let begun = Instant::now();
        for _ in 0..100 {
            let time = in_time(5000);
            let permit = limiter.acquire(time, 0).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            permit.record_outcome(&reply(0), time);
        }
        assert!(
            begun.elapsed() < Duration::from_millis(1200),
            "{:?}",
            begun.elapsed()
        );
        drop(polls);
        assert_eq!(limiter.in_flight.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_have_begun_do_not_keep_others_from_the_workers() {
        let limiter = limiter(10);
        let time = in_time(60_000);
        let mut permits: Vec<_> = (0..4).map(|_| limiter.try_acquire(1).unwrap()).collect();
        permits.pop().unwrap().record_outcome(&refusal(0), time);
        assert_eq!(limiter.limit.load(Ordering::SeqCst), 2);
        assert!(limiter.try_acquire(1).is_none());
        let mut waiting = limiter.acquire(in_time(1000), 1);
        assert!(poll!(&mut waiting).is_pending());
        for permit in &permits {
            permit.record_begun(Duration::ZERO, time);
        }
        let Poll::Ready(Ok(waiting)) = poll!(&mut waiting) else {
            panic!("no call waits in the queue");
        };
        // All of them are in flight, but only one counts if the limit is reduced again.
        assert_eq!(limiter.in_flight.load(Ordering::SeqCst), 4);
        assert_eq!(limiter.important.load(Ordering::SeqCst), 1);
        sleep(Duration::from_secs(2)).await;
        waiting.record_outcome(&refusal(0), time);
        assert_eq!(limiter.limit.load(Ordering::SeqCst), 1);
        permits.push(waiting);
        drop(permits);
        let counts = [&limiter.in_flight, &limiter.important, &limiter.streaming];
        assert_eq!(counts.map(|count| count.load(Ordering::SeqCst)), [0; 3]);
        drop(std::iter::from_fn(|| limiter.try_acquire(0)).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_reduced_while_streams_go_on_does_not_count_them() {
        let limiter = limiter(10);
        let time = in_time(60_000);
        let streams: Vec<_> = (0..8).map(|_| limiter.try_acquire(0).unwrap()).collect();
        for stream in &streams {
            stream.record_begun(Duration::ZERO, time);
        }
        limiter.try_acquire(0).unwrap().record_outcome(&refusal(0), time);
        assert_eq!(limiter.limit.load(Ordering::SeqCst), 1);
        assert!(limiter.try_acquire(0).is_some(), "no other call counts");
        drop(streams);
        assert!(limiter.try_acquire(0).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_between_timeouts_ends_the_silence() {
        let timed_out = || {
            Err(CallError::TimedOut {
                limit: Duration::from_secs(1),
                executed: Executed::Maybe,
                source: None,
            })
        };
        let result = || Reply::new(ReplyKind::Result, Codec::Json, bytes::Bytes::new());
        let fault = || Reply::fault(Codec::Json, &Fault::new(FaultCode::Panicked, ""));
        for answer in [Some(result()), Some(fault()), None] {
            let limiter = limiter(100);
            let permits: Vec<_> = (0..100).map(|_| limiter.try_acquire(0).unwrap()).collect();
            for (number, permit) in permits.iter().enumerate().take(30) {
                let time = in_time(1000);
                sleep(Duration::from_millis(50)).await;
                if let Some(answer) = answer.clone().filter(|_| number % 10 == 0) {
                    permit.record_outcome(&Ok(answer), time);
                }
                permit.record_outcome(&timed_out(), time);
            }
            assert_eq!(limiter.is_reduced.load(Ordering::SeqCst), answer.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_one_call_in_flight_pauses_as_it_is_told() {
        let limiter = limiter(100);
        let permit = limiter.try_acquire(0).unwrap();
        permit.record_outcome(&refusal(200), in_time(1000));
        drop(permit);
        assert!(limiter.try_acquire(0).is_none());
        let begun = Instant::now();
        let mut waiting = pin!(limiter.wait(in_time(1000), 0));
        assert!(poll!(&mut waiting).is_pending());
        assert!(waiting.await.is_some());
        assert_eq!(begun.elapsed(), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_during_a_pause_says_when_it_ends() {
        let limiter = Limiter::new("q", 100, WhenFull::Fail, true);
        let permit = limiter.try_acquire(0).unwrap();
        permit.record_outcome(&refusal(200), in_time(1000));
        drop(permit);
        sleep(Duration::from_millis(50)).await;
        let failed = limiter.acquire(in_time(1000), 0).await.unwrap_err();
        assert_eq!(failed.retry_after(), Some(Duration::from_millis(150)));
        sleep(failed.retry_after().unwrap()).await;
        let permit = limiter.acquire(in_time(1000), 0).await.unwrap();
        let failed = limiter.acquire(in_time(1000), 0).await.unwrap_err();
        assert!(
            matches!(failed, CallError::Overloaded { limit: 1, .. }),
            "{failed:?}"
        );
        assert_eq!(failed.retry_after(), None);
        drop(permit);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_a_single_permit_is_as_quick_after_a_refusal_as_before() {
        let limiter = limiter(1);
        let permit = limiter.try_acquire(0).unwrap();
        permit.record_outcome(&refusal(0), in_time(1000));
        drop(permit);
        let begun = Instant::now();
        for _ in 0..5 {
            let permit = limiter.acquire(in_time(1000), 0).await.unwrap();
            let mut next = limiter.acquire(in_time(1000), 0);
            assert!(poll!(&mut next).is_pending());
            sleep(Duration::from_millis(1)).await;
            permit.record_outcome(&reply(0), in_time(1000));
            drop(permit);
            assert!(matches!(poll!(&mut next), Poll::Ready(Ok(_))));
        }
        assert!(
            begun.elapsed() < Duration::from_millis(10),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_adaptive_limit_nothing_changes_it() {
        let limiter = Limiter::new("q", 10, WhenFull::Wait, false);
        let permit = limiter.try_acquire(0).unwrap();
        permit.record_outcome(&refusal(200), in_time(1000));
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 10);
    }
}
