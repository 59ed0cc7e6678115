//! Streams of this library.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, stream};
use rpc_runtime::{Broker, RunningServer, Server, StreamingCall, service};
use rpc_tests::rabbit::unique;

use super::system::{Ask, Reader, System};
use crate::contenders::framework::passing_queue;

/// How many streams the worker sends at once, at most. [`unread`](super::unread) begins 1000.
const STREAMS: u16 = 1100;

#[service]
pub(super) trait Source {
    async fn echo(&self, payload: &[u8]) -> Vec<u8>;

    fn items(&self, items: u64, size: u32) -> impl Stream<Item = Vec<u8>>;
}

/// Counts the items that it makes.
struct Make(Arc<AtomicU64>);

impl Source for Make {
    async fn echo(&self, payload: &[u8]) -> Vec<u8> {
        payload.to_vec()
    }

    fn items(&self, items: u64, size: u32) -> impl Stream<Item = Vec<u8>> {
        let made = Arc::clone(&self.0);
        let items = Ask { items, size }.make();
        stream::iter(items.inspect(move |_| {
            made.fetch_add(1, Ordering::Relaxed);
        }))
    }
}

pub(super) struct Library {
    client: SourceClient,
    caller: Broker,
    server: RunningServer,
    worker: Broker,
    made: Arc<AtomicU64>,
}

impl Library {
    pub(super) fn client(&self) -> &SourceClient {
        &self.client
    }

    /// Returns how many items the worker has made, for all streams.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl System for Library {
    type Reader = StreamingCall<Vec<u8>>;

    async fn start(broker: &str) -> anyhow::Result<Self> {
        let queue = passing_queue(&unique("streams"));
        let made = Arc::new(AtomicU64::new(0));
        let caller = Broker::connect(broker).await?;
        let client = SourceClient::builder(&caller).queue(queue.name()).build();
        let worker = Broker::connect(broker).await?;
        let server = Server::new(&worker)
            .concurrency(STREAMS)
            .serve_on(queue, SourceServer::new(Make(Arc::clone(&made))));
        Ok(Self {
            client,
            caller,
            server: server.start().await?,
            worker,
            made,
        })
    }

    async fn open(&self, Ask { items, size }: Ask) -> anyhow::Result<Self::Reader> {
        Ok(self.client.items(items, size))
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.caller.close().await;
        self.server.stop().await?;
        self.worker.close().await;
        Ok(())
    }
}

impl Reader for StreamingCall<Vec<u8>> {
    type Item = Vec<u8>;

    async fn next_item(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.next().await.transpose()?)
    }
}
