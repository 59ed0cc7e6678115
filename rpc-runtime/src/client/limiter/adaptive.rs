//! How many calls a client keeps in flight while its workers are overloaded. Pure.
//!
//! Nothing is limited until a worker refuses a call for want of time or says that requests wait for
//! long, or until no call is answered. Then the limit follows what the workers say, so
//! that most calls wait in the client, where a call that is given up costs nothing:
//!
//! - If requests wait in the queue for longer than a tenth of the calls' time, the limit shrinks to
//!   as many calls as would wait for a twentieth of it.
//! - A refusal or a timeout halves it at least. Timeouts begin a reduction only if there is nothing
//!   else for as long as a call may take: calls time out for many reasons. If replies reach the
//!   client too late, no worker knows.
//! - A reply to a call that waited for less raises it by a fraction, so that it grows by one with
//!   each round trip. If nothing waits and all has been well for a second, it grows by a quarter.
//!
//! Shrinking by a factor and growing by a sum makes clients that share workers equals.

use std::time::Duration;

use tokio::time::Instant;

use super::generations::{Count, Generations};

/// Requests may wait in the queue for this part of a call's time ..
const TARGET_PART: u32 = 10;

/// .. but no longer than this, and a shorter wait is always fine: it is not known that exactly.
const TARGET: (Duration, Duration) = (Duration::from_millis(40), Duration::from_secs(1));

/// So many timeouts, with no answer for as long as a call takes at the most, are overload although
/// no worker says so: replies come too late.
const SILENT_TIMEOUTS: u32 = 8;

/// To what part the limit shrinks at once at the most.
const SMALLEST_PART: f64 = 0.1;

/// To what part at least, if a call failed.
const PART_AFTER_FAILURE: f64 = 0.5;

/// If no call was sent for this time plus the time that requests wait in the queue, one more may be
/// in flight. Those that are may be slow ones, which must not keep quick ones waiting. If none is
/// answered, the next one takes twice as long ..
const STALLED_FOR: Duration = Duration::from_secs(1);

/// .. up to this time.
const STALLED_FOR_LONG: Duration = Duration::from_secs(16);

/// How long nothing must have been wrong until the limit grows fast ..
const WELL_FOR: Duration = Duration::from_secs(1);

/// .. by this for each reply.
const GROWTH_WHEN_WELL: f64 = 0.25;

/// A wait of this part of what is fine counts as none: a busy worker always knows of some.
const NEARLY_NOTHING: u32 = 8;

/// What the end of a call says about overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// It was answered, after its request had waited in the queue for this long.
    Answered { queued: Duration },
    /// A worker refused it because of overload, and advises to try again after this time.
    Refused { retry_after: Option<Duration> },
    /// No worker answered in time.
    TimedOut,
}

impl Signal {
    /// Whether it may mean overload. While the limit is not reduced, no other signal changes it.
    pub(super) fn is_warning(self) -> bool {
        !matches!(self, Self::Answered { queued } if queued <= TARGET.0)
    }
}

/// A call that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) signal: Signal,
    /// How long it was allowed to take.
    pub(super) time_limit: Duration,
    /// When it got its permit.
    pub(super) sent: Instant,
    pub(super) now: Instant,
    /// How many calls counted when it was sent, with this one.
    pub(super) in_flight: usize,
    pub(super) generation: u32,
    pub(super) is_important: bool,
    /// How many calls are in flight now, with this one.
    pub(super) in_flight_now: Count,
    /// Calls wait for a permit.
    pub(super) is_full: bool,
}

/// The limit.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    max: usize,
    /// `None` while nothing is wrong.
    reduced: Option<Reduced>,
    /// The generation of calls that are sent now.
    generation: u32,
    /// `None` if the last call was answered.
    silence: Option<Silence>,
}

/// Calls time out, and none is answered.
#[derive(Debug)]
struct Silence {
    since: Instant,
    timeouts: u32,
}

#[derive(Debug)]
struct Reduced {
    limit: f64,
    /// When it was reduced last. Calls that were sent earlier do not show its effect.
    at: Instant,
    /// No call may be sent before this time.
    pause_until: Option<Instant>,
    /// Which calls in flight count.
    generations: Generations,
    stall: Stall,
}

/// No call is sent because those in flight do not end.
#[derive(Debug)]
struct Stall {
    /// When the last call was sent.
    since: Instant,
    /// How much later one more call may be sent.
    patience: Duration,
    /// How long requests waited in the queue.
    queued: Duration,
}

impl Stall {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            patience: STALLED_FOR,
            queued: Duration::ZERO,
        }
    }

    fn ends(&self) -> Instant {
        self.since + self.patience + self.queued
    }

    fn sent(&mut self, is_in_excess: bool, now: Instant) {
        self.since = now;
        self.patience = match is_in_excess {
            true => (self.patience * 2).min(STALLED_FOR_LONG),
            false => STALLED_FOR,
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

    /// Whether an answer would end a silence.
    pub(super) fn is_silent(&self) -> bool {
        self.silence.is_some()
    }

    /// Whether the limit is reduced.
    pub(super) fn is_reduced(&self) -> bool {
        self.reduced.is_some()
    }

    /// How many calls may be in flight at this moment.
    pub(super) fn limit(&self, now: Instant) -> usize {
        match &self.reduced {
            Some(_) if self.is_paused(now) => 0,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 1 and `max`
            Some(reduced) => reduced.limit as usize,
            None => self.max,
        }
    }

    /// Whether the limit allows another call. Important calls count only among themselves, as
    /// workers serve them first: other calls may hold all permits of an overloaded service.
    pub(super) fn has_room(&self, is_important: bool, now: Instant) -> bool {
        let Some(reduced) = &self.reduced else {
            return true;
        };
        let (limit, counted) = (self.limit(now), reduced.generations.counted());
        match is_important {
            true => counted.important < limit.max(1),
            false => counted.all < limit || (limit > 0 && now >= reduced.stall.ends()),
        }
    }

    /// Whether no call is to be sent at this moment.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.pause(now).is_some()
    }

    /// For how long no call is to be sent. `None` if calls may be sent.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let until = self.reduced.as_ref()?.pause_until?;
        (now < until).then(|| until - now)
    }

    /// When there may be room without a call's end. `None` while nothing is wrong.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let reduced = self.reduced.as_ref()?;
        Some(match self.pause(now) {
            Some(pause) => now + pause,
            None => reduced.stall.ends().max(now + STALLED_FOR / 10),
        })
    }

    /// A call is sent. Returns how many of the calls in flight count with it, and its generation.
    pub(super) fn sent(&mut self, in_flight: usize, is_important: bool, now: Instant) -> (usize, u32) {
        let limit = self.limit(now);
        let Some(reduced) = &mut self.reduced else {
            return (in_flight, self.generation);
        };
        let counted = reduced.generations.counted().all;
        // Important calls within their own limit must not hide that the others are stalled.
        if !is_important || reduced.generations.counted().important >= limit.max(1) {
            reduced.stall.sent(counted >= limit, now);
        }
        reduced.generations.sent(is_important);
        (counted + 1, self.generation)
    }

    /// A call of this generation is not in flight any more.
    pub(super) fn left(&mut self, generation: u32, is_important: bool) {
        if let Some(reduced) = &mut self.reduced {
            reduced.generations.left(generation, is_important);
        }
    }

    /// The generation of calls that are sent now.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// A call ended.
    pub(super) fn ended(&mut self, call: &Ended) {
        let target = (call.time_limit / TARGET_PART).clamp(TARGET.0, TARGET.1);
        if call.signal != Signal::TimedOut {
            self.silence = None;
        }
        self.note(call);
        match call.signal {
            Signal::Answered { queued } if queued <= target => {
                self.raise(call, queued <= target / NEARLY_NOTHING);
            }
            Signal::Answered { queued } => self.reduce(call, part(call, queued, target)),
            Signal::Refused { retry_after } => {
                let queued = retry_after.unwrap_or_default();
                self.reduce(call, part(call, queued, target).min(PART_AFTER_FAILURE));
                self.begin_pause(call, retry_after);
            }
            Signal::TimedOut if self.is_reduced() || self.is_long_silence(call) => {
                self.reduce(call, PART_AFTER_FAILURE);
            }
            Signal::TimedOut => {}
        }
    }

    /// Whether calls have only timed out for as long as a call may take.
    fn is_long_silence(&mut self, call: &Ended) -> bool {
        let silence = self.silence.get_or_insert(Silence {
            since: call.now,
            timeouts: 0,
        });
        silence.timeouts = silence.timeouts.saturating_add(1);
        let lasted = call.now.saturating_duration_since(silence.since);
        silence.timeouts >= SILENT_TIMEOUTS && lasted >= call.time_limit
    }

    /// Notes how long requests wait, and which calls do not wait any more.
    fn note(&mut self, call: &Ended) {
        let Some(reduced) = &mut self.reduced else {
            return;
        };
        let took = call.now.saturating_duration_since(call.sent);
        match call.signal {
            Signal::Answered { queued } => {
                reduced.stall.queued = queued.min(took);
                if call.generation == self.generation {
                    reduced.stall.patience = STALLED_FOR;
                }
                let generations = &mut reduced.generations;
                generations.answered(call.generation, call.is_important, call.now);
                self.generation = generations.number();
            }
            Signal::Refused { retry_after } => {
                reduced.stall.queued = retry_after.unwrap_or_default().min(took);
            }
            Signal::TimedOut => {}
        }
    }

    /// Reduces the limit to a part of what it is, or of what is in flight.
    #[allow(clippy::cast_precision_loss)] // far fewer calls than 2^52
    fn reduce(&mut self, call: &Ended, part: f64) {
        let in_flight = call.in_flight as f64;
        let part = part.clamp(SMALLEST_PART, 1.0);
        // A single call is the least, and all but one are the most.
        let limit = |calls: f64| (calls * part).min(self.max as f64 - 1.0).max(1.0);
        match &mut self.reduced {
            Some(reduced) if call.sent < reduced.at => {}
            Some(reduced) => {
                // A limit of 3.9 has three calls in flight: that is no reason to forget the 0.9.
                reduced.limit = limit(reduced.limit.min(in_flight + 1.0));
                reduced.at = call.now;
                reduced.pause_until = None;
            }
            None => {
                self.generation += 1;
                self.reduced = Some(Reduced {
                    limit: limit(in_flight),
                    at: call.now,
                    pause_until: None,
                    generations: Generations::new(self.generation, call.in_flight_now, call.now),
                    stall: Stall::new(call.now),
                });
            }
        }
    }

    /// Pauses if even one call in flight is too much.
    fn begin_pause(&mut self, call: &Ended, retry_after: Option<Duration>) {
        if let Some(reduced) = &mut self.reduced
            && reduced.limit <= 1.0
        {
            let pause = retry_after.map(|time| time.min(call.time_limit));
            reduced.pause_until = pause.and_then(|time| call.now.checked_add(time));
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn raise(&mut self, call: &Ended, nothing_waits: bool) {
        let Some(reduced) = &mut self.reduced else {
            return;
        };
        // The limit has not been tried out. A limit of 3.9 allows three calls.
        if !call.is_full && (call.in_flight as f64) < reduced.limit.floor() {
            return;
        }
        let is_well = call.now.saturating_duration_since(reduced.at) >= WELL_FOR;
        reduced.limit += match nothing_waits && is_well {
            true => GROWTH_WHEN_WELL,
            false => 1.0 / reduced.limit,
        };
        if reduced.limit >= self.max as f64 {
            self.reduced = None;
        }
    }
}

/// The part of the calls in flight with which they would wait for half of the target. By Little's
/// law the time that a call takes is proportional to their number when it was sent.
fn part(call: &Ended, queued: Duration, target: Duration) -> f64 {
    let took = call.now.saturating_duration_since(call.sent);
    // A worker that is wrong about the wait costs no more than the call took.
    let wanted = took - queued.min(took) + target / 2;
    wanted.as_secs_f64() / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ended(signal: Signal, sent: Instant, now: Instant, in_flight: usize) -> Ended {
        Ended {
            signal,
            time_limit: Duration::from_secs(1),
            sent,
            now,
            in_flight,
            generation: 0,
            is_important: false,
            in_flight_now: Count {
                all: in_flight,
                important: 0,
            },
            is_full: true,
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
        limit.ended(&ended(answered(0), now, now + millis(20), 1000));
        limit.ended(&ended(answered(99), now, now + millis(120), 1000));
        assert_eq!((limit.limit(now), limit.is_reduced()), (1000, false));
    }

    #[test]
    fn the_limit_shrinks_to_what_would_wait_for_half_as_long_as_it_may() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        limit.ended(&ended(answered(105), now, now + millis(125), 100));
        assert_eq!(limit.limit(now), 56);
        let now = now + millis(125);
        limit.ended(&ended(answered(680), now, now + millis(700), 56));
        assert_eq!(limit.limit(now), 5);
    }

    #[test]
    fn calls_that_were_sent_before_do_not_shrink_it_again() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        for _ in 0..10 {
            limit.ended(&ended(REFUSED, now, now + millis(100), 80));
        }
        assert_eq!(limit.limit(now), 40);
        limit.ended(&ended(Signal::TimedOut, now + millis(101), now + millis(200), 40));
        assert_eq!(limit.limit(now), 20);
    }

    #[test]
    fn a_call_stays_in_flight_and_pauses_as_it_is_told() {
        let mut limit = AdaptiveLimit::new(1000);
        let mut now = Instant::now();
        let refused = Signal::Refused {
            retry_after: Some(millis(300)),
        };
        limit.ended(&ended(refused, now, now + millis(500), 80));
        assert_eq!((limit.limit(now), limit.is_paused(now)), (40, false));
        for _ in 0..10 {
            now += millis(500);
            limit.ended(&ended(refused, now, now, 80));
        }
        let until = now + millis(300);
        assert_eq!((limit.limit(now), limit.next_change(now)), (0, Some(until)));
        assert_eq!(limit.limit(until), 1);
    }

    #[test]
    fn the_limit_is_gone_soon_after_the_overload() {
        let mut limit = AdaptiveLimit::new(10_000);
        let start = Instant::now();
        limit.ended(&ended(REFUSED, start, start, 2));
        let (mut now, mut rounds) = (start, 0);
        while limit.is_reduced() {
            let (sent, in_flight) = (now, limit.limit(now));
            now += millis(20);
            rounds += 1;
            for _ in 0..in_flight {
                limit.ended(&ended(answered(0), sent, now, in_flight));
            }
        }
        assert!(now - start < Duration::from_secs(3), "{rounds} rounds of 20 ms");
    }

    /// Whether a call may be sent; if so, it is.
    fn send(limit: &mut AdaptiveLimit, now: Instant) -> Option<u32> {
        let has_room = limit.has_room(false, now);
        has_room.then(|| limit.sent(0, false, now).1)
    }

    #[test]
    fn slow_calls_do_not_keep_quick_ones_waiting() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.ended(&ended(REFUSED, start, start, 100));
        assert_eq!(limit.limit(start), 50);
        limit.left(0, false);
        let mut now = start;
        // One of the slow calls ends at times, which makes no place free.
        for _ in 0..9 {
            now += millis(100);
            limit.ended(&ended(answered(0), start, now, 100));
            limit.left(0, false);
            assert_eq!(send(&mut limit, now), None);
        }
        now += millis(100);
        let generation = send(&mut limit, now).expect("one more may be sent");
        assert_eq!(send(&mut limit, now), None);
        let quick = Ended {
            generation,
            ..ended(answered(0), now, now + millis(20), 91)
        };
        limit.ended(&quick);
        limit.left(generation, false);
        now += millis(20);
        let sent = std::iter::from_fn(|| send(&mut limit, now)).count();
        assert_eq!(sent, limit.limit(now));
    }

    #[test]
    fn while_none_is_answered_ever_fewer_calls_are_sent() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.ended(&ended(REFUSED, start, start, 2));
        let sent: Vec<_> = (0..70)
            .filter(|second| send(&mut limit, start + Duration::from_secs(*second)).is_some())
            .collect();
        assert_eq!(sent, [1, 3, 7, 15, 31, 47, 63]);
    }

    #[test]
    fn more_calls_are_sent_only_after_longer_than_requests_wait() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.ended(&ended(REFUSED, start, start, 2));
        limit.left(0, false);
        let now = start + Duration::from_secs(5);
        limit.ended(&ended(answered(4000), start + millis(1), now, 1));
        limit.left(0, false);
        assert!(send(&mut limit, now).is_some());
        assert!(!limit.has_room(false, now + millis(4900)));
        assert!(limit.has_room(false, now + millis(5000)));
    }

    #[test]
    fn nothing_but_timeouts_for_the_time_of_a_call_reduces_the_limit() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut limit = AdaptiveLimit::new(1000);
        let timed_out = |limit: &mut AdaptiveLimit, after: u64| {
            let now = start + millis(after);
            limit.ended(&ended(Signal::TimedOut, now - millis(1000), now, 100));
            limit.is_reduced()
        };
        assert!((0..20).all(|call| !timed_out(&mut limit, call * 49)));
        assert!(timed_out(&mut limit, 1000));
        assert_eq!(limit.limit(start), 50);

        // A method whose calls always time out, while others are answered.
        let mut limit = AdaptiveLimit::new(1000);
        for call in 0..100 {
            assert!(!timed_out(&mut limit, call * 100));
            if call % 9 == 0 {
                let now = start + millis(call * 100);
                limit.ended(&ended(answered(0), now, now, 100));
            }
        }
        // Too few to tell.
        let mut limit = AdaptiveLimit::new(1000);
        assert!((0..7).all(|call| !timed_out(&mut limit, call * 1000)));
    }

    #[test]
    fn after_a_silence_calls_are_sent_as_before_within_two_seconds() {
        let mut limit = AdaptiveLimit::new(10_000);
        let mut now = Instant::now() + Duration::from_secs(1);
        for _ in 0..2000 {
            now += millis(10);
            limit.ended(&ended(Signal::TimedOut, now - millis(1000), now, 100));
        }
        assert_eq!(limit.limit(now), 1);
        let back = now;
        while limit.limit(now) < 100 {
            let (sent, in_flight) = (now, limit.limit(now));
            now += millis(50);
            for _ in 0..in_flight {
                limit.ended(&ended(answered(0), sent, now, in_flight));
            }
        }
        assert!(now - back < Duration::from_secs(2), "{:?}", now - back);
    }

    #[test]
    fn calls_that_do_not_wait_raise_the_limit_too() {
        let mut limit = AdaptiveLimit::new(100);
        let start = Instant::now();
        let mut now = start;
        limit.ended(&ended(REFUSED, now, now, 10));
        while limit.is_reduced() {
            let in_flight = limit.limit(now);
            let reply = Ended {
                is_full: false,
                ..ended(answered(0), now, now + millis(20), in_flight)
            };
            for _ in 0..in_flight {
                limit.ended(&reply);
            }
            now += millis(20);
            assert!(now < start + Duration::from_secs(10), "{limit:?}");
        }
    }

    #[test]
    fn important_calls_are_limited_among_themselves_however_long_others_are_stalled() {
        let mut limit = AdaptiveLimit::new(1000);
        let start = Instant::now();
        limit.ended(&ended(REFUSED, start, start, 10));
        let now = start + Duration::from_secs(3);
        let mut sent = 0;
        // A place that is there for any call goes to the most important one.
        while limit.has_room(false, now) || limit.has_room(true, now) {
            limit.sent(sent, true, now);
            sent += 1;
            assert!(sent < 20);
        }
        assert_eq!(sent, 6);
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_grow() {
        let mut limit = AdaptiveLimit::new(1000);
        let now = Instant::now();
        limit.ended(&ended(REFUSED, now, now, 80));
        let idle = Ended {
            is_full: false,
            ..ended(answered(0), now, now + millis(20), 3)
        };
        for _ in 0..100 {
            limit.ended(&idle);
        }
        assert_eq!(limit.limit(now), 40);
    }

    /// Clients with always more calls to make, and a worker that takes 2.5 ms for each and refuses
    /// those that waited for as long as their time. Returns how many calls of each were answered
    /// and how long they waited at the most, after a while.
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
                while in_flight[client] < most && limit.has_room(false, now) {
                    in_flight[client] += 1;
                    let (counted, generation) = limit.sent(in_flight[client], false, now);
                    queue.push_back((client, now, counted, generation));
                }
            }
            // To refuse a call takes no time.
            while let Some((client, sent, counted, generation)) = queue.pop_front() {
                let queued = now - sent;
                let fits = queued < time_limit;
                let signal = if fits {
                    Signal::Answered { queued }
                } else {
                    REFUSED
                };
                limits[client].ended(&Ended {
                    time_limit,
                    generation,
                    in_flight_now: Count {
                        all: in_flight[client],
                        important: 0,
                    },
                    ..ended(signal, sent, now, counted)
                });
                limits[client].left(generation, false);
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
        // A second and a half with one call of each in flight.
        let (answers, longest) = share(600, Duration::from_secs(10), 4);
        assert!(longest < millis(4000), "{longest:?}");
        let answers: u32 = answers.iter().sum();
        assert!(answers >= 7500, "{answers}");
    }
}
