//! A stream of items reaches its caller in order, without gaps or duplicates, and no faster than
//! the caller reads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use rpc_runtime::{
    Answer, Broker, CallError, Codec, DynamicClient, Executed, FallibleStreamingCall, FaultCode, MethodKind,
    ReplyQueue, RequestQueue, RunningServer, Server, ServerError, ServiceClient, StreamingCall, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;
use tower::util::MapResponseLayer;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Broken {
    after: u64,
}

#[service]
trait Feed {
    /// The numbers below this one.
    fn count(&self, to: u64) -> impl Stream<Item = u64>;
    /// Waits at the gate before each number.
    fn wait(&self, to: u64) -> impl Stream<Item = u64>;
    fn words(&self, text: &str, more: &[String]) -> impl Stream<Item = String>;
    fn fail(&self, after: u64) -> impl Stream<Item = Result<u64, Broken>>;
    fn panic(&self, after: u64) -> impl Stream<Item = u64>;
    #[rpc(idempotent)]
    fn blocks(&self, count: u64, size: usize) -> impl Stream<Item = Vec<u8>>;
    async fn one(&self) -> u64;
}

/// Yields numbers, and counts them.
#[derive(Clone)]
struct Numbers {
    gate: Gate,
    yielded: Arc<AtomicU64>,
    running: Arc<AtomicUsize>,
}

impl Numbers {
    fn new() -> Self {
        Self::behind(Gate::open())
    }

    fn behind(gate: Gate) -> Self {
        Self {
            gate,
            yielded: Arc::default(),
            running: Arc::default(),
        }
    }

    fn yielded(&self) -> u64 {
        self.yielded.load(Ordering::SeqCst)
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn numbers(&self, to: u64) -> impl Stream<Item = u64> + use<> {
        let running = Running::begin(&self.running);
        let yielded = Arc::clone(&self.yielded);
        stream::iter(0..to).inspect(move |_| {
            let _ = &running;
            yielded.fetch_add(1, Ordering::SeqCst);
        })
    }
}

/// Counts a stream for as long as it exists.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Feed for Numbers {
    fn count(&self, to: u64) -> impl Stream<Item = u64> {
        self.numbers(to)
    }

    fn wait(&self, to: u64) -> impl Stream<Item = u64> {
        self.numbers(to).then(async |number| {
            self.gate.pass().await;
            number
        })
    }

    fn words(&self, text: &str, more: &[String]) -> impl Stream<Item = String> {
        let more = more.iter().map(|word| word.to_uppercase());
        stream::iter(text.split(' ').map(str::to_uppercase).chain(more))
    }

    fn fail(&self, after: u64) -> impl Stream<Item = Result<u64, Broken>> {
        self.numbers(after + 2).map(move |number| match number < after {
            true => Ok(number),
            false => Err(Broken { after }),
        })
    }

    fn panic(&self, after: u64) -> impl Stream<Item = u64> {
        self.numbers(after + 1).inspect(move |number| {
            assert!(*number < after, "injected by the test");
        })
    }

    fn blocks(&self, count: u64, size: usize) -> impl Stream<Item = Vec<u8>> {
        self.numbers(count).map(move |number| {
            let mut block = vec![0; size];
            block[..8].copy_from_slice(&number.to_be_bytes());
            block
        })
    }

    async fn one(&self) -> u64 {
        1
    }
}

on_both_brokers! {
    items_arrive_in_order,
    an_error_of_the_method_is_the_last_item,
    a_panic_ends_the_stream,
    a_method_borrows_its_arguments,
    a_request_that_is_refused_has_no_items,
    an_item_that_is_too_large_ends_the_stream,
    a_slow_reader_slows_the_method_down,
    a_slow_reader_holds_no_more_bytes_than_it_granted,
    a_layer_cannot_replace_the_items_by_an_earlier_answer,
    a_reader_that_waits_for_too_long_times_out,
    a_dropped_stream_ends_the_method,
    streams_work_with_every_codec_and_reply_queue,
    many_streams_share_a_handle,
    a_stream_leaves_room_for_calls,
    a_caller_without_credit_gets_an_array,
    a_stopping_worker_lets_its_streams_end,
    a_stopping_worker_does_not_wait_for_a_stream_forever,
}

/// A worker with a handle of its own.
async fn serve(world: &World, queue: &str, numbers: &Numbers) -> RunningServer {
    serve_with(&world.broker().await, queue, numbers).await
}

async fn serve_with(broker: &Broker, queue: &str, numbers: &Numbers) -> RunningServer {
    let server = Server::new(broker).serve_on(RequestQueue::new(queue), FeedServer::new(numbers.clone()));
    soon("it starts", server.start()).await.unwrap()
}

fn client(broker: &Broker, queue: &str) -> FeedClient {
    FeedClient::builder(broker).queue(queue).timeout(SOON).build()
}

/// A worker, and a client with a handle of its own.
async fn scene(world: &World, numbers: &Numbers) -> (RunningServer, FeedClient) {
    let queue = unique("feed");
    let server = serve(world, &queue, numbers).await;
    (server, client(&world.broker().await, &queue))
}

async fn all<T, E>(stream: StreamingCall<T, E>) -> Vec<Result<T, CallError<E>>> {
    soon("the stream ends", stream.collect()).await
}

/// The items of a stream that ends without an error.
async fn items<T, E: std::fmt::Debug>(stream: StreamingCall<T, E>) -> Vec<T>
where
    CallError<E>: std::fmt::Debug,
{
    let items = all(stream).await.into_iter();
    items.map(|item| item.unwrap()).collect()
}

/// Waits until no stream runs.
async fn has_ended(numbers: &Numbers) {
    let has_ended = async || Ok(numbers.running() == 0);
    until("the methods end", SOON, has_ended).await.unwrap();
}

async fn items_arrive_in_order(world: World) {
    let (server, feed) = scene(&world, &Numbers::new()).await;
    for to in [0, 1, 2, 5000] {
        assert!(items(feed.count(to)).await.into_iter().eq(0..to), "{to}");
    }
    for credit in [0, 1, 2, 3, 100] {
        assert!(items(feed.count(50).credit(credit)).await.into_iter().eq(0..50));
    }
    let mut ended = feed.count(1);
    assert_eq!(soon("it arrives", ended.next()).await.unwrap().unwrap(), 0);
    for _ in 0..2 {
        assert!(soon("it has ended", ended.next()).await.is_none());
    }
    server.stop().await.unwrap();
}

async fn an_error_of_the_method_is_the_last_item(world: World) {
    let (server, feed) = scene(&world, &Numbers::new()).await;
    for after in [0, 3] {
        let mut items = all(feed.fail(after)).await;
        let last = items.pop().unwrap();
        assert!(
            matches!(&last, Err(CallError::Service(broken)) if *broken == Broken { after }),
            "{last:?}"
        );
        assert!(items.into_iter().map(Result::unwrap).eq(0..after));
    }
    server.stop().await.unwrap();
}

async fn a_panic_ends_the_stream(world: World) {
    let (server, feed) = scene(&world, &Numbers::new()).await;
    let mut items = all(feed.panic(2000).credit(100)).await;
    assert!(has_fault(&items.pop().unwrap(), &FaultCode::Panicked));
    // Those that were not sent yet are lost.
    let numbers: Vec<_> = items.into_iter().map(Result::unwrap).collect();
    assert!(numbers.len() <= 2000 && numbers.iter().copied().eq(0..numbers.len() as u64));
    server.stop().await.unwrap();
}

fn has_fault<T: std::fmt::Debug, E>(outcome: &Result<T, CallError<E>>, code: &FaultCode) -> bool {
    matches!(outcome, Err(CallError::Fault(fault)) if fault.code == *code)
}

async fn a_method_borrows_its_arguments(world: World) {
    let (server, feed) = scene(&world, &Numbers::new()).await;
    let words = feed.words("a bc", &["def".to_owned()]);
    assert_eq!(items(words).await, ["A", "BC", "DEF"]);
    server.stop().await.unwrap();
}

async fn a_request_that_is_refused_has_no_items(world: World) {
    #[service]
    trait Other {
        fn unknown(&self) -> impl Stream<Item = u64>;
    }

    let queue = unique("feed");
    let server = serve(&world, &queue, &Numbers::new()).await;
    let caller = world.broker().await;
    let other = OtherClient::builder(&caller).queue(&queue).build();
    let mut outcome = all(other.unknown()).await;
    assert_eq!(outcome.len(), 1);
    assert!(has_fault(&outcome.pop().unwrap(), &FaultCode::UnknownMethod));
    let nobody = client(&caller, &unique("nobody"));
    let mut outcome = all(nobody.count(1)).await;
    let refused = outcome.pop().unwrap();
    assert!(matches!(refused, Err(CallError::NoServer { .. })), "{refused:?}");
    let mut outcome = all(nobody.count(1).header("rpc-credit", "7")).await;
    let refused = outcome.pop().unwrap();
    assert!(matches!(refused, Err(CallError::Invalid { .. })), "{refused:?}");
    server.stop().await.unwrap();
}

async fn an_item_that_is_too_large_ends_the_stream(world: World) {
    let queue = unique("feed");
    let worker = world.broker_with(Broker::builder().max_sent_bytes(10_000)).await;
    let server = serve_with(&worker, &queue, &Numbers::new()).await;
    let feed = client(&world.broker().await, &queue);
    let blocks = items(feed.blocks(20, 9_000)).await;
    assert!(
        blocks
            .iter()
            .zip(0u64..)
            .all(|(block, number)| block[..8] == number.to_be_bytes())
    );
    assert_eq!(blocks.len(), 20);
    let mut outcome = all(feed.blocks(20, 10_001)).await;
    assert!(has_fault(&outcome.pop().unwrap(), &FaultCode::ReplyTooLarge));
    assert!(outcome.is_empty());
    server.stop().await.unwrap();
}

async fn a_slow_reader_slows_the_method_down(world: World) {
    let numbers = Numbers::new();
    let (server, feed) = scene(&world, &numbers).await;
    let mut stream = feed.count(500).credit(8);
    for read in 0..500 {
        let number = soon("it arrives", stream.next()).await.unwrap();
        assert_eq!(number.unwrap(), read);
        assert!(
            numbers.yielded() <= read + 1 + 8 + 1,
            "{} after {read}",
            numbers.yielded()
        );
    }
    assert!(soon("it ends", stream.next()).await.is_none());
    server.stop().await.unwrap();
}

async fn a_slow_reader_holds_no_more_bytes_than_it_granted(world: World) {
    let numbers = Numbers::new();
    let (server, feed) = scene(&world, &numbers).await;
    let mut stream = feed.blocks(200, 10_000).credit_bytes(40_000);
    for read in 0..200 {
        soon("it arrives", stream.next()).await.unwrap().unwrap();
        let yielded = numbers.yielded();
        assert!(yielded <= read + 1 + 4 + 1, "{yielded} after {read}");
    }
    assert!(soon("it ends", stream.next()).await.is_none());
    // Each item is larger than the credit.
    assert_eq!(items(feed.blocks(20, 10_000).credit_bytes(0)).await.len(), 20);
    server.stop().await.unwrap();
}

/// Answers each request with the answer to the first one.
async fn a_layer_cannot_replace_the_items_by_an_earlier_answer(world: World) {
    let first = Arc::new(OnceLock::new());
    let layer = MapResponseLayer::new(move |answer: Answer| first.get_or_init(|| answer).clone());
    let queue = unique("feed");
    let server = Server::new(&world.broker().await)
        .layer(layer)
        .serve_on(RequestQueue::new(&queue), FeedServer::new(Numbers::new()));
    let server = soon("it starts", server.start()).await.unwrap();
    let feed = client(&world.broker().await, &queue);
    assert_eq!(items(feed.count(3)).await, [0, 1, 2]);
    assert_eq!(items(feed.count(3)).await, [0, 1, 2]);
    for to in [0, 2] {
        let mut outcome = all(feed.count(to)).await;
        let last = outcome.pop().unwrap();
        assert!(has_fault(&last, &FaultCode::Unanswerable), "{last:?}");
        assert_eq!(outcome.len() as u64, to);
    }
    server.stop().await.unwrap();
}

async fn a_reader_that_waits_for_too_long_times_out(world: World) {
    let numbers = Numbers::behind(Gate::closed());
    let (server, feed) = scene(&world, &numbers).await;
    let limit = Duration::from_secs(3);
    // Opens the reply queue, which is not part of the limit then.
    soon("it answers", feed.one()).await.unwrap();
    for before in [0, 2] {
        numbers.gate.let_go(before);
        let mut outcome = all(feed.wait(10).timeout(limit)).await;
        let last = outcome.pop().unwrap();
        assert!(
            matches!(&last, Err(CallError::TimedOut { limit: waited, executed: Executed::Maybe, .. }) if *waited == limit),
            "{last:?}"
        );
        assert!(outcome.len() <= before);
        has_ended(&numbers).await;
    }
    numbers.gate.let_all_go();
    server.stop().await.unwrap();
}

async fn a_dropped_stream_ends_the_method(world: World) {
    let numbers = Numbers::behind(Gate::closed());
    let (server, feed) = scene(&world, &numbers).await;
    numbers.gate.let_go(1);
    let mut waiting = feed.wait(10);
    assert_eq!(soon("it arrives", waiting.next()).await.unwrap().unwrap(), 0);
    drop(waiting);
    has_ended(&numbers).await;
    let mut endless = feed.count(u64::MAX);
    assert_eq!(soon("it arrives", endless.next()).await.unwrap().unwrap(), 0);
    drop(endless);
    has_ended(&numbers).await;
    server.stop().await.unwrap();
}

async fn streams_work_with_every_codec_and_reply_queue(world: World) {
    let queue = unique("feed");
    let server = serve(&world, &queue, &Numbers::new()).await;
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let caller = world.broker_with(Broker::builder().reply_queue(replies)).await;
        for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
            let feed = FeedClient::builder(&caller).queue(&queue).codec(codec).build();
            assert!(
                items(feed.count(2500)).await.into_iter().eq(0..2500),
                "{replies:?} {codec:?}"
            );
            let mut outcome = all(feed.fail(1)).await;
            match outcome.pop().unwrap() {
                Err(CallError::Service(Broken { after: 1 })) => {}
                Err(CallError::ServiceText(text)) => {
                    assert_eq!((codec, &*text), (Codec::Text, r#"{"after":1}"#));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    server.stop().await.unwrap();
}

async fn many_streams_share_a_handle(world: World) {
    let (server, feed) = scene(&world, &Numbers::new()).await;
    let streams = (0..40).map(|n| {
        let stream = feed.count(300 + n).credit(16);
        async move { assert!(items(stream).await.into_iter().eq(0..300 + n)) }
    });
    futures_util::future::join_all(streams).await;
    assert_eq!(feed.one().await.unwrap(), 1);
    server.stop().await.unwrap();
}

async fn a_stream_leaves_room_for_calls(world: World) {
    let numbers = Numbers::behind(Gate::closed());
    let queue = unique("feed");
    let server = Server::new(&world.broker().await)
        .concurrency(1)
        .serve_on(RequestQueue::new(&queue), FeedServer::new(numbers.clone()));
    let server = server.start().await.unwrap();
    let feed = client(&world.broker().await, &queue);
    numbers.gate.let_go(1);
    let mut stream = feed.wait(3);
    assert_eq!(soon("it arrives", stream.next()).await.unwrap().unwrap(), 0);
    // Its request is acknowledged, and no longer counts as the one that may run.
    assert_eq!(feed.one().await.unwrap(), 1);
    assert_eq!(items(feed.count(3)).await, [0, 1, 2]);
    numbers.gate.let_all_go();
    assert_eq!(items(stream).await, [1, 2]);
    server.stop().await.unwrap();
}

async fn a_caller_without_credit_gets_an_array(world: World) {
    let queue = unique("feed");
    let server = serve(&world, &queue, &Numbers::new()).await;
    let mut description = <FeedClient as ServiceClient>::SERVICE.description();
    description.queue.clone_from(&queue);
    let caller = world.broker().await;
    for codec in [Codec::MessagePack, Codec::Json] {
        let feed = DynamicClient::builder(&caller, description.clone())
            .unwrap()
            .codec(codec)
            .build();
        let called = feed.call("count", json!({"to": 3}));
        assert_eq!(soon("it returns", called).await.unwrap(), json!([0, 1, 2]));
        let failed = feed.call("fail", json!({"after": 3}));
        let failed = soon("it fails", failed).await.unwrap_err();
        assert!(matches!(failed, CallError::Service(_)), "{failed:?}");
        let endless = feed.call("count", json!({"to": u64::MAX}));
        let endless = soon("it is refused", endless).await;
        assert!(has_fault(&endless, &FaultCode::ReplyTooLarge));
        let mut endless = feed.stream("count", json!({"to": u64::MAX}));
        for number in 0..3 {
            let item = soon("it arrives", endless.next()).await.unwrap();
            let expected = if codec == Codec::Text {
                json!(number.to_string())
            } else {
                json!(number)
            };
            assert_eq!(item.unwrap(), expected);
        }
        drop(endless);
        let mut failing = all(feed.stream("fail", json!([3]))).await;
        let failed = failing.pop().unwrap();
        assert!(
            matches!(failed, Err(CallError::Service(_) | CallError::ServiceText(_))),
            "{failed:?}"
        );
        assert_eq!(failing.len(), 3);
        let texts = feed.stream_json("count", r#"{"to":2}"#).map(Result::unwrap);
        let texts: Vec<_> = soon("it ends", texts.collect()).await;
        assert_eq!(texts.len(), 2);
        let wrong = all(feed.stream("one", ())).await.pop().unwrap();
        assert!(
            matches!(
                wrong,
                Err(CallError::WrongKind {
                    kind: MethodKind::Unary,
                    ..
                })
            ),
            "{wrong:?}"
        );
    }
    server.stop().await.unwrap();
}

async fn a_stopping_worker_lets_its_streams_end(world: World) {
    let numbers = Numbers::behind(Gate::closed());
    let (server, feed) = scene(&world, &numbers).await;
    numbers.gate.let_go(1);
    let mut stream = feed.wait(3);
    assert_eq!(soon("it arrives", stream.next()).await.unwrap().unwrap(), 0);
    let stopping = tokio::spawn(server.stop());
    numbers.gate.began(2).await;
    numbers.gate.let_all_go();
    assert_eq!(items(stream).await, [1, 2]);
    soon("it stops", stopping).await.unwrap().unwrap();
}

async fn a_stopping_worker_does_not_wait_for_a_stream_forever(world: World) {
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        stop_during_a_stream(&world, replies).await;
    }
}

async fn stop_during_a_stream(world: &World, replies: ReplyQueue) {
    let numbers = Numbers::behind(Gate::closed());
    let queue = unique("feed");
    let server = Server::new(&world.broker().await)
        .drain_timeout(Duration::from_millis(200))
        .serve_on(RequestQueue::new(&queue), FeedServer::new(numbers.clone()));
    let server = server.start().await.unwrap();
    let caller = world.broker_with(Broker::builder().reply_queue(replies)).await;
    let feed = client(&caller, &queue);
    numbers.gate.let_go(1);
    let mut stream = feed.wait(3);
    assert_eq!(soon("it arrives", stream.next()).await.unwrap().unwrap(), 0);
    let stopped = soon("it stops", server.stop()).await;
    assert!(
        matches!(stopped, Err(ServerError::DrainTimedOut { unfinished: 1, .. })),
        "{stopped:?}"
    );
    assert_eq!(numbers.running(), 0);
    // Sooner than the silence of a worker is noticed.
    let ending = timeout(Duration::from_secs(10), stream.next());
    let interrupted = ending.await.expect("it is told").unwrap();
    assert!(
        has_fault(&interrupted, &FaultCode::Interrupted),
        "{interrupted:?}"
    );
}

#[tokio::test]
async fn a_client_in_process_has_the_same_streams() {
    let numbers = Numbers::new();
    let feed = FeedClient::in_process(numbers.clone());
    for to in [0, 5000] {
        assert!(items(feed.count(to)).await.into_iter().eq(0..to));
    }
    assert_eq!(items(feed.words("a b", &[])).await, ["A", "B"]);
    let mut outcome = all(feed.fail(2)).await;
    assert!(matches!(
        outcome.pop(),
        Some(Err(CallError::Service(Broken { after: 2 })))
    ));
    assert!(has_fault(
        &all(feed.panic(0)).await.pop().unwrap(),
        &FaultCode::Panicked
    ));
    numbers.yielded.store(0, Ordering::SeqCst);
    let mut slow = feed.count(u64::MAX).credit(8);
    for read in 0..100 {
        assert_eq!(slow.next().await.unwrap().unwrap(), read);
        assert!(numbers.yielded() <= read + 1 + 8 + 1);
    }
    assert_eq!(numbers.running(), 1);
    drop(slow);
    assert_eq!(numbers.running(), 0);
    let waiting = FeedClient::in_process(Numbers::behind(Gate::closed()));
    let mut outcome = all(waiting.wait(1).timeout(Duration::from_millis(20))).await;
    let timed_out = outcome.pop().unwrap();
    assert!(
        matches!(timed_out, Err(CallError::TimedOut { .. })),
        "{timed_out:?}"
    );
}

#[tokio::test]
async fn a_mock_returns_a_stream() {
    fn is_sent<S: Stream + Send + Unpin + 'static>(stream: S) -> S {
        stream
    }

    type Items = Result<u64, Broken>;
    let mock: FallibleStreamingCall<Items> =
        StreamingCall::ready([Ok(1), Err(CallError::Service(Broken { after: 1 })), Ok(2)]);
    let mut mock = is_sent(
        mock.credit(3)
            .timeout(SOON)
            .header("a", "b")
            .detached()
            .priority(3),
    );
    assert_eq!(StreamExt::next(&mut mock).await.unwrap().unwrap(), 1);
    assert!(mock.next().await.unwrap().is_err());
    assert!(mock.next().await.is_none());
}

/// Resets the connections of a worker or a caller again and again while a stream is read.
async fn reset_while_streaming(of_caller: bool) {
    let queue = unique("feed");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let behind = Broker::builder().address(proxy.url()).connect().await.unwrap();
    let direct = Broker::connect(shared().await).await.unwrap();
    let (worker, caller) = if of_caller {
        (direct, behind)
    } else {
        (behind, direct)
    };
    let numbers = Numbers::new();
    let server = serve_with(&worker, &queue, &numbers).await;
    let mut stream = client(&caller, &queue).count(6000).credit(200);
    for read in 0..6000 {
        let number = soon("it arrives", stream.next()).await.unwrap();
        assert_eq!(number.unwrap(), read);
        if read % 1500 == 700 {
            proxy.reset(Target::All).await;
        }
    }
    assert!(soon("it ends", stream.next()).await.is_none());
    assert_eq!(numbers.yielded(), 6000);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_lost_with_a_connection_of_the_worker() {
    reset_while_streaming(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_lost_with_a_connection_of_the_caller() {
    reset_while_streaming(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_worker_is_gone_ends() {
    let queue = unique("feed");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let worker = Broker::builder().address(proxy.url()).connect().await.unwrap();
    let numbers = Numbers::behind(Gate::closed());
    let _server = serve_with(&worker, &queue, &numbers).await;
    let caller = Broker::connect(shared().await).await.unwrap();
    numbers.gate.let_go(1);
    let mut stream = client(&caller, &queue).wait(3);
    assert_eq!(soon("it arrives", stream.next()).await.unwrap().unwrap(), 0);
    let _hole = proxy.black_hole(Target::All, Direction::Both);
    let interrupted = soon("it ends", stream.next()).await.unwrap();
    assert!(
        has_fault(&interrupted, &FaultCode::Interrupted),
        "{interrupted:?}"
    );
    assert!(stream.next().await.is_none());
}

/// Only while messages can arrive does their absence say that the worker is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_after_its_caller_was_offline_for_longer_than_a_worker_may_be_silent() {
    let queue = unique("feed");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let caller = Broker::builder().address(proxy.url()).connect().await.unwrap();
    let numbers = Numbers::behind(Gate::closed());
    let server = serve(&World::RabbitMq, &queue, &numbers).await;
    numbers.gate.let_go(1);
    let mut stream = client(&caller, &queue).wait(3).timeout(Duration::from_secs(120));
    assert_eq!(soon("it arrives", stream.next()).await.unwrap().unwrap(), 0);
    let refusing = proxy.refuse_new().await;
    proxy.reset(Target::All).await;
    let offline = Duration::from_secs(18);
    let ended = tokio::time::timeout(offline, stream.next()).await;
    assert!(ended.is_err(), "{ended:?}");
    refusing.heal().await;
    numbers.gate.let_all_go();
    assert_eq!(items(stream).await, [1, 2]);
    server.stop().await.unwrap();
}

/// A worker of another library, which is told by the test what to send.
struct RawWorker {
    peer: RawPeer,
    reply_to: String,
    id: String,
    headers: FieldTable,
    /// The reply queue is its own.
    _caller: Broker,
}

const WORKER: &str = r#"{"id":"5a3ff4d3-3a4f-4e0e-8c9e-6c8f0c7a2a10"}"#;

impl RawWorker {
    /// Takes the request of a stream with this credit.
    async fn of(stream: impl AsyncFnOnce(FeedClient)) -> Self {
        let queue = unique("feed");
        let peer = RawPeer::connect(shared().await).await.unwrap();
        peer.declare(&queue).await.unwrap();
        let mut requests = peer.consume(&queue).await.unwrap();
        let caller = Broker::connect(shared().await).await.unwrap();
        let feed = FeedClient::builder(&caller)
            .queue(&queue)
            .codec(Codec::Json)
            .timeout(SOON)
            .build();
        stream(feed).await;
        let request = next(&mut requests, SOON).await.unwrap().unwrap();
        let properties = &request.properties;
        Self {
            reply_to: properties.reply_to().clone().unwrap().to_string(),
            id: properties.correlation_id().clone().unwrap().to_string(),
            headers: properties.headers().clone().unwrap(),
            peer,
            _caller: caller,
        }
    }

    async fn send(&self, kind: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        let properties = BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("application/json".into())
            .with_correlation_id(self.id.as_str().into())
            .with_headers(table);
        self.peer.publish(&self.reply_to, properties, body).await.unwrap();
    }

    /// Sends items of one byte each.
    async fn items(&self, worker: &str, first: u8, items: &[u8]) {
        let mut body = vec![0x92, first, 0x90 + u8::try_from(items.len()).unwrap()];
        items.iter().for_each(|item| body.extend([0xc4, 1, *item]));
        self.send("rpc.items", &[("rpc-worker", worker)], &body).await;
    }

    async fn end(&self, worker: &str, items: &str) {
        let headers = [("rpc-worker", worker), ("rpc-items", items)];
        self.send("result", &headers, b"").await;
    }
}

/// Begins a stream that the test's own worker sends, and a task that collects it.
async fn raw_stream(credit: u32) -> (RawWorker, tokio::task::JoinHandle<Vec<Result<u64, CallError>>>) {
    let mut reading = None;
    let worker = RawWorker::of(async |feed: FeedClient| {
        reading = Some(tokio::spawn(feed.count(9).credit(credit).collect::<Vec<_>>()));
    });
    let worker = worker.await;
    (worker, reading.unwrap())
}

#[tokio::test]
async fn messages_in_any_order_and_of_others_do_no_harm() {
    let (worker, reading) = raw_stream(8).await;
    let credit = worker.headers.inner().get("rpc-credit").cloned();
    assert_eq!(credit, Some(AMQPValue::LongString("8".into())));
    let other = r#"{"id":"11111111-3a4f-4e0e-8c9e-6c8f0c7a2a10"}"#;
    worker.items(WORKER, 1, b"1").await;
    worker.items(other, 0, b"777").await;
    worker.items("nobody", 0, b"7").await;
    worker.send("rpc.items", &[], b"\x92\x00\x90").await;
    worker
        .send("rpc.items", &[("rpc-worker", other)], b"\xc1 nonsense")
        .await;
    worker.end(other, "1").await;
    worker
        .send(
            "fault",
            &[],
            br#"{"code":"interrupted","message":"another worker"}"#,
        )
        .await;
    worker.end(WORKER, "4").await;
    worker.items(WORKER, 2, b"23").await;
    worker.items(WORKER, 1, b"1").await;
    worker.items(WORKER, 0, b"01").await;
    let items = soon("it ends", reading).await.unwrap();
    assert!(items.into_iter().map(Result::unwrap).eq(0..4));
}

#[tokio::test]
async fn a_stream_that_cannot_be_is_an_error() {
    for (sent, items) in [((9, "9"), 0), ((2, "1"), 2), ((1, "10"), 1)] {
        let (worker, reading) = raw_stream(8).await;
        let (count, counted) = sent;
        let digits = &b"0123456789"[..count.min(8)];
        worker.items(WORKER, 0, digits).await;
        if count > 8 {
            // This ends the call, and its reply queue may be gone then.
            worker.items(WORKER, 100, b"1").await;
        } else {
            worker.end(WORKER, counted).await;
        }
        let mut outcome = soon("it ends", reading).await.unwrap();
        let failed = outcome.pop().unwrap();
        assert!(matches!(failed, Err(CallError::BadReply { .. })), "{failed:?}");
        assert!(outcome.len() >= items && outcome.iter().all(Result::is_ok));
    }
}

/// Receives what is published to the control exchange for this worker.
async fn listen(peer: &RawPeer, worker: &str) -> lapin::Consumer {
    let worker: serde_json::Value = serde_json::from_str(worker).unwrap();
    let (exchange, key) = ("rpc.control", worker["id"].as_str().unwrap().to_owned());
    let queue = peer.declare_exclusive().await.unwrap();
    let options = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let (channel, arguments) = (peer.channel(), FieldTable::default());
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Direct, options, arguments.clone())
        .await
        .unwrap();
    channel
        .queue_bind(
            queue.as_str().into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            arguments,
        )
        .await
        .unwrap();
    peer.consume(&queue).await.unwrap()
}

/// How many items a message with one grant grants.
fn granted_items(body: &[u8]) -> u8 {
    // After the headers of two arrays and of the id, and the id.
    body[20]
}

#[tokio::test]
async fn a_worker_that_connects_again_gets_its_credit_soon() {
    let (worker, _reading) = raw_stream(2).await;
    // It declares the exchange.
    listen(&worker.peer, r#"{"id":"nobody"}"#).await;
    worker.items(WORKER, 0, b"01").await;
    // Longer than a grant takes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut granted = listen(&worker.peer, WORKER).await;
    let grant = next(&mut granted, Duration::from_secs(4)).await.unwrap();
    let grant = grant.expect("it is granted again");
    assert_eq!(grant.properties.kind().as_ref().unwrap().as_str(), "rpc.credit");
    assert_eq!(granted_items(&grant.data), 4, "{:?}", grant.data);
}

/// The body of a message that cancels one call.
fn cancellation(id: &str) -> Vec<u8> {
    let id = id.replace('-', "");
    let byte = |digits| u8::from_str_radix(digits, 16).unwrap();
    let bytes = (0..16).map(|index| byte(&id[2 * index..][..2]));
    [0x91, 0x92, 0xc4, 16]
        .into_iter()
        .chain(bytes)
        .chain([1])
        .collect()
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_ended() {
    let (worker, reading) = raw_stream(8).await;
    let other = r#"{"id":"11111111-3a4f-4e0e-8c9e-6c8f0c7a2a10"}"#;
    let mut of_other = listen(&worker.peer, other).await;
    let mut of_worker = listen(&worker.peer, WORKER).await;
    worker.items(WORKER, 0, b"0").await;
    for _ in 0..20 {
        worker.items("nobody", 0, b"7").await;
        worker.items(other, 0, b"7").await;
    }
    let ended = next(&mut of_other, SOON).await.unwrap().unwrap();
    assert_eq!(ended.properties.kind().as_ref().unwrap().as_str(), "rpc.cancel");
    assert_eq!(ended.data, cancellation(&worker.id));
    let again = next(&mut of_other, Duration::from_millis(300)).await.unwrap();
    assert!(again.is_none(), "{again:?}");
    // Its cancellation reaches no worker, because none serves the queue.
    reading.abort();
    assert!(reading.await.unwrap_err().is_cancelled());
    worker.items(WORKER, 1, b"1").await;
    let ended = next(&mut of_worker, SOON).await.unwrap().unwrap();
    assert_eq!(ended.data, cancellation(&worker.id));
}

#[tokio::test]
async fn a_message_without_items_is_answered_with_a_grant() {
    let (worker, _reading) = raw_stream(8).await;
    let mut granted = listen(&worker.peer, WORKER).await;
    for _ in 0..2 {
        worker
            .send("rpc.items", &[("rpc-worker", WORKER)], b"\x93\x00\x90\x08")
            .await;
        let grant = next(&mut granted, SOON).await.unwrap().unwrap();
        assert_eq!(grant.properties.kind().as_ref().unwrap().as_str(), "rpc.credit");
        assert_eq!(granted_items(&grant.data), 8, "{:?}", grant.data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_ends_one_stream_of_a_worker() {
    let (queue, numbers) = (unique("feed"), Numbers::behind(Gate::closed()));
    let worker = Broker::connect(shared().await).await.unwrap();
    let server = serve_with(&worker, &queue, &numbers).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    let mut received = peer.consume(&replies).await.unwrap();
    let ids = [
        "67e55044-10b1-426f-9247-bb680e5fe0c8",
        "77e55044-10b1-426f-9247-bb680e5fe0c8",
    ];
    for id in ids {
        let mut headers = FieldTable::default();
        headers.insert("rpc-credit".into(), AMQPValue::LongString("5".into()));
        let request = BasicProperties::default()
            .with_type("wait".into())
            .with_content_type("application/json".into())
            .with_reply_to(replies.as_str().into())
            .with_correlation_id(id.into())
            .with_headers(headers);
        peer.publish(&queue, request, br#"{"to":4}"#).await.unwrap();
    }
    numbers.gate.began(2).await;
    numbers.gate.let_go(1);
    let first = next(&mut received, SOON).await.unwrap().unwrap();
    let headers = first.properties.headers().clone().unwrap();
    let Some(AMQPValue::LongString(header)) = headers.inner().get("rpc-worker") else {
        panic!("{headers:?}");
    };
    let header: serde_json::Value = serde_json::from_slice(header.as_bytes()).unwrap();
    let key = header["id"].as_str().unwrap();
    for id in ["00000000-10b1-426f-9247-bb680e5fe0c8", ids[0]] {
        let properties = BasicProperties::default().with_type("rpc.cancel".into());
        let (options, body) = (BasicPublishOptions::default(), cancellation(id));
        let publishing =
            peer.channel()
                .basic_publish("rpc.control".into(), key.into(), options, &body, properties);
        publishing.await.unwrap().await.unwrap();
    }
    let has_ended = async || Ok(numbers.running() == 1);
    until("one method ends", SOON, has_ended).await.unwrap();
    numbers.gate.let_all_go();
    loop {
        let message = next(&mut received, SOON).await.unwrap().unwrap();
        if message.properties.kind().as_ref().unwrap().as_str() == "result" {
            let id = message.properties.correlation_id().clone().unwrap();
            assert_eq!(id.as_str(), ids[1]);
            break;
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_unreadable_message_of_its_worker_ends_a_stream() {
    for (begins, body) in [(true, &b"\xc1 nonsense"[..]), (false, b"\xdd\xff\xff\xff\xff")] {
        let (worker, reading) = raw_stream(8).await;
        if begins {
            worker.items(WORKER, 0, b"0").await;
        }
        worker.send("rpc.items", &[("rpc-worker", WORKER)], body).await;
        let mut outcome = soon("it ends", reading).await.unwrap();
        let failed = outcome.pop().unwrap();
        assert!(matches!(failed, Err(CallError::BadReply { .. })), "{failed:?}");
        assert_eq!(outcome.len(), usize::from(begins));
    }
}

#[tokio::test]
async fn an_item_that_is_larger_than_accepted_is_an_error() {
    let queue = unique("feed");
    let world = World::RabbitMq;
    let server = serve(&world, &queue, &Numbers::new()).await;
    let caller = world
        .broker_with(Broker::builder().max_accepted_bytes(10_000))
        .await;
    let feed = client(&caller, &queue);
    // Together they may be larger.
    assert_eq!(items(feed.blocks(20, 9_000)).await.len(), 20);
    let mut outcome = all(feed.blocks(20, 10_001)).await;
    let failed = outcome.pop().unwrap();
    assert!(matches!(failed, Err(CallError::BadReply { .. })), "{failed:?}");
    assert!(outcome.is_empty());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_may_send_an_array() {
    let (worker, reading) = raw_stream(8).await;
    worker.send("result", &[], b"[0, 1, 2]").await;
    let items = soon("it ends", reading).await.unwrap();
    assert!(items.into_iter().map(Result::unwrap).eq(0..3));
}

#[tokio::test]
async fn a_caller_of_another_library_reads_a_stream() {
    let queue = unique("feed");
    let worker = Broker::connect(shared().await).await.unwrap();
    let server = serve_with(&worker, &queue, &Numbers::new()).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    let mut received = peer.consume(&replies).await.unwrap();
    let request = |headers: &[(&str, &str)], id: &str| {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        BasicProperties::default()
            .with_type("count".into())
            .with_content_type("application/json".into())
            .with_reply_to(replies.as_str().into())
            .with_correlation_id(id.into())
            .with_headers(table)
    };
    let kind = |properties: &BasicProperties| properties.kind().clone().unwrap().to_string();
    let header = |properties: &BasicProperties, name: &str| {
        let headers = properties.headers().clone().unwrap_or_default();
        match headers.inner().get(name) {
            Some(AMQPValue::LongString(value)) => Some(value.to_string()),
            _ => None,
        }
    };
    // Without credit: one array.
    peer.publish(&queue, request(&[], "any text"), br#"{"to":3}"#)
        .await
        .unwrap();
    let reply = next(&mut received, SOON).await.unwrap().unwrap();
    assert_eq!(
        (kind(&reply.properties).as_str(), &*reply.data),
        ("result", &b"[0,1,2]"[..])
    );
    // With credit, the id must be a UUID.
    let credit = [("rpc-credit", "2")];
    peer.publish(&queue, request(&credit, "any text"), br#"{"to":3}"#)
        .await
        .unwrap();
    let reply = next(&mut received, SOON).await.unwrap().unwrap();
    assert_eq!(kind(&reply.properties), "fault");
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    peer.publish(&queue, request(&credit, id), br#"{"to":2}"#)
        .await
        .unwrap();
    let items = next(&mut received, SOON).await.unwrap().unwrap();
    assert_eq!(kind(&items.properties), "rpc.items");
    assert_eq!(&*items.data, b"\x93\x00\x92\xc4\x010\xc4\x011\x02");
    assert!(
        header(&items.properties, "rpc-worker")
            .unwrap()
            .starts_with(r#"{"id":"#)
    );
    let end = next(&mut received, SOON).await.unwrap().unwrap();
    assert_eq!((kind(&end.properties).as_str(), &*end.data), ("result", &b""[..]));
    assert_eq!(header(&end.properties, "rpc-items").as_deref(), Some("2"));
    server.stop().await.unwrap();
}
