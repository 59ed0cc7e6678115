//! The recorder's handles of the metrics that each call of a method changes.
//!
//! Looking up a metric builds its labels and searches the recorder, which costs more than a small
//! call. So handles are kept. They are looked up again after a second, because a recorder may have
//! dropped a metric that was idle, and at once if there is another recorder.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, with_recorder};
use tokio::time::Instant;

use super::counted::Counted;

/// How long handles are used. Must be shorter than any time after which recorders drop idle
/// metrics.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The handles of one method.
#[derive(Default)]
pub(super) struct Handles(RwLock<Option<Kept>>);

struct Kept {
    recorder: RecorderAddress,
    since: Instant,
    /// One is enough, because a method belongs to a caller or to a worker.
    in_flight: Option<Gauge>,
    ended: Vec<(EndKey, EndHandles)>,
}

/// How something ended, as labels say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndKey {
    pub(super) counted: Counted,
    pub(super) outcome: &'static str,
    /// Not a label. Of the ends with the outcome `cancelled`, only some have a duration.
    pub(super) has_duration: bool,
}

/// The handles for one way to end.
#[derive(Clone)]
pub(super) struct EndHandles {
    pub(super) total: Counter,
    /// `None` if the duration is not recorded.
    pub(super) duration: Option<Histogram>,
}

impl Handles {
    /// Changes the gauge of what is in flight. `register` looks it up if it is not kept.
    pub(super) fn change_in_flight(
        &self,
        now: Instant,
        register: impl FnOnce() -> Gauge,
        change: impl Fn(&Gauge),
    ) {
        let recorder = RecorderAddress::current();
        if self.use_kept(recorder, now, |kept| kept.in_flight.as_ref().map(&change)) {
            return;
        }
        // Not under the lock: a recorder is foreign code.
        let gauge = register();
        change(&gauge);
        self.keep(recorder, now, |kept| kept.in_flight = Some(gauge));
    }

    /// Counts an end with `change`. `register` looks its handles up if they are not kept.
    pub(super) fn count_end(
        &self,
        now: Instant,
        key: EndKey,
        register: impl FnOnce() -> EndHandles,
        change: impl Fn(&EndHandles),
    ) {
        let recorder = RecorderAddress::current();
        let find_and_change = |kept: &Kept| {
            let (_, handles) = kept.ended.iter().find(|(known, _)| *known == key)?;
            change(handles);
            Some(())
        };
        if self.use_kept(recorder, now, find_and_change) {
            return;
        }
        let handles = register();
        change(&handles);
        self.keep(recorder, now, |kept| {
            // Another thread may have kept them meanwhile.
            if kept.ended.iter().all(|(known, _)| *known != key) {
                kept.ended.push((key, handles));
            }
        });
    }

    /// Uses a handle that is kept and still valid. Returns whether there was one.
    fn use_kept(
        &self,
        recorder: RecorderAddress,
        now: Instant,
        find_and_use: impl FnOnce(&Kept) -> Option<()>,
    ) -> bool {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref()
            .filter(|kept| kept.is_valid(recorder, now))
            .and_then(find_and_use)
            .is_some()
    }

    /// Keeps a handle. Forgets all others if they are no longer valid.
    fn keep(&self, recorder: RecorderAddress, now: Instant, add: impl FnOnce(&mut Kept)) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.take_if(|kept| !kept.is_valid(recorder, now));
        add(kept.get_or_insert_with(|| Kept {
            recorder,
            since: now,
            in_flight: None,
            ended: Vec::new(),
        }));
    }
}

impl Kept {
    fn is_valid(&self, recorder: RecorderAddress, now: Instant) -> bool {
        self.recorder == recorder && now.saturating_duration_since(self.since) < MAX_AGE
    }
}

/// Identifies the recorder of this thread. There is none at first, and tests have local ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecorderAddress(usize);

impl RecorderAddress {
    fn current() -> Self {
        Self(with_recorder(|recorder| {
            std::ptr::from_ref(recorder).cast::<()>().addr()
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use metrics::{CounterFn, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder};

    use super::super::method::Method;
    use super::super::metrics::{Ending, Event, count};
    use super::super::name::Name;
    use super::super::outcome::Outcome;
    use super::*;

    /// Adds up all counters, and counts how often one is looked up.
    #[derive(Default)]
    struct Sums {
        sum: Arc<Sum>,
        lookups: AtomicUsize,
    }

    #[derive(Default)]
    struct Sum(AtomicU64);

    impl CounterFn for Sum {
        fn increment(&self, value: u64) {
            self.0.fetch_add(value, Ordering::Relaxed);
        }

        fn absolute(&self, _: u64) {}
    }

    impl Sums {
        fn read(&self) -> (u64, usize) {
            (
                self.sum.0.load(Ordering::Relaxed),
                self.lookups.load(Ordering::Relaxed),
            )
        }
    }

    impl Recorder for Sums {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            self.lookups.fetch_add(1, Ordering::Relaxed);
            Counter::from_arc(Arc::clone(&self.sum))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    fn method() -> Method {
        Method::new(Name::Static("Store"), Name::Static("read"))
    }

    fn end(method: &Method, outcome: Outcome, now: Instant) {
        let ending = Ending::Completed(outcome, Duration::ZERO);
        count(Event::Ended(Counted::Calls, method, ending, now));
    }

    #[test]
    fn handles_are_looked_up_once_for_each_outcome_until_they_are_old() {
        let (recorder, method, now) = (Sums::default(), method(), Instant::now());
        with_local_recorder(&recorder, || {
            (0..5).for_each(|_| end(&method, Outcome::Ok, now));
            (0..5).for_each(|_| end(&method, Outcome::Error, now));
            assert_eq!(recorder.read(), (10, 2));
            end(&method, Outcome::Ok, now + MAX_AGE);
            end(&method, Outcome::Ok, now + MAX_AGE);
            assert_eq!(recorder.read(), (12, 3));
        });
    }

    #[test]
    fn a_recorder_that_is_installed_later_counts_at_once() {
        let (first, second, method, now) = (Sums::default(), Sums::default(), method(), Instant::now());
        end(&method, Outcome::Ok, now);
        with_local_recorder(&first, || end(&method, Outcome::Ok, now));
        with_local_recorder(&second, || end(&method, Outcome::Ok, now));
        assert_eq!((first.read(), second.read()), ((1, 1), (1, 1)));
    }
}
