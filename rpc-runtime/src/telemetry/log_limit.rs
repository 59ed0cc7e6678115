//! A rate limit for log events that a peer can cause at will.
//!
//! A peer that sends ten thousand bad requests must not fill a disk. For each queue or other
//! source, at most one event of each kind is logged per second, with the number of suppressed
//! events. Kinds are limited separately for each level.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::Level;

/// The minimum time between two logged events of a kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// If no further event arrives this long after the interval, the number of suppressed events is
/// logged by itself.
const GRACE: Duration = Duration::from_millis(200);

/// Limits the events of one queue or another source.
#[derive(Debug)]
pub(crate) struct LogLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: String,
    /// Bounded: kinds are made of literals in this crate.
    kinds: Mutex<Vec<LimitedKind>>,
}

#[derive(Debug)]
struct LimitedKind {
    kind: EventKind,
    level: Level,
    window: Window,
}

/// What an event says, and about which code of a fault, if it is about one. Events are limited
/// together only if they are of the same kind and level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventKind {
    pub(crate) event: &'static str,
    pub(crate) code: Option<&'static str>,
}

impl From<&'static str> for EventKind {
    fn from(event: &'static str) -> Self {
        Self { event, code: None }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{}: {code}", self.event),
            None => f.write_str(self.event),
        }
    }
}

/// How many events of the kind were suppressed before this one. `None` instead of zero, because
/// `tracing` leaves a field out that is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suppressed(pub(crate) Option<u64>);

impl LogLimit {
    pub(crate) fn new(source: impl Into<String>) -> Self {
        Self(Arc::new(Shared {
            source: source.into(),
            kinds: Mutex::default(),
        }))
    }

    /// Returns `Some` if an event of this kind may be logged now, with the number of suppressed
    /// ones. Otherwise counts the event as suppressed, and lets a task log their number if no
    /// further event does.
    pub(crate) fn admit(&self, level: Level, kind: impl Into<EventKind>) -> Option<Suppressed> {
        let (kind, now) = (kind.into(), Instant::now());
        let mut kinds = self.0.kinds();
        let window = window_of(&mut kinds, level, kind);
        let admitted = window.admit(now);
        // Without a runtime, the next event or the end of the source reports what was suppressed.
        if admitted.is_none()
            && !window.has_task
            && let Ok(runtime) = Handle::try_current()
        {
            window.has_task = true;
            runtime.spawn(log_when_overdue(
                Arc::downgrade(&self.0),
                level,
                kind,
                window.overdue_at(now),
            ));
        }
        admitted
    }
}

/// Returns the window of this kind and level, and adds it first if it is new.
fn window_of(kinds: &mut Vec<LimitedKind>, level: Level, kind: EventKind) -> &mut Window {
    let position = kinds
        .iter()
        .position(|known| known.kind == kind && known.level == level);
    let position = position.unwrap_or_else(|| {
        kinds.push(LimitedKind {
            kind,
            level,
            window: Window::default(),
        });
        kinds.len() - 1
    });
    &mut kinds[position].window
}

/// Logs the number of suppressed events when they are overdue, unless the next event of their kind
/// reports them first. Ends once none is suppressed, or the source is gone.
async fn log_when_overdue(shared: Weak<Shared>, level: Level, kind: EventKind, mut overdue_at: Instant) {
    loop {
        sleep_until(overdue_at).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let (overdue, next) = {
            let mut kinds = shared.kinds();
            let window = window_of(&mut kinds, level, kind);
            let overdue = window.take_overdue(now);
            // An event that was admitted meanwhile began a new interval. What was suppressed since
            // is not overdue yet.
            window.has_task = window.suppressed > 0;
            (overdue, window.has_task.then(|| window.overdue_at(now)))
        };
        if let Some(suppressed) = overdue {
            shared.log_suppressed(level, kind, suppressed);
        }
        let Some(next) = next else { return };
        overdue_at = next;
    }
}

impl Shared {
    fn kinds(&self) -> MutexGuard<'_, Vec<LimitedKind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs how many events were suppressed. Errors are summed up as a warning, because the first
    /// one was logged as an error.
    fn log_suppressed(&self, level: Level, kind: EventKind, suppressed: u64) {
        const TEXT: &str = "further events of this kind were not logged";
        let (source, kind) = (&self.source, kind.to_string());
        match level {
            Level::ERROR | Level::WARN => tracing::warn!(source, kind, suppressed, "{TEXT}"),
            _ => tracing::debug!(source, kind, suppressed, "{TEXT}"),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for LimitedKind { kind, level, window } in std::mem::take(&mut *self.kinds()) {
            if window.suppressed > 0 {
                self.log_suppressed(level, kind, window.suppressed);
            }
        }
    }
}

/// The state of one kind of event.
#[derive(Debug, Default)]
struct Window {
    /// When an event was last logged.
    last_logged: Option<Instant>,
    /// The number of events since then.
    suppressed: u64,
    /// Whether a task will log their number.
    has_task: bool,
}

impl Window {
    /// Admits an event if the interval is over. Counts it as suppressed if not.
    fn admit(&mut self, now: Instant) -> Option<Suppressed> {
        if self.is_interval_over(now) {
            let suppressed = self.start_interval(now);
            return Some(Suppressed((suppressed > 0).then_some(suppressed)));
        }
        self.suppressed = self.suppressed.saturating_add(1);
        None
    }

    /// Returns the number of suppressed events if it should be logged by itself now, and marks it
    /// as logged.
    fn take_overdue(&mut self, now: Instant) -> Option<u64> {
        (self.suppressed > 0 && self.is_interval_over(now)).then(|| self.start_interval(now))
    }

    fn overdue_at(&self, now: Instant) -> Instant {
        self.last_logged.unwrap_or(now) + INTERVAL + GRACE
    }

    fn is_interval_over(&self, now: Instant) -> bool {
        self.last_logged
            .is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL)
    }

    /// Starts an interval. Returns how many events were suppressed before it.
    fn start_interval(&mut self, now: Instant) -> u64 {
        self.last_logged = Some(now);
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_per_second_is_logged_and_the_others_are_counted() {
        let mut window = Window::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(window.admit(at(0)), Some(Suppressed(None)));
        for milliseconds in 0..999 {
            assert_eq!(window.admit(at(milliseconds)), None);
        }
        assert_eq!(window.admit(at(1000)), Some(Suppressed(Some(999))));
        assert_eq!(window.admit(at(1001)), None);
        assert_eq!(window.take_overdue(at(1900)), None);
        assert_eq!(window.take_overdue(at(2200)), Some(1));
        assert_eq!(window.take_overdue(at(9000)), None);
        assert_eq!(window.admit(at(9000)), Some(Suppressed(None)));
    }

    #[test]
    fn kinds_are_limited_separately() {
        let limit = LogLimit::new("q");
        assert!(limit.admit(Level::WARN, "a").is_some());
        assert!(limit.admit(Level::WARN, "b").is_some());
        assert!(limit.admit(Level::WARN, "a").is_none());
        assert_eq!(limit.0.kinds().len(), 2);
    }

    #[test]
    fn an_event_suppresses_none_of_another_level_or_code() {
        let limit = LogLimit::new("q");
        let kind = |event, code| EventKind {
            event,
            code: Some(code),
        };
        for (level, kind) in [
            (Level::DEBUG, kind("failed", "rejected")),
            (Level::WARN, kind("failed", "rejected")),
            (Level::WARN, kind("failed", "expired")),
            (Level::WARN, kind("refused", "rejected")),
            (Level::WARN, EventKind::from("refused")),
        ] {
            assert!(limit.admit(level, kind).is_some(), "{level} {kind}");
            assert!(limit.admit(level, kind).is_none(), "{level} {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_logs_the_end_of_a_flood_and_ends() {
        let limit = LogLimit::new("q");
        for _ in 0..10_000 {
            limit.admit(Level::WARN, "a");
        }
        tokio::time::sleep(INTERVAL + 2 * GRACE).await;
        let kinds = limit.0.kinds();
        assert_eq!(kinds[0].window.suppressed, 0);
        assert!(!kinds[0].window.has_task);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }
}
