//! The harness of the integration tests: private RabbitMQ nodes ([`rabbit`]), a plain AMQP peer
//! ([`raw`]), a proxy that breaks connections ([`proxy`]), a service that counts its runs
//! ([`ledger`]) behind a gate ([`gate`]), one whose methods return streams ([`flow`]), one whose
//! methods receive them ([`upload`]), captured logs ([`log`]), certificates for TLS
//! ([`certificates`]), Python clients ([`python`]), the examples and others as [`programs`], a peer
//! that attacks ([`hostile`]), questions that are repeated ([`asking`]), polling with a limit
//! ([`until`]), and more.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

pub mod asking;
pub mod certificates;
pub mod flow;
pub mod gate;
pub mod hostile;
pub mod ledger;
pub mod log;
pub mod programs;
pub mod proxy;
pub mod python;
pub mod rabbit;
pub mod raw;
pub mod runs;
pub mod stranger;
pub mod trace;
pub mod upload;
pub mod world;

/// How long [`until`] sleeps between two checks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds, and checks it every few milliseconds.
///
/// # Errors
///
/// Fails if the condition does not hold within `limit`, and at once if the check fails. Both errors
/// name `what`. A check is never cut short, so it needs a time limit of its own.
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
            bail!("waited {limit:?} until {what}, which did not happen");
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn until_polls_and_names_the_condition() {
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
        assert_eq!(
            late.to_string(),
            "waited 30ms until pigs fly, which did not happen"
        );

        let failed = until("pigs fly", Duration::from_secs(5), async || bail!("no wings"))
            .await
            .unwrap_err();
        assert_eq!(format!("{failed:#}"), "while waiting until pigs fly: no wings");
    }
}
