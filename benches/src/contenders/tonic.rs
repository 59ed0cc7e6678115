//! Unary calls with tonic over one TCP connection, without a broker, with its default settings.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tower::service_fn;

use super::{Contender, Running, Stop};
use crate::grpc::{self, Verbatim};
use crate::load::{Caller, Load};
use crate::measure::Measured;
use crate::scenario::{self, Scenario};

const PATH: &str = "/bench.Echo/Echo";

/// More calls in flight are not measured. With a few thousand, the worker's `h2` takes so many
/// small frames for an attack: it closes the connection with the error `too_many_data_frames`.
pub(super) const MAX_IN_FLIGHT: usize = 1000;

const CALL_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct TonicOverTcp;

struct RunningTonic {
    channel: Channel,
    worker: JoinHandle<()>,
}

#[async_trait]
impl Contender for TonicOverTcp {
    async fn start(&self, _broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>> {
        let (incoming, endpoint) = grpc::listen()?;
        let worker = tokio::spawn(serve(incoming, scenario.handler));
        Ok(Box::new(RunningTonic {
            channel: endpoint.connect().await?,
            worker,
        }))
    }
}

async fn serve(incoming: TcpIncoming, handler: Duration) {
    let service = service_fn(move |request: http::Request<Body>| async move {
        let echo = service_fn(move |request: Request<Bytes>| async move {
            scenario::handle(handler).await;
            Ok::<_, Status>(Response::new(request.into_inner()))
        });
        Ok::<_, Infallible>(tonic::server::Grpc::new(Verbatim).unary(echo, request).await)
    });
    if let Err(error) = Server::builder().serve_with_incoming(service, incoming).await {
        eprintln!("tonic's worker ended: {error}");
    }
}

impl Caller for Channel {
    async fn call(&self, payload: Bytes) -> anyhow::Result<usize> {
        let mut client = tonic::client::Grpc::new(self.clone());
        let calling = async {
            client.ready().await?;
            let path = PathAndQuery::from_static(PATH);
            let reply: Response<Bytes> = client.unary(Request::new(payload), path, Verbatim).await?;
            Ok(reply.get_ref().len())
        };
        timeout(CALL_LIMIT, calling)
            .await
            .with_context(|| format!("no reply within {CALL_LIMIT:?}"))?
    }
}

#[async_trait]
impl Running for RunningTonic {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        load.run(&self.channel).await
    }
}

#[async_trait]
impl Stop for RunningTonic {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.worker.abort();
        Ok(())
    }
}
