//! The called method: it waits for a given time, and records whether its caller had given up by
//! the end.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For shorter times tokio's timer is too coarse: it counts milliseconds.
const PRECISE_BELOW: Duration = Duration::from_millis(5);

/// How late the kernel may wake a sleeping thread. A short method sleeps until this long before its
/// end, and spins for what is left when it wakes up, usually a few microseconds.
const WAKE_UP_SLACK: Duration = Duration::from_micros(70);

/// The origin of the instants in payloads.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns a payload with the time at which the caller gives up.
pub(crate) fn payload(deadline: Instant) -> [u8; 16] {
    let nanos = deadline.saturating_duration_since(*EPOCH).as_nanos();
    nanos.to_be_bytes()
}

/// Returns the deadline in a payload, or `None` if it is malformed.
fn deadline(payload: &[u8]) -> Option<Instant> {
    let nanos = u128::from_be_bytes(payload.try_into().ok()?);
    EPOCH.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// A method that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) ended: Instant,
    /// Whether the caller's deadline had passed by then.
    pub(crate) is_wasted: bool,
}

/// The method, shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    time: Duration,
    runs: Arc<Mutex<Vec<Run>>>,
}

impl Method {
    pub(crate) fn new(time: Duration) -> Self {
        // The epoch has to be earlier than the first deadline.
        LazyLock::force(&EPOCH);
        Self {
            time,
            runs: Arc::default(),
        }
    }

    /// Runs the method. A run is recorded at its end, and not at all if it is dropped earlier.
    pub(crate) async fn run(&self, payload: &[u8]) {
        wait(self.time).await;
        let ended = Instant::now();
        let is_wasted = deadline(payload).is_none_or(|deadline| ended > deadline);
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Run { ended, is_wasted });
    }

    /// Returns the runs that ended so far.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits this long. Methods shorter than [`PRECISE_BELOW`] wait on a blocking thread, which sleeps,
/// then spins for the last microseconds.
async fn wait(time: Duration) {
    if time >= PRECISE_BELOW {
        return tokio::time::sleep(time).await;
    }
    let until = Instant::now() + time;
    let waiting = tokio::task::spawn_blocking(move || {
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left.saturating_sub(WAKE_UP_SLACK));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    });
    // It cannot panic, and is cancelled only with the runtime.
    let _ = waiting.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_wasted_if_its_caller_has_given_up() {
        let method = Method::new(Duration::from_micros(100));
        let now = Instant::now();
        method.run(&payload(now + Duration::from_secs(5))).await;
        method.run(&payload(now)).await;
        let wasted: Vec<_> = method.runs().iter().map(|run| run.is_wasted).collect();
        assert_eq!(wasted, [false, true]);
    }

    #[test]
    fn a_payload_carries_the_deadline() {
        LazyLock::force(&EPOCH);
        let at = Instant::now();
        assert_eq!(deadline(&payload(at)), Some(at));
        assert_eq!(deadline(b"short"), None);
    }
}
