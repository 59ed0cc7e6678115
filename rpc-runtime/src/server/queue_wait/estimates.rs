//! The estimated waits in one queue, which its requests and the probes share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::estimator::{QueueContent, Step, WaitEstimator};
use crate::service::Received;
use crate::telemetry::{Event, count};
use crate::transport::Depth;

/// How many priorities are measured. Requests of other priorities count as the next lower measured
/// one, or as the lowest measured one if none is lower.
const MAX_PRIORITIES: usize = 8;

/// The shortest time after which a probe expires in a queue.
const MIN_PROBE_TTL: Duration = Duration::from_secs(1);

/// The longest time after which a probe expires in a queue.
const MAX_PROBE_TTL: Duration = Duration::from_secs(1024);

/// Estimates how long messages wait in one queue, by priority.
///
/// Nothing is measured before the first request with a time to live. Requests that cannot expire
/// need no estimate, so probes would be useless.
#[derive(Debug)]
pub(crate) struct QueueWaitEstimates {
    queue: String,
    /// Whether messages may wait. While none may, [`estimate`](Self::estimate) takes no lock.
    is_active: AtomicBool,
    /// How many of the deliveries that are being handled filled the prefetch when they arrived.
    /// Changed without the lock: each counts from before its first call of `record_full` until
    /// after the last one, so that a measurement meanwhile counts the prefetch as full.
    full_deliveries: AtomicUsize,
    /// The time to live of probes, in seconds. Zero before the first request with a time to live.
    /// It is atomic so that a request that does not raise it takes no lock.
    probe_ttl_seconds: AtomicU64,
    state: Mutex<State>,
    /// Wakes the task that sends probes.
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    /// Empty while no messages may wait.
    by_priority: BTreeMap<u8, WaitEstimator>,
    /// The time to live of the outstanding probes. It follows `probe_ttl_seconds`, but changes
    /// under the lock, together with the probes.
    probe_ttl: Duration,
    /// Whether measuring last ended because no messages waited, not because the subscription ended.
    last_found_empty: bool,
    /// How many subscriptions have ended. A guard of an earlier one starts no measuring.
    epoch: u64,
}

impl QueueWaitEstimates {
    pub(crate) fn new(queue: &str, wake: &Arc<Notify>) -> Self {
        Self {
            queue: queue.to_owned(),
            is_active: AtomicBool::new(false),
            full_deliveries: AtomicUsize::new(0),
            probe_ttl_seconds: AtomicU64::new(0),
            state: Mutex::new(State {
                by_priority: BTreeMap::new(),
                probe_ttl: Duration::ZERO,
                last_found_empty: false,
                epoch: 0,
            }),
            wake: Arc::clone(wake),
        }
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Resets all estimates, because the subscription ended: what the queue holds is no longer
    /// known.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.by_priority.clear();
        state.last_found_empty = false;
        state.epoch += 1;
        if self.is_active.swap(false, Ordering::AcqRel) {
            self.update_metric(Duration::ZERO);
        }
    }

    /// Raises the time to live of probes to at least that of a request, within the limits. A probe
    /// need not live longer than the requests whose wait it measures. A new time to live begins
    /// measuring anew.
    pub(crate) fn raise_probe_ttl(&self, time: Duration) {
        let time = time.clamp(MIN_PROBE_TTL, MAX_PROBE_TTL);
        // A power of two, so that it takes only eleven values.
        let seconds = time.as_millis().div_ceil(1000).next_power_of_two();
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        if seconds <= self.probe_ttl_seconds.load(Ordering::Relaxed) {
            return;
        }
        self.probe_ttl_seconds.fetch_max(seconds, Ordering::Relaxed);
        let mut state = self.lock();
        state.probe_ttl = Duration::from_secs(self.probe_ttl_seconds.load(Ordering::Relaxed));
        // Expired probes show only that messages wait for longer than the old time to live.
        state.forget_probes();
        drop(state);
        self.wake.notify_one();
    }

    /// Records that a delivery of this priority filled the worker's prefetch. Drop the returned
    /// guard when the delivery has been handled.
    pub(crate) fn on_prefetch_full(self: &Arc<Self>, priority: u8, now: Instant) -> PrefetchFullGuard {
        self.full_deliveries.fetch_add(1, Ordering::SeqCst);
        let mut state = self.lock();
        self.record_full(&mut state, priority, now);
        PrefetchFullGuard {
            estimates: Arc::clone(self),
            priority,
            epoch: state.epoch,
        }
    }

    /// Records that the prefetch is full, or was until `now`, so that messages of any priority may
    /// wait. Lets measuring begin.
    fn record_full(&self, state: &mut State, priority: u8, now: Instant) {
        // Adds the estimator of a new priority.
        state.estimator_or_new(priority, now);
        state.on_prefetch_full(now);
        if !self.is_active.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Returns how long a message of this priority that is delivered now may have waited. While
    /// messages may wait, begins to measure a priority that is new.
    pub(crate) fn estimate(&self, priority: u8, now: Instant) -> Received {
        if !self.is_active.load(Ordering::Acquire) {
            return Received::at(now);
        }
        let mut state = self.lock();
        // Another task may have just found the queue empty.
        if state.by_priority.is_empty() {
            return Received::at(now);
        }
        let probe_ttl = state.probe_ttl;
        let measured_before = state.by_priority.len();
        let estimator = state.estimator_or_new(priority, now);
        let received = Received {
            at: now,
            // Probes expire after `probe_ttl`, so longer waits cannot be measured.
            waited: estimator.waited(now).min(probe_ttl),
            queue_time: estimator.queue_time(now).min(probe_ttl),
        };
        // The measurement of a new priority is due now.
        if state.by_priority.len() > measured_before {
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

    /// Returns the step that is due first among all priorities, and when. The priority is that of
    /// the probe; a depth request serves all priorities. `None` before the first request with a
    /// time to live, and while no step is needed or possible.
    pub(super) fn next_step(&self, now: Instant) -> Option<(Instant, Step, u8)> {
        let state = self.lock();
        if state.probe_ttl.is_zero() {
            return None;
        }
        let steps = state.by_priority.iter().filter_map(|(priority, estimator)| {
            let (due, step) = estimator.next_step(now)?;
            Some((due, step, *priority))
        });
        steps.min()
    }

    /// Records that the broker is asked for the depth of the queue.
    pub(super) fn on_depth_requested(&self, now: Instant) {
        for estimator in self.lock().by_priority.values_mut() {
            estimator.on_depth_requested(now);
        }
    }

    /// Records the broker's answer to the request for the queue's depth that was sent at `asked`.
    /// `depth` is `None` if the broker could not report it.
    pub(super) fn on_depth(&self, asked: Instant, depth: Option<Depth>, now: Instant) {
        self.update(now, |state, is_full| {
            // A probe that was confirmed after `asked` may not be included in the depth. If it is
            // included, it counts as a message, which only costs another measurement.
            let found = queue_content(depth, state.probes_confirmed_by(asked));
            for estimator in state.by_priority.values_mut() {
                estimator.on_depth(asked, found, is_full, now);
            }
        });
    }

    /// Records that a probe is sent. Returns its time to live.
    pub(super) fn on_probe_sent(&self, priority: u8, number: u64, now: Instant) -> Duration {
        let mut state = self.lock();
        let probe_ttl = state.probe_ttl;
        if let Some(estimator) = state.by_priority.get_mut(&priority) {
            estimator.on_probe_sent(number, probe_ttl, now);
        }
        self.update_metric(state.queue_time(now));
        probe_ttl
    }

    /// Records that the broker confirmed a probe. Its number is unique among all priorities.
    pub(super) fn on_probe_confirmed(&self, number: u64, now: Instant) {
        for estimator in self.lock().by_priority.values_mut() {
            estimator.on_probe_confirmed(number, now);
        }
    }

    /// Records that a probe may not have reached the queue.
    pub(super) fn on_probe_lost(&self, number: u64) {
        for estimator in self.lock().by_priority.values_mut() {
            estimator.on_probe_lost(number);
        }
    }

    /// Records that a probe came back: the broker delivered it to this worker, or to another one
    /// that replied to it. Only the estimator that sent this number reacts.
    pub(super) fn on_probe_delivered(&self, number: u64, now: Instant) {
        self.update(now, |state, is_full| {
            for estimator in state.by_priority.values_mut() {
                estimator.on_probe_delivered(number, is_full, now);
            }
        });
    }

    /// Records the result of a measurement by calling `record`, which gets whether the prefetch is
    /// full. If no messages of any priority may wait then, measuring ends. Does nothing if it has
    /// ended already.
    fn update(&self, now: Instant, record: impl FnOnce(&mut State, bool)) {
        let mut state = self.lock();
        let is_full = self.full_deliveries.load(Ordering::SeqCst) > 0;
        if state.by_priority.is_empty() {
            // The subscription was lost or the queue was found empty after this measurement began,
            // so its result means nothing.
            return;
        }
        record(&mut state, is_full);
        if !state.by_priority.values().any(WaitEstimator::is_active) {
            state.by_priority.clear();
            state.last_found_empty = true;
            self.is_active.store(false, Ordering::Release);
        }
        self.update_metric(state.queue_time(now));
    }

    /// Forgets the outstanding probes, because none of them will come back.
    pub(super) fn forget_probes(&self) {
        self.lock().forget_probes();
    }

    /// Updates the metric of the queue time. Called for each measurement, not for each request.
    fn update_metric(&self, time: Duration) {
        let queue = &self.queue;
        count(Event::QueueTime { queue, time });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only the metrics recorder, which is not ours, may panic under the lock. It is called when
        // a change is complete.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exists while a delivery that filled the prefetch is being handled: messages may wait in the
/// queue until it is dropped.
#[derive(Debug)]
pub(crate) struct PrefetchFullGuard {
    estimates: Arc<QueueWaitEstimates>,
    priority: u8,
    epoch: u64,
}

impl Drop for PrefetchFullGuard {
    fn drop(&mut self) {
        let mut state = self.estimates.lock();
        // Messages may have waited until now. A delivery of a lost subscription says nothing about
        // that.
        if state.epoch == self.epoch {
            self.estimates
                .record_full(&mut state, self.priority, Instant::now());
        }
        drop(state);
        self.estimates.full_deliveries.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for QueueWaitEstimates {
    fn drop(&mut self) {
        // The server may have ended while messages waited. The metric must not keep their wait.
        if *self.is_active.get_mut() {
            self.update_metric(Duration::ZERO);
        }
    }
}

impl State {
    fn on_prefetch_full(&mut self, now: Instant) {
        for estimator in self.by_priority.values_mut() {
            estimator.on_prefetch_full(now);
        }
    }

    /// Returns how many probes of all priorities were confirmed by `time` and have not come back.
    fn probes_confirmed_by(&self, time: Instant) -> usize {
        self.by_priority
            .values()
            .map(|estimator| estimator.probes_confirmed_by(time))
            .sum()
    }

    fn forget_probes(&mut self) {
        for estimator in self.by_priority.values_mut() {
            estimator.forget_probes();
        }
    }

    fn queue_time(&self, now: Instant) -> Duration {
        let times = self
            .by_priority
            .values()
            .map(|estimator| estimator.queue_time(now));
        times.max().unwrap_or_default().min(self.probe_ttl)
    }

    /// Returns the priority that this one counts as; see [`MAX_PRIORITIES`].
    fn measured_priority(&self, priority: u8) -> u8 {
        if self.by_priority.contains_key(&priority) || self.by_priority.len() < MAX_PRIORITIES {
            return priority;
        }
        let next_lower = self.by_priority.range(..priority).next_back();
        let measured = next_lower.or(self.by_priority.first_key_value());
        measured.map_or(priority, |(measured, _)| *measured)
    }

    /// Returns the estimator of the [measured priority](Self::measured_priority). A new one is
    /// measured from now on.
    fn estimator_or_new(&mut self, priority: u8, now: Instant) -> &mut WaitEstimator {
        let measured = self.measured_priority(priority);
        let was_found_empty = self.last_found_empty && self.by_priority.is_empty();
        let create = || {
            if was_found_empty {
                // The prefetch has had room since the queue was found empty, so nothing has waited.
                WaitEstimator::of_empty(now)
            } else {
                // Messages may wait already, also those of this priority.
                let mut estimator = WaitEstimator::default();
                estimator.on_prefetch_full(now);
                estimator
            }
        };
        self.by_priority.entry(measured).or_insert_with(create)
    }
}

/// Returns what a queue of this depth holds, in which this server has `own_probes` probes.
fn queue_content(depth: Option<Depth>, own_probes: usize) -> QueueContent {
    let Some(Depth { messages, consumers }) = depth else {
        return QueueContent::Unknown;
    };
    let (messages, consumers) = (messages as usize, consumers as usize);
    if consumers == 0 {
        // This server is a consumer, so the broker's answer is wrong. RabbitMQ reports a quorum
        // queue without a leader as empty and without consumers. Messages may wait in it, which a
        // probe will show.
        QueueContent::Messages
    } else if messages <= own_probes {
        QueueContent::Nothing
    } else if messages <= own_probes.saturating_mul(consumers) {
        // Other servers may have equally many probes in the queue.
        QueueContent::PerhapsOnlyProbes
    } else {
        QueueContent::Messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_full(estimates: &QueueWaitEstimates, priority: u8, now: Instant) {
        estimates.record_full(&mut estimates.lock(), priority, now);
    }

    fn depth(messages: u32) -> Option<Depth> {
        Some(Depth {
            messages,
            consumers: 2,
        })
    }

    fn estimates() -> QueueWaitEstimates {
        let estimates = QueueWaitEstimates::new("q", &Arc::new(Notify::new()));
        estimates.raise_probe_ttl(Duration::from_secs(1));
        estimates
    }

    #[test]
    fn each_priority_has_its_own_estimate() {
        let (estimates, start) = (estimates(), Instant::now());
        assert_eq!(estimates.estimate(0, start).waited, Duration::ZERO);
        record_full(&estimates, 0, start);
        record_full(&estimates, 9, start);
        for (number, priority) in [(1, 0), (2, 9)] {
            estimates.on_probe_sent(priority, number, start);
            estimates.on_probe_confirmed(number, start);
        }
        let now = start + Duration::from_millis(500);
        record_full(&estimates, 0, now);
        estimates.on_probe_delivered(2, now);
        estimates.on_probe_sent(9, 3, now);
        estimates.on_probe_confirmed(3, now);
        estimates.on_probe_delivered(3, now);
        assert_eq!(estimates.estimate(9, now).waited, Duration::ZERO);
        assert_eq!(estimates.estimate(0, now).waited, Duration::from_millis(500));
        assert_eq!(estimates.queue_time(now), Duration::from_millis(500));
    }

    #[test]
    fn a_probe_that_came_after_the_depth_was_read_is_no_message_of_it() {
        let (estimates, start) = (estimates(), Instant::now());
        record_full(&estimates, 0, start);
        record_full(&estimates, 9, start);
        estimates.on_probe_sent(9, 1, start);
        let asked = start + Duration::from_millis(1);
        estimates.on_depth_requested(asked);
        let now = start + Duration::from_millis(2);
        estimates.on_probe_confirmed(1, now);
        // The broker has found one message: a request.
        estimates.on_depth(asked, depth(1), now);
        let later = now + Duration::from_millis(500);
        assert_eq!(estimates.queue_time(later), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_may_wait_for_as_long_as_the_prefetch_is_full() {
        let estimates = Arc::new(estimates());
        let pause = || tokio::time::advance(Duration::from_millis(1));
        let send = |number| {
            estimates.on_probe_sent(0, number, Instant::now());
            estimates.on_probe_confirmed(number, Instant::now());
        };
        let guard = estimates.on_prefetch_full(0, Instant::now());
        pause().await;
        send(1);
        pause().await;
        // Another worker replied to it. The next message may fill the prefetch of that worker too.
        estimates.on_probe_delivered(1, Instant::now());
        assert!(estimates.next_step(Instant::now()).is_some());
        send(2);
        pause().await;
        // The prefetch has room for another delivery.
        drop(guard);
        estimates.on_probe_delivered(2, Instant::now());
        assert!(estimates.next_step(Instant::now()).is_some());
        pause().await;
        send(3);
        estimates.on_probe_delivered(3, Instant::now());
        assert_eq!(estimates.next_step(Instant::now()), None);
    }

    #[test]
    fn a_queue_whose_requests_never_expire_is_not_measured() {
        let now = Instant::now();
        let estimates = QueueWaitEstimates::new("q", &Arc::new(Notify::new()));
        record_full(&estimates, 0, now);
        assert_eq!(estimates.next_step(now), None);
        estimates.raise_probe_ttl(Duration::from_millis(2500));
        assert_eq!(estimates.next_step(now), Some((now, Step::Depth, 0)));
        assert_eq!(estimates.on_probe_sent(0, 1, now), Duration::from_secs(4));
        estimates.raise_probe_ttl(Duration::from_secs(86400));
        assert_eq!(estimates.on_probe_sent(0, 2, now), MAX_PROBE_TTL);
    }

    #[test]
    fn the_depth_of_a_queue_shows_what_it_holds_besides_probes() {
        let nobody = Depth {
            messages: 0,
            consumers: 0,
        };
        for (depth, probes, content) in [
            (depth(0), 0, QueueContent::Nothing),
            (depth(3), 3, QueueContent::Nothing),
            (depth(1), 0, QueueContent::Messages),
            (depth(6), 3, QueueContent::PerhapsOnlyProbes),
            (depth(7), 3, QueueContent::Messages),
            (None, 0, QueueContent::Unknown),
            (Some(nobody), 0, QueueContent::Messages),
        ] {
            assert_eq!(
                queue_content(depth, probes),
                content,
                "{depth:?}, {probes} probes"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_delivery_of_a_lost_subscription_starts_no_measurement() {
        let estimates = Arc::new(estimates());
        let guard = estimates.on_prefetch_full(0, Instant::now());
        estimates.reset();
        drop(guard);
        assert!(!estimates.is_active.load(Ordering::Acquire));
        assert_eq!(estimates.next_step(Instant::now()), None);
        assert_eq!(estimates.full_deliveries.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_delivery_to_a_queue_that_was_just_found_empty_does_not_stop_the_measuring() {
        let (estimates, now) = (estimates(), Instant::now());
        estimates.is_active.store(true, Ordering::Release);
        assert_eq!(estimates.estimate(0, now), Received::at(now));
        estimates.is_active.store(false, Ordering::Release);
        record_full(&estimates, 0, now);
        assert!(estimates.is_active.load(Ordering::Acquire));
        assert!(estimates.next_step(now).is_some());
    }

    #[test]
    fn the_estimate_is_at_most_the_time_to_live_of_probes() {
        let (estimates, start) = (estimates(), Instant::now());
        record_full(&estimates, 0, start);
        estimates.on_depth_requested(start);
        estimates.on_depth(start, depth(0), start);
        let now = start + Duration::from_secs(4);
        record_full(&estimates, 0, now);
        assert_eq!(estimates.estimate(0, now).waited, Duration::from_secs(1));
        // A request with a longer time to live restarts the measurement.
        estimates.raise_probe_ttl(Duration::from_secs(60));
        assert_eq!(estimates.estimate(0, now).waited, Duration::ZERO);
    }

    #[test]
    fn an_empty_queue_has_no_waiting_messages_of_any_priority() {
        let (estimates, start) = (estimates(), Instant::now());
        record_full(&estimates, 0, start);
        record_full(&estimates, 9, start);
        let later = start + Duration::from_millis(1);
        estimates.on_depth_requested(later);
        assert_eq!(estimates.next_step(later), None);
        estimates.on_depth(later, depth(0), later);
        assert_eq!(estimates.next_step(later + Duration::from_secs(1)), None);
        assert!(!estimates.is_active.load(Ordering::Acquire));
    }

    #[test]
    fn there_is_a_limit_to_the_priorities_that_are_measured() {
        let (estimates, start) = (estimates(), Instant::now());
        for priority in 0..=255 {
            record_full(&estimates, priority, start);
            estimates.estimate(priority, start);
        }
        assert_eq!(estimates.lock().by_priority.len(), MAX_PRIORITIES);
    }

    #[test]
    fn a_queue_that_is_empty_again_needs_no_probes() {
        let (estimates, start) = (estimates(), Instant::now());
        record_full(&estimates, 0, start);
        let later = start + Duration::from_millis(5);
        assert!(estimates.next_step(later).is_some());
        estimates.on_probe_sent(0, 1, later);
        estimates.on_probe_confirmed(1, later);
        estimates.on_probe_delivered(1, later + Duration::from_millis(2));
        assert_eq!(
            estimates.queue_time(later + Duration::from_millis(2)),
            Duration::ZERO
        );
        assert_eq!(estimates.next_step(later + Duration::from_secs(1)), None);
        assert_eq!(
            estimates.estimate(0, later + Duration::from_secs(1)).waited,
            Duration::ZERO
        );
    }
}
