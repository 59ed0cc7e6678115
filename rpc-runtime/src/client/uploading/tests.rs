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
    /// Counts the numbers, one each second.
    async fn count(&self, numbers: Incoming<u64>) -> u64;
}

struct Slow;

impl Sink for Slow {
    async fn hang(&self, mut numbers: Incoming<u64>) {
        let _ = numbers.next().await;
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

async fn serve(broker: &Broker) -> RunningServer {
    Server::new(broker)
        .serve(SinkServer::new(Slow))
        .start()
        .await
        .unwrap()
}

/// A client over a broker, and one without.
async fn clients() -> (RunningServer, [SinkClient; 2]) {
    let broker = Broker::in_process();
    let server = serve(&broker).await;
    (server, [SinkClient::new(&broker), SinkClient::in_process(Slow)])
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

#[tokio::test(start_paused = true)]
async fn a_caller_that_loses_its_broker_times_out() {
    let memory = InProcessBroker::new();
    let open = || {
        let transport = Arc::new(MemoryTransport::new(&memory));
        let broker = Broker::builder().with_transport(Arc::clone(&transport) as Arc<dyn Transport>);
        (transport, broker)
    };
    let (_, worker) = open();
    let _server = serve(&worker).await;
    for numbers in [
        endless().boxed(),
        stream::iter([1]).chain(stream::pending()).boxed(),
    ] {
        let (transport, caller) = open();
        let call = SinkClient::new(&caller).count(numbers).timeout(20 * SECOND);
        let call = tokio::spawn(call.into_future());
        sleep(5 * SECOND).await;
        for role in [Role::Consuming, Role::Publishing] {
            transport.cut(role, Duration::ZERO);
        }
        let lost = Instant::now();
        let outcome = call.await.unwrap();
        assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
        let took = lost.elapsed();
        assert!(took <= 40 * SECOND, "{took:?}");
    }
}
