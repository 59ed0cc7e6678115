//! How many calls of a client are in flight, and which waits for its turn.
//!
//! A client has a fixed limit, which its user sets, and below it one that follows what overloaded
//! workers say (see [`AdaptiveLimit`]). A call that finds no place waits here, within its time.

mod adaptive;
mod generations;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use adaptive::{AdaptiveLimit, Ended, Signal};
use generations::Count;
use waiting::{Order, Turn, Waiting};

use crate::client::time_limit::TimeLimit;
use crate::error::CallError;
use crate::protocol::{Executed, FaultCode, QUEUE_TIME_HEADER, Reply, ReplyKind, read_millis};
use crate::telemetry::{self, Event, count};

/// What a call does that would be one too many; see
/// [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for its turn, within its time.
    #[default]
    Wait,
    /// It fails at once, with [`CallError::TooManyCalls`](crate::CallError::TooManyCalls) or, if the limit is lower for
    /// now because the workers are overloaded, with [`CallError::Overloaded`](crate::CallError::Overloaded).
    Fail,
}

/// The places for calls in flight of one client.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Where the calls go.
    queue: Box<str>,
    in_flight: AtomicUsize,
    /// How many of them are important.
    important: AtomicUsize,
    /// How many calls may be in flight now.
    limit: AtomicUsize,
    /// Something is wrong, so that calls enter and leave under the lock.
    is_reduced: AtomicBool,
    /// How many calls wait. Changes under the lock only.
    waiting: AtomicUsize,
    /// That of calls that are sent now. Changes under the lock only.
    generation: AtomicU32,
    /// An answer is to be noted, as there was none for a while.
    is_silent: AtomicBool,
    max: usize,
    when_full: WhenFull,
    is_adaptive: bool,
    state: Mutex<State>,
    /// Calls that wait look anew when places come by the passage of time.
    paused: Notify,
}

#[derive(Debug)]
struct State {
    adaptive: AdaptiveLimit,
    waiting: Waiting<oneshot::Sender<Place>>,
}

/// A call's place among those in flight. Dropping it gives the place to another call.
#[derive(Debug)]
pub(super) struct Place {
    limiter: Arc<Limiter>,
    /// For how long it was waited for, in milliseconds.
    waited: u32,
    /// How many calls counted when it was taken, with this one.
    in_flight: u32,
    generation: u32,
    is_important: bool,
}

impl Limiter {
    pub(super) fn new(queue: &str, max: usize, when_full: WhenFull, is_adaptive: bool) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self {
            queue: queue.into(),
            in_flight: AtomicUsize::new(0),
            important: AtomicUsize::new(0),
            limit: AtomicUsize::new(max),
            is_reduced: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            generation: AtomicU32::new(0),
            is_silent: AtomicBool::new(false),
            max,
            when_full,
            is_adaptive,
            state: Mutex::new(State {
                adaptive: AdaptiveLimit::new(max),
                waiting: Waiting::default(),
            }),
            paused: Notify::new(),
        })
    }

    /// Takes a place, if there is one and no call waits for it.
    pub(super) fn try_enter(self: &Arc<Self>, priority: u8) -> Option<Place> {
        let is_important = is_important(priority);
        let is_first = is_important || self.waiting.load(Ordering::SeqCst) == 0;
        if !is_first {
            return None;
        }
        if self.is_reduced.load(Ordering::SeqCst) {
            return self.enter_reduced(is_important);
        }
        let in_flight = self.count_in()?;
        let generation = self.generation.load(Ordering::Relaxed);
        Some(Place::new(self, (in_flight, generation), is_important))
    }

    fn enter_reduced(self: &Arc<Self>, is_important: bool) -> Option<Place> {
        let mut state = self.lock();
        let now = Instant::now();
        if !state.adaptive.has_room(is_important, now) {
            return None;
        }
        let in_flight = self.count_in()?;
        let sent = state.adaptive.sent(in_flight, is_important, now);
        Some(Place::new(self, sent, is_important))
    }

    /// Takes a place when there is one, if a call waits for that. Cancel safe.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    pub(super) fn enter_by(
        self: &Arc<Self>,
        time: TimeLimit,
        priority: u8,
    ) -> BoxFuture<'_, Result<Place, CallError>> {
        Box::pin(async move {
            let place = match self.when_full {
                WhenFull::Wait => self.wait(time, priority).await,
                WhenFull::Fail => {
                    // A pause may be over.
                    self.refresh(&self.lock(), Instant::now());
                    self.try_enter(priority)
                }
            };
            place.ok_or_else(|| self.full())
        })
    }

    /// Waits for a place. `None` if there is none in time.
    async fn wait(self: &Arc<Self>, time: TimeLimit, priority: u8) -> Option<Place> {
        let begun = Instant::now();
        let (granting, mut granted) = oneshot::channel();
        let turn = {
            let mut state = self.lock();
            let turn = state.waiting.add(priority, time.deadline, granting);
            self.count_waiting(&state);
            turn
        };
        let _queued = Queued::new(self, turn, begun);
        loop {
            let paused = self.paused.notified();
            // A place may have become free before the call was added, or by the passage of time.
            self.grant();
            let change = self.lock().adaptive.next_change(Instant::now());
            let until = change.unwrap_or(time.deadline).min(time.deadline);
            tokio::select! {
                biased;
                granted = &mut granted => {
                    let mut place = granted.ok()?;
                    let waited = begun.elapsed().as_millis();
                    place.waited = u32::try_from(waited).unwrap_or(u32::MAX);
                    return Some(place);
                }
                () = paused => {}
                () = sleep_until(until) => if until == time.deadline {
                    return None;
                }
            }
        }
    }

    fn full(&self) -> CallError {
        let (state, now) = (self.lock(), Instant::now());
        let limit = state.adaptive.limit(now);
        if limit == self.max {
            return CallError::TooManyCalls { limit };
        }
        let retry_after = state.adaptive.pause(now);
        CallError::Overloaded { limit, retry_after }
    }

    /// Counts another call in flight, within the fixed limit. Returns how many are.
    fn count_in(&self) -> Option<usize> {
        let another = |in_flight| (in_flight < self.max).then_some(in_flight + 1);
        let others = self
            .in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, another);
        others.ok().map(|others| others + 1)
    }

    /// Gives free places to calls that wait.
    fn grant(self: &Arc<Self>) {
        loop {
            let next = self.next(&mut self.lock());
            let Some((waiter, place)) = next else { return };
            // A call that was dropped meanwhile drops its place.
            let _ = waiter.send(place);
        }
    }

    /// The next call that waits, and its place. `None` if either is missing.
    fn next(self: &Arc<Self>, state: &mut State) -> Option<(oneshot::Sender<Place>, Place)> {
        let now = Instant::now();
        self.refresh(state, now);
        let has_room = |is_important| state.adaptive.has_room(is_important, now);
        let least = match (has_room(false), has_room(true)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => return None,
        };
        let order = match state.adaptive.is_reduced() {
            true => Order::NewestFirst,
            false => Order::OldestFirst,
        };
        let in_flight = self.count_in()?;
        let next = state.waiting.next(least, order, now);
        self.count_waiting(state);
        let Some((priority, waiter)) = next else {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            return None;
        };
        let is_important = is_important(priority);
        let sent = state.adaptive.sent(in_flight, is_important, now);
        Some((waiter, Place::new(self, sent, is_important)))
    }

    /// Lets calls that enter and leave see how many wait.
    fn count_waiting(&self, state: &State) {
        self.waiting.store(state.waiting.len(), Ordering::SeqCst);
    }

    fn leave(self: &Arc<Self>, place: &Place) {
        if self.is_reduced.load(Ordering::SeqCst) {
            let mut state = self.lock();
            state.adaptive.left(place.generation, place.is_important);
        }
        if place.is_important {
            self.important.fetch_sub(1, Ordering::Relaxed);
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant();
        }
    }

    /// A call ended whose outcome tells of overload, or that things are well.
    fn note(&self, signal: Signal, time: TimeLimit, place: &Place) {
        let now = Instant::now();
        let sent = time.deadline - time.limit + Duration::from_millis(place.waited.into());
        let mut state = self.lock();
        let was_reduced = state.adaptive.is_reduced();
        // From here on, those that enter and leave are not missed.
        self.is_reduced.store(true, Ordering::SeqCst);
        state.adaptive.ended(&Ended {
            signal,
            time_limit: time.limit,
            sent,
            now,
            in_flight: usize::try_from(place.in_flight).unwrap_or(usize::MAX),
            generation: place.generation,
            is_important: place.is_important,
            in_flight_now: Count {
                all: self.in_flight.load(Ordering::SeqCst),
                important: self.important.load(Ordering::SeqCst),
            },
            is_full: self.waiting.load(Ordering::Relaxed) > 0,
        });
        self.refresh(&state, now);
        if state.adaptive.is_paused(now) || state.adaptive.is_reduced() != was_reduced {
            self.paused.notify_waiters();
        }
    }

    /// Lets calls that enter see the limit of this moment.
    fn refresh(&self, state: &State, now: Instant) {
        self.is_reduced
            .store(state.adaptive.is_reduced(), Ordering::SeqCst);
        self.is_silent
            .store(state.adaptive.is_silent(), Ordering::Relaxed);
        let generation = state.adaptive.generation();
        self.generation.store(generation, Ordering::Relaxed);
        let limit = state.adaptive.limit(now);
        if limit != self.limit.load(Ordering::Relaxed) {
            self.limit.store(limit, Ordering::Relaxed);
            self.tell(limit);
        }
    }

    fn tell(&self, limit: usize) {
        let queue = &self.queue;
        count(Event::LimitChanged { queue, limit });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step, so that a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        // No client is left that the lower limit would be true of.
        if *self.limit.get_mut() < self.max {
            self.tell(self.max);
        }
    }
}

impl Place {
    fn new(limiter: &Arc<Limiter>, (in_flight, generation): (usize, u32), is_important: bool) -> Self {
        if is_important {
            limiter.important.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            limiter: Arc::clone(limiter),
            waited: 0,
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            generation,
            is_important,
        }
    }

    /// The call that has the place ended.
    pub(super) fn ended(&self, outcome: &Result<Reply, CallError>, time: TimeLimit) {
        let limiter = &self.limiter;
        if !limiter.is_adaptive {
            return;
        }
        let Some(signal) = signal(outcome) else { return };
        let is_reduced = limiter.is_reduced.load(Ordering::SeqCst);
        if signal.is_warning() || is_reduced || limiter.is_silent.load(Ordering::Relaxed) {
            limiter.note(signal, time, self);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limiter.leave(self);
    }
}

/// Whether a call of this priority goes before others.
fn is_important(priority: u8) -> bool {
    priority > 0
}

/// What the outcome of a call says of overload.
fn signal(outcome: &Result<Reply, CallError>) -> Option<Signal> {
    match outcome {
        Ok(reply) if reply.kind == ReplyKind::Fault => {
            let fault = reply.read_fault();
            let retry_after = fault.retry_after;
            // A layer of the worker rejects calls for reasons of its own. It says if they come too often.
            let is_overload = match fault.code {
                FaultCode::Expired => true,
                // It would have expired, but may have run before.
                FaultCode::Rejected | FaultCode::Interrupted => retry_after.is_some(),
                _ => false,
            };
            Some(match is_overload {
                true => Signal::Refused { retry_after },
                false => answered(reply),
            })
        }
        Ok(reply) => Some(answered(reply)),
        // It left, and nobody answered.
        Err(CallError::TimedOut {
            executed: Executed::Maybe,
            source: None,
            ..
        }) => Some(Signal::TimedOut),
        Err(_) => None,
    }
}

fn answered(reply: &Reply) -> Signal {
    Signal::Answered {
        queued: read_millis(&reply.headers, QUEUE_TIME_HEADER).unwrap_or_default(),
    }
}

/// A call's place among those that wait.
struct Queued<'a> {
    limiter: &'a Limiter,
    turn: Turn,
    begun: Instant,
}

impl<'a> Queued<'a> {
    fn new(limiter: &'a Limiter, turn: Turn, begun: Instant) -> Self {
        let queue = &limiter.queue;
        count(Event::Waiting { queue, waits: true });
        Self { limiter, turn, begun }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        if state.waiting.remove(self.turn) {
            self.limiter.count_waiting(&state);
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
    use crate::protocol::{Fault, write_millis};

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
        let queued = Duration::from_millis(queued);
        write_millis(&mut reply.headers, QUEUE_TIME_HEADER, queued);
        Ok(reply)
    }

    fn refusal(retry_after: u64) -> Result<Reply, CallError> {
        let fault = Fault::new(FaultCode::Expired, "").with_retry_after(Duration::from_millis(retry_after));
        Ok(Reply::fault(Codec::Json, &fault))
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_the_call_that_waits_longest() {
        let limiter = limiter(1);
        let place = limiter.try_enter(0).unwrap();
        let [mut first, mut second] = [0, 0].map(|priority| limiter.enter_by(in_time(1000), priority));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert!(limiter.try_enter(0).is_none());
        drop(place);
        assert!(poll!(&mut second).is_pending());
        let Poll::Ready(Ok(place)) = poll!(&mut first) else {
            panic!("it has the place");
        };
        drop(place);
        assert!(matches!(poll!(&mut second), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_a_higher_priority_goes_first() {
        let limiter = limiter(1);
        let place = limiter.try_enter(0).unwrap();
        let [mut first, mut second] = [0, 9].map(|priority| limiter.enter_by(in_time(1000), priority));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(place);
        assert!(poll!(&mut first).is_pending());
        assert!(matches!(poll!(&mut second), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_or_late_leaves_its_place_to_others() {
        let limiter = limiter(1);
        let place = limiter.try_enter(0).unwrap();
        let mut dropped = limiter.enter_by(in_time(1000), 0);
        assert!(poll!(&mut dropped).is_pending());
        let late = limiter.enter_by(in_time(10), 0).await;
        assert!(
            matches!(late, Err(CallError::TooManyCalls { limit: 1 })),
            "{late:?}"
        );
        drop(place);
        // It has the place, and never knew.
        drop(dropped);
        assert_eq!(limiter.waiting.load(Ordering::Relaxed), 0);
        assert!(limiter.try_enter(0).is_some());
        assert_eq!(limiter.in_flight.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn under_overload_fewer_calls_have_places_and_the_newest_go_first() {
        let limiter = limiter(100);
        let time = in_time(1000);
        let mut places: Vec<_> = (0..10).map(|_| limiter.try_enter(0).unwrap()).collect();
        sleep(Duration::from_millis(300)).await;
        places.pop().unwrap().ended(&reply(200), time);
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 5);
        let [mut first, mut second] = [0, 0].map(|priority| limiter.enter_by(in_time(1000), priority));
        assert!(limiter.try_enter(0).is_none());
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        places.truncate(5);
        assert!(poll!(&mut second).is_pending());
        places.pop();
        assert!(poll!(&mut first).is_pending());
        assert!(matches!(poll!(&mut second), Poll::Ready(Ok(_))));
        let failed = limiter.enter_by(in_time(0), 0).await;
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
    async fn what_is_left_of_a_burst_does_not_reduce_the_limit_to_its_own_number() {
        let limiter = limiter(1000);
        let time = in_time(1000);
        let mut places: Vec<_> = (0..100).map(|_| limiter.try_enter(0).unwrap()).collect();
        sleep(Duration::from_millis(200)).await;
        places.drain(..90);
        // It waited for the ninety calls before it.
        places.remove(0).ended(&reply(180), time);
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn an_important_call_does_not_wait_for_others_of_an_overloaded_service() {
        let limiter = limiter(100);
        let time = in_time(1000);
        let mut places: Vec<_> = (0..10).map(|_| limiter.try_enter(0).unwrap()).collect();
        sleep(Duration::from_millis(300)).await;
        places.pop().unwrap().ended(&reply(200), time);
        assert!(limiter.try_enter(0).is_none());
        let important: Vec<_> = std::iter::from_fn(|| limiter.try_enter(1)).collect();
        assert_eq!(important.len(), 5);
        let mut waiting = limiter.enter_by(in_time(1000), 1);
        assert!(poll!(&mut waiting).is_pending());
        drop(important);
        assert!(matches!(poll!(&mut waiting), Poll::Ready(Ok(_))));
        drop(waiting);
        drop(places);
        let counts = [&limiter.in_flight, &limiter.important].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_do_not_keep_quick_calls_from_free_places() {
        let limiter = limiter(100);
        let minute = in_time(60_000);
        let mut places: Vec<_> = (0..2).map(|_| limiter.try_enter(0).unwrap()).collect();
        sleep(Duration::from_secs(20)).await;
        for outcome in [refusal(0), reply(1)] {
            places.pop().unwrap().ended(&outcome, minute);
        }
        let mut places: Vec<_> = std::iter::from_fn(|| limiter.try_enter(0)).collect();
        let mut quick = limiter.enter_by(in_time(1000), 0);
        assert!(poll!(&mut quick).is_pending());
        places.pop();
        assert!(matches!(poll!(&mut quick), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_calls_that_hold_more_places_than_there_are_do_not_hold_up_quick_ones() {
        let limiter = limiter(100);
        let minute = in_time(60_000);
        let mut polls: Vec<_> = (0..30).map(|_| limiter.try_enter(0).unwrap()).collect();
        sleep(Duration::from_secs(10)).await;
        polls.pop().unwrap().ended(&refusal(0), minute);
        assert!(limiter.limit.load(Ordering::Relaxed) < 20);
        let begun = Instant::now();
        for _ in 0..100 {
            let time = in_time(5000);
            let place = limiter.enter_by(time, 0).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            place.ended(&reply(0), time);
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
            let places: Vec<_> = (0..100).map(|_| limiter.try_enter(0).unwrap()).collect();
            for (number, place) in places.iter().enumerate().take(30) {
                let time = in_time(1000);
                sleep(Duration::from_millis(50)).await;
                if let Some(answer) = answer.clone().filter(|_| number % 10 == 0) {
                    place.ended(&Ok(answer), time);
                }
                place.ended(&timed_out(), time);
            }
            assert_eq!(limiter.is_reduced.load(Ordering::SeqCst), answer.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_one_call_in_flight_pauses_as_it_is_told() {
        let limiter = limiter(100);
        let place = limiter.try_enter(0).unwrap();
        place.ended(&refusal(200), in_time(1000));
        drop(place);
        assert!(limiter.try_enter(0).is_none());
        let begun = Instant::now();
        let mut waiting = pin!(limiter.wait(in_time(1000), 0));
        assert!(poll!(&mut waiting).is_pending());
        assert!(waiting.await.is_some());
        assert_eq!(begun.elapsed(), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_during_a_pause_says_when_it_ends() {
        let limiter = Limiter::new("q", 100, WhenFull::Fail, true);
        let place = limiter.try_enter(0).unwrap();
        place.ended(&refusal(200), in_time(1000));
        drop(place);
        sleep(Duration::from_millis(50)).await;
        let failed = limiter.enter_by(in_time(1000), 0).await.unwrap_err();
        assert_eq!(failed.retry_after(), Some(Duration::from_millis(150)));
        sleep(failed.retry_after().unwrap()).await;
        let place = limiter.enter_by(in_time(1000), 0).await.unwrap();
        let failed = limiter.enter_by(in_time(1000), 0).await.unwrap_err();
        assert!(
            matches!(failed, CallError::Overloaded { limit: 1, .. }),
            "{failed:?}"
        );
        assert_eq!(failed.retry_after(), None);
        drop(place);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_a_single_place_is_as_quick_after_a_refusal_as_before() {
        let limiter = limiter(1);
        let place = limiter.try_enter(0).unwrap();
        place.ended(&refusal(0), in_time(1000));
        drop(place);
        let begun = Instant::now();
        for _ in 0..5 {
            let place = limiter.enter_by(in_time(1000), 0).await.unwrap();
            let mut next = limiter.enter_by(in_time(1000), 0);
            assert!(poll!(&mut next).is_pending());
            sleep(Duration::from_millis(1)).await;
            place.ended(&reply(0), in_time(1000));
            drop(place);
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
        let place = limiter.try_enter(0).unwrap();
        place.ended(&refusal(200), in_time(1000));
        assert_eq!(limiter.limit.load(Ordering::Relaxed), 10);
    }
}
