//! This library.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use rpc_runtime::{Broker, RequestQueue, RunningServer, Server, service};
use rpc_tests::rabbit::unique;

use super::{Done, JobQueue};
use crate::load::Caller;
use crate::scenario::BASE;

#[service]
pub(super) trait Jobs {
    #[rpc(oneway, idempotent)]
    async fn run(&self, payload: &[u8]);
}

struct Count(Arc<Done>);

impl Jobs for Count {
    async fn run(&self, _payload: &[u8]) {
        self.0.count();
    }
}

pub(super) struct Framework {
    queue: RequestQueue,
    caller_broker: Broker,
    client: JobsClient,
    worker_broker: Broker,
    server: Option<RunningServer>,
    done: Arc<Done>,
}

impl Caller for JobsClient {
    async fn call(&self, payload: Bytes) -> anyhow::Result<usize> {
        self.run(&payload).await?;
        Ok(payload.len())
    }
}

impl JobQueue for Framework {
    type Caller = JobsClient;

    async fn open(broker: &str, done: &Arc<Done>) -> anyhow::Result<Self> {
        // It and its queue for batches are deleted a minute after their last worker.
        let queue = RequestQueue::new(unique("jobs")).argument("x-expires", 60_000);
        let caller_broker = Broker::connect(broker).await?;
        Ok(Self {
            client: JobsClient::builder(&caller_broker).queue(queue.name()).build(),
            queue,
            caller_broker,
            worker_broker: Broker::connect(broker).await?,
            server: None,
            done: Arc::clone(done),
        })
    }

    fn caller(&self) -> JobsClient {
        self.client.clone()
    }

    async fn start_worker(&mut self) -> anyhow::Result<()> {
        let server = Server::new(&self.worker_broker)
            .concurrency(BASE.prefetch())
            .serve_on(self.queue.clone(), JobsServer::new(Count(Arc::clone(&self.done))));
        self.server = Some(server.start().await?);
        Ok(())
    }

    async fn stop_worker(&mut self) -> anyhow::Result<()> {
        let server = self.server.take().context("the worker runs")?;
        Ok(server.stop().await?)
    }

    async fn close(self) -> anyhow::Result<()> {
        self.caller_broker.close().await;
        self.worker_broker.close().await;
        Ok(())
    }
}
