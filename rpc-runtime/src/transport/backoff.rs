//! How long to wait before a failed operation is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::BrokerError;

/// The first delay, before jitter.
const MIN_DELAY: Duration = Duration::from_millis(25);

/// The longest delay, before jitter. One attempt a second costs neither side much, and soon finds a
/// broker that is back.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// If something has worked for this long before it fails, the failure is assumed to have a new
/// reason, and the backoff restarts. With a shorter time, a broker that accepts connections only to
/// drop them would be tried too often.
const STABLE: Duration = Duration::from_secs(2);

/// Delays that double from 25 milliseconds to a second. Each is lengthened by up to its own length
/// at random, so that clients that lost the same broker do not reconnect at the same instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    delays: ExponentialBackoff,
    /// How many losses of the connection had the shortest delay since the backoff restarted.
    losses: u32,
}

/// After this many losses since the backoff restarted, opening is assumed to be what makes the
/// broker close the connection, so the delays grow.
const MAX_LOSSES: u32 = 20;

/// The delay after the limit of channels was reached. An operator has to raise the limit, and each
/// attempt may close the connection.
const AT_LIMIT: Duration = Duration::from_secs(5);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            delays: delays(),
            losses: 0,
        }
    }

    /// Advances to the next delay and returns it.
    pub(crate) fn next_delay(&mut self) -> Duration {
        // Without a limit on the number of attempts, there is always a next delay.
        self.delays.next().unwrap_or(MAX_DELAY)
    }

    /// Waits for the next delay. Cancel safe.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Records that something on a connection was lost, or could not be opened, because of this
    /// error. Returns the delay before it is opened again.
    ///
    /// For each of the first [`MAX_LOSSES`] losses, this is the shortest delay: the connection has
    /// its own backoff, and everything that is opened on it waits for the connection. A longer
    /// delay would only keep calls waiting once the connection is back.
    pub(crate) fn delay_after(&mut self, error: &BrokerError) -> Duration {
        match error {
            BrokerError::Lost { .. } if self.losses < MAX_LOSSES => {
                self.losses += 1;
                MIN_DELAY
            }
            BrokerError::TooManyChannels { .. } => AT_LIMIT,
            _ => self.next_delay(),
        }
    }

    /// Waits for [`delay_after`](Self::delay_after). Cancel safe.
    pub(crate) async fn wait_after(&mut self, error: &BrokerError) {
        tokio::time::sleep(self.delay_after(error)).await;
    }

    /// Restarts the backoff if what was opened has worked for long enough ([`STABLE`]).
    pub(crate) fn worked_for(&mut self, time: Duration) {
        if time >= STABLE {
            *self = Self::new();
        }
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(MIN_DELAY)
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_never_end() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = std::iter::repeat_with(|| backoff.next_delay())
            .take(200)
            .collect();
        assert!(
            delays[0] >= MIN_DELAY && delays[0] <= 2 * MIN_DELAY,
            "{:?}",
            delays[0]
        );
        assert!(delays.iter().all(|delay| *delay <= 2 * MAX_DELAY));
        assert!(delays[199] >= MAX_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_followed_by_the_shortest_delay() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.next_delay();
        }
        let begun = tokio::time::Instant::now();
        backoff.wait_after(&BrokerError::Lost { source: None }).await;
        assert_eq!(begun.elapsed(), MIN_DELAY);
        let cancelled = BrokerError::Cancelled { queue: "q".into() };
        backoff.wait_after(&cancelled).await;
        assert!(begun.elapsed() >= MAX_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_losses_are_not_retried_without_a_pause() {
        let mut backoff = Backoff::new();
        let begun = tokio::time::Instant::now();
        for _ in 0..2 * MAX_LOSSES {
            backoff.wait_after(&BrokerError::Lost { source: None }).await;
        }
        assert!(begun.elapsed() >= MAX_DELAY * (MAX_LOSSES / 2));
        backoff.worked_for(STABLE);
        let begun = tokio::time::Instant::now();
        backoff.wait_after(&BrokerError::Lost { source: None }).await;
        assert_eq!(begun.elapsed(), MIN_DELAY);
    }

    #[test]
    fn the_backoff_restarts_only_after_working_for_a_while() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.next_delay();
        }
        backoff.worked_for(STABLE / 2);
        assert!(backoff.next_delay() >= MAX_DELAY);
        backoff.worked_for(STABLE);
        assert!(backoff.next_delay() <= 2 * MIN_DELAY);
    }

    #[test]
    fn a_loss_some_seconds_after_an_outage_restarts_the_backoff() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.next_delay();
        }
        backoff.worked_for(Duration::from_secs(4));
        assert!(backoff.next_delay() <= 2 * MIN_DELAY);
    }
}
