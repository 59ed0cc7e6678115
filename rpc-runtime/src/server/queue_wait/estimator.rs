//! Estimates how long messages wait in a queue, by means of probes that pass through it. Pure: no
//! I/O.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The shortest pause between two measurements.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The longest pause between two measurements while no probe has been in the queue for long.
const MAX_INTERVAL: Duration = Duration::from_millis(100);

/// The pause between two measurements is the estimated wait divided by this, within the limits.
const MEASUREMENTS_PER_WAIT: u32 = 8;

/// About how many probes are in the queue while the wait is constant. There are more while none
/// comes back, and if [`MAX_LONG_QUEUE_INTERVAL`] makes them more frequent.
const PROBES_IN_QUEUE: u32 = 8;

/// The longest pause between two measurements, however long the oldest probe has been in the queue.
const MAX_LONG_QUEUE_INTERVAL: Duration = Duration::from_secs(2);

/// A queue that was not found empty, and neither accepted nor delivered a probe, for this long
/// cannot be measured.
const UNMEASURABLE_AFTER: Duration = Duration::from_secs(5);

/// How long to wait before the broker is asked again for a depth that it could not report.
const UNKNOWN_DEPTH_PAUSE: Duration = Duration::from_secs(1);

/// The next step of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Ask the broker for the depth of the queue.
    Depth,
    /// Send a probe through the queue, because messages wait.
    Probe,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueContent {
    /// Nothing but this server's own probes.
    Nothing,
    /// Other messages, as far as is known.
    Messages,
    /// Other messages, which may all be probes of other servers.
    PerhapsOnlyProbes,
    /// The broker could not report the depth.
    Unknown,
}

/// How long messages of one priority wait in a queue before they are delivered.
///
/// A queue is first in, first out. A probe that comes back therefore shows how long it waited, and
/// that all messages delivered from then on were published after it. A probe that has not come back
/// shows that all messages delivered until now were published before it. An empty queue counts as a
/// probe that came back at once.
///
/// The estimate, [`waited`](Self::waited), is the longest time that a message can have waited. It
/// exceeds the true wait by at most one interval between probes. A shorter estimate would admit
/// requests that end too late. There are two exceptions: the estimate is the [queue
/// time](Self::queue_time) while other workers keep up, and a lower bound until the first probe has
/// come back and after [`UNMEASURABLE_AFTER`].
#[derive(Debug, Default)]
pub(super) struct WaitEstimator {
    /// Messages that are delivered from now on were published after this. `None` if that is not
    /// known: the queue may hold messages from before this worker subscribed.
    published_after: Option<Instant>,
    /// The probes that have not come back, oldest first.
    outstanding: VecDeque<Probe>,
    /// When the broker was asked for the depth of the queue. `None` once it has answered.
    depth_requested: Option<Instant>,
    /// Whether a probe is due, because the queue was found to hold messages.
    is_probe_due: bool,
    /// No measurement begins before this.
    not_before: Option<Instant>,
    /// When the last step was taken: the depth was asked for, or a probe was sent.
    last_begun: Option<Instant>,
    /// When the queue was last found empty, or last accepted or delivered a probe.
    last_measurable: Option<Instant>,
    /// How long the last probe that came back was in the queue. Zero if the queue was found empty
    /// after that.
    last_trip: Duration,
    /// The latest time at which a delivery filled the prefetch, or at which the handling of such a
    /// delivery ended. It does not change while the prefetch stays full.
    last_full: Option<Instant>,
    /// Whether messages may wait.
    is_active: bool,
    /// Whether the last measurement ended although this worker's prefetch was full all the time:
    /// other workers take the messages, and keep up.
    other_workers_keep_up: bool,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    sent: Instant,
    /// When the broker confirmed it.
    confirmed: Option<Instant>,
}

impl WaitEstimator {
    /// The estimator of a queue that is known to be empty at this moment.
    pub(super) fn of_empty(now: Instant) -> Self {
        Self {
            published_after: Some(now),
            last_measurable: Some(now),
            ..Self::default()
        }
    }

    /// Records that the worker's prefetch is full, or was until `now`, so that messages may wait.
    pub(super) fn on_prefetch_full(&mut self, now: Instant) {
        self.last_full = Some(now);
        self.is_active = true;
        self.other_workers_keep_up = false;
    }

    /// Whether messages may wait.
    pub(super) fn is_active(&self) -> bool {
        self.is_active
    }

    /// Returns how many of the probes that have not come back were confirmed by `time`.
    pub(super) fn probes_confirmed_by(&self, time: Instant) -> usize {
        let confirmed = self.outstanding.iter().filter_map(|probe| probe.confirmed);
        confirmed.filter(|confirmed| *confirmed <= time).count()
    }

    /// Returns the next step of the measurement, and when it is due. `None` while none is needed,
    /// or until the broker has reported the depth or confirmed the last probe.
    pub(super) fn next_step(&self, now: Instant) -> Option<(Instant, Step)> {
        let last_probe = self.outstanding.back();
        let awaits_confirm = last_probe.is_some_and(|probe| probe.confirmed.is_none());
        if !self.is_active || self.depth_requested.is_some() || awaits_confirm {
            return None;
        }
        if self.is_probe_due {
            return Some((now, Step::Probe));
        }
        let pause_ends = self.last_begun.map(|begun| begun + self.pause(now));
        Some((pause_ends.max(self.not_before).unwrap_or(now), Step::Depth))
    }

    /// Returns the pause between two measurements.
    fn pause(&self, now: Instant) -> Duration {
        let for_wait = if self.other_workers_keep_up {
            MAX_INTERVAL
        } else {
            (self.waited(now) / MEASUREMENTS_PER_WAIT).clamp(MIN_INTERVAL, MAX_INTERVAL)
        };
        // Longer in a long queue, so that only a few probes are in it.
        let for_long_queue = self.age_of_oldest(now) / PROBES_IN_QUEUE;
        for_wait.max(for_long_queue).min(MAX_LONG_QUEUE_INTERVAL)
    }

    /// Returns how long ago the oldest outstanding probe was sent. Zero if there is none.
    fn age_of_oldest(&self, now: Instant) -> Duration {
        let oldest = self.outstanding.front();
        oldest.map_or(Duration::ZERO, |probe| now.saturating_duration_since(probe.sent))
    }

    /// Records that the broker is asked for the depth of the queue.
    pub(super) fn on_depth_requested(&mut self, now: Instant) {
        self.depth_requested = Some(now);
        self.last_begun = Some(now);
    }

    /// Records what the queue holds. `asked` is when the broker was asked for its depth; an answer
    /// to an earlier request is ignored. `is_full` is whether the prefetch is full.
    pub(super) fn on_depth(&mut self, asked: Instant, found: QueueContent, is_full: bool, now: Instant) {
        if self.depth_requested != Some(asked) {
            return;
        }
        self.depth_requested = None;
        match found {
            QueueContent::Unknown => self.not_before = now.checked_add(UNKNOWN_DEPTH_PAUSE),
            QueueContent::Messages => self.is_probe_due = true,
            QueueContent::PerhapsOnlyProbes => self.is_probe_due = self.may_add_probe(now),
            QueueContent::Nothing => {
                self.last_measurable = Some(now);
                self.outstanding.clear();
                self.last_trip = Duration::ZERO;
                self.record_published_after(asked, is_full, now);
            }
        }
    }

    /// Whether to add a probe to a queue that may hold nothing but probes. The last one, if any,
    /// must be at least half as old as the oldest one, so that probes become rare, or
    /// [`UNMEASURABLE_AFTER`] old: a queue that accepts probes can be measured.
    fn may_add_probe(&self, now: Instant) -> bool {
        let Some(last) = self.outstanding.back() else {
            return true;
        };
        let min_age = (self.age_of_oldest(now) / 2).min(UNMEASURABLE_AFTER);
        now.saturating_duration_since(last.sent) >= min_age
    }

    /// Records that a probe is sent, which `number` identifies. Forgets the probes that have
    /// expired in the queue: all have the same `ttl`.
    pub(super) fn on_probe_sent(&mut self, number: u64, ttl: Duration, now: Instant) {
        self.outstanding
            .retain(|probe| now.saturating_duration_since(probe.sent) <= ttl);
        self.is_probe_due = false;
        self.last_begun = Some(now);
        self.outstanding.push_back(Probe {
            number,
            sent: now,
            confirmed: None,
        });
    }

    /// Records that the broker confirmed the probe.
    pub(super) fn on_probe_confirmed(&mut self, number: u64, now: Instant) {
        let mut probes = self.outstanding.iter_mut();
        if let Some(probe) = probes.find(|probe| probe.number == number) {
            probe.confirmed = Some(now);
            self.last_measurable = Some(now);
        }
    }

    /// Records that the probe may not have reached the queue.
    pub(super) fn on_probe_lost(&mut self, number: u64) {
        self.outstanding.retain(|probe| probe.number != number);
    }

    /// Forgets the outstanding probes and all measured times. Remembers whether messages may wait,
    /// and whether other workers keep up.
    pub(super) fn forget_probes(&mut self) {
        *self = Self {
            last_full: self.last_full,
            is_active: self.is_active,
            other_workers_keep_up: self.other_workers_keep_up,
            ..Self::default()
        };
    }

    /// Records that the broker delivered the probe, to this worker or to one that replied to it.
    /// Forgets earlier probes: they were delivered before it, or are lost. `is_full` is whether the
    /// prefetch is full.
    pub(super) fn on_probe_delivered(&mut self, number: u64, is_full: bool, now: Instant) {
        let index = self.outstanding.iter().position(|probe| probe.number == number);
        let delivered = index.and_then(|index| self.outstanding.drain(..=index).next_back());
        let Some(probe) = delivered else {
            return;
        };
        // A broker with a resource alarm may have accepted it much later than it was sent.
        let entered = probe.confirmed.unwrap_or(probe.sent);
        self.last_trip = now.saturating_duration_since(entered);
        self.last_measurable = Some(now);
        self.record_published_after(probe.sent, is_full, now);
    }

    /// Records that messages delivered from now on were published after `then`. Also records what
    /// follows from that: whether other workers keep up, or that no message waits any more, which
    /// ends the measurement and resets this.
    fn record_published_after(&mut self, then: Instant, is_full: bool, now: Instant) {
        self.published_after = self.published_after.max(Some(then));
        if self.last_full.is_some_and(|full| full >= then) {
            // The prefetch became full, or ceased to be full, after `then`: messages may wait for
            // this worker.
            self.other_workers_keep_up = false;
        } else if is_full {
            // This worker's prefetch has been full since before `then`, so another worker gets the
            // messages. The measurement goes on, because that worker's prefetch may become full
            // too.
            self.other_workers_keep_up = true;
        } else {
            // The worker has had room for more messages since then, so none waited.
            *self = Self::of_empty(now);
        }
    }

    /// Returns the longest time that a message delivered now can have waited. Returns the shortest
    /// time if the longest is not known, and the [queue time](Self::queue_time) while other workers
    /// keep up. Zero if nothing is known, or no messages may wait.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        if !self.is_active {
            return Duration::ZERO;
        }
        if self.other_workers_keep_up {
            return self.queue_time(now);
        }
        // While the queue cannot be measured, the longest time would grow without end.
        let is_measurable = self
            .last_measurable
            .is_none_or(|last| now.saturating_duration_since(last) < UNMEASURABLE_AFTER);
        let earliest_publish = self.published_after.filter(|_| is_measurable);
        let latest_publish = self.outstanding.front().and_then(|probe| probe.confirmed);
        let published = earliest_publish.or(latest_publish);
        published.map_or(Duration::ZERO, |then| now.saturating_duration_since(then))
    }

    /// Returns how long messages wait, for callers and metrics: as long as the last probe that came
    /// back, or as long as the oldest one that has not if that is longer. Unlike
    /// [`waited`](Self::waited), it does not grow between probes while messages wait for a constant
    /// time.
    pub(super) fn queue_time(&self, now: Instant) -> Duration {
        let entered = self.outstanding.front().and_then(|probe| probe.confirmed);
        let trip_so_far = entered.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.last_trip.max(trip_so_far)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const PROBE_TTL: Duration = Duration::from_secs(60);

    const MANY: QueueContent = QueueContent::Messages;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The estimator of a worker whose prefetch is full, and the time.
    fn full() -> (WaitEstimator, Instant) {
        let (mut estimator, now) = (WaitEstimator::default(), Instant::now());
        estimator.on_prefetch_full(now);
        (estimator, now)
    }

    #[test]
    fn there_are_no_probes_while_nothing_waits() {
        let now = Instant::now();
        let mut estimator = WaitEstimator::of_empty(now);
        assert_eq!(estimator.next_step(now), None);
        assert_eq!(estimator.waited(now + millis(500)), Duration::ZERO);
        let now = now + millis(1);
        estimator.on_prefetch_full(now);
        assert_eq!(estimator.next_step(now), Some((now, Step::Depth)));
        let now = now + millis(1);
        estimator.on_depth_requested(now);
        assert_eq!(estimator.next_step(now + millis(500)), None);
        estimator.on_depth(now, QueueContent::Nothing, true, now + millis(2));
        assert_eq!(estimator.next_step(now), Some((now + MAX_INTERVAL, Step::Depth)));
        assert_eq!(estimator.waited(now + millis(50)), Duration::ZERO);
        // The prefetch was full until now, so messages may wait.
        let now = now + millis(90);
        estimator.on_prefetch_full(now);
        assert_eq!(estimator.waited(now), millis(90));
        let now = now + millis(1);
        estimator.on_depth_requested(now);
        estimator.on_depth(now, QueueContent::Nothing, false, now + millis(2));
        assert!(!estimator.is_active());
    }

    #[test]
    fn a_probe_is_sent_once_messages_wait() {
        let (mut estimator, now) = full();
        estimator.on_depth_requested(now);
        estimator.on_depth(now, MANY, true, now + millis(1));
        let now = now + millis(1);
        assert_eq!(estimator.next_step(now), Some((now, Step::Probe)));
        estimator.on_probe_sent(1, PROBE_TTL, now);
        assert_eq!(estimator.next_step(now), None);
        estimator.on_probe_confirmed(1, now);
        assert_eq!(estimator.next_step(now), Some((now + MIN_INTERVAL, Step::Depth)));
        estimator.on_prefetch_full(now + millis(5));
        estimator.on_probe_delivered(1, true, now + millis(6));
        assert_eq!(estimator.next_step(now), Some((now + MIN_INTERVAL, Step::Depth)));
    }

    #[test]
    fn a_queue_that_holds_nothing_but_probes_is_empty() {
        let start = Instant::now();
        let mut estimator = WaitEstimator::of_empty(start);
        estimator.on_prefetch_full(start);
        estimator.on_probe_sent(1, PROBE_TTL, start);
        estimator.on_probe_confirmed(1, start);
        let now = start + millis(500);
        assert_eq!(
            (estimator.waited(now), estimator.probes_confirmed_by(now)),
            (millis(500), 1)
        );
        estimator.on_depth_requested(now);
        estimator.on_depth(now, QueueContent::Nothing, true, now + millis(1));
        assert_eq!(
            (
                estimator.waited(now + millis(1)),
                estimator.probes_confirmed_by(now)
            ),
            (millis(0), 0)
        );
        // It comes back nevertheless.
        estimator.on_probe_delivered(1, true, now + millis(9));
        assert_eq!(estimator.queue_time(now + millis(9)), Duration::ZERO);
    }

    #[test]
    fn a_queue_that_may_hold_nothing_but_probes_gets_few_of_them() {
        let start = Instant::now();
        let mut estimator = WaitEstimator::of_empty(start);
        estimator.on_prefetch_full(start);
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(60) {
            match estimator.next_step(now) {
                Some((due, Step::Depth)) if due <= now => {
                    estimator.on_depth_requested(now);
                    estimator.on_depth(now, QueueContent::PerhapsOnlyProbes, true, now);
                }
                Some((due, Step::Probe)) if due <= now => {
                    estimator.on_probe_sent(sent, 2 * PROBE_TTL, now);
                    estimator.on_probe_confirmed(sent, now);
                    sent += 1;
                }
                _ => now += millis(10),
            }
        }
        assert!((14..=24).contains(&sent), "{sent} probes");
    }

    #[test]
    fn a_queue_that_takes_no_probes_is_not_measured_for_long() {
        let start = Instant::now();
        let mut estimator = WaitEstimator::of_empty(start);
        for number in 0..400 {
            let now = start + number * millis(20);
            estimator.on_prefetch_full(now);
            estimator.on_probe_sent(number.into(), PROBE_TTL, now);
            estimator.on_probe_lost(number.into());
        }
        assert_eq!(estimator.waited(start + millis(8000)), Duration::ZERO);
    }

    #[test]
    fn a_broker_that_cannot_report_the_depth_is_asked_again_later() {
        let (mut estimator, now) = full();
        estimator.on_depth_requested(now);
        let later = now + millis(2);
        // This is the answer to an earlier request.
        estimator.on_depth(now - millis(1), MANY, true, later);
        assert_eq!(estimator.next_step(later), None);
        estimator.on_depth(now, QueueContent::Unknown, true, later);
        let due = later + UNKNOWN_DEPTH_PAUSE;
        assert_eq!(estimator.next_step(later), Some((due, Step::Depth)));
    }

    #[test]
    fn probes_that_expired_are_forgotten() {
        let (mut estimator, start) = full();
        for number in 0..5 {
            let now = start + number * PROBE_TTL / 2;
            estimator.on_probe_sent(number.into(), PROBE_TTL, now);
            estimator.on_probe_confirmed(number.into(), now);
        }
        assert_eq!(estimator.outstanding.len(), 3);
        assert_eq!(estimator.waited(start + PROBE_TTL * 2), PROBE_TTL);
    }

    #[test]
    fn the_queue_time_of_a_probe_counts_from_its_confirm() {
        let (mut estimator, start) = full();
        estimator.on_probe_sent(1, PROBE_TTL, start);
        estimator.on_probe_confirmed(1, start + millis(700));
        estimator.on_prefetch_full(start + millis(701));
        estimator.on_probe_delivered(1, true, start + millis(710));
        assert_eq!(estimator.queue_time(start + millis(710)), millis(10));
        assert_eq!(estimator.waited(start + millis(710)), millis(710));
    }

    #[test]
    fn a_probe_that_returns_to_an_idle_worker_is_the_last() {
        let (mut estimator, start) = full();
        estimator.on_probe_sent(1, PROBE_TTL, start + millis(1));
        estimator.on_probe_confirmed(1, start + millis(2));
        assert!(estimator.is_active());
        estimator.on_probe_delivered(1, false, start + millis(300));
        assert!(!estimator.is_active());
        assert_eq!(estimator.waited(start + millis(400)), Duration::ZERO);
        assert_eq!(estimator.next_step(start + millis(400)), None);
    }

    #[test]
    fn probes_are_rare_while_another_worker_has_room() {
        let (mut estimator, start) = full();
        let now = start + millis(1);
        estimator.on_probe_sent(1, PROBE_TTL, now);
        estimator.on_probe_confirmed(1, now);
        estimator.on_probe_delivered(1, true, now + millis(1));
        assert_eq!(estimator.next_step(now), Some((now + MAX_INTERVAL, Step::Depth)));
        estimator.on_prefetch_full(now + millis(2));
        assert_eq!(estimator.next_step(now), Some((now + MIN_INTERVAL, Step::Depth)));
    }

    #[test]
    fn the_estimate_grows_while_a_probe_is_outstanding() {
        let start = Instant::now();
        let mut estimator = WaitEstimator::of_empty(start);
        estimator.on_prefetch_full(start);
        estimator.on_probe_sent(1, PROBE_TTL, start);
        estimator.on_probe_confirmed(1, start + millis(10));
        assert_eq!(estimator.waited(start + millis(90)), millis(90));
        estimator.on_probe_sent(2, PROBE_TTL, start + millis(70));
        estimator.on_probe_confirmed(2, start + millis(80));
        estimator.on_prefetch_full(start + millis(95));
        estimator.on_probe_delivered(1, false, start + millis(100));
        assert_eq!(estimator.waited(start + millis(150)), millis(150));
        // What is delivered from then on was published after the second probe.
        estimator.on_probe_delivered(2, false, start + millis(160));
        assert_eq!(estimator.waited(start + millis(165)), millis(95));
    }

    #[test]
    fn the_queue_time_is_that_of_the_last_probe_or_of_one_that_takes_longer() {
        let (mut estimator, start) = full();
        assert_eq!(estimator.queue_time(start + millis(500)), Duration::ZERO);
        estimator.on_probe_sent(1, PROBE_TTL, start);
        estimator.on_probe_confirmed(1, start + millis(5));
        assert_eq!(estimator.queue_time(start + millis(105)), millis(100));
        estimator.on_prefetch_full(start + millis(200));
        estimator.on_probe_delivered(1, false, start + millis(200));
        assert_eq!(estimator.queue_time(start + millis(250)), millis(195));
        estimator.on_probe_sent(2, PROBE_TTL, start + millis(250));
        estimator.on_probe_confirmed(2, start + millis(250));
        assert_eq!(estimator.queue_time(start + millis(300)), millis(195));
        assert_eq!(estimator.queue_time(start + millis(550)), millis(300));
        // The prefetch was not full meanwhile, so the queue is empty.
        estimator.on_probe_delivered(2, false, start + millis(600));
        assert_eq!(estimator.queue_time(start + millis(700)), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_starts_knows_how_long_messages_waited_at_least() {
        let (mut estimator, start) = full();
        assert_eq!(estimator.waited(start + millis(50)), Duration::ZERO);
        estimator.on_probe_sent(1, PROBE_TTL, start);
        // The probe may not have been sent yet.
        assert_eq!(estimator.waited(start + millis(50)), Duration::ZERO);
        estimator.on_probe_confirmed(1, start + millis(10));
        assert_eq!(estimator.waited(start + millis(50)), millis(40));
    }

    #[test]
    fn a_lost_probe_does_not_stop_the_measuring() {
        let (mut estimator, start) = full();
        estimator.on_probe_sent(1, PROBE_TTL, start);
        estimator.on_probe_confirmed(1, start);
        let now = start + millis(1000);
        estimator.on_prefetch_full(now);
        assert_eq!(estimator.waited(now), millis(1000));
        assert!(estimator.next_step(now).is_some());
        estimator.on_probe_sent(2, PROBE_TTL, now);
        estimator.on_probe_confirmed(2, now);
        estimator.on_probe_delivered(2, false, now + millis(5));
        assert_eq!(estimator.waited(now + millis(6)), millis(6));
        estimator.on_probe_delivered(1, false, now + millis(7));
        assert_eq!(estimator.waited(now + millis(8)), millis(8));
    }

    #[test]
    fn probes_become_rare_while_none_returns() {
        let (mut estimator, start) = full();
        let (mut now, mut sent, mut most) = (start, 0, 0);
        while now < start + Duration::from_secs(3600) {
            estimator.on_probe_sent(sent, Duration::from_secs(1024), now);
            estimator.on_probe_confirmed(sent, now);
            sent += 1;
            most = most.max(estimator.outstanding.len());
            now = (1..)
                .map(|step| now + millis(10 * step))
                .find(|later| estimator.next_step(*later).is_some_and(|(due, _)| due <= *later))
                .unwrap();
        }
        assert!(most < 550, "{most} probes in the queue");
    }

    /// Simulates a queue that workers empty at changing rates. Returns the largest error of the
    /// estimate and the longest wait.
    fn largest_error_and_wait(rates: &[u64], arrival_rate: u64) -> (Duration, Duration) {
        let start = Instant::now();
        let mut estimator = WaitEstimator::default();
        // When each message was published, and the number of those that are probes.
        let mut queue: VecDeque<(Instant, Option<u64>)> = VecDeque::new();
        let (mut number, mut credit, mut arrived) = (0, 0, 0);
        let (mut worst, mut longest) = (Duration::ZERO, Duration::ZERO);
        for step in 0..rates.len() as u64 * 1000 {
            let now = start + millis(step);
            arrived += arrival_rate;
            while arrived >= 1000 {
                arrived -= 1000;
                queue.push_back((now, None));
            }
            while let Some((_, next)) = estimator.next_step(now).filter(|(due, _)| *due <= now) {
                match next {
                    Step::Depth => {
                        estimator.on_depth_requested(now);
                        let found = if queue.iter().any(|(_, probe)| probe.is_none()) {
                            MANY
                        } else {
                            QueueContent::Nothing
                        };
                        estimator.on_depth(now, found, false, now);
                    }
                    Step::Probe => {
                        estimator.on_probe_sent(number, PROBE_TTL, now);
                        estimator.on_probe_confirmed(number, now);
                        queue.push_back((now, Some(number)));
                        number += 1;
                    }
                }
            }
            credit += rates[usize::try_from(step / 1000).unwrap()];
            while credit >= 1000 {
                match queue.pop_front() {
                    None => credit = 0,
                    Some((_, Some(probe))) => estimator.on_probe_delivered(probe, false, now),
                    Some((published, None)) => {
                        credit -= 1000;
                        estimator.on_prefetch_full(now);
                        let (waited, estimate) = (now - published, estimator.waited(now));
                        longest = longest.max(waited);
                        worst = worst.max(waited.abs_diff(estimate));
                    }
                }
            }
        }
        (worst, longest)
    }

    proptest! {
        #[test]
        fn the_estimate_is_near_the_truth(
            rates in prop::collection::vec(100_u64..2000, 1..6),
            arrival_rate in 100_u64..2000,
        ) {
            let (worst, longest) = largest_error_and_wait(&rates, arrival_rate);
            let allowed = MAX_INTERVAL + millis(20) + longest / PROBES_IN_QUEUE;
            prop_assert!(worst <= allowed, "wrong by {worst:?}, and the longest wait is {longest:?}");
        }
    }
}
