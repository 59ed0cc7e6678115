//! A broadcast reaches every worker of its queue, and its caller learns what each of them answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::message::Delivery;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use rpc_runtime::describe::Worker;
use rpc_runtime::{
    Broker, CallError, Context, DynamicClient, Gathered, RequestQueue, RunningServer, Server, ServiceClient,
    ServiceDescriptor, service,
};
use rpc_tests::asking::until_found;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use serde::{Deserialize, Serialize};

mod foreign;
mod gathering;
mod layers;
mod limits;
mod permissions;
mod reach;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NoSource(String);

#[service]
trait Cache {
    async fn get(&self, key: &str) -> String;
    #[rpc(broadcast)]
    async fn count(&self, prefix: &str) -> usize;
    #[rpc(broadcast)]
    async fn reload(&self, from: &str) -> Result<String, NoSource>;
    #[rpc(broadcast)]
    async fn observe(&self, #[rpc(context)] context: &Context) -> (String, bool);
    #[rpc(broadcast, oneway)]
    async fn clear(&self);
}

/// A worker's part of a cache.
#[derive(Clone)]
struct Part {
    name: &'static str,
    gate: Gate,
    runs: Arc<AtomicUsize>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self::behind(name, Gate::open())
    }

    fn behind(name: &'static str, gate: Gate) -> Self {
        let runs = Arc::default();
        Self { name, gate, runs }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    async fn run(&self) -> usize {
        self.gate.pass().await;
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Cache for Part {
    async fn get(&self, key: &str) -> String {
        self.run().await;
        key.to_owned()
    }

    async fn count(&self, prefix: &str) -> usize {
        self.run().await;
        prefix.len()
    }

    async fn reload(&self, from: &str) -> Result<String, NoSource> {
        self.run().await;
        match self.name {
            "fails" => Err(NoSource(from.to_owned())),
            "panics" => panic!("injected by the test"),
            name => Ok(name.to_owned()),
        }
    }

    async fn observe(&self, context: &Context) -> (String, bool) {
        let tenant = context.headers().get("tenant").unwrap_or_default().to_owned();
        (tenant, context.deadline().is_some())
    }

    async fn clear(&self) {
        self.run().await;
    }
}

/// Starts a worker with a handle of its own.
async fn serve(world: &World, queue: &str, part: &Part) -> RunningServer {
    serve_with(&world.broker().await, queue, part).await
}

/// Starts a worker, and waits until broadcasts reach it.
async fn serve_with(broker: &Broker, queue: &str, part: &Part) -> RunningServer {
    let server = start(broker, queue, part).await;
    until_reached(broker, queue, part).await;
    server
}

async fn start(broker: &Broker, queue: &str, part: &Part) -> RunningServer {
    let server = Server::new(broker).worker_name(part.name);
    let server = server.serve_on(RequestQueue::new(queue), CacheServer::new(part.clone()));
    soon("it starts", server.start()).await.unwrap()
}

async fn until_reached(seeker: &Broker, queue: &str, part: &Part) {
    until_found(seeker, queue, |found| found.name.as_deref() == Some(part.name)).await;
}

fn client(broker: &Broker, queue: &str) -> CacheClient {
    CacheClient::builder(broker).queue(queue).build()
}

/// The answers by the name of the worker.
fn by_name<T, E>(gathered: Gathered<T, E>) -> Vec<(String, Result<T, CallError<E>>)> {
    let named = |(worker, answer): (Worker, _)| (worker.name.unwrap_or_default(), answer);
    let mut answers: Vec<_> = gathered.answers.into_iter().map(named).collect();
    answers.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers
}

/// A dynamic client whose description claims that methods are, or are not, broadcasts.
fn dynamic(broker: &Broker, queue: &str, is_broadcast: impl Fn(&str) -> bool) -> DynamicClient {
    let service: &ServiceDescriptor = CacheClient::SERVICE;
    let mut description = service.description();
    for method in &mut description.methods {
        method.is_broadcast = is_broadcast(&method.name);
    }
    queue.clone_into(&mut description.queue);
    DynamicClient::new(broker, description).unwrap()
}

/// A worker without this library, with a queue of its own at the control exchange.
struct ForeignWorker {
    peer: RawPeer,
    requests: lapin::Consumer,
}

impl ForeignWorker {
    async fn of(url: &str, key: &str) -> Self {
        let peer = RawPeer::connect(url).await.unwrap();
        let queue = peer.declare_exclusive().await.unwrap();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        peer.channel()
            .queue_bind(
                queue.as_str().into(),
                "rpc.control".into(),
                key.into(),
                options,
                arguments,
            )
            .await
            .unwrap();
        let requests = peer.consume(&queue).await.unwrap();
        Self { peer, requests }
    }

    async fn request(&mut self) -> Delivery {
        next(&mut self.requests, SOON).await.unwrap().expect("a request")
    }
}
