//! The harness of the integration tests: private RabbitMQ nodes ([`rabbit`]), a peer that shows the wire
//! ([`raw`]), a proxy that breaks connections ([`proxy`]), a service that counts its runs ([`ledger`]) behind a gate
//! ([`gate`]), what is logged ([`log`]), certificates for TLS ([`certificates`]), the Python clients ([`python`]), the examples as
//! [`programs`], and waiting without hoping ([`until`]).

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

pub mod certificates;
pub mod gate;
pub mod hostile;
pub mod ledger;
pub mod log;
pub mod programs;
pub mod proxy;
pub mod python;
pub mod rabbit;
pub mod raw;
pub mod stranger;
pub mod trace;
pub mod world;

/// How long [`until`] rests between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds, looking every few milliseconds.
///
/// # Errors
///
/// Where the condition does not hold within `limit`, and at once where it fails; both name `what`.
///
/// ```
/// # async fn example(peer: &rpc_tests::raw::RawPeer) -> anyhow::Result<()> {
/// # use std::time::Duration;
/// rpc_tests::until("the worker declares its queue", Duration::from_secs(5), async || {
///     Ok(peer.queue_depth("rpc_queue").await?.is_some())
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
pub async fn until(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !condition()
        .await
        .with_context(|| format!("while waiting until {what}"))?
    {
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain until {what}");
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn until_looks_again_and_says_what_it_waited_for() {
        let mut looks = 0;
        let third_look = async || {
            looks += 1;
            Ok(looks == 3)
        };
        until("the third look", Duration::from_secs(5), third_look)
            .await
            .unwrap();

        let late = until("pigs fly", Duration::from_millis(30), async || Ok(false))
            .await
            .unwrap_err();
        assert_eq!(late.to_string(), "waited 30ms in vain until pigs fly");

        let failed = until("pigs fly", Duration::from_secs(5), async || bail!("no wings"))
            .await
            .unwrap_err();
        assert_eq!(format!("{failed:#}"), "while waiting until pigs fly: no wings");
    }
}
