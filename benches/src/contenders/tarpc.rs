//! tarpc over TCP: typed calls with a length prefix and bincode on a socket, without a broker.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport, server};
use tokio::task::JoinHandle;

use super::{Contender, Running, Stop};
use crate::load::{Caller, Load};
use crate::measure::Measured;
use crate::scenario::{self, Scenario};

const CALL_LIMIT: Duration = Duration::from_secs(60);

#[allow(missing_docs)]
mod service {
    use bytes::Bytes;

    #[tarpc::service]
    pub(crate) trait TcpEcho {
        async fn echo(payload: Bytes) -> Bytes;
    }
}
use service::{TcpEcho, TcpEchoClient};

#[derive(Clone)]
struct Repeat {
    handler: Duration,
}

impl TcpEcho for Repeat {
    async fn echo(self, _: context::Context, payload: Bytes) -> Bytes {
        scenario::handle(self.handler).await;
        payload
    }
}

pub(super) struct TarpcOverTcp;

struct RunningTarpc {
    client: TcpEchoClient,
    worker: JoinHandle<()>,
}

#[async_trait]
impl Contender for TarpcOverTcp {
    async fn start(&self, _broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>> {
        // Buffers hold all calls in flight. 1000 is tarpc's default limit of calls.
        let in_flight = scenario.in_flight.max(1000);
        let mut listener = serde_transport::tcp::listen("127.0.0.1:0", Bincode::default).await?;
        let address = listener.local_addr();
        let repeat = Repeat {
            handler: scenario.handler,
        };
        let worker = tokio::spawn(async move {
            let Some(Ok(transport)) = listener.next().await else {
                return;
            };
            let options = server::Config {
                pending_response_buffer: in_flight,
            };
            BaseChannel::new(options, transport)
                .execute(repeat.serve())
                .for_each(|request| {
                    tokio::spawn(request);
                    std::future::ready(())
                })
                .await;
        });
        let transport = serde_transport::tcp::connect(address, Bincode::default).await?;
        let mut options = client::Config::default();
        options.max_in_flight_requests = in_flight;
        options.pending_request_buffer = in_flight;
        let client = TcpEchoClient::new(options, transport).spawn();
        Ok(Box::new(RunningTarpc { client, worker }))
    }
}

impl Caller for TcpEchoClient {
    async fn call(&self, payload: Bytes) -> anyhow::Result<usize> {
        let mut context = context::current();
        context.deadline = Instant::now() + CALL_LIMIT;
        Ok(self.echo(context, payload).await?.len())
    }
}

#[async_trait]
impl Running for RunningTarpc {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        load.run(&self.client).await
    }
}

#[async_trait]
impl Stop for RunningTarpc {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.worker.abort();
        Ok(())
    }
}
