//! Admission: a request that cannot be answered in time is refused before its method begins.
//!
//! A request's `expiration` counts from its publication, and RabbitMQ does not say how long a
//! message waited in its queue. A server measures that wait. [`Received`] holds it, and
//! [`is_admitted`] decides.

use std::time::Duration;

use tokio::time::Instant;

/// When a request arrived, and how long it had waited in its queue by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    /// An estimate of the longest time that it can have waited. Zero if nothing is known.
    pub(crate) waited: Duration,
    /// An estimate of how long messages wait in the queue at that time. The reply reports it.
    pub(crate) queue_time: Duration,
}

impl Received {
    /// A request that did not wait, or whose wait is not known.
    pub(crate) fn at(at: Instant) -> Self {
        Self {
            at,
            waited: Duration::ZERO,
            queue_time: Duration::ZERO,
        }
    }

    /// Returns when the caller of a request with this time to live gives up, as far as the wait in
    /// the queue is known; never before the request arrived. `None` if that is too far in the
    /// future for the clock.
    pub(crate) fn deadline(&self, time_to_live: Duration) -> Option<Instant> {
        self.at.checked_add(time_to_live.saturating_sub(self.waited))
    }
}

/// A request waited briefly if it waited for less than its time to live divided by this, in its
/// queue and within this worker together. It is admitted however slow its method was: only a run
/// can show that a slow method is quick again.
const BRIEF_WAIT_DIVISOR: u32 = 8;

/// Whether a request may run now: it waited only briefly, or its method is likely to end before
/// `deadline`, when its caller gives up. `method_takes` is the method's recent mean duration.
pub(crate) fn is_admitted(
    received: Received,
    time_to_live: Duration,
    deadline: Instant,
    now: Instant,
    method_takes: Duration,
) -> bool {
    let total_wait = received.waited + now.saturating_duration_since(received.at);
    let waited_briefly = total_wait < time_to_live / BRIEF_WAIT_DIVISOR;
    waited_briefly || now + method_takes < deadline
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_admitted_after(waited: Duration, method_takes: Duration) -> bool {
        let now = Instant::now();
        let received = Received {
            waited,
            ..Received::at(now)
        };
        let deadline = received.deadline(SECOND).unwrap();
        is_admitted(received, SECOND, deadline, now, method_takes)
    }

    #[test]
    fn a_request_is_admitted_if_its_method_ends_in_time() {
        let method = Duration::from_millis(20);
        assert!(is_admitted_after(Duration::ZERO, method));
        assert!(is_admitted_after(Duration::from_millis(979), method));
        assert!(!is_admitted_after(Duration::from_millis(981), method));
        assert!(!is_admitted_after(SECOND, method));
    }

    #[test]
    fn the_wait_within_the_worker_counts_too() {
        let at = Instant::now();
        let received = Received {
            waited: Duration::from_millis(500),
            ..Received::at(at)
        };
        let deadline = received.deadline(SECOND).unwrap();
        let is_admitted_at = |millis| {
            let now = at + Duration::from_millis(millis);
            is_admitted(received, SECOND, deadline, now, Duration::from_millis(20))
        };
        assert!(is_admitted_at(479));
        assert!(!is_admitted_at(481));
    }

    #[test]
    fn a_method_that_was_too_slow_gets_another_chance() {
        assert!(is_admitted_after(Duration::ZERO, 2 * SECOND));
        assert!(!is_admitted_after(SECOND / 4, 2 * SECOND));
    }
}
