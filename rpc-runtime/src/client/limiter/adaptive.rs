//! Adapts a client's limit of calls in flight to the load of its workers. Pure.
//!
//! The limit stays at its maximum until a worker refuses a call because of overload, a worker
//! reports a long wait, or all calls time out. Then the limit follows what the workers report, by
//! additive increase and multiplicative decrease (AIMD). Most calls then wait in the client, where
//! a call that is given up costs the workers nothing:
//!
//! - If a request waited in the queue for longer than the target (a tenth of the call's time limit,
//!   but 40 ms to 1 s), the limit shrinks to the number of calls that would wait for half of the
//!   target.
//! - A refusal or a timeout at least halves the limit. While the limit is at its maximum, timeouts
//!   reduce it only after a full time limit with nothing but timeouts, because calls time out for
//!   many reasons. Workers cannot report that their replies arrive too late, so timeouts must
//!   count.
//! - If a request waited for no longer than the target, and the limit is reached, its reply raises
//!   the limit by a fraction, so that it grows by one with each round trip. If the request hardly
//!   waited at all, and the last reduction was at least a second ago, its reply raises the limit
//!   by a quarter of a call instead.
//!
//! With AIMD, clients that share workers converge to equal limits.

use std::time::Duration;

use tokio::time::Instant;

use super::generations::{Count, Generations};

/// The target is the longest acceptable wait in the queue: the call's time limit divided by this,
/// but at least [`MIN_TARGET`] and at most [`MAX_TARGET`].
const TARGET_DIVISOR: u32 = 10;

/// The target is at least this long. Shorter waits are within the measurement error.
const MIN_TARGET: Duration = Duration::from_millis(40);

/// The target is at most this long.
const MAX_TARGET: Duration = Duration::from_secs(1);

/// At least this many timeouts over at least a full time limit, without any reply, mean overload
/// although no worker reports it: replies arrive too late.
const SILENT_TIMEOUTS: u32 = 8;

/// A single reduction leaves at least this fraction; see [`AdaptiveLimit::reduce`].
const MIN_FRACTION: f64 = 0.1;

/// A reduction after a refusal or a timeout leaves at most this fraction.
const FRACTION_AFTER_FAILURE: f64 = 0.5;

/// If no call was sent for this time plus the time that requests wait in the queue, one extra call
/// may be sent, beyond the limit. The calls in flight may be slow, and slow calls must not hold up
/// quick ones. The time doubles with each extra call, until a call of the current generation is
/// answered or a call is sent within the limit.
const MIN_EXTRA_CALL_DELAY: Duration = Duration::from_secs(1);

/// The time between extra calls does not grow beyond this, plus the time that requests wait.
const MAX_EXTRA_CALL_DELAY: Duration = Duration::from_secs(16);

/// Time since the last reduction after which the limit may grow fast.
const FAST_GROWTH_AFTER: Duration = Duration::from_secs(1);

/// Fast growth raises the limit by this with each reply.
const FAST_GROWTH: f64 = 0.25;

/// A wait of up to the target divided by this counts as none. A busy worker always reports some.
const NEGLIGIBLE_WAIT_DIVISOR: u32 = 8;

/// What the outcome of a call says about overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// It was answered, after its request had waited in the queue for this long.
    Answered { queued: Duration },
    /// A worker refused it because of overload. The worker may say when to try again.
    Refused { retry_after: Option<Duration> },
    /// No worker answered in time.
    TimedOut,
}

impl Signal {
    /// Returns whether the signal may mean overload: all but an answer after a short wait. Only a
    /// warning can start a reduction.
    pub(super) fn is_warning(self) -> bool {
        !matches!(self, Self::Answered { queued } if queued <= MIN_TARGET)
    }
}

/// What the permit of a call that was sent remembers.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentCall {
    /// How many calls in flight counted towards the limit, including this one.
    pub(super) counted: usize,
    /// The generation of the call; see [`Generations`].
    pub(super) generation: u32,
}

/// The end of a call, or the begin of its stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallEnd {
    pub(super) signal: Signal,
    /// How long it was allowed to take.
    pub(super) time_limit: Duration,
    /// When it was sent, which is when it got its permit.
    pub(super) sent_at: Instant,
    pub(super) now: Instant,
    /// How many calls counted towards the limit when it was sent, including itself.
    pub(super) counted: usize,
    /// The generation to which it belongs; see [`Generations`].
    pub(super) generation: u32,
    /// Whether its priority is above 0.
    pub(super) is_important: bool,
    /// How many calls are in flight now, including itself, without streams that have begun.
    pub(super) in_flight_now: Count,
    /// Whether calls wait for a permit.
    pub(super) has_waiting_calls: bool,
}

/// A client's limit of calls in flight. It shrinks under overload and recovers afterwards.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    max: usize,
    /// `None` while the limit is `max`.
    reduced: Option<Reduced>,
    /// The generation of calls that are sent now; see [`Generations`].
    generation: u32,
    /// `None` unless calls have been timing out without any reply.
    silence: Option<Silence>,
}

/// A time in which calls timed out and none was answered.
#[derive(Debug)]
struct Silence {
    since: Instant,
    timeouts: u32,
}

/// A limit below the maximum.
#[derive(Debug)]
struct Reduced {
    /// Replies raise it by fractions of a call. Rounded down, it is a number of calls.
    limit: f64,
    /// When the limit was last reduced. Calls that were sent earlier do not show its effect.
    reduced_at: Instant,
    /// No ordinary call may be sent before this time. One important call still may.
    pause_until: Option<Instant>,
    /// Which calls in flight count towards the limit.
    generations: Generations,
    stall_timer: StallTimer,
}

/// Decides when a call beyond the limit may be sent, if those in flight do not finish.
#[derive(Debug)]
struct StallTimer {
    last_sent: Instant,
    /// Time after the last send before one extra call is allowed; `queued` is added to it.
    extra_call_delay: Duration,
    /// How long requests wait in the queue, as last reported.
    queued: Duration,
}

impl StallTimer {
    fn new(now: Instant) -> Self {
        Self {
            last_sent: now,
            extra_call_delay: MIN_EXTRA_CALL_DELAY,
            queued: Duration::ZERO,
        }
    }

    /// Returns when one call beyond the limit may be sent.
    fn next_extra_call_at(&self) -> Instant {
        self.last_sent + self.extra_call_delay + self.queued
    }

    /// Records that a call was sent. After an extra call, the next one is allowed later.
    fn record_sent(&mut self, is_extra_call: bool, now: Instant) {
        self.last_sent = now;
        self.extra_call_delay = if is_extra_call {
            (self.extra_call_delay * 2).min(MAX_EXTRA_CALL_DELAY)
        } else {
            MIN_EXTRA_CALL_DELAY
        };
    }
}

impl AdaptiveLimit {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            reduced: None,
            generation: 0,
            silence: None,
        }
    }

    /// Returns whether calls have been timing out without any reply. The next reply ends that.
    pub(super) fn is_silent(&self) -> bool {
        self.silence.is_some()
    }

    pub(super) fn is_reduced(&self) -> bool {
        self.reduced.is_some()
    }

    /// Returns how many calls may be in flight at this moment. During a pause that is none.
    pub(super) fn limit(&self, now: Instant) -> usize {
        match &self.reduced {
            Some(_) if self.is_paused(now) => 0,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 1 and `max`
            Some(reduced) => reduced.limit as usize,
            None => self.max,
        }
    }

    /// Returns whether another call may be sent. Always `true` while the limit is not reduced: the
    /// [`Limiter`](super::Limiter) checks the maximum.
    ///
    /// Only important calls count towards the limit of important calls, because workers serve them
    /// first: ordinary calls may hold all permits of an overloaded service.
    pub(super) fn has_permit(&self, is_important: bool, now: Instant) -> bool {
        let Some(reduced) = &self.reduced else {
            return true;
        };
        let (limit, counted) = (self.limit(now), reduced.generations.counted());
        if is_important {
            // Even during a pause, one of them may be in flight.
            return counted.important < limit.max(1);
        }
        // During a pause, when the limit is 0, there is no extra call either.
        let may_send_extra_call = limit > 0 && now >= reduced.stall_timer.next_extra_call_at();
        counted.all < limit || may_send_extra_call
    }

    /// Returns whether no ordinary call may be sent at this moment. One important call still may.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.pause(now).is_some()
    }

    /// Returns for how long no ordinary call may be sent. `None` if there is no pause.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let until = self.reduced.as_ref()?.pause_until?;
        (now < until).then(|| until - now)
    }

    /// Returns when there may be a permit although no call finishes. `None` while the limit is not
    /// reduced.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let reduced = self.reduced.as_ref()?;
        if let Some(pause) = self.pause(now) {
            return Some(now + pause);
        }
        let extra_call_at = reduced.stall_timer.next_extra_call_at();
        // This time may have passed, if the fixed limit is reached. Even then, waiting calls must
        // not wake too often.
        Some(extra_call_at.max(now + MIN_EXTRA_CALL_DELAY / 10))
    }

    /// Records that a call was sent. `counted_if_not_reduced` is how many calls in flight,
    /// including this one, count towards a limit that is not reduced. For a reduced one, the
    /// generations know.
    pub(super) fn record_sent(
        &mut self,
        counted_if_not_reduced: usize,
        is_important: bool,
        now: Instant,
    ) -> SentCall {
        let (limit, generation) = (self.limit(now), self.generation);
        let Some(reduced) = &mut self.reduced else {
            return SentCall {
                counted: counted_if_not_reduced,
                generation,
            };
        };
        let counted = reduced.generations.counted();
        // An important call beyond the limit of important calls has the permit of an ordinary one:
        // a free permit goes to the most important call that waits. Within that limit, it must not
        // hide that ordinary calls are stalled.
        let has_ordinary_permit = !is_important || counted.important >= limit.max(1);
        if has_ordinary_permit {
            let is_extra_call = counted.all >= limit;
            reduced.stall_timer.record_sent(is_extra_call, now);
        }
        reduced.generations.record_sent(is_important);
        SentCall {
            counted: counted.all + 1,
            generation,
        }
    }

    /// Records that a call of this generation has ended, or that its stream has begun.
    /// `is_important` is whether its priority made it one of the important calls, which have a
    /// limit of their own.
    pub(super) fn record_finished(&mut self, generation: u32, is_important: bool) {
        if let Some(reduced) = &mut self.reduced {
            reduced.generations.record_finished(generation, is_important);
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Adapts the limit to the end of a call, or to the begin of its stream. The call still counts
    /// as in flight.
    pub(super) fn record_end(&mut self, end: &CallEnd) {
        let target = (end.time_limit / TARGET_DIVISOR).clamp(MIN_TARGET, MAX_TARGET);
        if end.signal != Signal::TimedOut {
            self.silence = None;
        }
        self.record_wait(end);
        match end.signal {
            Signal::Answered { queued } if queued <= target => {
                let hardly_waited = queued <= target / NEGLIGIBLE_WAIT_DIVISOR;
                self.raise(end, hardly_waited);
            }
            Signal::Answered { queued } => {
                self.reduce(end, fraction_for_target(end, queued, target));
            }
            Signal::Refused { retry_after } => {
                // An overloaded worker sets `retry_after` to how long the request waited in its
                // queue.
                let queued = retry_after.unwrap_or_default();
                let fraction = fraction_for_target(end, queued, target);
                if self.reduce(end, fraction.min(FRACTION_AFTER_FAILURE)) {
                    self.begin_pause(end, retry_after);
                }
            }
            Signal::TimedOut => {
                // Timeouts are counted only while the limit is at its maximum.
                if self.is_reduced() || self.record_timeout(end) {
                    self.reduce(end, FRACTION_AFTER_FAILURE);
                }
            }
        }
    }

    /// Counts a timeout. Returns whether it means overload: at least [`SILENT_TIMEOUTS`] calls have
    /// timed out since the last reply, the first of them at least this call's time limit ago.
    fn record_timeout(&mut self, end: &CallEnd) -> bool {
        let silence = self.silence.get_or_insert(Silence {
            since: end.now,
            timeouts: 0,
        });
        silence.timeouts = silence.timeouts.saturating_add(1);
        let lasted = end.now.saturating_duration_since(silence.since);
        silence.timeouts >= SILENT_TIMEOUTS && lasted >= end.time_limit
    }

    /// Records how long requests wait in the queue, and which calls have left it. If the limit is
    /// not reduced, does nothing.
    fn record_wait(&mut self, end: &CallEnd) {
        let Some(reduced) = &mut self.reduced else {
            return;
        };
        let took = end.now.saturating_duration_since(end.sent_at);
        match end.signal {
            Signal::Answered { queued } => {
                reduced.stall_timer.queued = queued.min(took);
                // The answer to an earlier call does not show that calls are answered now.
                if end.generation == self.generation {
                    reduced.stall_timer.extra_call_delay = MIN_EXTRA_CALL_DELAY;
                }
                let generations = &mut reduced.generations;
                generations.record_answered(end.generation, end.is_important, end.now);
                self.generation = generations.number();
            }
            Signal::Refused { retry_after } => {
                reduced.stall_timer.queued = retry_after.unwrap_or_default().min(took);
            }
            Signal::TimedOut => {}
        }
    }

    /// Reduces the limit to a fraction of itself, or of the calls that counted towards it when this
    /// call was sent, if those were fewer. Ends a pause. Returns `false` and changes nothing if the
    /// call was sent before the last reduction: it does not show the effect of that reduction.
    #[allow(clippy::cast_precision_loss)] // far fewer calls than 2^52
    fn reduce(&mut self, end: &CallEnd, fraction: f64) -> bool {
        let counted = end.counted as f64;
        let fraction = fraction.clamp(MIN_FRACTION, 1.0);
        // Between 1 and `max - 1`; 1 if `max` is 1.
        let reduced_limit = |calls: f64| (calls * fraction).min(self.max as f64 - 1.0).max(1.0);
        match &mut self.reduced {
            Some(reduced) if end.sent_at < reduced.reduced_at => return false,
            Some(reduced) => {
                // With a limit of 3.9, three calls count: the one more keeps the 0.9.
                reduced.limit = reduced_limit(reduced.limit.min(counted + 1.0));
                reduced.reduced_at = end.now;
                reduced.pause_until = None;
            }
            None => {
                self.generation += 1;
                self.reduced = Some(Reduced {
                    limit: reduced_limit(counted),
                    reduced_at: end.now,
                    pause_until: None,
                    generations: Generations::new(self.generation, end.in_flight_now, end.now),
                    stall_timer: StallTimer::new(end.now),
                });
            }
        }
        true
    }

    /// Begins a pause if the limit is down to a single call. It lasts as long as the worker says,
    /// but at most the call's time limit. If the worker says nothing, there is no pause.
    fn begin_pause(&mut self, end: &CallEnd, retry_after: Option<Duration>) {
        if let Some(reduced) = &mut self.reduced
            && reduced.limit <= 1.0
        {
            let pause = retry_after.map(|time| time.min(end.time_limit));
            reduced.pause_until = pause.and_then(|time| end.now.checked_add(time));
        }
    }

    /// Raises the limit, if it was reached, after a reply to a request that waited for no longer
    /// than the target. If the request hardly waited at all, the limit may grow fast.
    #[allow(clippy::cast_precision_loss)] // far fewer calls than 2^52
    fn raise(&mut self, end: &CallEnd, hardly_waited: bool) {
        let Some(reduced) = &mut self.reduced else {
            return;
        };
        // A limit of 3.9 is reached with three calls.
        let was_reached = end.has_waiting_calls || end.counted as f64 >= reduced.limit.floor();
        if !was_reached {
            return;
        }
        let since_reduction = end.now.saturating_duration_since(reduced.reduced_at);
        let grows_fast = hardly_waited && since_reduction >= FAST_GROWTH_AFTER;
        let growth = 1.0 / reduced.limit;
        reduced.limit += if grows_fast {
            growth.max(FAST_GROWTH)
        } else {
            growth
        };
        if reduced.limit >= self.max as f64 {
            self.reduced = None;
        }
    }
}

/// Returns which fraction of the counted calls would wait for half of the target; more than 1 if
/// they wait for less. By Little's law, the time that a call takes is proportional to the number of
/// calls when it was sent, so the fraction is the wanted time divided by the time that it took.
fn fraction_for_target(end: &CallEnd, queued: Duration, target: Duration) -> f64 {
    let took = end.now.saturating_duration_since(end.sent_at);
    // The worker may be wrong: no wait is longer than its call.
    let without_wait = took - queued.min(took);
    let wanted = without_wait + target / 2;
    wanted.as_secs_f64() / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn call_end(signal: Signal, sent: Instant, now: Instant, counted: usize) -> CallEnd {
        CallEnd {
            signal,
            time_limit: Duration::from_secs(1),
            sent_at: sent,
            now,
            counted,
            generation: 0,
            is_important: false,
            in_flight_now: Count {
                all: counted,
                important: 0,
            },
            has_waiting_calls: true,
        }
    }

    const REFUSED: Signal = Signal::Refused { retry_after: None };

    fn answered(queued: u64) -> Signal {
        Signal::Answered {
            queued: millis(queued),
        }
    }

    #[test]
    fn nothing_is_limited_while_all_is_well() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        limit.record_end(&call_end(answered(0), now, now + millis(20), 1000));
        limit.record_end(&call_end(answered(99), now, now + millis(120), 1000));
        assert_eq!((limit.limit(now), limit.is_reduced()), (1000, false));
    }

    #[test]
    fn the_limit_shrinks_to_the_calls_that_would_wait_for_half_of_the_target() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        limit.record_end(&call_end(answered(105), now, now + millis(125), 100));
        assert_eq!(limit.limit(now), 56);
        let now = now + millis(125);
        limit.record_end(&call_end(answered(680), now, now + millis(700), 56));
        assert_eq!(limit.limit(now), 5);
    }

    #[test]
    fn calls_that_were_sent_before_do_not_shrink_it_again() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        for _ in 0..10 {
            limit.record_end(&call_end(REFUSED, now, now + millis(100), 80));
        }
        assert_eq!(limit.limit(now), 40);
        limit.record_end(&call_end(
            Signal::TimedOut,
            now + millis(101),
            now + millis(200),
            40,
        ));
        assert_eq!(limit.limit(now), 20);
    }

    #[test]
    fn one_call_stays_allowed_and_a_pause_lasts_as_long_as_the_worker_says() {
        let mut limit = AdaptiveLimit::new(1000);
        let mut now = Instant::now();
        let refused = Signal::Refused {
            retry_after: Some(millis(300)),
        };
        limit.record_end(&call_end(refused, now, now + millis(500), 80));
        assert_eq!((limit.limit(now), limit.is_paused(now)), (40, false));
        for _ in 0..10 {
            now += millis(500);
            limit.record_end(&call_end(refused, now, now, 80));
        }
        let until = now + millis(300);
        assert_eq!((limit.limit(now), limit.next_change(now)), (0, Some(until)));
        assert_eq!(limit.limit(until), 1);
    }

    #[test]
    fn the_limit_is_gone_soon_after_the_overload() {
        let mut limit = AdaptiveLimit::new(10_000);
        let start = Instant::now();
        limit.record_end(&call_end(REFUSED, start, start, 2));
        let (mut now, mut rounds) = (start, 0);
        while limit.is_reduced() {
            let (sent, in_flight) = (now, limit.limit(now));
            now += millis(20);
            rounds += 1;
            for _ in 0..in_flight {
                limit.record_end(&call_end(answered(0), sent, now, in_flight));
            }
        }
        assert!(now - start < Duration::from_secs(3), "{rounds} rounds of 20 ms");
    }

    /// Sends a call if there is a permit. Returns its generation.
    fn send(limit: &mut AdaptiveLimit, now: Instant) -> Option<u32> {
        let has_permit = limit.has_permit(false, now);
        has_permit.then(|| limit.record_sent(0, false, now).generation)
    }

    #[test]
    fn slow_calls_do_not_keep_quick_ones_waiting() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.record_end(&call_end(REFUSED, start, start, 100));
        assert_eq!(limit.limit(start), 50);
        limit.record_finished(0, false);
        let mut now = start;
        // A slow call finishes now and then, which frees no permit.
        for _ in 0..9 {
            now += millis(100);
            limit.record_end(&call_end(answered(0), start, now, 100));
            limit.record_finished(0, false);
            assert_eq!(send(&mut limit, now), None);
        }
        now += millis(100);
        let generation = send(&mut limit, now).expect("one extra call may be sent");
        assert_eq!(send(&mut limit, now), None);
        let quick = CallEnd {
            generation,
            ..call_end(answered(0), now, now + millis(20), 91)
        };
        limit.record_end(&quick);
        limit.record_finished(generation, false);
        now += millis(20);
        let sent = std::iter::from_fn(|| send(&mut limit, now)).count();
        assert_eq!(sent, limit.limit(now));
    }

    #[test]
    fn while_none_is_answered_ever_fewer_calls_are_sent() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.record_end(&call_end(REFUSED, start, start, 2));
        let sent: Vec<_> = (0..70)
            .filter(|second| send(&mut limit, start + Duration::from_secs(*second)).is_some())
            .collect();
        assert_eq!(sent, [1, 3, 7, 15, 31, 47, 63]);
    }

    #[test]
    fn an_extra_call_is_sent_only_after_the_time_that_requests_wait() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.record_end(&call_end(REFUSED, start, start, 2));
        limit.record_finished(0, false);
        let now = start + Duration::from_secs(5);
        limit.record_end(&call_end(answered(4000), start + millis(1), now, 1));
        limit.record_finished(0, false);
        assert!(send(&mut limit, now).is_some());
        assert!(!limit.has_permit(false, now + millis(4900)));
        assert!(limit.has_permit(false, now + millis(5000)));
    }

    #[test]
    fn nothing_but_timeouts_for_the_time_of_a_call_reduces_the_limit() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut limit = AdaptiveLimit::new(1000);
        let timed_out = |limit: &mut AdaptiveLimit, after: u64| {
            let now = start + millis(after);
            limit.record_end(&call_end(Signal::TimedOut, now - millis(1000), now, 100));
            limit.is_reduced()
        };
        assert!((0..20).all(|call| !timed_out(&mut limit, call * 49)));
        assert!(timed_out(&mut limit, 1000));
        assert_eq!(limit.limit(start), 50);

        // The calls of one method always time out, while others are answered.
        let mut limit = AdaptiveLimit::new(1000);
        for call in 0..100 {
            assert!(!timed_out(&mut limit, call * 100));
            if call % 9 == 0 {
                let now = start + millis(call * 100);
                limit.record_end(&call_end(answered(0), now, now, 100));
            }
        }
        // Too few timeouts to start a reduction.
        let mut limit = AdaptiveLimit::new(1000);
        assert!((0..7).all(|call| !timed_out(&mut limit, call * 1000)));
    }

    #[test]
    fn after_a_silence_calls_are_sent_as_before_within_two_seconds() {
        let mut limit = AdaptiveLimit::new(10_000);
        let mut now = Instant::now() + Duration::from_secs(1);
        for _ in 0..2000 {
            now += millis(10);
            limit.record_end(&call_end(Signal::TimedOut, now - millis(1000), now, 100));
        }
        assert_eq!(limit.limit(now), 1);
        let back = now;
        while limit.limit(now) < 100 {
            let (sent, in_flight) = (now, limit.limit(now));
            now += millis(50);
            for _ in 0..in_flight {
                limit.record_end(&call_end(answered(0), sent, now, in_flight));
            }
        }
        assert!(now - back < Duration::from_secs(2), "{:?}", now - back);
    }

    #[test]
    fn calls_that_do_not_wait_raise_the_limit_too() {
        let mut limit = AdaptiveLimit::new(100);
        let start = Instant::now();
        let mut now = start;
        limit.record_end(&call_end(REFUSED, now, now, 10));
        while limit.is_reduced() {
            let in_flight = limit.limit(now);
            let reply = CallEnd {
                has_waiting_calls: false,
                ..call_end(answered(0), now, now + millis(20), in_flight)
            };
            for _ in 0..in_flight {
                limit.record_end(&reply);
            }
            now += millis(20);
            assert!(now < start + Duration::from_secs(10), "{limit:?}");
        }
    }

    #[test]
    fn important_calls_are_limited_among_themselves_however_long_others_are_stalled() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.record_end(&call_end(REFUSED, start, start, 10));
        let now = start + Duration::from_secs(3);
        let mut sent = 0;
        // A permit that any call may take goes to the most important call.
        while limit.has_permit(false, now) || limit.has_permit(true, now) {
            limit.record_sent(sent, true, now);
            sent += 1;
            assert!(sent < 20);
        }
        assert_eq!(sent, 6);
    }

    #[test]
    fn a_refusal_of_a_call_from_before_a_pause_does_not_lengthen_it() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        let refused = Signal::Refused {
            retry_after: Some(millis(300)),
        };
        for after in [100, 200] {
            limit.record_end(&call_end(refused, start, start + millis(after), 2));
        }
        assert_eq!(limit.pause(start + millis(200)), Some(millis(200)));
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_grow() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        limit.record_end(&call_end(REFUSED, now, now, 80));
        let idle = CallEnd {
            has_waiting_calls: false,
            ..call_end(answered(0), now, now + millis(20), 3)
        };
        for _ in 0..100 {
            limit.record_end(&idle);
        }
        assert_eq!(limit.limit(now), 40);
    }

    #[test]
    fn idle_workers_never_slow_the_growth_of_a_small_limit() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        limit.record_end(&call_end(REFUSED, now, now, 1));
        assert_eq!(limit.limit(now), 1);
        let later = now + FAST_GROWTH_AFTER;
        limit.record_end(&call_end(answered(0), later, later + millis(20), 1));
        assert_eq!(limit.limit(later), 2);
    }

    /// Simulates clients that always have more calls to make, and a worker that takes 2.5 ms for a
    /// call and refuses calls that have waited for their whole time limit. Returns how many calls
    /// of each client were answered in the second half, and the longest wait of an answered call.
    fn share(clients: usize, time_limit: Duration, rounds: u32) -> (Vec<u32>, Duration) {
        const STEP: Duration = Duration::from_micros(2500);
        let start = Instant::now();
        let mut limits: Vec<_> = (0..clients).map(|_| AdaptiveLimit::new(10_000)).collect();
        let mut in_flight = vec![0_usize; clients];
        let mut answers = vec![0_u32; clients];
        let mut queue: VecDeque<(usize, Instant, usize, u32)> = VecDeque::new();
        let mut longest = Duration::ZERO;
        let steps = rounds * u32::try_from(time_limit.as_nanos() / STEP.as_nanos()).unwrap();
        for step in 0..steps {
            let now = start + step * STEP;
            for (client, limit) in limits.iter_mut().enumerate() {
                // One greedy client among modest ones.
                let most = if client == 0 { 2000 } else { 50 };
                while in_flight[client] < most && limit.has_permit(false, now) {
                    in_flight[client] += 1;
                    let SentCall { counted, generation } = limit.record_sent(in_flight[client], false, now);
                    queue.push_back((client, now, counted, generation));
                }
            }
            // Refusing a call takes no time.
            while let Some((client, sent, counted, generation)) = queue.pop_front() {
                let queued = now - sent;
                let fits = queued < time_limit;
                let signal = if fits {
                    Signal::Answered { queued }
                } else {
                    REFUSED
                };
                limits[client].record_end(&CallEnd {
                    time_limit,
                    generation,
                    in_flight_now: Count {
                        all: in_flight[client],
                        important: 0,
                    },
                    ..call_end(signal, sent, now, counted)
                });
                limits[client].record_finished(generation, false);
                in_flight[client] -= 1;
                if fits && step > steps / 2 {
                    answers[client] += 1;
                    longest = longest.max(queued);
                }
                if fits {
                    break;
                }
            }
        }
        (answers, longest)
    }

    #[test]
    fn a_greedy_client_does_not_starve_others() {
        let (answers, longest) = share(5, Duration::from_secs(1), 20);
        let (least, most) = (answers.iter().min().unwrap(), answers.iter().max().unwrap());
        assert!(most <= &(4 * least), "{answers:?}");
        assert!(longest < millis(400), "{longest:?}");
    }

    #[test]
    fn clients_that_wait_for_seconds_with_one_call_each_do_not_send_more() {
        // One call of each client in flight makes a wait of a second and a half.
        let (answers, longest) = share(600, Duration::from_secs(10), 4);
        assert!(longest < millis(4000), "{longest:?}");
        let answers: u32 = answers.iter().sum();
        assert!(answers >= 7500, "{answers}");
    }
}
