//! Layers of a caller and of a worker see a stream from its begin to its end, with each item.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::middleware::{
    CallLayer, CallReply, CallService, Handler, HandlerLayer, IncomingCall, ItemCounts, OutgoingCall, SentBy,
    StreamItem,
};
use rpc_runtime::{
    Answer, CallError, ClientBuilder, DynamicClient, Fault, FaultCode, Incoming, RequestQueue, RunningServer,
    Server, ServiceClient, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde_json::json;
use tower::layer::layer_fn;
use tower::{Service, service_fn};

#[service]
trait Feed {
    /// The numbers below this one, a byte each.
    fn count(&self, to: u8) -> impl Stream<Item = u8>;
    /// Fails after these numbers.
    fn fail(&self, after: u8) -> impl Stream<Item = Result<u8, String>>;
    /// Panics at the second number.
    fn panic(&self) -> impl Stream<Item = u8>;
    /// Waits at the gate before each number.
    fn wait(&self) -> impl Stream<Item = u8>;
    /// The numbers below 10 after this one. Waits at the gate before each.
    #[rpc(idempotent)]
    fn rest(&self, #[rpc(resume)] after: Option<u8>) -> impl Stream<Item = u8>;
    async fn sum(&self, numbers: Incoming<u8>) -> Result<u64, String>;
    fn echo(&self, numbers: Incoming<u8>) -> impl Stream<Item = u8>;
    async fn one(&self) -> u8;
}

struct Numbers(Gate);

impl Feed for Numbers {
    fn count(&self, to: u8) -> impl Stream<Item = u8> {
        stream::iter(0..to)
    }

    fn fail(&self, after: u8) -> impl Stream<Item = Result<u8, String>> {
        let numbers = stream::iter((0..after).map(Ok));
        numbers.chain(stream::iter([Err("no more".to_owned())]))
    }

    fn panic(&self) -> impl Stream<Item = u8> {
        stream::iter(0..2).then(async |number| {
            if number == 1 {
                self.0.pass().await;
                panic!("injected by the test");
            }
            number
        })
    }

    fn wait(&self) -> impl Stream<Item = u8> {
        stream::iter(0..100).then(async |number| {
            self.0.pass().await;
            number
        })
    }

    fn rest(&self, after: Option<u8>) -> impl Stream<Item = u8> {
        let first = after.map_or(0, |number| number + 1);
        stream::iter(first..10).then(async |number| {
            self.0.pass().await;
            number
        })
    }

    async fn sum(&self, mut numbers: Incoming<u8>) -> Result<u64, String> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += u64::from(number.map_err(|error| error.to_string())?);
        }
        Ok(sum)
    }

    fn echo(&self, numbers: Incoming<u8>) -> impl Stream<Item = u8> {
        numbers.filter_map(async |number| number.ok())
    }

    async fn one(&self) -> u8 {
        1
    }
}

on_both_brokers! {
    layers_see_each_item_between_begin_and_end,
    layers_see_how_a_stream_fails,
    layers_see_a_stream_that_its_reader_drops,
    a_layer_inside_another_that_repeats_calls_sees_each_item_once,
    layers_of_a_worker_see_the_items_of_an_array,
    layers_see_each_call_of_a_stream_that_is_resumed,
}

/// What a layer sees.
#[derive(Debug, PartialEq)]
enum Seen {
    Begin(String),
    Item(SentBy, u64, usize),
    /// The end, with whether there is a reply, and how many items the caller and the method sent.
    End(bool, u64, u64),
}

/// What a layer has seen.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Seen>>>);

impl Notes {
    fn add(&self, seen: Seen) {
        self.0.lock().unwrap().push(seen);
    }

    fn begin(&self, method: &str, counts: ItemCounts) -> Watched {
        self.add(Seen::Begin(method.to_owned()));
        Watched {
            notes: self.clone(),
            counts,
            is_ok: false,
        }
    }

    fn observer(&self) -> impl Fn(StreamItem) + Send + Sync + 'static {
        let notes = self.clone();
        move |item| notes.add(Seen::Item(item.sent_by(), item.number(), item.bytes()))
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn has_ended(&self) -> bool {
        let seen = self.0.lock().unwrap();
        matches!(seen.last(), Some(Seen::End(..)))
    }

    /// Takes what was seen of one call: each item between its begin and its end, in order.
    fn assert_saw(&self, method: &str, is_ok: bool, by_caller: u64, by_method: u64) {
        let mut seen = self.take();
        assert_eq!(seen.first(), Some(&Seen::Begin(method.to_owned())), "{seen:?}");
        assert_eq!(
            seen.pop(),
            Some(Seen::End(is_ok, by_caller, by_method)),
            "{seen:?}"
        );
        for (side, count) in [(SentBy::Caller, by_caller), (SentBy::Method, by_method)] {
            let numbers = seen.iter().filter_map(|seen| match seen {
                Seen::Item(sent_by, number, 1) if *sent_by == side => Some(*number),
                _ => None,
            });
            assert!(numbers.eq(0..count), "{method} {side:?}: {seen:?}");
        }
        assert_eq!(seen.len() as u64, 1 + by_caller + by_method);
    }
}

/// A call that a layer watches.
struct Watched {
    notes: Notes,
    counts: ItemCounts,
    is_ok: bool,
}

impl Watched {
    fn end(mut self, is_ok: bool) {
        self.is_ok = is_ok;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let [by_caller, by_method] = [SentBy::Caller, SentBy::Method].map(|side| self.counts.sent_by(side));
        self.notes.add(Seen::End(self.is_ok, by_caller, by_method));
    }
}

fn client_layer(notes: &Notes) -> impl CallLayer + use<> {
    let notes = notes.clone();
    layer_fn(move |mut inner: CallService| {
        let notes = notes.clone();
        service_fn(
            move |mut call: OutgoingCall| -> BoxFuture<'static, Result<CallReply, CallError>> {
                let watched = notes.begin(call.method(), call.item_counts());
                call.observe_items(notes.observer());
                let calling = inner.call(call);
                Box::pin(async move {
                    let outcome = calling.await;
                    watched.end(outcome.is_ok());
                    outcome
                })
            },
        )
    })
}

fn server_layer(notes: &Notes) -> impl HandlerLayer + use<> {
    let notes = notes.clone();
    layer_fn(move |mut inner: Handler| {
        let notes = notes.clone();
        service_fn(
            move |mut call: IncomingCall| -> BoxFuture<'static, Result<Answer, Fault>> {
                let watched = notes.begin(call.method(), call.item_counts());
                call.observe_items(notes.observer());
                let running = inner.call(call);
                Box::pin(async move {
                    let outcome = running.await;
                    watched.end(outcome.is_ok());
                    outcome
                })
            },
        )
    })
}

/// A worker and a client, and what the layers of both see.
struct Scene {
    queue: String,
    server: RunningServer,
    of_server: Notes,
    feed: FeedClient,
    of_client: Notes,
}

impl Scene {
    async fn open(world: &World, gate: Gate) -> Self {
        let (queue, of_server, of_client) = (unique("feed"), Notes::default(), Notes::default());
        let server = serve(world, &queue, &of_server, gate).await;
        let feed = FeedClient::builder(&world.broker().await)
            .queue(&queue)
            .timeout(SOON)
            .layer(client_layer(&of_client))
            .build();
        Self {
            queue,
            server,
            of_server,
            feed,
            of_client,
        }
    }

    /// Checks what the layers on both sides saw of one call that has ended.
    fn assert_saw(&self, method: &str, is_ok: bool, by_caller: u64, by_method: u64) {
        for notes in [&self.of_client, &self.of_server] {
            notes.assert_saw(method, is_ok, by_caller, by_method);
        }
    }
}

/// A worker that does not wait for its streams when it stops.
async fn serve(world: &World, queue: &str, notes: &Notes, gate: Gate) -> RunningServer {
    let server = Server::new(&world.broker().await)
        .drain_timeout(Duration::ZERO)
        .layer(server_layer(notes))
        .serve_on(RequestQueue::new(queue), FeedServer::new(Numbers(gate)));
    soon("it starts", server.start()).await.unwrap()
}

/// Stops a worker, whether or not its streams have ended.
async fn stop(server: RunningServer) {
    let _ = soon("it stops", server.stop()).await;
}

async fn layers_see_each_item_between_begin_and_end(world: World) {
    let scene = Scene::open(&world, Gate::open()).await;
    let counted = soon("it ends", scene.feed.count(100).collect::<Vec<_>>()).await;
    assert_eq!(counted.len(), 100);
    scene.assert_saw("count", true, 0, 100);
    assert_eq!(soon("it ends", scene.feed.count(0).count()).await, 0);
    scene.assert_saw("count", true, 0, 0);
    let sum = soon("it returns", scene.feed.sum(stream::iter(0..100))).await;
    assert_eq!(sum.unwrap(), 4950);
    scene.assert_saw("sum", true, 100, 0);
    assert_eq!(
        soon("it ends", scene.feed.echo(stream::iter(0..100)).count()).await,
        100
    );
    scene.assert_saw("echo", true, 100, 100);
    assert_eq!(soon("it returns", scene.feed.one()).await.unwrap(), 1);
    scene.assert_saw("one", true, 0, 0);
    stop(scene.server).await;
}

#[tokio::test]
async fn layers_of_a_client_without_a_broker_see_each_item() {
    let notes = Notes::default();
    let feed: FeedClient = ClientBuilder::in_process(FeedServer::new(Numbers(Gate::open())))
        .layer(client_layer(&notes))
        .build();
    assert_eq!(feed.count(100).count().await, 100);
    notes.assert_saw("count", true, 0, 100);
    assert_eq!(feed.sum(stream::iter(0..100)).await.unwrap(), 4950);
    notes.assert_saw("sum", true, 100, 0);
    assert_eq!(feed.echo(stream::iter(0..100)).count().await, 100);
    notes.assert_saw("echo", true, 100, 100);
}

async fn layers_see_how_a_stream_fails(world: World) {
    let gate = Gate::closed();
    let scene = Scene::open(&world, gate.clone()).await;
    // The method's own error is a reply.
    assert_eq!(soon("it ends", scene.feed.fail(3).count()).await, 4);
    scene.assert_saw("fail", true, 0, 3);
    let mut panicking = scene.feed.panic();
    assert_eq!(soon("it arrives", panicking.next()).await.unwrap().unwrap(), 0);
    gate.let_all_go();
    let panicked = soon("it ends", panicking.next()).await.unwrap();
    assert!(matches!(panicked, Err(CallError::Fault(fault)) if fault.code == FaultCode::Panicked));
    scene.assert_saw("panic", false, 0, 1);
    stop(scene.server).await;
}

async fn layers_see_a_stream_that_its_reader_drops(world: World) {
    let gate = Gate::closed();
    let scene = Scene::open(&world, gate.clone()).await;
    gate.let_go(1);
    let mut waiting = scene.feed.wait();
    assert_eq!(soon("it arrives", waiting.next()).await.unwrap().unwrap(), 0);
    assert!(!scene.of_client.has_ended() && !scene.of_server.has_ended());
    drop(waiting);
    scene.of_client.assert_saw("wait", false, 0, 1);
    until("the method ends", SOON, async || Ok(scene.of_server.has_ended()))
        .await
        .unwrap();
    scene.of_server.assert_saw("wait", false, 0, 1);
    stop(scene.server).await;
}

/// The first request is refused, and the layers pass a second one on.
async fn a_layer_inside_another_that_repeats_calls_sees_each_item_once(world: World) {
    let (queue, outside, inside) = (unique("feed"), Notes::default(), Notes::default());
    let refused = Arc::<Mutex<bool>>::default();
    let server = Server::new(&world.broker().await)
        .layer(layer_fn(move |mut inner: Handler| {
            let refused = Arc::clone(&refused);
            service_fn(
                move |call: IncomingCall| -> BoxFuture<'static, Result<Answer, Fault>> {
                    if std::mem::replace(&mut *refused.lock().unwrap(), true) {
                        inner.call(call)
                    } else {
                        Box::pin(async { Err(Fault::new(FaultCode::Rejected, "not yet")) })
                    }
                },
            )
        }))
        .serve_on(RequestQueue::new(&queue), FeedServer::new(Numbers(Gate::open())));
    let server = soon("it starts", server.start()).await.unwrap();
    let repeating = layer_fn(|inner: CallService| {
        service_fn(
            move |call: OutgoingCall| -> BoxFuture<'static, Result<CallReply, CallError>> {
                let mut inner = inner.clone();
                Box::pin(async move {
                    inner.call(call.clone()).await.unwrap_err();
                    inner.call(call).await
                })
            },
        )
    });
    let feed = FeedClient::builder(&world.broker().await)
        .queue(&queue)
        .timeout(SOON)
        .layer(client_layer(&outside))
        .layer(repeating)
        .layer(client_layer(&inside))
        .build();
    let echoed = soon("it ends", feed.echo(stream::iter(0..100)).count()).await;
    assert_eq!(echoed, 100);
    outside.assert_saw("echo", true, 100, 100);
    let mut seen = inside.take();
    let first = [Seen::Begin("echo".into()), Seen::End(false, 0, 0)];
    assert!(seen.drain(..2).eq(first));
    inside.0.lock().unwrap().extend(seen);
    inside.assert_saw("echo", true, 100, 100);
    server.stop().await.unwrap();
}

/// A caller that reads no items gets them in the reply.
async fn layers_of_a_worker_see_the_items_of_an_array(world: World) {
    let scene = Scene::open(&world, Gate::open()).await;
    let mut description = FeedClient::SERVICE.description();
    description.queue.clone_from(&scene.queue);
    let dynamic = DynamicClient::new(&world.broker().await, description).unwrap();
    let array = soon("it returns", dynamic.call("count", json!({"to": 3}))).await;
    assert_eq!(array.unwrap(), json!([0, 1, 2]));
    scene.of_server.assert_saw("count", true, 0, 3);
    stop(scene.server).await;
}

async fn layers_see_each_call_of_a_stream_that_is_resumed(world: World) {
    let gate = Gate::closed();
    let scene = Scene::open(&world, gate.clone()).await;
    gate.let_go(2);
    let mut rest = scene.feed.rest(None);
    for number in 0..2 {
        assert_eq!(soon("it arrives", rest.next()).await.unwrap().unwrap(), number);
    }
    let next = serve(&world, &scene.queue, &Notes::default(), gate.clone()).await;
    stop(scene.server).await;
    gate.let_all_go();
    assert_eq!(soon("it ends", rest.count()).await, 8);
    let seen = scene.of_client.take();
    let (first, second) = seen.split_at(4);
    let item = |number| Seen::Item(SentBy::Method, number, 1);
    assert_eq!(
        first,
        [
            Seen::Begin("rest".into()),
            item(0),
            item(1),
            Seen::End(false, 0, 2)
        ]
    );
    assert_eq!(second.last(), Some(&Seen::End(true, 0, 8)), "{second:?}");
    assert_eq!(second.len(), 10);
    stop(next).await;
}
