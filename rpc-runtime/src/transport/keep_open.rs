//! The supervision loop: open something, use it until it is lost, back off, open it again.
//!
//! [`keep_open`] keeps something open, and [`retry`] only opens it. The loop owns the backoff. An
//! implementation of [`KeepOpen`] decides what a failure means, and logs it.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use crate::error::BrokerError;

/// How to open a value, and what to do with it. The loop opens another one whenever it is lost.
/// Each function except [`delay`](Self::delay) may return [`Break`](ControlFlow::Break) to end the
/// loop.
pub(crate) trait KeepOpen: Send {
    /// The value, such as a connection or a consumer.
    type Opened: Send;

    /// What the loop returns. [`Infallible`] if it never ends.
    type End: Send;

    /// Tries once to open a value.
    fn open(
        &mut self,
    ) -> impl Future<Output = ControlFlow<Self::End, Result<Self::Opened, BrokerError>>> + Send;

    /// Uses the open value until it is lost, and returns why.
    fn run(
        &mut self,
        opened: Self::Opened,
    ) -> impl Future<Output = ControlFlow<Self::End, BrokerError>> + Send;

    /// Called after each failure to open a value.
    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<Self::End>;

    /// How long to wait after a loss or a failure to open. The default is meant for a value that is
    /// opened on a connection.
    fn delay(&self, error: &BrokerError, backoff: &mut Backoff) -> Duration {
        backoff.delay_after(error)
    }

    /// Waits before the next attempt to open a value.
    fn pause(&mut self, delay: Duration) -> impl Future<Output = ControlFlow<Self::End>> + Send {
        async move {
            sleep(delay).await;
            ControlFlow::Continue(())
        }
    }
}

/// Keeps a value open until one of the functions of `kept` ends the loop. Cancel safe if these
/// functions are: an open value is dropped with the future.
pub(crate) async fn keep_open<K: KeepOpen>(kept: &mut K) -> K::End {
    let ControlFlow::Break(end) = run_loop(kept).await;
    end
}

/// The loop of [`keep_open`]. Separate, so that `?` ends it.
async fn run_loop<K: KeepOpen>(kept: &mut K) -> ControlFlow<K::End, Infallible> {
    let mut backoff = Backoff::new();
    loop {
        let error = match kept.open().await? {
            Ok(opened) => {
                let since = Instant::now();
                let lost = kept.run(opened).await?;
                backoff.worked_for(since.elapsed());
                lost
            }
            Err(error) => {
                kept.open_failed(&error)?;
                error
            }
        };
        let delay = kept.delay(&error, &mut backoff);
        kept.pause(delay).await?;
    }
}

/// Tries an operation again, with a backoff, while `is_retried` accepts its error. Cancel safe if
/// the operation is.
pub(crate) async fn retry<T, F>(
    mut attempt: impl FnMut() -> F,
    mut is_retried: impl FnMut(&BrokerError) -> bool,
) -> Result<T, BrokerError>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut backoff = Backoff::new();
    loop {
        match attempt().await {
            Err(error) if is_retried(&error) => backoff.wait().await,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to open at first, and then is lost after `lasts` each time.
    struct Flaky {
        failures: usize,
        lasts: Duration,
        opened: Vec<Instant>,
        failed: usize,
        ends_after: usize,
    }

    impl Flaky {
        fn new(failures: usize, lasts: Duration, ends_after: usize) -> Self {
            Self {
                failures,
                lasts,
                opened: Vec::new(),
                failed: 0,
                ends_after,
            }
        }
    }

    impl Flaky {
        fn count_failure(&mut self) -> ControlFlow<()> {
            self.failed += 1;
            if self.failed == self.ends_after {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }

    impl KeepOpen for Flaky {
        type Opened = ();
        type End = ();

        async fn open(&mut self) -> ControlFlow<(), Result<(), BrokerError>> {
            ControlFlow::Continue(if self.failed < self.failures {
                Err(BrokerError::NoAddress)
            } else {
                self.opened.push(Instant::now());
                Ok(())
            })
        }

        async fn run(&mut self, (): ()) -> ControlFlow<(), BrokerError> {
            sleep(self.lasts).await;
            self.count_failure()?;
            ControlFlow::Continue(BrokerError::Lost { source: None })
        }

        fn open_failed(&mut self, _: &BrokerError) -> ControlFlow<()> {
            self.count_failure()
        }

        fn delay(&self, _: &BrokerError, backoff: &mut Backoff) -> Duration {
            backoff.next_delay()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_opened_again_until_the_loop_is_ended() {
        let mut flaky = Flaky::new(3, Duration::from_secs(1), 5);
        keep_open(&mut flaky).await;
        assert_eq!((flaky.opened.len(), flaky.failed), (2, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_restarts_after_it_has_worked_for_a_while() {
        let gap = async |lasts: Duration| {
            let mut flaky = Flaky::new(10, lasts, 12);
            keep_open(&mut flaky).await;
            flaky.opened[1] - flaky.opened[0] - lasts
        };
        assert!(gap(Duration::from_millis(10)).await >= Duration::from_secs(1));
        assert!(gap(Duration::from_secs(10)).await < Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_is_retried_while_its_error_is_accepted() {
        let mut attempts = 0;
        let retried = retry(
            || {
                attempts += 1;
                std::future::ready(match attempts {
                    1 | 2 => Err(BrokerError::Lost { source: None }),
                    _ => Err::<(), _>(BrokerError::Closed),
                })
            },
            BrokerError::is_waited_out,
        );
        assert!(matches!(retried.await, Err(BrokerError::Closed)));
        assert_eq!(attempts, 3);
    }
}
