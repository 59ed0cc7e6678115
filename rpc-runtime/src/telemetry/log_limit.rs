//! How often the log hears of what a peer can cause at will.
//!
//! A stranger who sends ten thousand bad requests must not fill a disk: of each kind of event a queue logs one in a second, and how many it
//! left out. Metrics count all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::Level;

/// How long after an event the next one of its kind is logged.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much longer it takes until those that were left out are logged without a next one.
const GRACE: Duration = Duration::from_millis(200);

/// The events of one queue, or of whatever else `name` is.
#[derive(Debug)]
pub(crate) struct LogLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: String,
    /// As many as there are kinds in the program's text.
    kinds: Mutex<Vec<Kind>>,
}

#[derive(Debug)]
struct Kind {
    name: &'static str,
    level: Level,
    window: Window,
}

/// How many events of the kind were left out before this one, if any were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOut(pub(crate) Option<u64>);

impl LogLimit {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(Shared {
            name: name.into(),
            kinds: Mutex::default(),
        }))
    }

    /// Whether an event of this kind may be logged now. Those that may not are counted, and logged as a number later.
    pub(crate) fn admit(&self, level: Level, kind: &'static str) -> Option<LeftOut> {
        let now = Instant::now();
        let mut kinds = self.0.kinds();
        let window = &mut find(&mut kinds, level, kind).window;
        let admitted = window.admit(now);
        if admitted.is_none()
            && !window.is_watched
            && let Ok(runtime) = Handle::try_current()
        {
            window.is_watched = true;
            runtime.spawn(watch(
                Arc::downgrade(&self.0),
                level,
                kind,
                window.overdue_at(now),
            ));
        }
        admitted
    }
}

fn find<'a>(kinds: &'a mut Vec<Kind>, level: Level, name: &'static str) -> &'a mut Kind {
    let position = kinds.iter().position(|kind| kind.name == name);
    let position = position.unwrap_or_else(|| {
        kinds.push(Kind {
            name,
            level,
            window: Window::default(),
        });
        kinds.len() - 1
    });
    &mut kinds[position]
}

/// Logs how many events were left out, unless the next one of their kind does so.
async fn watch(shared: Weak<Shared>, level: Level, kind: &'static str, mut overdue_at: Instant) {
    loop {
        sleep_until(overdue_at).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let (overdue, next) = {
            let mut kinds = shared.kinds();
            let window = &mut find(&mut kinds, level, kind).window;
            let overdue = window.overdue(now);
            window.is_watched = window.left_out > 0;
            (overdue, window.is_watched.then(|| window.overdue_at(now)))
        };
        if let Some(left_out) = overdue {
            shared.tell(level, kind, left_out);
        }
        match next {
            Some(next) => overdue_at = next,
            None => return,
        }
    }
}

impl Shared {
    fn kinds(&self) -> MutexGuard<'_, Vec<Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, level: Level, kind: &'static str, left_out: u64) {
        const TEXT: &str = "more of the same is not in the log";
        let of = &self.name;
        match level {
            Level::ERROR | Level::WARN => tracing::warn!(of, kind, left_out, "{TEXT}"),
            _ => tracing::debug!(of, kind, left_out, "{TEXT}"),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for Kind { name, level, window } in std::mem::take(&mut *self.kinds()) {
            if window.left_out > 0 {
                self.tell(level, name, window.left_out);
            }
        }
    }
}

/// What was logged of one kind of event.
#[derive(Debug, Default)]
struct Window {
    /// When an event of the kind was logged last.
    last: Option<Instant>,
    /// How many came since then.
    left_out: u64,
    /// A task logs them when it is time.
    is_watched: bool,
}

impl Window {
    fn admit(&mut self, now: Instant) -> Option<LeftOut> {
        if self.is_quiet(now) {
            let left_out = self.log(now);
            return Some(LeftOut((left_out > 0).then_some(left_out)));
        }
        self.left_out = self.left_out.saturating_add(1);
        None
    }

    /// How many events are to be logged as a number, if it is time.
    fn overdue(&mut self, now: Instant) -> Option<u64> {
        (self.left_out > 0 && self.is_quiet(now)).then(|| self.log(now))
    }

    fn overdue_at(&self, now: Instant) -> Instant {
        self.last.unwrap_or(now) + INTERVAL + GRACE
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL)
    }

    fn log(&mut self, now: Instant) -> u64 {
        self.last = Some(now);
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_second_is_logged_and_the_others_are_counted() {
        let mut window = Window::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(window.admit(at(0)), Some(LeftOut(None)));
        for milliseconds in 0..999 {
            assert_eq!(window.admit(at(milliseconds)), None);
        }
        assert_eq!(window.admit(at(1000)), Some(LeftOut(Some(999))));
        assert_eq!(window.admit(at(1001)), None);
        assert_eq!(window.overdue(at(1900)), None);
        assert_eq!(window.overdue(at(2200)), Some(1));
        assert_eq!(window.overdue(at(9000)), None);
        assert_eq!(window.admit(at(9000)), Some(LeftOut(None)));
    }

    #[test]
    fn kinds_do_not_hide_each_other() {
        let limit = LogLimit::new("q");
        assert!(limit.admit(Level::WARN, "a").is_some());
        assert!(limit.admit(Level::WARN, "b").is_some());
        assert!(limit.admit(Level::WARN, "a").is_none());
        assert_eq!(limit.0.kinds().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_that_ends_is_summed_up_by_a_task_that_ends() {
        let limit = LogLimit::new("q");
        for _ in 0..10_000 {
            limit.admit(Level::WARN, "a");
        }
        tokio::time::sleep(INTERVAL + 2 * GRACE).await;
        let kinds = limit.0.kinds();
        assert_eq!(kinds[0].window.left_out, 0);
        assert!(!kinds[0].window.is_watched);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }
}
