//! The delays of one queue, which its requests and the probes share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::measure::{Found, Measure, QueueDelay};
use crate::service::Received;
use crate::telemetry::{Event, count};
use crate::transport::Depth;

/// How many priorities are measured. Requests of other priorities count as the next lower one.
const MAX_PRIORITIES: usize = 8;

/// The shortest and the longest time that a probe may stay in a queue.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1024));

/// How long messages wait in one queue, by priority.
///
/// Nothing is measured before the first request with a time to live. Requests without one wait as
/// long as it takes, and probes would only fill their queue.
#[derive(Debug)]
pub(crate) struct QueueDelays {
    queue: String,
    /// Whether messages may wait. Avoids the lock while none do.
    is_active: AtomicBool,
    /// How many unsettled deliveries exhausted the prefetch when they arrived.
    exhausting: AtomicUsize,
    /// How long a probe may stay in the queue, in seconds. Zero before the first request with a
    /// time to live.
    lifetime: AtomicU64,
    state: Mutex<State>,
    /// Wakes the task that sends probes.
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    by_priority: BTreeMap<u8, QueueDelay>,
    /// How long the outstanding probes may stay in the queue.
    lifetime: Duration,
    /// Whether the last measurement found no waiting messages.
    was_empty: bool,
    /// How often the queue was consumed again.
    epoch: u64,
}

impl QueueDelays {
    pub(crate) fn new(queue: &str, wake: &Arc<Notify>) -> Self {
        Self {
            queue: queue.to_owned(),
            is_active: AtomicBool::new(false),
            exhausting: AtomicUsize::new(0),
            lifetime: AtomicU64::new(0),
            state: Mutex::new(State {
                by_priority: BTreeMap::new(),
                lifetime: Duration::ZERO,
                was_empty: false,
                epoch: 0,
            }),
            wake: Arc::clone(wake),
        }
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Resets all estimates, because the queue is consumed again and its content is not known.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.by_priority.clear();
        state.was_empty = false;
        state.epoch += 1;
        if self.is_active.swap(false, Ordering::AcqRel) {
            self.update_metric(Duration::ZERO);
        }
    }

    /// Notes the time to live of a request. Probes get the longest one: a request that waits for
    /// longer has expired.
    pub(crate) fn note_time_to_live(&self, time: Duration) {
        let time = time.clamp(LIFETIME.0, LIFETIME.1);
        // A power of two, so that it changes ten times at the most.
        let seconds = time.as_millis().div_ceil(1000).next_power_of_two();
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        if seconds <= self.lifetime.load(Ordering::Relaxed) {
            return;
        }
        self.lifetime.fetch_max(seconds, Ordering::Relaxed);
        let mut state = self.lock();
        state.lifetime = Duration::from_secs(self.lifetime.load(Ordering::Relaxed));
        // Expired probes show only that messages wait for longer than the old lifetime.
        state.forget_probes();
        drop(state);
        self.wake.notify_one();
    }

    /// Notes that a request of this priority exhausted the worker's prefetch, until the returned
    /// guard is dropped.
    pub(crate) fn exhaust(self: &Arc<Self>, priority: u8, now: Instant) -> Exhausted {
        self.exhausting.fetch_add(1, Ordering::SeqCst);
        let mut state = self.lock();
        self.saturate(&mut state, priority, now);
        Exhausted {
            delays: Arc::clone(self),
            priority,
            epoch: state.epoch,
        }
    }

    fn saturate(&self, state: &mut State, priority: u8, now: Instant) {
        state.delay(priority, now);
        state.saturate(now);
        if !self.is_active.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Returns how long a message of this priority that is delivered now has waited.
    pub(crate) fn receive(&self, priority: u8, now: Instant) -> Received {
        if !self.is_active.load(Ordering::Acquire) {
            return Received::at(now);
        }
        let mut state = self.lock();
        // Another task may have found the queue empty.
        if state.by_priority.is_empty() {
            return Received::at(now);
        }
        let lifetime = state.lifetime;
        let known = state.by_priority.len();
        let delay = state.delay(priority, now);
        let received = Received {
            at: now,
            // Probes do not live longer, so longer waits cannot be measured.
            waited: delay.waited(now).min(lifetime),
            queue_time: delay.queue_time(now).min(lifetime),
        };
        if state.by_priority.len() > known {
            self.wake.notify_one();
        }
        received
    }

    /// Returns how long messages wait in the queue, for the priority that waits longest.
    pub(crate) fn queue_time(&self, now: Instant) -> Duration {
        if self.is_active.load(Ordering::Acquire) {
            self.lock().queue_time(now)
        } else {
            Duration::ZERO
        }
    }

    /// Returns when the next measurement is due, its kind, and its priority.
    pub(super) fn next(&self, now: Instant) -> Option<(Instant, Measure, u8)> {
        let state = self.lock();
        if state.lifetime.is_zero() {
            return None;
        }
        let due = state.by_priority.iter().filter_map(|(priority, delay)| {
            let (due, measure) = delay.next(now)?;
            Some((due, measure, *priority))
        });
        due.min()
    }

    /// Notes that the broker is asked how many messages wait.
    pub(super) fn asked(&self, now: Instant) {
        for delay in self.lock().by_priority.values_mut() {
            delay.asked(now);
        }
    }

    /// Notes the broker's answer to the question of that time. `None` if it cannot tell.
    pub(super) fn answered(&self, asked: Instant, depth: Option<Depth>, now: Instant) {
        self.measured(now, |state, is_exhausted| {
            let found = found(depth, state.probes());
            for delay in state.by_priority.values_mut() {
                delay.answered(asked, found, is_exhausted, now);
            }
        });
    }

    /// Notes that a probe is sent. Returns how long it may stay in the queue.
    pub(super) fn sent(&self, priority: u8, number: u64, now: Instant) -> Duration {
        let mut state = self.lock();
        let lifetime = state.lifetime;
        if let Some(delay) = state.by_priority.get_mut(&priority) {
            delay.sent(number, lifetime, now);
        }
        self.update_metric(state.queue_time(now));
        lifetime
    }

    /// Notes that the broker confirmed a probe. Its number is unique among all priorities.
    pub(super) fn confirmed(&self, number: u64, now: Instant) {
        for delay in self.lock().by_priority.values_mut() {
            delay.confirmed(number, now);
        }
    }

    /// Notes that a probe did not reach the queue.
    pub(super) fn lost(&self, number: u64) {
        for delay in self.lock().by_priority.values_mut() {
            delay.lost(number);
        }
    }

    /// Notes that a probe came back.
    pub(super) fn returned(&self, number: u64, now: Instant) {
        self.measured(now, |state, is_exhausted| {
            for delay in state.by_priority.values_mut() {
                delay.returned(number, is_exhausted, now);
            }
        });
    }

    /// Notes a measurement. If no messages of any priority wait, measuring ends.
    fn measured(&self, now: Instant, note: impl FnOnce(&mut State, bool)) {
        let mut state = self.lock();
        let is_exhausted = self.exhausting.load(Ordering::SeqCst) > 0;
        // A measurement from before the queue was consumed again says nothing.
        if state.by_priority.is_empty() {
            return;
        }
        note(&mut state, is_exhausted);
        if !state.by_priority.values().any(QueueDelay::is_active) {
            state.by_priority.clear();
            state.was_empty = true;
            self.is_active.store(false, Ordering::Release);
        }
        self.update_metric(state.queue_time(now));
    }

    /// Forgets the outstanding probes, because none of them will come back.
    pub(super) fn forget_probes(&self) {
        self.lock().forget_probes();
    }

    /// Updates the metric of the wait. This happens once for each measurement, not for each
    /// request.
    fn update_metric(&self, time: Duration) {
        let queue = &self.queue;
        count(Event::QueueTime { queue, time });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step, so a panic elsewhere cannot leave a half-made change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An unsettled delivery that exhausted the prefetch. Must be dropped when its requests end.
#[derive(Debug)]
pub(crate) struct Exhausted {
    delays: Arc<QueueDelays>,
    priority: u8,
    epoch: u64,
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        let mut state = self.delays.lock();
        // Messages may have waited until now, unless the subscription was lost meanwhile.
        if state.epoch == self.epoch {
            self.delays.saturate(&mut state, self.priority, Instant::now());
        }
        drop(state);
        self.delays.exhausting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for QueueDelays {
    fn drop(&mut self) {
        // The server may have ended while messages waited.
        if *self.is_active.get_mut() {
            self.update_metric(Duration::ZERO);
        }
    }
}

impl State {
    fn saturate(&mut self, now: Instant) {
        for delay in self.by_priority.values_mut() {
            delay.saturate(now);
        }
    }

    /// Returns how many probes of all priorities are in the queue.
    fn probes(&self) -> usize {
        self.by_priority.values().map(QueueDelay::probes).sum()
    }

    fn forget_probes(&mut self) {
        for delay in self.by_priority.values_mut() {
            delay.forget_probes();
        }
    }

    fn queue_time(&self, now: Instant) -> Duration {
        let times = self.by_priority.values().map(|delay| delay.queue_time(now));
        times.max().unwrap_or_default().min(self.lifetime)
    }

    /// Returns the delay of a priority. A new one is measured from now on.
    fn delay(&mut self, priority: u8, now: Instant) -> &mut QueueDelay {
        let is_full = self.by_priority.len() >= MAX_PRIORITIES;
        let known = match self.by_priority.contains_key(&priority) {
            false if is_full => {
                let lower = self.by_priority.range(..priority).next_back();
                lower
                    .or(self.by_priority.first_key_value())
                    .map(|(known, _)| *known)
            }
            _ => None,
        };
        let was_empty = self.was_empty;
        let is_first = self.by_priority.is_empty();
        self.by_priority
            .entry(known.unwrap_or(priority))
            .or_insert_with(|| match was_empty && is_first {
                true => QueueDelay::of_empty(now),
                false => {
                    let mut delay = QueueDelay::default();
                    delay.saturate(now);
                    delay
                }
            })
    }
}

/// Returns what a queue of this depth holds if it has this many probes of this server.
fn found(depth: Option<Depth>, probes: usize) -> Found {
    let Some(Depth { messages, consumers }) = depth else {
        return Found::Unknown;
    };
    let (messages, consumers) = (messages as usize, consumers as usize);
    match consumers {
        // This server is a consumer, so the broker's answer is wrong. RabbitMQ reports a quorum
        // queue without a leader as empty and without consumers.
        0 => Found::Messages { are_few: false },
        _ if messages <= probes => Found::Nothing,
        // Other servers may have equally many probes in the queue.
        _ => Found::Messages {
            are_few: messages <= probes.saturating_mul(consumers),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saturate(delays: &QueueDelays, priority: u8, now: Instant) {
        delays.saturate(&mut delays.lock(), priority, now);
    }

    fn depth(messages: u32) -> Option<Depth> {
        Some(Depth {
            messages,
            consumers: 2,
        })
    }

    fn delays() -> QueueDelays {
        let delays = QueueDelays::new("q", &Arc::new(Notify::new()));
        delays.note_time_to_live(Duration::from_secs(1));
        delays
    }

    #[test]
    fn each_priority_has_a_delay_of_its_own() {
        let (delays, start) = (delays(), Instant::now());
        assert_eq!(delays.receive(0, start).waited, Duration::ZERO);
        saturate(&delays, 0, start);
        saturate(&delays, 9, start);
        for (number, priority) in [(1, 0), (2, 9)] {
            delays.sent(priority, number, start);
            delays.confirmed(number, start);
        }
        let now = start + Duration::from_millis(500);
        saturate(&delays, 0, now);
        delays.returned(2, now);
        delays.sent(9, 3, now);
        delays.confirmed(3, now);
        delays.returned(3, now);
        assert_eq!(delays.receive(9, now).waited, Duration::ZERO);
        assert_eq!(delays.receive(0, now).waited, Duration::from_millis(500));
        assert_eq!(delays.queue_time(now), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_may_wait_for_as_long_as_the_prefetch_is_exhausted() {
        let delays = Arc::new(delays());
        let pause = || tokio::time::advance(Duration::from_millis(1));
        let send = |number| {
            delays.sent(0, number, Instant::now());
            delays.confirmed(number, Instant::now());
        };
        let exhausted = delays.exhaust(0, Instant::now());
        pause().await;
        send(1);
        pause().await;
        // Another worker took it, and may be exhausted too by the next one.
        delays.returned(1, Instant::now());
        assert!(delays.next(Instant::now()).is_some());
        send(2);
        pause().await;
        // The next delivery that there is room for.
        drop(exhausted);
        delays.returned(2, Instant::now());
        assert!(delays.next(Instant::now()).is_some());
        pause().await;
        send(3);
        delays.returned(3, Instant::now());
        assert_eq!(delays.next(Instant::now()), None);
    }

    #[test]
    fn a_queue_whose_requests_have_all_the_time_is_not_measured() {
        let now = Instant::now();
        let delays = QueueDelays::new("q", &Arc::new(Notify::new()));
        saturate(&delays, 0, now);
        assert_eq!(delays.next(now), None);
        delays.note_time_to_live(Duration::from_millis(2500));
        assert_eq!(delays.next(now), Some((now, Measure::Depth, 0)));
        assert_eq!(delays.sent(0, 1, now), Duration::from_secs(4));
        delays.note_time_to_live(Duration::from_secs(86400));
        assert_eq!(delays.sent(0, 2, now), LIFETIME.1);
    }

    #[test]
    fn what_a_queue_holds_besides_probes_is_told_by_its_depth() {
        let of = |messages, probes| found(depth(messages), probes);
        assert_eq!(of(0, 0), Found::Nothing);
        assert_eq!(of(3, 3), Found::Nothing);
        assert_eq!(of(1, 0), Found::Messages { are_few: false });
        assert_eq!(of(6, 3), Found::Messages { are_few: true });
        assert_eq!(of(7, 3), Found::Messages { are_few: false });
        assert_eq!(found(None, 0), Found::Unknown);
        let nobody = Depth {
            messages: 0,
            consumers: 0,
        };
        assert_eq!(found(Some(nobody), 0), Found::Messages { are_few: false });
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_delivered_before_the_queue_was_lost_does_not_measure_it_again() {
        let delays = Arc::new(delays());
        let exhausted = delays.exhaust(0, Instant::now());
        delays.reset();
        drop(exhausted);
        assert!(!delays.is_active.load(Ordering::Acquire));
        assert_eq!(delays.next(Instant::now()), None);
        assert_eq!(delays.exhausting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_delivery_to_a_queue_that_was_just_found_empty_does_not_stop_the_measuring() {
        let (delays, now) = (delays(), Instant::now());
        delays.is_active.store(true, Ordering::Release);
        assert_eq!(delays.receive(0, now), Received::at(now));
        delays.is_active.store(false, Ordering::Release);
        saturate(&delays, 0, now);
        assert!(delays.is_active.load(Ordering::Acquire));
        assert!(delays.next(now).is_some());
    }

    #[test]
    fn messages_that_outlive_the_probes_waited_at_least_as_long_as_those_lived() {
        let (delays, start) = (delays(), Instant::now());
        saturate(&delays, 0, start);
        delays.asked(start);
        delays.answered(start, depth(0), start);
        let now = start + Duration::from_secs(4);
        saturate(&delays, 0, now);
        assert_eq!(delays.receive(0, now).waited, Duration::from_secs(1));
        // From a request with more time on, it is measured anew.
        delays.note_time_to_live(Duration::from_secs(60));
        assert_eq!(delays.receive(0, now).waited, Duration::ZERO);
    }

    #[test]
    fn an_empty_queue_has_no_waiting_messages_of_any_priority() {
        let (delays, start) = (delays(), Instant::now());
        saturate(&delays, 0, start);
        saturate(&delays, 9, start);
        let later = start + Duration::from_millis(1);
        delays.asked(later);
        assert_eq!(delays.next(later), None);
        delays.answered(later, depth(0), later);
        assert_eq!(delays.next(later + Duration::from_secs(1)), None);
        assert!(!delays.is_active.load(Ordering::Acquire));
    }

    #[test]
    fn there_is_a_limit_to_the_priorities_that_are_measured() {
        let (delays, start) = (delays(), Instant::now());
        for priority in 0..=255 {
            saturate(&delays, priority, start);
            delays.receive(priority, start);
        }
        assert_eq!(delays.lock().by_priority.len(), MAX_PRIORITIES);
    }

    #[test]
    fn a_queue_that_is_empty_again_needs_no_probes() {
        let (delays, start) = (delays(), Instant::now());
        saturate(&delays, 0, start);
        let later = start + Duration::from_millis(5);
        assert!(delays.next(later).is_some());
        delays.sent(0, 1, later);
        delays.confirmed(1, later);
        delays.returned(1, later + Duration::from_millis(2));
        assert_eq!(
            delays.queue_time(later + Duration::from_millis(2)),
            Duration::ZERO
        );
        assert_eq!(delays.next(later + Duration::from_secs(1)), None);
        assert_eq!(
            delays.receive(0, later + Duration::from_secs(1)).waited,
            Duration::ZERO
        );
    }
}
