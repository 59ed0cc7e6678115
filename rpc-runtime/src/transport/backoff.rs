//! How long to wait before something that failed is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::BrokerError;

/// The first delay, before jitter.
const SHORTEST: Duration = Duration::from_millis(25);

/// The longest delay, before jitter: a broker that is back is not kept waiting, and a second a try costs neither side anything.
const LONGEST: Duration = Duration::from_secs(1);

/// What lasted that long did not fail for the reason that it failed for before. Short enough that a connection which is lost
/// again a moment after an outage is not missed for as long as the outage had made the delays; long enough that a broker which
/// drops what it accepts is asked once in that time at the most.
const STABLE: Duration = Duration::from_secs(2);

/// Delays that double from 25 milliseconds to a second, each lengthened by up to its own length at random, so that many
/// who lost the same broker do not come back at the same instant. They never end.
#[derive(Debug)]
pub(crate) struct Backoff {
    delays: ExponentialBackoff,
    /// How many losses in a row added no delay.
    losses: u32,
}

/// After so many losses in a row, what is lost is not the connection, which has a backoff of its own.
const MOST_LOSSES: u32 = 20;

/// How long to wait where a limit is reached: somebody has to raise it, and each attempt may end the connection.
const AT_LIMIT: Duration = Duration::from_secs(5);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            delays: delays(),
            losses: 0,
        }
    }

    /// The next delay.
    pub(crate) fn next_delay(&mut self) -> Duration {
        // Without a limit on the tries it has always a next one.
        self.delays.next().unwrap_or(LONGEST)
    }

    /// Waits for the next delay. Cancel safe.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Waits before something is opened again that stands on a connection. The connection, where that was lost, has a backoff
    /// of its own, and what stands on it waits for it: another delay on top would only keep calls waiting when it is back.
    /// Cancel safe.
    pub(crate) async fn wait_after(&mut self, error: &BrokerError) {
        match error {
            BrokerError::Lost { .. } if self.losses < MOST_LOSSES => {
                self.losses += 1;
                tokio::time::sleep(SHORTEST).await;
            }
            BrokerError::TooManyChannels { .. } => tokio::time::sleep(AT_LIMIT).await,
            _ => self.wait().await,
        }
    }

    /// What is tried again has worked for this long: begins anew, unless that was a moment. A broker that takes
    /// connections only to drop them is not to be asked without pause.
    pub(crate) fn worked_for(&mut self, time: Duration) {
        if time >= STABLE {
            *self = Self::new();
        }
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST)
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
            delays[0] >= SHORTEST && delays[0] <= 2 * SHORTEST,
            "{:?}",
            delays[0]
        );
        assert!(delays.iter().all(|delay| *delay <= 2 * LONGEST));
        assert!(delays[199] >= LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_on_a_connection_adds_no_backoff_to_its_own() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.next_delay();
        }
        let begun = tokio::time::Instant::now();
        backoff.wait_after(&BrokerError::Lost { source: None }).await;
        assert_eq!(begun.elapsed(), SHORTEST);
        let cancelled = BrokerError::Cancelled { queue: "q".into() };
        backoff.wait_after(&cancelled).await;
        assert!(begun.elapsed() >= LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_looks_lost_again_and_again_is_not_tried_without_pause() {
        let mut backoff = Backoff::new();
        let begun = tokio::time::Instant::now();
        for _ in 0..2 * MOST_LOSSES {
            backoff.wait_after(&BrokerError::Lost { source: None }).await;
        }
        assert!(begun.elapsed() >= LONGEST * (MOST_LOSSES / 2));
        backoff.worked_for(STABLE);
        let begun = tokio::time::Instant::now();
        backoff.wait_after(&BrokerError::Lost { source: None }).await;
        assert_eq!(begun.elapsed(), SHORTEST);
    }

    #[test]
    fn only_what_worked_for_a_while_begins_anew() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.next_delay();
        }
        backoff.worked_for(STABLE / 2);
        assert!(backoff.next_delay() >= LONGEST);
        backoff.worked_for(STABLE);
        assert!(backoff.next_delay() <= 2 * SHORTEST);
    }

    #[test]
    fn a_loss_some_seconds_after_an_outage_is_no_part_of_it() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.next_delay();
        }
        backoff.worked_for(Duration::from_secs(4));
        assert!(backoff.next_delay() <= 2 * SHORTEST);
    }
}
