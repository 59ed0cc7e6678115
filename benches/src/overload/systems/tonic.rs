//! tonic over TCP, without a broker: a worker runs as many methods at once as it has places
//! (`ConcurrencyLimit`) and refuses all other calls at once (`LoadShed`).
//!
//! The limit is tower's global one: tonic's `concurrency_limit_per_connection` would multiply it by
//! the number of callers.

use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::service_fn;

use super::{Call, Running};
use crate::grpc::{self, Verbatim};
use crate::overload::method::{Method, payload};
use crate::overload::plan::Setting;
use crate::overload::record::End;

const PATH: &str = "/overload.Work/Work";

struct Tonic {
    callers: Vec<Channel>,
    workers: Vec<JoinHandle<()>>,
}

pub(super) async fn start(setting: &Setting, method: &Method) -> anyhow::Result<Arc<dyn Running>> {
    let mut workers = Vec::new();
    let mut endpoints = Vec::new();
    for _ in 0..setting.workers {
        let (incoming, endpoint) = grpc::listen()?;
        endpoints.push(endpoint);
        workers.push(tokio::spawn(serve(incoming, setting.places, method.clone())));
    }
    let mut callers = Vec::new();
    for _ in 0..setting.callers {
        callers.push(match endpoints.as_slice() {
            [endpoint] => endpoint.connect().await?,
            several => Channel::balance_list(several.iter().cloned()),
        });
    }
    Ok(Arc::new(Tonic { callers, workers }))
}

async fn serve(incoming: TcpIncoming, places: u16, method: Method) {
    let service = service_fn(move |request: http::Request<Body>| {
        let method = method.clone();
        async move {
            let work = service_fn(move |request: Request<Bytes>| {
                let method = method.clone();
                async move {
                    let payload = request.into_inner();
                    method.run(&payload).await;
                    Ok::<_, Status>(Response::new(payload))
                }
            });
            Ok::<_, Infallible>(tonic::server::Grpc::new(Verbatim).unary(work, request).await)
        }
    });
    let served = Server::builder()
        .load_shed(true)
        .layer(GlobalConcurrencyLimitLayer::new(places.into()))
        .serve_with_incoming(service, incoming)
        .await;
    if let Err(error) = served {
        eprintln!("tonic's worker ended: {error}");
    }
}

/// Makes a call. tonic sends its deadline with it.
async fn unary_call(channel: Channel, call: Call) -> Result<(), Status> {
    let time_left = call.time_left();
    let mut request = Request::new(Bytes::copy_from_slice(&payload(call.deadline)));
    request.set_timeout(time_left);
    let mut client = tonic::client::Grpc::new(channel);
    let calling = async {
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        client
            .unary(request, PathAndQuery::from_static(PATH), Verbatim)
            .await
    };
    let called = timeout(time_left, calling).await;
    let _: Response<Bytes> = called.map_err(|_| Status::deadline_exceeded("no answer"))??;
    Ok(())
}

#[async_trait]
impl Running for Tonic {
    fn call(&self, call: Call) -> BoxFuture<'static, End> {
        let channel = self.callers[call.caller].clone();
        Box::pin(async move {
            match unary_call(channel, call).await {
                Ok(()) => End::Answered,
                Err(status) => match status.code() {
                    Code::ResourceExhausted => End::Refused("resource exhausted".to_owned()),
                    // If tonic notices first that the deadline has passed, it says `Cancelled`.
                    Code::DeadlineExceeded | Code::Cancelled => End::TimedOut,
                    code => End::Failed(format!("{code}: {}", status.message())),
                },
            }
        })
    }

    async fn stop(&self) -> anyhow::Result<()> {
        for worker in &self.workers {
            worker.abort();
        }
        Ok(())
    }
}
