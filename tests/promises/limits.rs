//! Calls in flight are bounded, and an error says whether to call again is of use.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use rpc_runtime::{Broker, CallError, Executed, RequestQueue, RunningServer, Server, WhenFull, service};
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};

use rpc_tests::gate::{Gate, SOON, soon};

const LIMIT: usize = 4;

#[service]
trait Counter {
    async fn pass(&self);
}

#[derive(Clone)]
struct Turnstile(Gate);

impl Counter for Turnstile {
    async fn pass(&self) {
        self.0.pass().await;
    }
}

async fn serve(broker: &Broker, queue: &str, gate: &Gate) -> RunningServer {
    Server::new(broker)
        .serve_on(
            RequestQueue::new(queue),
            CounterServer::new(Turnstile(gate.clone())),
        )
        .start()
        .await
        .unwrap()
}

on_both_brokers! {
    one_call_too_many_fails_at_once_if_asked_to,
    one_call_too_many_waits_for_its_turn,
    one_call_too_many_waits_no_longer_than_its_time,
    calls_wait_for_their_first_server_if_asked_to,
    calls_wait_for_their_first_server_no_longer_than_their_time,
    large_bodies_arrive_whole_while_small_calls_are_answered,
}

/// A client with as many calls in flight as there may be, each held at the gate.
struct Crowd {
    gate: Gate,
    client: CounterClient,
    calls: Vec<tokio::task::JoinHandle<Result<(), CallError>>>,
    server: RunningServer,
}

impl Crowd {
    async fn new(world: &World, when_full: WhenFull) -> Self {
        let (queue, gate) = (unique("counter"), Gate::closed());
        let server = serve(&world.broker().await, &queue, &gate).await;
        let client = CounterClient::builder(&world.broker().await)
            .queue(&queue)
            .max_in_flight(LIMIT)
            .when_full(when_full)
            .build();
        // Clones share the limit.
        let calls = (0..LIMIT).map(|_| tokio::spawn(client.clone().pass())).collect();
        gate.began(4).await;
        Self {
            gate,
            client,
            calls,
            server,
        }
    }

    async fn goes_well(self) {
        self.gate.let_all_go();
        for call in self.calls {
            soon("the calls in flight end", call).await.unwrap().unwrap();
        }
        soon("there is room again", self.client.pass()).await.unwrap();
        self.server.stop().await.unwrap();
    }
}

fn assert_too_many(outcome: Result<(), CallError>) {
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, CallError::TooManyCalls { limit: LIMIT, .. }),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::No);
    assert!(error.is_retryable());
}

async fn one_call_too_many_fails_at_once_if_asked_to(world: World) {
    let crowd = Crowd::new(&world, WhenFull::Fail).await;
    assert_too_many(soon("it fails at once", crowd.client.pass().timeout(4 * SOON)).await);
    crowd.goes_well().await;
}

async fn one_call_too_many_waits_for_its_turn(world: World) {
    let mut crowd = Crowd::new(&world, WhenFull::Wait).await;
    crowd.calls.push(tokio::spawn(crowd.client.pass()));
    crowd.gate.let_go(1);
    // It can begin only in the place of another.
    crowd.gate.began(1).await;
    assert_eq!(crowd.gate.most_inside(), LIMIT);
    crowd.goes_well().await;
}

async fn one_call_too_many_waits_no_longer_than_its_time(world: World) {
    let crowd = Crowd::new(&world, WhenFull::Wait).await;
    let call = crowd.client.pass().timeout(Duration::from_millis(200));
    assert_too_many(soon("its time is up", call).await);
    crowd.goes_well().await;
}

async fn calls_wait_for_their_first_server_if_asked_to(world: World) {
    let queue = unique("counter");
    let broker = world.broker().await;
    let client = |wait| {
        let builder = CounterClient::builder(&broker).queue(&queue);
        builder.wait_for_server(wait).timeout(SOON).build()
    };
    let patient = tokio::spawn(client(true).pass());
    // Another call that comes back shows that the patient one was on its way.
    let error = soon("it fails at once", client(false).pass()).await.unwrap_err();
    assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert!(!patient.is_finished());

    let server = serve(&world.broker().await, &queue, &Gate::open()).await;
    soon("it is answered", patient).await.unwrap().unwrap();
    server.stop().await.unwrap();
}

async fn calls_wait_for_their_first_server_no_longer_than_their_time(world: World) {
    let queue = unique("counter");
    let client = CounterClient::builder(&world.broker().await)
        .queue(&queue)
        .wait_for_server(true)
        .timeout(Duration::from_millis(250))
        .build();
    until("a call says why it was in vain", SOON, async || {
        match client.pass().await {
            Err(CallError::NoServer { queue: named, .. }) => Ok(named == queue),
            // Its time was up just when it had asked again, or while the first of them opened the
            // way.
            Err(CallError::TimedOut { .. }) => Ok(false),
            other => bail!("{other:?}"),
        }
    })
    .await
    .unwrap();
}

#[service]
trait Archive {
    async fn reversed(&self, document: Bytes) -> Bytes;
    async fn title(&self, number: u32) -> u32;
}

/// Its documents wait at the gate, its titles do not.
struct Shelf(Gate);

fn reversed(document: Bytes) -> Bytes {
    let mut reversed = Vec::from(document);
    reversed.reverse();
    reversed.into()
}

impl Archive for Shelf {
    async fn reversed(&self, document: Bytes) -> Bytes {
        self.0.pass().await;
        reversed(document)
    }

    async fn title(&self, number: u32) -> u32 {
        number
    }
}

/// The largest body that is sent and accepted by default, which is also what RabbitMQ 4 takes.
const LARGEST: usize = 16 * 1024 * 1024;

async fn large_bodies_arrive_whole_while_small_calls_are_answered(world: World) {
    let (queue, gate) = (unique("archive"), Gate::closed());
    let server = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&queue), ArchiveServer::new(Shelf(gate.clone())));
    let server = server.start().await.unwrap();
    let archive = ArchiveClient::builder(&world.broker().await)
        .queue(&queue)
        .timeout(4 * SOON)
        .build();
    // The argument's name and sizes take some bytes.
    let document: Bytes = (0..251).cycle().take(LARGEST - 64).collect();
    for _ in 0..2 {
        let large = tokio::spawn(archive.reversed(document.clone()).into_future());
        let mut titles = 0;
        let mut ask_title = async || {
            let title = soon("a small call ends", archive.title(titles)).await;
            assert_eq!(title.unwrap(), titles);
            titles += 1;
        };
        // They go the same way as the large request, and wait at most while its bytes pass.
        ask_title().await;
        gate.began(1).await;
        for _ in 0..10 {
            ask_title().await;
        }
        gate.let_go(1);
        // And the same way as the large reply.
        while !large.is_finished() {
            ask_title().await;
        }
        let answer = large.await.unwrap().unwrap();
        assert!(reversed(answer) == document, "the document is another");
    }
    let too_large = archive.reversed(vec![0; LARGEST].into()).await.unwrap_err();
    assert!(
        matches!(too_large, CallError::TooLarge { limit: LARGEST, .. }),
        "{too_large:?}"
    );
    assert_eq!(archive.title(7).await.unwrap(), 7);
    server.stop().await.unwrap();
}
