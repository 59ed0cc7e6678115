//! The parameters of a run: calls in flight or a second, payload size, workers and handler time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A scenario. All contenders run the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// Calls that wait for their reply at the same time. In an open loop, this does not limit them,
    /// but still determines the [`prefetch`](Self::prefetch).
    pub(crate) in_flight: usize,
    /// Bytes of the request and of the reply, which repeats them.
    pub(crate) payload: usize,
    pub(crate) workers: usize,
    /// How long the handler waits before it replies. It sleeps, because a busy handler would
    /// measure the machine.
    pub(crate) handler: Duration,
    /// Calls that start each second, whether or not earlier ones have ended. If `None`, `in_flight`
    /// callers each make one call after the other.
    pub(crate) open_loop: Option<u32>,
}

/// The base, from which the axes are varied one by one.
pub(crate) const BASE: Scenario = Scenario {
    in_flight: 64,
    payload: 16,
    workers: 1,
    handler: Duration::ZERO,
    open_loop: None,
};

impl Scenario {
    /// Returns the prefetch of a worker: its share of the calls in flight, but 64 at least and 4000
    /// at most. A worker runs as many requests at once.
    pub(crate) fn prefetch(&self) -> u16 {
        let share = self.in_flight.div_ceil(self.workers).clamp(64, 4000);
        u16::try_from(share).expect("at most 4000")
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.open_loop {
            Some(rate) => write!(f, "{rate} calls/s (open loop)")?,
            None => write!(f, "{} in flight", self.in_flight)?,
        }
        let Self {
            payload,
            workers,
            handler,
            ..
        } = self;
        write!(f, ", {payload} B, {workers} workers, handler {handler:?}")
    }
}

/// Sleeps for the time of a handler, or returns at once if that is zero.
pub(crate) async fn handle(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_its_share_within_limits() {
        let prefetch = |in_flight, workers| {
            Scenario {
                in_flight,
                workers,
                ..BASE
            }
            .prefetch()
        };
        assert_eq!(prefetch(1, 1), 64);
        assert_eq!(prefetch(1000, 4), 250);
        assert_eq!(prefetch(100_000, 1), 4000);
    }
}
