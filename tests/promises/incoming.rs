//! A method receives the items that its caller sends in order, without gaps or duplicates, and no
//! faster than it takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::middleware::{CallReply, CallService, IncomingCall, OutgoingCall};
use rpc_runtime::{
    Broker, CallError, Codec, DynamicClient, Executed, FaultCode, Incoming, IncomingError, ReplyQueue,
    RequestQueue, RunningServer, Server, ServiceClient, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::{Permissions, Vhost, shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde_json::json;
use tokio::task::JoinHandle;
use tower::layer::layer_fn;

#[service]
trait Store {
    /// How many numbers there are. Fails unless they begin at 0 and have no gap.
    async fn count(&self, numbers: Incoming<u64>) -> Result<u64, String>;
    /// Waits at the gate before each number.
    async fn slow(&self, numbers: Incoming<u64>, name: &str) -> Result<u64, String>;
    /// Takes some numbers, drops the others, and waits at the gate.
    async fn some(&self, count: u64, numbers: Incoming<u64>) -> u64;
    /// The total size of blocks.
    async fn size(&self, blocks: Incoming<Vec<u8>>) -> Result<usize, String>;
    /// Panics after the first number.
    async fn panic(&self, numbers: Incoming<u64>);
    /// Doubles each number.
    fn double(&self, by: u64, numbers: Incoming<u64>) -> impl Stream<Item = Result<u64, String>>;
}

/// Counts the methods that run and have their items.
#[derive(Clone)]
struct Counter {
    gate: Gate,
    taken: Arc<AtomicU64>,
    running: Arc<AtomicUsize>,
}

impl Counter {
    fn new() -> Self {
        Self::behind(Gate::open())
    }

    fn behind(gate: Gate) -> Self {
        Self {
            gate,
            taken: Arc::default(),
            running: Arc::default(),
        }
    }

    fn begin(&self) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }

    async fn ended(&self) {
        let ended = async || Ok(self.running.load(Ordering::SeqCst) == 0);
        until("the methods end", SOON, ended).await.unwrap();
    }
}

/// Counts a method, or a stream, for as long as it exists.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Store for Counter {
    async fn count(&self, mut numbers: Incoming<u64>) -> Result<u64, String> {
        let _running = self.begin();
        let mut count = 0;
        while let Some(number) = numbers.next().await {
            let number = number.map_err(|error| format!("{error:?}"))?;
            if number != count {
                return Err(format!("{number} follows {count} numbers"));
            }
            count += 1;
            self.taken.store(count, Ordering::SeqCst);
        }
        assert!(numbers.next().await.is_none());
        Ok(count)
    }

    async fn slow(&self, numbers: Incoming<u64>, name: &str) -> Result<u64, String> {
        assert_eq!(name, "slow");
        let gate = &self.gate;
        let mut numbers = Box::pin(numbers.then(async |number| {
            gate.pass().await;
            number
        }));
        let _running = self.begin();
        let mut count = 0;
        while let Some(number) = numbers.next().await {
            number.map_err(|error| format!("{error:?}"))?;
            count += 1;
            self.taken.store(count, Ordering::SeqCst);
        }
        Ok(count)
    }

    async fn some(&self, count: u64, numbers: Incoming<u64>) -> u64 {
        let _running = self.begin();
        let taken = numbers.take(usize::try_from(count).unwrap());
        let sum = taken.fold(0, async |sum, number| sum + number.unwrap()).await;
        self.gate.pass().await;
        sum
    }

    async fn size(&self, blocks: Incoming<Vec<u8>>) -> Result<usize, String> {
        let mut size = 0;
        let mut blocks = blocks;
        while let Some(block) = blocks.next().await {
            size += block.map_err(|error| format!("{error:?}"))?.len();
        }
        Ok(size)
    }

    async fn panic(&self, mut numbers: Incoming<u64>) {
        let _ = numbers.next().await;
        panic!("injected by the test");
    }

    fn double(&self, by: u64, numbers: Incoming<u64>) -> impl Stream<Item = Result<u64, String>> {
        let running = self.begin();
        numbers.map(move |number| {
            let _ = &running;
            number
                .map(|number| number * by)
                .map_err(|error| format!("{error:?}"))
        })
    }
}

on_both_brokers! {
    items_arrive_in_order_and_the_result_follows,
    both_directions_go_on_at_the_same_time,
    a_method_may_end_before_the_items,
    a_method_may_drop_the_items,
    a_slow_method_slows_the_caller_down,
    large_items_are_limited_by_their_size,
    a_dropped_call_ends_the_method,
    items_end_with_their_method,
    a_method_that_panics_is_a_fault,
    an_item_that_cannot_be_sent_ends_the_call,
    uploads_work_with_every_codec_and_reply_queue,
    many_uploads_share_a_handle,
    an_idle_upload_goes_on,
    a_caller_that_sends_no_items_is_refused,
    layers_see_the_call,
    the_time_limit_begins_at_the_end_of_the_items,
}

async fn serve_with(broker: &Broker, queue: &str, counter: &Counter) -> RunningServer {
    let server = Server::new(broker).serve_on(RequestQueue::new(queue), StoreServer::new(counter.clone()));
    soon("it starts", server.start()).await.unwrap()
}

fn client(broker: &Broker, queue: &str) -> StoreClient {
    StoreClient::builder(broker).queue(queue).timeout(SOON).build()
}

/// A worker, and a client with a handle of its own.
async fn scene(world: &World, counter: &Counter) -> (RunningServer, StoreClient) {
    let queue = unique("store");
    let server = serve_with(&world.broker().await, &queue, counter).await;
    (server, client(&world.broker().await, &queue))
}

fn has_fault<T, E>(outcome: &Result<T, CallError<E>>, code: &FaultCode) -> bool {
    matches!(outcome, Err(CallError::Fault(fault)) if fault.code == *code)
}

/// Numbers that are counted when they are polled, and the counter.
fn counted(to: u64) -> (impl Stream<Item = u64> + Send + 'static, Arc<AtomicU64>) {
    let polled = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&polled);
    let numbers = stream::iter(0..to).inspect(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    (numbers, polled)
}

/// A stream that counts for as long as it exists, and never yields.
fn endless() -> (Pin<Box<dyn Stream<Item = u64> + Send>>, Arc<AtomicUsize>) {
    let running = Arc::new(AtomicUsize::new(1));
    let guard = Running(Arc::clone(&running));
    let stream = stream::pending().inspect(move |_: &u64| {
        let _ = &guard;
    });
    (stream.boxed(), running)
}

async fn dropped(running: &AtomicUsize) {
    let is_dropped = async || Ok(running.load(Ordering::SeqCst) == 0);
    until("the stream is dropped", SOON, is_dropped).await.unwrap();
}

async fn items_arrive_in_order_and_the_result_follows(world: World) {
    let (server, store) = scene(&world, &Counter::new()).await;
    for to in [0, 1, 2, 5000] {
        let called = store.count(stream::iter(0..to));
        assert_eq!(soon("it returns", called).await.unwrap(), to);
    }
    let blocks = stream::iter((0..100).map(|_| vec![7; 50_000]));
    assert_eq!(soon("it returns", store.size(blocks)).await.unwrap(), 5_000_000);
    let wrong = soon("it fails", store.count(stream::iter([0, 2]))).await;
    assert!(matches!(wrong, Err(CallError::Service(text)) if text == "2 follows 1 numbers"));
    let (numbers, polled) = counted(3);
    let call = store.count(numbers);
    tokio::task::yield_now().await;
    assert_eq!(polled.load(Ordering::SeqCst), 0);
    assert_eq!(soon("it returns", call).await.unwrap(), 3);
    server.stop().await.unwrap();
}

async fn both_directions_go_on_at_the_same_time(world: World) {
    let (server, store) = scene(&world, &Counter::new()).await;
    let doubled: Vec<_> = soon("it ends", store.double(2, stream::iter(0..5000)).collect()).await;
    let doubled: Vec<_> = doubled.into_iter().map(Result::unwrap).collect();
    assert!(doubled.into_iter().eq((0..5000).map(|number| 2 * number)));
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let lines = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    let mut answers = store.double(3, lines).credit(1);
    for number in 0..50 {
        sender.send(number).unwrap();
        let answer = soon("it answers", answers.next()).await.unwrap();
        assert_eq!(answer.unwrap(), 3 * number);
    }
    drop(sender);
    assert!(soon("it ends", answers.next()).await.is_none());
    server.stop().await.unwrap();
}

async fn a_method_may_end_before_the_items(world: World) {
    let (server, store) = scene(&world, &Counter::new()).await;
    let (numbers, running) = endless();
    let numbers = stream::iter([1, 2]).chain(numbers);
    assert_eq!(soon("it returns", store.some(2, numbers)).await.unwrap(), 3);
    assert_eq!(
        running.load(Ordering::SeqCst),
        0,
        "it is dropped before the call returns"
    );
    let many = store.some(3, stream::iter(0..u64::MAX));
    assert_eq!(soon("it returns", many).await.unwrap(), 3);
    server.stop().await.unwrap();
}

async fn a_method_may_drop_the_items(world: World) {
    let counter = Counter::behind(Gate::closed());
    let (server, store) = scene(&world, &counter).await;
    let (numbers, running) = endless();
    let call = tokio::spawn(store.some(1, stream::iter([7]).chain(numbers)));
    counter.gate.began(1).await;
    dropped(&running).await;
    counter.gate.let_all_go();
    assert_eq!(soon("it returns", call).await.unwrap().unwrap(), 7);
    server.stop().await.unwrap();
}

async fn a_slow_method_slows_the_caller_down(world: World) {
    let counter = Counter::behind(Gate::closed());
    let (server, store) = scene(&world, &counter).await;
    let (numbers, polled) = counted(10_000);
    let call = tokio::spawn(store.slow(numbers, "slow"));
    counter.gate.began(1).await;
    let is_full = async || Ok(polled.load(Ordering::SeqCst) >= 1024);
    until("the credit is used", SOON, is_full).await.unwrap();
    for taken in [10, 500, 900] {
        counter.gate.let_go(taken);
        counter.gate.began(u32::try_from(taken).unwrap()).await;
        let (polled, taken) = (
            polled.load(Ordering::SeqCst),
            counter.taken.load(Ordering::SeqCst),
        );
        assert!(polled <= taken + 1024 + 2, "{polled} polled, {taken} taken");
    }
    counter.gate.let_all_go();
    assert_eq!(soon("it returns", call).await.unwrap().unwrap(), 10_000);
    server.stop().await.unwrap();
}

async fn large_items_are_limited_by_their_size(world: World) {
    #[service]
    trait Blocks {
        async fn last(&self, blocks: Incoming<Vec<u8>>) -> usize;
    }

    struct Slow(Gate);

    impl Blocks for Slow {
        async fn last(&self, mut blocks: Incoming<Vec<u8>>) -> usize {
            self.0.pass().await;
            let mut count = 0;
            while let Some(block) = blocks.next().await {
                assert_eq!(block.unwrap().len(), 1 << 20);
                count += 1;
            }
            count
        }
    }

    let (queue, gate) = (unique("blocks"), Gate::closed());
    let server = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&queue), BlocksServer::new(Slow(gate.clone())));
    let server = server.start().await.unwrap();
    let blocks = BlocksClient::builder(&world.broker().await).queue(&queue).build();
    let (numbers, polled) = counted(40);
    let call = tokio::spawn(blocks.last(numbers.map(|_| vec![0; 1 << 20])));
    gate.began(1).await;
    let is_full = async || Ok(polled.load(Ordering::SeqCst) == 4);
    until("4 MiB are sent", SOON, is_full).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(polled.load(Ordering::SeqCst), 4);
    gate.let_all_go();
    assert_eq!(soon("it returns", call).await.unwrap().unwrap(), 40);
    server.stop().await.unwrap();
}

async fn a_dropped_call_ends_the_method(world: World) {
    let counter = Counter::new();
    let (server, store) = scene(&world, &counter).await;
    let (numbers, running) = endless();
    let call = tokio::spawn(store.count(stream::iter(0..3).chain(numbers)));
    let has_taken = async || Ok(counter.taken.load(Ordering::SeqCst) == 3);
    until("it takes the first items", SOON, has_taken).await.unwrap();
    call.abort();
    dropped(&running).await;
    counter.ended().await;
    let (numbers, running) = endless();
    let mut chat = store.double(2, stream::iter([1]).chain(numbers));
    assert_eq!(soon("it answers", chat.next()).await.unwrap().unwrap(), 2);
    drop(chat);
    dropped(&running).await;
    counter.ended().await;
    server.stop().await.unwrap();
}

#[service]
trait Detached {
    /// Reads the numbers in a task, and returns at once.
    async fn begin(&self, numbers: Incoming<u64>);
}

struct Detaching(tokio::sync::mpsc::UnboundedSender<IncomingError>);

impl Detached for Detaching {
    async fn begin(&self, mut numbers: Incoming<u64>) {
        let errors = self.0.clone();
        tokio::spawn(async move {
            while let Some(number) = numbers.next().await {
                if let Err(error) = number {
                    errors.send(error).unwrap();
                }
            }
        });
    }
}

async fn items_end_with_their_method(world: World) {
    let (errors, mut received) = tokio::sync::mpsc::unbounded_channel();
    let queue = unique("detached");
    let service = DetachedServer::new(Detaching(errors.clone()));
    let server = Server::new(&world.broker().await).serve_on(RequestQueue::new(&queue), service);
    let server = soon("it starts", server.start()).await.unwrap();
    let over_broker = DetachedClient::builder(&world.broker().await)
        .queue(&queue)
        .build();
    for detached in [over_broker, DetachedClient::in_process(Detaching(errors))] {
        let (numbers, running) = endless();
        soon("it returns", detached.begin(numbers)).await.unwrap();
        let error = soon("the items end", received.recv()).await.unwrap();
        assert!(matches!(error, IncomingError::Interrupted), "{error:?}");
        dropped(&running).await;
    }
    server.stop().await.unwrap();
}

async fn a_method_that_panics_is_a_fault(world: World) {
    let (server, store) = scene(&world, &Counter::new()).await;
    let (numbers, running) = endless();
    let outcome = soon("it ends", store.panic(stream::iter([1]).chain(numbers))).await;
    assert!(has_fault(&outcome, &FaultCode::Panicked), "{outcome:?}");
    dropped(&running).await;
    let unknown = client(&world.broker().await, &unique("nobody"));
    let outcome = soon("it fails", unknown.count(endless().0)).await;
    assert!(matches!(outcome, Err(CallError::NoServer { .. })), "{outcome:?}");
    server.stop().await.unwrap();
}

async fn an_item_that_cannot_be_sent_ends_the_call(world: World) {
    let counter = Counter::new();
    let queue = unique("store");
    let server = serve_with(&world.broker().await, &queue, &counter).await;
    let caller = world.broker_with(Broker::builder().max_sent_bytes(1000)).await;
    let store = client(&caller, &queue);
    let outcome = soon("it fails", store.size(stream::iter([vec![1; 10], vec![1; 2000]]))).await;
    let Err(error @ CallError::BadItem { .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.executed(), Executed::Maybe);
    let worker = world
        .broker_with(Broker::builder().max_accepted_bytes(1000))
        .await;
    let queue = unique("store");
    let small = serve_with(&worker, &queue, &counter).await;
    let store = client(&world.broker().await, &queue);
    let outcome = soon("it fails", store.size(stream::iter([vec![1; 10], vec![1; 2000]]))).await;
    assert!(
        matches!(&outcome, Err(CallError::Service(text)) if text.starts_with("TooLarge")),
        "{outcome:?}"
    );
    server.stop().await.unwrap();
    small.stop().await.unwrap();
}

async fn uploads_work_with_every_codec_and_reply_queue(world: World) {
    let queue = unique("store");
    let server = serve_with(&world.broker().await, &queue, &Counter::new()).await;
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let caller = world.broker_with(Broker::builder().reply_queue(replies)).await;
        for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
            let store = StoreClient::builder(&caller).queue(&queue).codec(codec).build();
            let count = soon("it returns", store.count(stream::iter(0..2500))).await;
            assert_eq!(count.unwrap(), 2500, "{replies:?} {codec:?}");
        }
    }
    server.stop().await.unwrap();
}

async fn many_uploads_share_a_handle(world: World) {
    let (server, store) = scene(&world, &Counter::new()).await;
    let calls = (0..40).map(|n| {
        let call = store.count(stream::iter(0..300 + n));
        async move { assert_eq!(call.await.unwrap(), 300 + n) }
    });
    soon("they return", futures_util::future::join_all(calls)).await;
    server.stop().await.unwrap();
}

/// Nothing is sent for longer than a silent peer is waited for.
async fn an_idle_upload_goes_on(world: World) {
    let counter = Counter::new();
    let (server, store) = scene(&world, &counter).await;
    let store = StoreClient::clone(&store);
    let pause = stream::once(async {
        tokio::time::sleep(Duration::from_secs(18)).await;
        1
    });
    let call = store
        .count(stream::iter([0]).chain(pause))
        .timeout(Duration::from_secs(5));
    assert_eq!(soon("it returns", call).await.unwrap(), 2);
    server.stop().await.unwrap();
}

async fn a_caller_that_sends_no_items_is_refused(world: World) {
    let queue = unique("store");
    let server = serve_with(&world.broker().await, &queue, &Counter::new()).await;
    let mut description = <StoreClient as ServiceClient>::SERVICE.description();
    assert_eq!(
        description.method("count").unwrap().incoming.as_deref(),
        Some("u64")
    );
    description.queue.clone_from(&queue);
    // An earlier version of the method.
    for method in &mut description.methods {
        method.incoming = None;
    }
    let dynamic = DynamicClient::builder(&world.broker().await, description)
        .unwrap()
        .build();
    let refused = soon("it is refused", dynamic.call("count", json!({}))).await;
    assert!(has_fault(&refused, &FaultCode::BadRequest), "{refused:?}");
    server.stop().await.unwrap();
}

async fn layers_see_the_call(world: World) {
    let queue = unique("store");
    let calls = Arc::<AtomicUsize>::default();
    let (of_server, of_client) = (Arc::clone(&calls), Arc::clone(&calls));
    let server = Server::new(&world.broker().await)
        .layer(layer_fn(move |inner| {
            let calls = Arc::clone(&of_server);
            tower::util::MapRequest::new(inner, move |call: IncomingCall| {
                assert_eq!(call.method(), "count");
                calls.fetch_add(1, Ordering::SeqCst);
                call
            })
        }))
        .serve_on(RequestQueue::new(&queue), StoreServer::new(Counter::new()));
    let server = server.start().await.unwrap();
    let store = StoreClient::builder(&world.broker().await)
        .queue(&queue)
        .layer(layer_fn(move |inner: CallService| {
            let calls = Arc::clone(&of_client);
            tower::util::MapResponse::new(inner, move |reply: CallReply| {
                calls.fetch_add(10, Ordering::SeqCst);
                reply
            })
        }))
        .build();
    let _: fn(&OutgoingCall) -> &str = OutgoingCall::method;
    let count = soon("it returns", store.count(stream::iter(0..2000))).await;
    assert_eq!((count.unwrap(), calls.load(Ordering::SeqCst)), (2000, 11));
    server.stop().await.unwrap();
}

async fn the_time_limit_begins_at_the_end_of_the_items(world: World) {
    let counter = Counter::behind(Gate::closed());
    let (server, store) = scene(&world, &counter).await;
    let limit = Duration::from_secs(3);
    let slowly = stream::iter(0..4).then(async |number| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        number
    });
    let call = store.some(10, slowly).timeout(limit);
    let outcome = soon("it ends", call).await;
    assert!(
        matches!(&outcome, Err(CallError::TimedOut { limit: waited, .. }) if *waited == limit),
        "{outcome:?}"
    );
    // It had all items.
    counter.gate.began(1).await;
    counter.ended().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_in_process_sends_the_same_items() {
    let counter = Counter::new();
    let store = StoreClient::in_process(counter.clone());
    for to in [0, 1, 5000] {
        assert_eq!(store.count(stream::iter(0..to)).await.unwrap(), to);
    }
    let doubled: Vec<_> = store.double(2, stream::iter(0..3000)).collect().await;
    assert_eq!(doubled.len(), 3000);
    let (numbers, running) = endless();
    assert_eq!(store.some(1, stream::iter([5]).chain(numbers)).await.unwrap(), 5);
    assert_eq!(running.load(Ordering::SeqCst), 0);
    let (numbers, running) = endless();
    let call = tokio::spawn(store.count(numbers));
    let begun = async || Ok(counter.running.load(Ordering::SeqCst) == 1);
    until("it begins", SOON, begun).await.unwrap();
    call.abort();
    dropped(&running).await;
    counter.ended().await;
}

#[tokio::test]
async fn an_implementation_is_tested_with_ready_items() {
    let counter = Counter::new();
    assert_eq!(counter.count(Incoming::ready([Ok(0), Ok(1)])).await, Ok(2));
    let broken = Incoming::ready([Ok(0), Err(IncomingError::Interrupted), Ok(1)]);
    assert_eq!(counter.count(broken).await, Err("Interrupted".to_owned()));
}

/// Resets the connections of a worker or a caller again and again while items are sent.
async fn reset_while_sending(of_caller: bool) {
    let queue = unique("store");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let behind = Broker::builder().address(proxy.url()).connect().await.unwrap();
    let direct = Broker::connect(shared().await).await.unwrap();
    let (worker, caller) = if of_caller {
        (direct, behind)
    } else {
        (behind, direct)
    };
    let counter = Counter::new();
    let server = serve_with(&worker, &queue, &counter).await;
    let numbers = stream::iter(0..40_000).then(async |number| {
        if number % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        number
    });
    let call = tokio::spawn(client(&caller, &queue).count(numbers));
    for taken in [1000, 10_000, 20_000, 30_000] {
        let has_taken = async || Ok(counter.taken.load(Ordering::SeqCst) >= taken);
        until("it takes items", SOON, has_taken).await.unwrap();
        proxy.reset(Target::All).await;
    }
    assert_eq!(soon("it returns", call).await.unwrap().unwrap(), 40_000);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_lost_with_a_connection_of_the_worker() {
    reset_while_sending(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_lost_with_a_connection_of_the_caller() {
    reset_while_sending(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_gone_breaks_the_items_off() {
    let queue = unique("store");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let caller = Broker::builder().address(proxy.url()).connect().await.unwrap();
    let worker = Broker::connect(shared().await).await.unwrap();
    let (outcome, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let counter = Counter::new();
    let service = Observed(counter.clone(), outcome);
    let server = Server::new(&worker).serve_on(RequestQueue::new(&queue), SinkServer::new(service));
    let server = server.start().await.unwrap();
    let sink = SinkClient::builder(&caller).queue(&queue).build();
    let call = tokio::spawn(sink.drain(stream::iter([1]).chain(endless().0)));
    assert_eq!(soon("it begins", outcomes.recv()).await.unwrap(), "1");
    let _hole = proxy.black_hole(Target::All, Direction::Both);
    let ended = soon("it ends", outcomes.recv()).await.unwrap();
    assert_eq!(ended, "Interrupted");
    call.abort();
    server.stop().await.unwrap();
}

#[service]
trait Sink {
    async fn drain(&self, numbers: Incoming<u64>);
    /// Takes no number, and never returns.
    async fn linger(&self, numbers: Incoming<u64>);
}

/// Reports what it receives.
struct Observed(Counter, tokio::sync::mpsc::UnboundedSender<String>);

impl Sink for Observed {
    async fn drain(&self, mut numbers: Incoming<u64>) {
        let _running = self.0.begin();
        while let Some(number) = numbers.next().await {
            let number = number.map_or_else(|error| format!("{error:?}"), |number| number.to_string());
            self.1.send(number).unwrap();
        }
    }

    async fn linger(&self, numbers: Incoming<u64>) {
        let _running = self.0.begin();
        let _numbers = numbers;
        std::future::pending::<()>().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_gone_ends_the_call() {
    let queue = unique("store");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let worker = Broker::builder().address(proxy.url()).connect().await.unwrap();
    let counter = Counter::new();
    let _server = serve_with(&worker, &queue, &counter).await;
    let caller = Broker::connect(shared().await).await.unwrap();
    let (numbers, running) = endless();
    let call = tokio::spawn(client(&caller, &queue).count(stream::iter([0]).chain(numbers)));
    let has_taken = async || Ok(counter.taken.load(Ordering::SeqCst) == 1);
    until("it takes an item", SOON, has_taken).await.unwrap();
    let _hole = proxy.black_hole(Target::All, Direction::Both);
    let interrupted = soon("it ends", call).await.unwrap();
    assert!(
        has_fault(&interrupted, &FaultCode::Interrupted),
        "{interrupted:?}"
    );
    dropped(&running).await;
}

/// A peer of another library that sends items to a method.
struct RawCaller {
    peer: RawPeer,
    replies: lapin::Consumer,
    outcomes: tokio::sync::mpsc::UnboundedReceiver<String>,
    counter: Counter,
    queue: String,
    reply_to: String,
    server: RunningServer,
    id: String,
    key: String,
}

impl RawCaller {
    async fn begin() -> Self {
        Self::call("drain").await
    }

    /// Calls a method, and waits for the first credit.
    async fn call(method: &str) -> Self {
        let queue = unique("store");
        let worker = Broker::connect(shared().await).await.unwrap();
        let (outcome, outcomes) = tokio::sync::mpsc::unbounded_channel();
        let counter = Counter::new();
        let service = Observed(counter.clone(), outcome);
        let server = Server::new(&worker).serve_on(RequestQueue::new(&queue), SinkServer::new(service));
        let server = server.start().await.unwrap();
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let reply_to = peer.declare_exclusive().await.unwrap();
        let mut replies = peer.consume(&reply_to).await.unwrap();
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
        let properties =
            properties(method, &id, &[("rpc-incoming", "1")]).with_reply_to(reply_to.as_str().into());
        peer.publish(&queue, properties, b"{}").await.unwrap();
        let credit = next(&mut replies, SOON).await.unwrap().unwrap();
        assert_eq!(credit.properties.kind().as_ref().unwrap().as_str(), "rpc.credit");
        assert_eq!(&*credit.data, b"\x93\xcd\x04\x00\x00\x00");
        let headers = credit.properties.headers().clone().unwrap();
        let Some(AMQPValue::LongString(worker)) = headers.inner().get("rpc-worker") else {
            panic!("{headers:?}");
        };
        let worker: serde_json::Value = serde_json::from_str(&worker.to_string()).unwrap();
        Self {
            key: format!("{}.items", worker["id"].as_str().unwrap()),
            peer,
            replies,
            outcomes,
            counter,
            queue,
            reply_to,
            server,
            id,
        }
    }

    async fn send_to(&self, key: &str, properties: BasicProperties, body: &[u8]) {
        let publishing = self.peer.channel().basic_publish(
            "rpc.control".into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        );
        publishing.await.unwrap().await.unwrap();
    }

    async fn send(&self, headers: &[(&str, &str)], body: &[u8]) {
        self.send_to(&self.key, properties("rpc.items", &self.id, headers), body)
            .await;
    }

    /// Sends items of one byte each.
    async fn items(&self, first: u8, items: &[u8]) {
        let mut body = vec![0x92, first, 0x90 + u8::try_from(items.len()).unwrap()];
        items.iter().for_each(|item| body.extend([0xc4, 1, *item]));
        self.send(&[], &body).await;
    }

    async fn end(&self, count: u8) {
        self.send(&[("rpc-items", &count.to_string())], &[0x92, count, 0x90])
            .await;
    }

    async fn outcome(&mut self) -> String {
        soon("it arrives", self.outcomes.recv()).await.unwrap()
    }

    /// Waits for a message of this type to the caller.
    async fn reply(&mut self, kind: &str) -> lapin::message::Delivery {
        loop {
            let reply = next(&mut self.replies, SOON).await.unwrap().unwrap();
            if reply.properties.kind().as_ref().unwrap().as_str() == kind {
                return reply;
            }
        }
    }
}

fn properties(kind: &str, id: &str, headers: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    BasicProperties::default()
        .with_type(kind.into())
        .with_content_type("application/json".into())
        .with_correlation_id(id.into())
        .with_headers(table)
}

#[tokio::test]
async fn messages_twice_and_of_others_do_no_harm() {
    let mut caller = RawCaller::begin().await;
    caller.items(0, b"12").await;
    caller.items(0, b"12").await;
    caller.items(1, b"23").await;
    // A gap: the items are asked for again.
    caller.items(5, b"9").await;
    // Other credit may tell which items were taken.
    while caller.reply("rpc.credit").await.data.last() != Some(&1) {}
    let foreign = properties("rpc.items", "11111111-10b1-426f-9247-bb680e5fe0c8", &[]);
    caller
        .send_to(&caller.key, foreign, b"\x92\x00\x91\xc4\x017")
        .await;
    let other = properties("rpc.cancel", &caller.id, &[]);
    caller.send_to(&caller.key, other, b"\x90").await;
    caller.send(&[], b"\xc1 nonsense").await;
    caller.send(&[], b"\xdd\xff\xff\xff\xff").await;
    caller.send(&[("rpc-items", "many")], b"\x92\x00\x90").await;
    caller.items(3, b"45").await;
    caller.end(5).await;
    for number in 1..=5 {
        assert_eq!(caller.outcome().await, number.to_string());
    }
    let reply = caller.reply("result").await;
    let headers = reply.properties.headers().clone().unwrap();
    assert!(headers.inner().contains_key("rpc-worker"));
    caller.server.stop().await.unwrap();
}

#[tokio::test]
async fn items_that_cannot_be_break_the_stream_off() {
    for wrong in 0..4 {
        let mut caller = RawCaller::begin().await;
        caller.items(0, b"1").await;
        assert_eq!(caller.outcome().await, "1");
        match wrong {
            // Beyond the credit.
            0 => caller.send(&[], b"\x92\xcd\x04\x01\x91\xc4\x017").await,
            // Another count than the number of the message.
            1 => caller.send(&[("rpc-items", "7")], b"\x92\x01\x90").await,
            // Fewer than arrived.
            2 => caller.end(0).await,
            // Not a number.
            _ => caller.items(1, b"x").await,
        }
        let outcome = caller.outcome().await;
        let expected = if wrong == 3 { "Decode" } else { "Protocol" };
        assert!(outcome.starts_with(expected), "{wrong}: {outcome}");
        caller.reply("result").await;
        caller.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_request_with_the_id_of_another_gets_none_of_its_items() {
    let mut caller = RawCaller::begin().await;
    let reply_to = caller.peer.declare_exclusive().await.unwrap();
    let mut replies = caller.peer.consume(&reply_to).await.unwrap();
    let properties = properties("drain", &caller.id, &[("rpc-incoming", "1")]);
    let properties = properties.with_reply_to(reply_to.as_str().into());
    caller
        .peer
        .publish(&caller.queue, properties, b"{}")
        .await
        .unwrap();
    let refused = next(&mut replies, SOON).await.unwrap().unwrap();
    assert_eq!(refused.properties.kind().as_ref().unwrap().as_str(), "fault");
    let fault: serde_json::Value = serde_json::from_slice(&refused.data).unwrap();
    assert_eq!(fault["code"], "bad_request");
    caller.items(0, b"1").await;
    assert_eq!(caller.outcome().await, "1");
    caller.end(1).await;
    caller.reply("result").await;
    caller.server.stop().await.unwrap();
}

/// The caller has lost its reply queue before it got the first credit.
#[tokio::test]
async fn a_request_that_is_sent_again_with_another_reply_address_begins_again() {
    let mut caller = RawCaller::call("drain").await;
    assert_eq!(caller.counter.running.load(Ordering::SeqCst), 1);
    let reply_to = caller.peer.declare_exclusive().await.unwrap();
    caller.replies = caller.peer.consume(&reply_to).await.unwrap();
    let headers = [("rpc-incoming", "1"), ("rpc-resent", "")];
    let again = properties("drain", &caller.id, &headers).with_reply_to(reply_to.as_str().into());
    caller.peer.publish(&caller.queue, again, b"{}").await.unwrap();
    let credit = next(&mut caller.replies, SOON).await.unwrap().unwrap();
    assert_eq!(credit.properties.kind().as_ref().unwrap().as_str(), "rpc.credit");
    assert_eq!(caller.counter.running.load(Ordering::SeqCst), 1);
    caller.items(0, b"1").await;
    assert_eq!(caller.outcome().await, "1");
    caller.end(1).await;
    caller.reply("result").await;
    caller.counter.ended().await;
    caller.server.stop().await.unwrap();
}

/// It knows no streams from callers, or has another version of the service.
#[tokio::test]
async fn a_worker_that_receives_no_items_is_an_error() {
    let (worker, call) = RawWorker::begin().await;
    let properties = properties("result", &worker.id, &[]);
    worker
        .peer
        .publish(&worker.reply_to, properties, b"0")
        .await
        .unwrap();
    let failed = soon("it fails", call).await.unwrap();
    assert!(matches!(failed, Err(CallError::BadReply { .. })), "{failed:?}");

    let queue = unique("older");
    let broker = Broker::connect(shared().await).await.unwrap();
    let server = Server::new(&broker).serve_on(RequestQueue::new(&queue), OlderServer::new(OlderStore));
    let server = server.start().await.unwrap();
    let refused = soon("it fails", client(&broker, &queue).count(endless().0)).await;
    assert!(has_fault(&refused, &FaultCode::BadRequest), "{refused:?}");
    server.stop().await.unwrap();
}

/// Receives no numbers yet.
#[service]
trait Older {
    async fn count(&self) -> Result<u64, String>;
}

struct OlderStore;

impl Older for OlderStore {
    async fn count(&self) -> Result<u64, String> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_method_whose_caller_is_gone_ends() {
    let caller = RawCaller::call("linger").await;
    assert_eq!(caller.counter.running.load(Ordering::SeqCst), 1);
    let reply_to = caller.reply_to.as_str().into();
    let deleting = caller.peer.channel().queue_delete(reply_to, Default::default());
    deleting.await.unwrap();
    caller.counter.ended().await;
    caller.server.stop().await.unwrap();
}

/// A worker of the test that takes a request of an upload.
struct RawWorker {
    peer: RawPeer,
    reply_to: String,
    id: String,
    own: String,
}

const WORKER: &str = "5a3ff4d3-3a4f-4e0e-8c9e-6c8f0c7a2a10";

impl RawWorker {
    async fn begin() -> (Self, JoinHandle<Result<u64, CallError<String>>>) {
        Self::begin_with(FieldTable::default()).await
    }

    /// Begins with a queue for items that has these arguments.
    async fn begin_with(arguments: FieldTable) -> (Self, JoinHandle<Result<u64, CallError<String>>>) {
        let queue = unique("store");
        let peer = RawPeer::connect(shared().await).await.unwrap();
        peer.declare(&queue).await.unwrap();
        let mut requests = peer.consume(&queue).await.unwrap();
        let options = lapin::options::QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let own = peer.channel().queue_declare("".into(), options, arguments).await;
        let own = own.unwrap().name().to_string();
        // Another worker has declared the exchange, or this does.
        let options = lapin::options::ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let direct = lapin::ExchangeKind::Direct;
        let declaring =
            (peer.channel()).exchange_declare("rpc.control".into(), direct, options, FieldTable::default());
        declaring.await.unwrap();
        let key = format!("{WORKER}.items");
        let binding = peer.channel().queue_bind(
            own.as_str().into(),
            "rpc.control".into(),
            key.into(),
            lapin::options::QueueBindOptions::default(),
            FieldTable::default(),
        );
        binding.await.unwrap();
        let caller = Broker::connect(shared().await).await.unwrap();
        let store = StoreClient::builder(&caller)
            .queue(&queue)
            .codec(Codec::Json)
            .timeout(SOON)
            .build();
        let call = tokio::spawn(store.count(stream::iter(0..5)));
        let request = next(&mut requests, SOON).await.unwrap().unwrap();
        let properties = &request.properties;
        let headers = properties.headers().clone().unwrap();
        let version = headers.inner().get("rpc-incoming").cloned();
        assert_eq!(version, Some(AMQPValue::LongString("1".into())));
        assert!(!headers.inner().contains_key("rpc-credit"));
        let worker = Self {
            reply_to: properties.reply_to().clone().unwrap().to_string(),
            id: properties.correlation_id().clone().unwrap().to_string(),
            peer,
            own,
        };
        (worker, call)
    }

    async fn send(&self, kind: &str, worker: &str, body: &[u8]) {
        let worker = format!(r#"{{"id":"{worker}"}}"#);
        let properties = properties(kind, &self.id, &[("rpc-worker", &worker)]);
        self.peer.publish(&self.reply_to, properties, body).await.unwrap();
    }

    /// Consumes the items from now on.
    async fn items(&self) -> lapin::Consumer {
        self.peer.consume(&self.own).await.unwrap()
    }
}

async fn next_items(items: &mut lapin::Consumer) -> Vec<u8> {
    let message = next(items, SOON).await.unwrap().unwrap();
    assert_eq!(message.properties.kind().as_ref().unwrap().as_str(), "rpc.items");
    message.data
}

#[tokio::test]
async fn only_the_first_worker_gets_the_items() {
    let (worker, call) = RawWorker::begin().await;
    let mut items = worker.items().await;
    let other = "11111111-3a4f-4e0e-8c9e-6c8f0c7a2a10";
    worker.send("rpc.credit", WORKER, b"\x93\x02\x00\x00").await;
    assert_eq!(
        next_items(&mut items).await,
        b"\x93\x00\x92\xc4\x010\xc4\x011\x02"
    );
    worker.send("rpc.credit", other, b"\x93\x07\x00\x00").await;
    worker.send("rpc.credit", other, b"\xc1 nonsense").await;
    worker.send("fault", other, br#"{"code":"interrupted"}"#).await;
    worker.send("rpc.credit", WORKER, b"\x93\x03\x02\x00").await;
    assert_eq!(next_items(&mut items).await, b"\x93\x02\x91\xc4\x012\x03");
    // The last item again, and then the others.
    worker.send("rpc.credit", WORKER, b"\x93\x0f\x02\x01").await;
    assert_eq!(next_items(&mut items).await, b"\x93\x02\x91\xc4\x012\x0f");
    assert_eq!(
        next_items(&mut items).await,
        b"\x93\x03\x92\xc4\x013\xc4\x014\x0f"
    );
    assert_eq!(next_items(&mut items).await, b"\x93\x05\x90\x0f");
    worker.send("result", WORKER, b"5").await;
    assert_eq!(soon("it returns", call).await.unwrap().unwrap(), 5);
}

/// Those before it are not sent again.
#[tokio::test]
async fn a_message_that_the_broker_refuses_is_sent_again() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    let overflow = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), overflow);
    let (worker, call) = RawWorker::begin_with(arguments).await;
    worker.send("rpc.credit", WORKER, b"\x93\x0f\x00\x00").await;
    // The queue has room for the items, and not for the end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut items = worker.items().await;
    for expected in [
        &b"\x93\x00\x95\xc4\x010\xc4\x011\xc4\x012\xc4\x013\xc4\x014\x0f"[..],
        b"\x93\x05\x90\x0f",
    ] {
        assert_eq!(next_items(&mut items).await, expected);
    }
    worker.send("result", WORKER, b"5").await;
    assert_eq!(soon("it returns", call).await.unwrap().unwrap(), 5);
}

#[tokio::test]
async fn a_worker_that_cannot_be_is_an_error() {
    for (body, worker) in [
        (&b"\x93\x02\x09\x00"[..], WORKER),
        (&b"\x93\x02\x00\x00"[..], "everybody"),
        (&b"\xc1 nonsense"[..], WORKER),
    ] {
        let (raw, call) = RawWorker::begin().await;
        raw.send("rpc.credit", worker, body).await;
        let failed = soon("it fails", call).await.unwrap();
        assert!(matches!(failed, Err(CallError::BadReply { .. })), "{failed:?}");
    }
}

/// A worker, and a caller with these permissions beside those of a call.
async fn with_permissions(may_send: &str) -> (Vhost, RunningServer, StoreClient) {
    let vhost = Vhost::new().await;
    let worker = Permissions {
        configure: "^(store([.]batch)?$|rpc[.]control([.]|$))",
        write: "^(amq[.]default$|rpc[.]control[.])",
        read: "^(store([.]batch)?$|rpc[.]control([.]|$))",
    };
    let worker = Broker::builder()
        .address(vhost.url_of_user(worker).await)
        .connect();
    let server = serve_with(&worker.await.unwrap(), "store", &Counter::new()).await;
    let caller = Permissions {
        configure: "^rpc[.]reply[.]",
        write: may_send,
        read: "^rpc[.]reply[.]",
    };
    let caller = Broker::builder()
        .address(vhost.url_of_user(caller).await)
        .connect();
    let store = client(&caller.await.unwrap(), "store");
    (vhost, server, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_for_streams_are_enough() {
    let (_vhost, server, store) = with_permissions("^(amq[.]default|rpc[.]control)$").await;
    let count = soon("it returns", store.count(stream::iter(0..3000))).await;
    assert_eq!(count.unwrap(), 3000);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_permission_to_send_items_gets_an_error() {
    let (_vhost, server, store) = with_permissions("^amq[.]default$").await;
    let (numbers, running) = endless();
    let refused = soon("it fails", store.count(stream::iter([0]).chain(numbers))).await;
    assert!(matches!(refused, Err(CallError::Broker { .. })), "{refused:?}");
    dropped(&running).await;
    server.stop().await.unwrap();
}
