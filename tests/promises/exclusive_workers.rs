//! Queues of which one worker at a time has the requests, and queues that hold so many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{Broker, RequestQueue, RunningServer, Server, service};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::{Vhost, shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;

#[service]
trait Press {
    #[rpc(timeout = "2m")]
    async fn print(&self, page: u32);
}

/// Counts how many of all workers' handlers run at once.
#[derive(Clone, Default)]
struct Printer {
    inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    printed: Arc<AtomicUsize>,
    takes: Duration,
}

impl Press for Printer {
    async fn print(&self, _page: u32) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.printed.fetch_add(1, Ordering::SeqCst);
    }
}

async fn serve(broker: &Broker, queue: RequestQueue, printer: &Printer) -> RunningServer {
    let server = Server::new(broker)
        .concurrency(1)
        .serve_on(queue, PressServer::new(printer.clone()));
    soon("it starts", server.start()).await.unwrap()
}

async fn broker() -> Broker {
    Broker::connect(shared().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_at_a_time_serves_a_queue_with_a_single_active_consumer() {
    let queue = unique("press");
    let requests = || RequestQueue::new(&queue).quorum().single_active_consumer();
    let printer = Printer {
        takes: Duration::from_millis(20),
        ..Printer::default()
    };
    let first = serve(&broker().await, requests(), &printer).await;
    let second = serve(&broker().await, requests(), &printer).await;
    let press = PressClient::builder(&broker().await).queue(&queue).build();
    let calls = tokio::spawn(join_all((0..150).map(move |page| press.print(page))));
    until("it is half done", SOON, async || {
        Ok(printer.printed.load(Ordering::SeqCst) >= 50)
    })
    .await
    .unwrap();
    // Its handler ends before the other worker begins.
    soon("the first one stops", first.stop()).await.unwrap();
    assert!(printer.printed.load(Ordering::SeqCst) < 150, "it stops at once");
    for printed in soon("the other one goes on", calls).await.unwrap() {
        printed.unwrap();
    }
    second.stop().await.unwrap();
    assert_eq!(printer.most.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_method_ends_before_another_worker_takes_over_the_queue() {
    let queue = unique("press");
    let requests = || RequestQueue::new(&queue).quorum().single_active_consumer();
    let printer = Printer {
        takes: Duration::from_millis(600),
        ..Printer::default()
    };
    let first = serve(&broker().await, requests(), &printer).await;
    let second = serve(&broker().await, requests(), &printer).await;
    let press = PressClient::builder(&broker().await).queue(&queue).build();
    let calls: Vec<_> = (0..3).map(|page| tokio::spawn(press.print(page))).collect();
    until("it prints", SOON, async || {
        Ok(printer.inside.load(Ordering::SeqCst) == 1)
    })
    .await
    .unwrap();
    soon("the first one stops", first.stop()).await.unwrap();
    for call in calls {
        soon("the page", call).await.unwrap().unwrap();
    }
    second.stop().await.unwrap();
    assert_eq!(printer.most.load(Ordering::SeqCst), 1);
}

/// Answers as soon as the gate is open.
struct Held(Gate);

impl Press for Held {
    async fn print(&self, _page: u32) {
        self.0.pass().await;
    }
}

/// Declares a queue of ten messages that refuses more.
async fn declare_limited(peer: &RawPeer, queue: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(10));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    peer.channel()
        .queue_declare(queue.into(), options, arguments)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_to_the_length_of_a_queue_is_one_to_the_calls_that_wait() {
    let vhost = Vhost::new().await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    for is_declared_elsewhere in [false, true] {
        let queue = unique("press");
        let requests = match is_declared_elsewhere {
            false => RequestQueue::new(&queue)
                .argument("x-max-length", 10)
                .argument("x-overflow", "reject-publish"),
            true => {
                declare_limited(&peer, &queue).await;
                RequestQueue::new(&queue).existing()
            }
        };
        let gate = Gate::closed();
        let server = Server::new(&Broker::connect(&vhost.url()).await.unwrap())
            .serve_on(requests, PressServer::new(Held(gate.clone())))
            .start()
            .await
            .unwrap();
        let caller = Broker::connect(&vhost.url()).await.unwrap();
        let press = PressClient::builder(&caller).queue(&queue).build();
        // So that the client knows how many calls the worker wants in one message.
        gate.let_go(64);
        for answer in join_all((0..64).map(|page| press.print(page))).await {
            let _ = answer;
        }
        // Until the broker has their acknowledgements, the worker is given no more.
        until("the worker is given more", SOON, async || {
            let queues = vhost.all_queues(&["name", "messages_unacknowledged"]).await;
            Ok(queues.contains(&format!("{queue}\t0")))
        })
        .await
        .unwrap();
        let calls: Vec<_> = (0..3000).map(|page| tokio::spawn(press.print(page))).collect();
        gate.began(64 + 64).await;
        // The first 64 run, ten wait, and what is left of the permits let others pass.
        let most = 64 + 10 + 64;
        let has_refused = async || {
            let ended = calls.iter().filter(|call| call.is_finished()).count();
            Ok(ended >= calls.len() - most)
        };
        until("the queue has refused the rest", SOON, has_refused)
            .await
            .unwrap();
        let waiting = peer.queue_depth(&queue).await.unwrap().unwrap();
        assert!(waiting <= 10, "{waiting} wait");
        assert_eq!(peer.queue_depth(&format!("{queue}.batch")).await.unwrap(), None);
        gate.let_all_go();
        let answered = join_all(calls).await.into_iter();
        let answered = answered.filter(|call| matches!(call, Ok(Ok(())))).count();
        assert!(
            answered <= most,
            "{answered} were answered: more waited than the queue holds"
        );
        server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_batching_has_no_second_queue() {
    let queue = unique("press");
    let printer = Printer::default();
    let server = serve(
        &broker().await,
        RequestQueue::new(&queue).batching(false),
        &printer,
    )
    .await;
    let press = PressClient::builder(&broker().await).queue(&queue).build();
    for printed in join_all((0..300).map(|page| press.print(page))).await {
        printed.unwrap();
    }
    let peer = RawPeer::connect(shared().await).await.unwrap();
    assert_eq!(peer.queue_depth(&format!("{queue}.batch")).await.unwrap(), None);
    server.stop().await.unwrap();
}
