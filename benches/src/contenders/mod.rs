//! The contenders, behind the trait [`Contender`]. Variants of one contender share a module.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use rpc_runtime::InProcessBroker;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::load::Load;
use crate::measure::Measured;
use crate::scenario::Scenario;

mod contender;
pub(crate) mod framework;
mod lapin_by_hand;
mod sockets;
mod tarpc;
mod tonic;

use contender::{Contender, Running, Sides, Stop};
use framework::{BrokerKind, Framework};
use lapin_by_hand::LapinByHand;

/// How long a contender may take to start or to stop.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

const BATCHED: Framework = Framework(BrokerKind::RabbitMq { batched: true });
const UNBATCHED: Framework = Framework(BrokerKind::RabbitMq { batched: false });
const BY_HAND: LapinByHand = LapinByHand { guarantees: false };
const GUARANTEED_BY_HAND: LapinByHand = LapinByHand { guarantees: true };

/// The contenders by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// This library, with batching.
    FrameworkBatched,
    /// This library, without batching.
    FrameworkUnbatched,
    /// This library with the in-process broker.
    FrameworkInProcess,
    /// What a good engineer writes with lapin alone. A crash may lose replies.
    LapinByHand,
    /// The same with confirms, `mandatory` requests, and requests that are acknowledged after their
    /// reply is confirmed.
    LapinWithGuarantees,
    /// Pre-encoded frames on plain sockets: the broker's limit with one message for each call.
    RawSockets,
    /// Frames on plain sockets with the guarantees of this library: the broker's limit with them.
    SocketsWithGuarantees,
    /// tarpc over TCP, without a broker.
    TarpcOverTcp,
    /// Unary calls with tonic over TCP, without a broker.
    TonicOverTcp,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FrameworkBatched => "framework batched",
            Self::FrameworkUnbatched => "framework unbatched",
            Self::FrameworkInProcess => "framework in process",
            Self::LapinByHand => "lapin by hand",
            Self::LapinWithGuarantees => "lapin with guarantees",
            Self::RawSockets => "raw sockets",
            Self::SocketsWithGuarantees => "sockets with guarantees",
            Self::TarpcOverTcp => "tarpc over TCP",
            Self::TonicOverTcp => "tonic over TCP",
        }
    }

    /// Returns whether the scenario applies to this contender.
    pub(crate) fn can_run(self, scenario: &Scenario) -> bool {
        match self {
            // They have no handler, and keep a fixed number of calls in flight.
            Self::RawSockets | Self::SocketsWithGuarantees => {
                scenario.handler.is_zero() && scenario.open_loop.is_none()
            }
            // Without a broker, nothing distributes the calls of these two.
            Self::TarpcOverTcp => scenario.workers == 1,
            Self::TonicOverTcp => scenario.workers == 1 && scenario.in_flight <= tonic::MAX_IN_FLIGHT,
            _ => true,
        }
    }

    fn contender(self) -> Box<dyn Contender> {
        match self {
            Self::FrameworkInProcess => Box::new(Framework(BrokerKind::InProcess(InProcessBroker::new()))),
            Self::RawSockets => Box::new(sockets::Bare),
            Self::SocketsWithGuarantees => Box::new(sockets::Guaranteed),
            Self::TarpcOverTcp => Box::new(tarpc::TarpcOverTcp),
            Self::TonicOverTcp => Box::new(tonic::TonicOverTcp),
            Self::FrameworkBatched => Box::new(BATCHED),
            Self::FrameworkUnbatched => Box::new(UNBATCHED),
            Self::LapinByHand => Box::new(BY_HAND),
            Self::LapinWithGuarantees => Box::new(GUARANTEED_BY_HAND),
        }
    }

    /// Returns the contender as two sides, which can run in different processes.
    ///
    /// # Errors
    ///
    /// Fails if caller and workers have to share a process.
    fn sides(self) -> anyhow::Result<Box<dyn Sides>> {
        match self {
            Self::FrameworkBatched => Ok(Box::new(BATCHED)),
            Self::FrameworkUnbatched => Ok(Box::new(UNBATCHED)),
            Self::LapinByHand => Ok(Box::new(BY_HAND)),
            Self::LapinWithGuarantees => Ok(Box::new(GUARANTEED_BY_HAND)),
            other => bail!("{} runs in one process only", other.name()),
        }
    }

    /// Starts the workers alone.
    pub(crate) async fn start_workers(
        self,
        broker: &str,
        queue: &str,
        scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Stop>> {
        let sides = self.sides()?;
        timeout(LIMIT, sides.start_workers(broker, queue, scenario))
            .await
            .with_context(|| format!("the workers did not start within {LIMIT:?}"))?
    }

    /// Starts the caller, runs the load with workers of another process, and stops the caller.
    pub(crate) async fn call(self, broker: &str, queue: &str, load: &Load) -> anyhow::Result<Measured> {
        let sides = self.sides()?;
        let starting = sides.start_caller(broker, queue, &load.scenario);
        self.run(starting, load).await
    }

    /// Starts the contender in this process, runs the load, and stops the contender.
    pub(crate) async fn measure(self, broker: &str, load: &Load) -> anyhow::Result<Measured> {
        let contender = self.contender();
        self.run(contender.start(broker, &load.scenario), load).await
    }

    async fn run(
        self,
        starting: impl Future<Output = anyhow::Result<Box<dyn Running>>>,
        load: &Load,
    ) -> anyhow::Result<Measured> {
        let running = async {
            let running = timeout(LIMIT, starting)
                .await
                .with_context(|| format!("it did not start within {LIMIT:?}"))??;
            let measured = running.run(load).await;
            // The error of the load comes first, even if stopping fails too.
            let stopped = stop(running).await;
            let measured = measured?;
            stopped?;
            Ok::<_, anyhow::Error>(measured)
        };
        running
            .await
            .with_context(|| format!("{} at {}", self.name(), load.scenario))
    }
}

/// Stops what was started.
pub(crate) async fn stop<S: Stop + ?Sized>(started: Box<S>) -> anyhow::Result<()> {
    timeout(LIMIT, started.stop())
        .await
        .with_context(|| format!("it did not stop within {LIMIT:?}"))?
}
