//! Estimates how long messages wait in a queue from probes that pass through it. Pure: no I/O.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The shortest and the longest pause between two measurements of a short queue.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// A probe is sent each time the delay has grown by this fraction of itself.
const PROBES_PER_DELAY: u32 = 8;

/// About how many probes are in a queue at most, however long it is.
const PROBES_IN_QUEUE: u32 = 8;

/// The longest pause between two measurements of a long queue.
const LONGEST_INTERVAL: Duration = Duration::from_secs(2);

/// A queue that was neither empty nor accepted a probe for this long cannot be measured.
const SILENCE: Duration = Duration::from_secs(5);

/// How long to wait after the broker could not tell the depth of a queue.
const PAUSE_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// How to measure a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    /// Ask the broker how many messages wait.
    Depth,
    /// Send a probe through the queue because messages wait.
    Probe,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing but this server's own probes.
    Nothing,
    /// Other messages.
    Messages {
        /// They may all be probes of other servers.
        are_few: bool,
    },
    /// The broker cannot tell.
    Unknown,
}

/// How long messages of one priority wait in a queue before they are delivered.
///
/// A queue is first in, first out. A probe that comes back therefore shows how long it waited, and
/// that all messages delivered from then on were published after it. A probe that has not come back
/// shows that all messages delivered until now were published before it. An empty queue counts as a
/// probe that came back at once.
///
/// The estimate is the longest time that a message can have waited. It is at most one interval
/// between probes too long. A shorter estimate would admit requests that end too late.
#[derive(Debug, Default)]
pub(super) struct QueueDelay {
    /// Messages that are delivered from now on were published after this. `None` if that is not
    /// known: the queue may hold messages from before this worker consumed it.
    published_after: Option<Instant>,
    /// The probes in the queue, oldest first.
    outstanding: VecDeque<Probe>,
    /// When the broker was asked for the depth of the queue, until it answers.
    asked: Option<Instant>,
    /// Whether messages wait, so that a probe is due.
    is_probe_due: bool,
    /// No measurement begins before this.
    not_before: Option<Instant>,
    /// When the last measurement began.
    last_begun: Option<Instant>,
    /// When the queue was last empty or accepted a probe.
    last_open: Option<Instant>,
    /// How long the last probe that came back was in the queue.
    last_trip: Duration,
    /// When the worker's prefetch was last exhausted.
    saturated: Option<Instant>,
    is_active: bool,
    /// Whether nothing waited at the last measurement, although this worker's prefetch was
    /// exhausted.
    is_calm: bool,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    sent: Instant,
    /// When the broker confirmed that it is in the queue.
    confirmed: Option<Instant>,
}

impl QueueDelay {
    /// The delay of a queue that is known to be empty at this moment.
    pub(super) fn of_empty(now: Instant) -> Self {
        Self {
            published_after: Some(now),
            last_open: Some(now),
            ..Self::default()
        }
    }

    /// Notes that the worker's prefetch is exhausted, so that messages may wait.
    pub(super) fn saturate(&mut self, now: Instant) {
        self.saturated = Some(now);
        self.is_active = true;
        self.is_calm = false;
    }

    /// Whether messages may wait.
    pub(super) fn is_active(&self) -> bool {
        self.is_active
    }

    /// Returns how many confirmed probes are in the queue.
    pub(super) fn probes(&self) -> usize {
        let probes = self.outstanding.iter();
        probes.filter(|probe| probe.confirmed.is_some()).count()
    }

    /// Returns when the next measurement is due, and its kind. `None` while none is needed, or
    /// while the broker has not answered the last question or confirmed the last probe.
    pub(super) fn next(&self, now: Instant) -> Option<(Instant, Measure)> {
        let last = self.outstanding.back();
        let is_pending = self.asked.is_some() || last.is_some_and(|last| last.confirmed.is_none());
        if !self.is_active || is_pending {
            return None;
        }
        if self.is_probe_due {
            return Some((now, Measure::Probe));
        }
        let due = self.last_begun.map(|last| last + self.interval(now));
        Some((due.max(self.not_before).unwrap_or(now), Measure::Depth))
    }

    fn interval(&self, now: Instant) -> Duration {
        let interval = if self.is_calm {
            INTERVAL.1
        } else {
            (self.waited(now) / PROBES_PER_DELAY).clamp(INTERVAL.0, INTERVAL.1)
        };
        interval
            .max(self.oldest(now) / PROBES_IN_QUEUE)
            .min(LONGEST_INTERVAL)
    }

    /// Returns how long ago the oldest outstanding probe was sent.
    fn oldest(&self, now: Instant) -> Duration {
        let oldest = self.outstanding.front();
        oldest.map_or(Duration::ZERO, |probe| now.saturating_duration_since(probe.sent))
    }

    /// Notes that the broker is asked what the queue holds.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
        self.last_begun = Some(now);
    }

    /// Notes the broker's answer to the question of that time.
    pub(super) fn answered(&mut self, asked: Instant, found: Found, is_exhausted: bool, now: Instant) {
        if self.asked != Some(asked) {
            return;
        }
        self.asked = None;
        match found {
            Found::Unknown => self.not_before = now.checked_add(PAUSE_AFTER_UNKNOWN),
            Found::Messages { are_few } => {
                self.is_probe_due = !are_few || self.is_last_probe_old(now);
            }
            Found::Nothing => {
                self.last_open = Some(now);
                self.outstanding.clear();
                self.last_trip = Duration::ZERO;
                self.was_through(asked, is_exhausted, now);
            }
        }
    }

    /// Whether the last probe was sent at least as long ago as it followed the oldest one, or
    /// longer ago than the estimate may be wrong.
    fn is_last_probe_old(&self, now: Instant) -> bool {
        let enough = (self.oldest(now) / 2).min(SILENCE);
        self.outstanding
            .back()
            .is_none_or(|last| now.saturating_duration_since(last.sent) >= enough)
    }

    /// Notes that a probe is sent. Numbers ascend. Each probe expires in the queue after the given
    /// time.
    pub(super) fn sent(&mut self, number: u64, expires_after: Duration, now: Instant) {
        self.outstanding
            .retain(|probe| now.saturating_duration_since(probe.sent) <= expires_after);
        self.is_probe_due = false;
        self.last_begun = Some(now);
        self.outstanding.push_back(Probe {
            number,
            sent: now,
            confirmed: None,
        });
    }

    /// Notes that the broker confirmed the probe.
    pub(super) fn confirmed(&mut self, number: u64, now: Instant) {
        let mut probes = self.outstanding.iter_mut();
        if let Some(probe) = probes.find(|probe| probe.number == number) {
            probe.confirmed = Some(now);
            self.last_open = Some(now);
        }
    }

    /// Notes that the probe did not reach the queue.
    pub(super) fn lost(&mut self, number: u64) {
        self.outstanding.retain(|probe| probe.number != number);
    }

    /// Forgets the outstanding probes, and since when messages wait.
    pub(super) fn forget_probes(&mut self) {
        *self = Self {
            saturated: self.saturated,
            is_active: self.is_active,
            is_calm: self.is_calm,
            ..Self::default()
        };
    }

    /// Notes that the probe came back. Probes that were sent before it are lost, because they
    /// should have come back first.
    pub(super) fn returned(&mut self, number: u64, is_exhausted: bool, now: Instant) {
        let Some(index) = self.outstanding.iter().position(|probe| probe.number == number) else {
            return;
        };
        let Some(probe) = self.outstanding.drain(..=index).next_back() else {
            return;
        };
        // A broker with a resource alarm may have accepted it much later than it was sent.
        let entered = probe.confirmed.unwrap_or(probe.sent);
        self.last_trip = now.saturating_duration_since(entered);
        self.last_open = Some(now);
        self.was_through(probe.sent, is_exhausted, now);
    }

    /// Notes that messages delivered from now on were published after `then`.
    fn was_through(&mut self, then: Instant, is_exhausted: bool, now: Instant) {
        self.published_after = self.published_after.max(Some(then));
        if self.saturated.is_some_and(|saturated| saturated >= then) {
            self.is_calm = false;
        } else if is_exhausted {
            // Another worker gets the messages, and may be exhausted next.
            self.is_calm = true;
        } else {
            // The worker could have got more messages since then, so none waited.
            *self = Self::of_empty(now);
        }
    }

    /// Returns the longest time that a message delivered now can have waited. If that is not known
    /// yet, returns the shortest.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        if !self.is_active {
            return Duration::ZERO;
        }
        if self.is_calm {
            return self.queue_time(now);
        }
        let oldest = self.outstanding.front().and_then(|probe| probe.confirmed);
        // The upper bound only grows while the queue cannot be measured.
        let is_measured = self
            .last_open
            .is_none_or(|last| now.saturating_duration_since(last) < SILENCE);
        let bound = self.published_after.filter(|_| is_measured).or(oldest);
        bound.map_or(Duration::ZERO, |then| now.saturating_duration_since(then))
    }

    /// Returns how long messages wait, for callers and metrics: as long as the last probe that came
    /// back, or as long as the oldest one that has not. Unlike [`waited`](Self::waited), it does
    /// not grow between probes while messages wait for a constant time.
    pub(super) fn queue_time(&self, now: Instant) -> Duration {
        let oldest = self.outstanding.front().and_then(|probe| probe.confirmed);
        let oldest = oldest.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.last_trip.max(oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    const MANY: Found = Found::Messages { are_few: false };

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn there_are_no_probes_while_nothing_waits() {
        let now = Instant::now();
        let mut delay = QueueDelay::of_empty(now);
        assert_eq!(delay.next(now), None);
        assert_eq!(delay.waited(now + millis(500)), Duration::ZERO);
        let now = now + millis(1);
        delay.saturate(now);
        assert_eq!(delay.next(now), Some((now, Measure::Depth)));
        let now = now + millis(1);
        delay.asked(now);
        assert_eq!(delay.next(now + millis(500)), None);
        delay.answered(now, Found::Nothing, true, now + millis(2));
        assert_eq!(delay.next(now), Some((now + INTERVAL.1, Measure::Depth)));
        assert_eq!(delay.waited(now + millis(50)), Duration::ZERO);
        // The worker has room now, and messages may have come until then.
        let now = now + millis(90);
        delay.saturate(now);
        assert_eq!(delay.waited(now), millis(90));
        let now = now + millis(1);
        delay.asked(now);
        delay.answered(now, Found::Nothing, false, now + millis(2));
        assert!(!delay.is_active());
    }

    #[test]
    fn a_probe_is_sent_once_messages_wait() {
        let now = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(now);
        delay.asked(now);
        delay.answered(now, MANY, true, now + millis(1));
        let now = now + millis(1);
        assert_eq!(delay.next(now), Some((now, Measure::Probe)));
        delay.sent(1, LIFETIME, now);
        assert_eq!(delay.next(now), None);
        delay.confirmed(1, now);
        assert_eq!(delay.next(now), Some((now + INTERVAL.0, Measure::Depth)));
        delay.saturate(now + millis(5));
        delay.returned(1, true, now + millis(6));
        assert_eq!(delay.next(now), Some((now + INTERVAL.0, Measure::Depth)));
    }

    #[test]
    fn a_queue_that_holds_nothing_but_probes_is_empty() {
        let start = Instant::now();
        let mut delay = QueueDelay::of_empty(start);
        delay.saturate(start);
        delay.sent(1, LIFETIME, start);
        delay.confirmed(1, start);
        let now = start + millis(500);
        assert_eq!((delay.waited(now), delay.probes()), (millis(500), 1));
        delay.asked(now);
        delay.answered(now, Found::Nothing, true, now + millis(1));
        assert_eq!((delay.waited(now + millis(1)), delay.probes()), (millis(0), 0));
        // It comes back all the same.
        delay.returned(1, true, now + millis(9));
        assert_eq!(delay.queue_time(now + millis(9)), Duration::ZERO);
    }

    #[test]
    fn a_queue_that_may_hold_nothing_but_probes_gets_few_of_them() {
        let start = Instant::now();
        let mut delay = QueueDelay::of_empty(start);
        delay.saturate(start);
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(60) {
            match delay.next(now) {
                Some((due, Measure::Depth)) if due <= now => {
                    delay.asked(now);
                    delay.answered(now, Found::Messages { are_few: true }, true, now);
                }
                Some((due, Measure::Probe)) if due <= now => {
                    delay.sent(sent, 2 * LIFETIME, now);
                    delay.confirmed(sent, now);
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
        let mut delay = QueueDelay::of_empty(start);
        for number in 0..400 {
            let now = start + number * millis(20);
            delay.saturate(now);
            delay.sent(number.into(), LIFETIME, now);
            delay.lost(number.into());
        }
        assert_eq!(delay.waited(start + millis(8000)), Duration::ZERO);
    }

    #[test]
    fn a_broker_that_cannot_tell_is_asked_again_a_little_later() {
        let now = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(now);
        delay.asked(now);
        let later = now + millis(2);
        // The answer to a question from before the probes were forgotten.
        delay.answered(now - millis(1), MANY, true, later);
        assert_eq!(delay.next(later), None);
        delay.answered(now, Found::Unknown, true, later);
        let due = later + PAUSE_AFTER_UNKNOWN;
        assert_eq!(delay.next(later), Some((due, Measure::Depth)));
    }

    #[test]
    fn probes_that_expired_are_forgotten() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        for number in 0..5 {
            let now = start + number * LIFETIME / 2;
            delay.sent(number.into(), LIFETIME, now);
            delay.confirmed(number.into(), now);
        }
        assert_eq!(delay.outstanding.len(), 3);
        assert_eq!(delay.waited(start + LIFETIME * 2), LIFETIME);
    }

    #[test]
    fn a_probe_that_an_alarm_held_up_waited_since_the_broker_had_it() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        delay.sent(1, LIFETIME, start);
        delay.confirmed(1, start + millis(700));
        delay.saturate(start + millis(701));
        delay.returned(1, true, start + millis(710));
        assert_eq!(delay.queue_time(start + millis(710)), millis(10));
        assert_eq!(delay.waited(start + millis(710)), millis(710));
    }

    #[test]
    fn a_probe_that_returns_to_an_idle_worker_is_the_last() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        delay.sent(1, LIFETIME, start + millis(1));
        delay.confirmed(1, start + millis(2));
        assert!(delay.is_active());
        delay.returned(1, false, start + millis(300));
        assert!(!delay.is_active());
        assert_eq!(delay.waited(start + millis(400)), Duration::ZERO);
        assert_eq!(delay.next(start + millis(400)), None);
    }

    #[test]
    fn probes_are_rare_while_another_worker_has_room() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        let now = start + millis(1);
        delay.sent(1, LIFETIME, now);
        delay.confirmed(1, now);
        delay.returned(1, true, now + millis(1));
        assert_eq!(delay.next(now), Some((now + INTERVAL.1, Measure::Depth)));
        delay.saturate(now + millis(2));
        assert_eq!(delay.next(now), Some((now + INTERVAL.0, Measure::Depth)));
    }

    #[test]
    fn the_estimate_grows_while_a_probe_is_out() {
        let start = Instant::now();
        let mut delay = QueueDelay::of_empty(start);
        delay.saturate(start);
        delay.sent(1, LIFETIME, start);
        delay.confirmed(1, start + millis(10));
        assert_eq!(delay.waited(start + millis(90)), millis(90));
        delay.sent(2, LIFETIME, start + millis(70));
        delay.confirmed(2, start + millis(80));
        delay.saturate(start + millis(95));
        delay.returned(1, false, start + millis(100));
        assert_eq!(delay.waited(start + millis(150)), millis(150));
        // What is delivered from then on was published after the second probe.
        delay.returned(2, false, start + millis(160));
        assert_eq!(delay.waited(start + millis(165)), millis(95));
    }

    #[test]
    fn the_queue_time_is_that_of_the_last_probe_or_of_one_that_takes_longer() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        assert_eq!(delay.queue_time(start + millis(500)), Duration::ZERO);
        delay.sent(1, LIFETIME, start);
        delay.confirmed(1, start + millis(5));
        assert_eq!(delay.queue_time(start + millis(105)), millis(100));
        delay.saturate(start + millis(200));
        delay.returned(1, false, start + millis(200));
        assert_eq!(delay.queue_time(start + millis(250)), millis(195));
        delay.sent(2, LIFETIME, start + millis(250));
        delay.confirmed(2, start + millis(250));
        assert_eq!(delay.queue_time(start + millis(300)), millis(195));
        assert_eq!(delay.queue_time(start + millis(550)), millis(300));
        // The worker was not saturated meanwhile: the queue is empty.
        delay.returned(2, false, start + millis(600));
        assert_eq!(delay.queue_time(start + millis(700)), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_starts_knows_how_long_messages_waited_at_least() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        assert_eq!(delay.waited(start + millis(50)), Duration::ZERO);
        delay.sent(1, LIFETIME, start);
        // It may not have left yet.
        assert_eq!(delay.waited(start + millis(50)), Duration::ZERO);
        delay.confirmed(1, start + millis(10));
        assert_eq!(delay.waited(start + millis(50)), millis(40));
    }

    #[test]
    fn a_lost_probe_does_not_stop_the_measuring() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        delay.sent(1, LIFETIME, start);
        delay.confirmed(1, start);
        let now = start + millis(1000);
        delay.saturate(now);
        assert_eq!(delay.waited(now), millis(1000));
        assert!(delay.next(now).is_some());
        delay.sent(2, LIFETIME, now);
        delay.confirmed(2, now);
        delay.returned(2, false, now + millis(5));
        assert_eq!(delay.waited(now + millis(6)), millis(6));
        delay.returned(1, false, now + millis(7));
        assert_eq!(delay.waited(now + millis(8)), millis(8));
    }

    #[test]
    fn probes_become_rare_while_none_returns() {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
        delay.saturate(start);
        let (mut now, mut sent, mut most) = (start, 0, 0);
        while now < start + Duration::from_secs(3600) {
            delay.sent(sent, Duration::from_secs(1024), now);
            delay.confirmed(sent, now);
            sent += 1;
            most = most.max(delay.outstanding.len());
            now = (1..)
                .map(|step| now + millis(10 * step))
                .find(|later| delay.next(*later).is_some_and(|(due, _)| due <= *later))
                .unwrap();
        }
        assert!(most < 550, "{most} probes in the queue");
    }

    /// A queue that workers empty at a rate which changes, and the estimate of one of them.
    fn largest_error(rates: &[u64], arrival_rate: u64) -> (Duration, Duration) {
        let start = Instant::now();
        let mut delay = QueueDelay::default();
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
            while let Some((_, measure)) = delay.next(now).filter(|(due, _)| *due <= now) {
                match measure {
                    Measure::Depth => {
                        delay.asked(now);
                        let found = match queue.iter().any(|(_, probe)| probe.is_none()) {
                            true => MANY,
                            false => Found::Nothing,
                        };
                        delay.answered(now, found, false, now);
                    }
                    Measure::Probe => {
                        delay.sent(number, LIFETIME, now);
                        delay.confirmed(number, now);
                        queue.push_back((now, Some(number)));
                        number += 1;
                    }
                }
            }
            credit += rates[usize::try_from(step / 1000).unwrap()];
            while credit >= 1000 {
                match queue.pop_front() {
                    None => credit = 0,
                    Some((_, Some(probe))) => delay.returned(probe, false, now),
                    Some((published, None)) => {
                        credit -= 1000;
                        delay.saturate(now);
                        let (waited, estimate) = (now - published, delay.waited(now));
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
            let (worst, longest) = largest_error(&rates, arrival_rate);
            let allowed = INTERVAL.1 + millis(20) + longest / PROBES_IN_QUEUE;
            prop_assert!(worst <= allowed, "wrong by {worst:?}, and the longest wait is {longest:?}");
        }
    }
}
