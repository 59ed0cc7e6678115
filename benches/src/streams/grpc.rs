//! Server streaming with tonic and its default settings: over TCP, without a broker.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::system::{Ask, Reader, System};
use crate::grpc::{self, Verbatim};

const PATH: &str = "/streams.Source/Items";

pub(super) struct Grpc {
    channel: Channel,
    worker: JoinHandle<()>,
}

impl System for Grpc {
    type Reader = Streaming<Bytes>;

    async fn start(_broker: &str) -> anyhow::Result<Self> {
        let (incoming, endpoint) = grpc::listen()?;
        let worker = tokio::spawn(serve(incoming));
        Ok(Self {
            channel: endpoint.connect().await?,
            worker,
        })
    }

    async fn open(&self, ask: Ask) -> anyhow::Result<Streaming<Bytes>> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await?;
        let request = Request::new(ask.write());
        let path = PathAndQuery::from_static(PATH);
        let response = client.server_streaming(request, path, Verbatim).await?;
        Ok(response.into_inner())
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.worker.abort();
        Ok(())
    }
}

impl Reader for Streaming<Bytes> {
    type Item = Bytes;

    async fn next_item(&mut self) -> anyhow::Result<Option<Bytes>> {
        Ok(self.message().await?)
    }
}

/// Answers each request with the stream for which it asks, whatever its path.
async fn serve(incoming: TcpIncoming) {
    let service = service_fn(|request: http::Request<Body>| async {
        let items = service_fn(|request: Request<Bytes>| async move {
            let ask = Ask::read(request.get_ref());
            let ask = ask.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let items = stream::iter(ask.make()).map(|item| Ok::<_, Status>(Bytes::from(item)));
            Ok::<_, Status>(Response::new(items))
        });
        let mut grpc = tonic::server::Grpc::new(Verbatim);
        Ok::<_, Infallible>(grpc.server_streaming(items, request).await)
    });
    if let Err(error) = Server::builder().serve_with_incoming(service, incoming).await {
        eprintln!("tonic's worker ended: {error}");
    }
}
