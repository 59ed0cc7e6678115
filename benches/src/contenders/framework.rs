//! This library.

use std::future::IntoFuture as _;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use rpc_runtime::{Broker, BrokerError, InProcessBroker, RequestQueue, RunningServer, Server, service};
use rpc_tests::rabbit::unique;
use tokio::task::JoinSet;

use super::{Running, Sides, Stop};
use crate::load::{Caller, Load};
use crate::measure::Measured;
use crate::memory::{live_bytes, settled_bytes};
use crate::scenario::{self, Scenario};

/// The deadline of a call. With a hundred thousand calls in flight, each takes less.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The drain timeout of workers. No caller waits for their replies any more.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Returns its argument.
#[service]
pub(crate) trait Echo {
    async fn echo(&self, payload: &[u8]) -> Vec<u8>;
}

struct Repeat {
    handler: Duration,
}

impl Echo for Repeat {
    async fn echo(&self, payload: &[u8]) -> Vec<u8> {
        scenario::handle(self.handler).await;
        payload.to_vec()
    }
}

/// The broker that calls use, and whether they are batched.
pub(super) enum BrokerKind {
    RabbitMq { batched: bool },
    InProcess(InProcessBroker),
}

impl BrokerKind {
    async fn connect(&self, broker: &str) -> Result<Broker, BrokerError> {
        match self {
            Self::RabbitMq { .. } => Broker::connect(broker).await,
            Self::InProcess(broker) => Ok(broker.connect()),
        }
    }

    /// Whether both sides batch.
    fn is_batched(&self) -> bool {
        match self {
            Self::RabbitMq { batched } => *batched,
            Self::InProcess(_) => true,
        }
    }

    fn request_queue(&self, name: &str) -> RequestQueue {
        match self {
            Self::RabbitMq { .. } => passing_queue(name),
            // The in-process broker disappears with its handles.
            Self::InProcess(_) => RequestQueue::new(name),
        }
    }
}

/// A caller and workers, each with a broker handle of its own as in separate programs.
pub(super) struct Framework(pub(super) BrokerKind);

struct FrameworkCaller {
    client: EchoClient,
    broker: Broker,
}

struct FrameworkWorkers(Vec<(Broker, RunningServer)>);

#[async_trait]
impl Sides for Framework {
    async fn start_workers(
        &self,
        broker: &str,
        queue: &str,
        scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Stop>> {
        let mut workers = Vec::new();
        for _ in 0..scenario.workers {
            let broker = self.0.connect(broker).await?;
            let echo = EchoServer::new(Repeat {
                handler: scenario.handler,
            });
            let server = Server::new(&broker)
                .concurrency(scenario.prefetch())
                .drain_timeout(DRAIN_LIMIT)
                .batching(self.0.is_batched())
                .serve_on(self.0.request_queue(queue), echo);
            let server = server.start().await?;
            workers.push((broker, server));
        }
        Ok(Box::new(FrameworkWorkers(workers)))
    }

    async fn start_caller(
        &self,
        broker: &str,
        queue: &str,
        scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Running>> {
        let broker = self.0.connect(broker).await?;
        let client = EchoClient::builder(&broker)
            .queue(queue)
            .timeout(CALL_LIMIT)
            // In an open loop, the load limits the calls in flight to a hundred thousand.
            .max_in_flight(scenario.in_flight.max(100_000))
            .batching(self.0.is_batched())
            .build();
        Ok(Box::new(FrameworkCaller { client, broker }))
    }
}

/// Returns a queue that RabbitMQ deletes when it has had no consumer for ten seconds.
pub(crate) fn passing_queue(name: &str) -> RequestQueue {
    RequestQueue::new(name).argument("x-expires", 10_000)
}

impl Caller for EchoClient {
    async fn call(&self, payload: Bytes) -> anyhow::Result<usize> {
        Ok(self.echo(&payload).await?.len())
    }
}

#[async_trait]
impl Running for FrameworkCaller {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        load.run(&self.client).await
    }
}

#[async_trait]
impl Stop for FrameworkCaller {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.broker.close().await;
        Ok(())
    }
}

#[async_trait]
impl Stop for FrameworkWorkers {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        for (broker, server) in self.0 {
            server.stop().await.context("the worker did not drain")?;
            broker.close().await;
        }
        Ok(())
    }
}

/// Never replies.
struct Silent;

impl Echo for Silent {
    async fn echo(&self, _payload: &[u8]) -> Vec<u8> {
        std::future::pending().await
    }
}

/// Measures how many bytes of this process a call takes that waits for a worker: the whole call
/// with its task, after its request was published.
pub(crate) async fn bytes_per_waiting_call(broker: &str, calls: usize) -> anyhow::Result<f64> {
    let queue = unique("silent");
    let worker = Broker::connect(broker).await?;
    // The worker takes one request. The others stay in the queue, so that none of its memory is
    // counted.
    let server = Server::new(&worker)
        .concurrency(1)
        .drain_timeout(Duration::ZERO)
        .serve_on(passing_queue(&queue), EchoServer::new(Silent))
        .start()
        .await?;
    let caller = Broker::connect(broker).await?;
    let client = EchoClient::builder(&caller)
        .queue(&queue)
        .timeout(CALL_LIMIT * 2)
        .max_in_flight(calls)
        .build();
    // The first call opens the reply queue and the channels, whose memory is not the calls'.
    let mut waiting = JoinSet::new();
    waiting.spawn(client.echo(&[b'x'; 16]).into_future());
    settled_bytes().await?;

    let before = live_bytes()?;
    for _ in 1..calls {
        waiting.spawn(client.echo(&[b'x'; 16]).into_future());
    }
    let after = settled_bytes().await?;
    if let Some(ended) = waiting.try_join_next() {
        anyhow::bail!("a call ended that should wait: {:?}", ended?);
    }
    waiting.shutdown().await;
    caller.close().await;
    // The running request cannot end.
    drop(server);
    worker.close().await;
    #[allow(clippy::cast_precision_loss)]
    Ok((after - before) as f64 / calls as f64)
}
