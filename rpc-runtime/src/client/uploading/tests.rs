//! How long calls with items take, in paused time.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep};

use crate::transport::memory::{InProcessBroker, MemoryTransport};
use crate::transport::{Role, Transport};
use crate::{Broker, CallError, Incoming, RunningServer, Server, service};

const SECOND: Duration = Duration::from_secs(1);

#[service(queue = "sink")]
trait Sink {
    /// Takes one number, and never returns.
    async fn hang(&self, numbers: Incoming<u64>);
    /// Takes all numbers, and never returns.
    async fn drain(&self, numbers: Incoming<u64>);
    /// Counts the numbers, one each second.
    async fn count(&self, numbers: Incoming<u64>) -> u64;
}

/// Has a clone for each method that runs.
#[derive(Clone, Default)]
struct Slow(Arc<()>);

impl Sink for Slow {
    async fn hang(&self, mut numbers: Incoming<u64>) {
        let _running = self.clone();
        let _ = numbers.next().await;
        pending::<()>().await;
    }

    async fn drain(&self, mut numbers: Incoming<u64>) {
        let _running = self.clone();
        while numbers.next().await.is_some() {}
        pending::<()>().await;
    }

    async fn count(&self, mut numbers: Incoming<u64>) -> u64 {
        let mut count = 0;
        while let Some(Ok(_)) = numbers.next().await {
            sleep(SECOND).await;
            count += 1;
        }
        count
    }
}

async fn serve(broker: &Broker, slow: Slow) -> RunningServer {
    let server = Server::new(broker).serve(SinkServer::new(slow));
    server.start().await.unwrap()
}

/// A handle whose connections can be cut.
fn open(memory: &InProcessBroker) -> (Arc<MemoryTransport>, Broker) {
    let transport = Arc::new(MemoryTransport::new(memory));
    let broker = Broker::builder().with_transport(Arc::clone(&transport) as Arc<dyn Transport>);
    (transport, broker)
}

fn cut(transport: &MemoryTransport) {
    for role in [Role::Consuming, Role::Publishing] {
        transport.cut(role, Duration::ZERO);
    }
}

/// A client over a broker, and one without.
async fn clients() -> (RunningServer, [SinkClient; 2]) {
    let broker = Broker::in_process();
    let server = serve(&broker, Slow::default()).await;
    let clients = [SinkClient::new(&broker), SinkClient::in_process(Slow::default())];
    (server, clients)
}

fn endless() -> impl Stream<Item = u64> + Send + 'static {
    stream::iter(0..)
}

#[tokio::test(start_paused = true)]
async fn a_method_that_takes_no_more_items_times_out() {
    let (_server, clients) = clients().await;
    for sink in clients {
        for limit in [SECOND, 60 * SECOND] {
            let begun = Instant::now();
            let outcome = sink.hang(endless()).timeout(limit).await;
            assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
            let took = begun.elapsed();
            // The caller learns within a second that the first one was taken.
            assert!(took >= limit && took <= limit + 2 * SECOND, "{took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_method_has_time_while_it_takes_items() {
    let (_server, clients) = clients().await;
    for sink in clients {
        // The caller's stream ends at once. The items do not fit into the credit in the second one.
        for count in [100, 3000] {
            let counted = sink.count(stream::iter(0..count)).timeout(5 * SECOND).await;
            assert_eq!(counted.unwrap(), count);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_the_caller_has_time() {
    let (_server, clients) = clients().await;
    for sink in clients {
        let slowly = stream::iter(0..3).then(async |number| {
            sleep(100 * SECOND).await;
            number
        });
        assert_eq!(sink.count(slowly).timeout(5 * SECOND).await.unwrap(), 3);
    }
}

/// The broker has yet to confirm the request, which refers to the call.
#[tokio::test(start_paused = true)]
async fn the_stream_of_the_caller_is_dropped_with_the_call() {
    let memory = InProcessBroker::new();
    let _server = serve(&open(&memory).1, Slow::default()).await;
    let (transport, caller) = open(&memory);
    transport.block(true);
    let kept = Arc::new(());
    let owner = Arc::clone(&kept);
    let numbers = endless().inspect(move |_| drop(Arc::clone(&owner)));
    let outcome = SinkClient::new(&caller).count(numbers).timeout(SECOND).await;
    assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_loses_its_broker_times_out() {
    let memory = InProcessBroker::new();
    let _server = serve(&open(&memory).1, Slow::default()).await;
    for numbers in [
        endless().boxed(),
        stream::iter([1]).chain(stream::pending()).boxed(),
    ] {
        let (transport, caller) = open(&memory);
        let call = SinkClient::new(&caller).count(numbers).timeout(20 * SECOND);
        let call = tokio::spawn(call.into_future());
        sleep(5 * SECOND).await;
        cut(&transport);
        let lost = Instant::now();
        let outcome = call.await.unwrap();
        assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
        let took = lost.elapsed();
        assert!(took <= 40 * SECOND, "{took:?}");
    }
}

/// Its reply queue exists for a while.
#[tokio::test(start_paused = true)]
async fn a_method_ends_with_its_caller_and_not_before() {
    let (memory, slow) = (InProcessBroker::new(), Slow::default());
    let _server = serve(&open(&memory).1, slow.clone()).await;
    for takes_all in [true, false] {
        let (transport, caller) = open(&memory);
        let sink = SinkClient::new(&caller);
        let numbers = stream::iter([1]);
        let call = match takes_all {
            true => sink.drain(numbers),
            false => sink.hang(numbers.chain(stream::pending())),
        };
        let call = tokio::spawn(call.timeout(200 * SECOND).into_future());
        sleep(100 * SECOND).await;
        assert_eq!(Arc::strong_count(&slow.0), 3, "it runs");
        cut(&transport);
        call.abort();
        sleep(25 * SECOND).await;
        assert_eq!(Arc::strong_count(&slow.0), 3, "its caller may come back");
        sleep(10 * SECOND).await;
        assert_eq!(Arc::strong_count(&slow.0), 2);
    }
}
