//! A request is settled once: none is lost, none runs that may not, and none runs twice that must
//! not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rpc_runtime::{
    Broker, CallError, Context, Executed, FaultCode, RequestQueue, RunningServer, Server, ServerError,
    service,
};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use tokio::task::JoinHandle;

use rpc_tests::gate::{Gate, SOON, soon};

#[service]
trait Ledger {
    /// Which worker posted it.
    async fn post(&self, entry: &str) -> String;
    /// Whether the broker had delivered the question before.
    #[rpc(idempotent)]
    async fn look_up(&self, #[rpc(context)] cx: &Context, entry: &str) -> bool;
    #[rpc(oneway)]
    async fn note(&self, entry: &str);
}

/// Another service with a method of the same name as one of the ledger's.
#[service]
trait Mailbox {
    async fn post(&self, letter: &str) -> usize;
}

/// A service whose method names are its own.
#[service]
trait Clock {
    /// Milliseconds that the caller still waits.
    #[rpc(default)]
    async fn remaining(&self, #[rpc(context)] cx: &Context) -> u64;
    async fn never(&self);
}

/// A second default method.
#[service]
trait Calendar {
    #[rpc(default)]
    async fn today(&self) -> u32;
}

/// Calls the clock, and tells what is left of its own time and what the clock was given.
#[service]
trait Front {
    async fn ask(&self, #[rpc(context)] cx: &Context) -> (u64, u64);
    async fn ask_in_vain(&self, #[rpc(context)] cx: &Context);
}

/// What ran, of one worker or of several.
type Journal = Arc<Mutex<Vec<String>>>;

#[derive(Clone)]
struct Book {
    worker: &'static str,
    gate: Gate,
    journal: Journal,
}

impl Book {
    /// Of a worker that writes into this journal and holds each request at the gate.
    fn new(worker: &'static str, gate: &Gate, journal: &Journal) -> Self {
        let (gate, journal) = (gate.clone(), Arc::clone(journal));
        Self {
            worker,
            gate,
            journal,
        }
    }

    async fn run(&self, entry: &str) {
        self.journal.lock().unwrap().push(entry.to_owned());
        self.gate.pass().await;
    }
}

impl Ledger for Book {
    async fn post(&self, entry: &str) -> String {
        self.run(entry).await;
        self.worker.to_owned()
    }

    async fn look_up(&self, cx: &Context, entry: &str) -> bool {
        self.run(entry).await;
        cx.redelivered()
    }

    async fn note(&self, entry: &str) {
        self.run(entry).await;
    }
}

impl Mailbox for Book {
    async fn post(&self, letter: &str) -> usize {
        self.run(letter).await;
        letter.len()
    }
}

struct Sundial;

impl Clock for Sundial {
    async fn remaining(&self, cx: &Context) -> u64 {
        millis(cx)
    }

    async fn never(&self) {
        std::future::pending::<()>().await;
    }
}

impl Calendar for Sundial {
    async fn today(&self) -> u32 {
        7
    }
}

struct Porter {
    clock: ClockClient,
    journal: Journal,
}

impl Front for Porter {
    async fn ask(&self, cx: &Context) -> (u64, u64) {
        let outer = millis(cx);
        (outer, self.clock.remaining().await.unwrap())
    }

    async fn ask_in_vain(&self, cx: &Context) {
        let outer = millis(cx);
        let told = match self.clock.never().await {
            Err(CallError::TimedOut { limit, .. }) if limit <= Duration::from_millis(outer + 1) => {
                "timed out with its caller".to_owned()
            }
            other => format!("{other:?} with {outer} ms left"),
        };
        self.journal.lock().unwrap().push(told);
        // Its own caller has given up, or is about to.
        std::future::pending::<()>().await;
    }
}

/// What the caller still waits; a call always says.
fn millis(cx: &Context) -> u64 {
    let remaining = cx.remaining().expect("a call has a deadline");
    remaining.as_millis().try_into().expect("less than an age")
}

fn entries(journal: &Journal) -> Vec<String> {
    let mut entries = journal.lock().unwrap().clone();
    entries.sort();
    entries
}

fn ledger(broker: &Broker, queue: &str) -> LedgerClient {
    LedgerClient::builder(broker).queue(queue).build()
}

async fn serve(broker: &Broker, queue: &str, concurrency: u16, book: &Book) -> RunningServer {
    Server::new(broker)
        .concurrency(concurrency)
        .serve_on(RequestQueue::new(queue), LedgerServer::new(book.clone()))
        .start()
        .await
        .expect("the server starts")
}

/// Declares the queue, as a worker does that was here before.
async fn declare(world: &World, queue: &str) {
    let book = Book::new("declares", &Gate::closed(), &Journal::default());
    let server = serve(&world.broker().await, queue, 1, &book).await;
    server.stop().await.expect("it has nothing to do");
}

/// Posts entries of these numbers, each in a task of its own.
fn post(
    ledger: &LedgerClient,
    numbers: std::ops::Range<usize>,
) -> Vec<JoinHandle<Result<String, CallError>>> {
    numbers
        .map(|n| tokio::spawn(ledger.post(&format!("{n:03}"))))
        .collect()
}

/// Which workers answered.
async fn answers(calls: Vec<JoinHandle<Result<String, CallError>>>) -> Vec<String> {
    soon("all are answered", join_all(calls))
        .await
        .into_iter()
        .map(|answer| answer.unwrap().expect("it is answered"))
        .collect()
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{n:03}")).collect()
}

on_both_brokers! {
    a_one_way_call_returns_before_it_runs_and_runs_once,
    a_one_way_call_to_a_missing_queue_fails,
    a_call_whose_worker_is_lost_is_not_run_again,
    an_idempotent_call_whose_worker_is_lost_runs_again,
    shutdown_answers_all_that_runs_and_leaves_the_rest_to_others,
    a_drain_that_takes_too_long_says_so_and_gives_requests_back,
    no_more_requests_run_at_once_than_allowed,
    each_queue_has_its_own_bound,
    a_busy_worker_leaves_requests_to_an_idle_one,
    an_expired_call_never_runs,
    nested_calls_inherit_the_remaining_time,
    nested_calls_end_with_their_caller,
    services_share_a_server_on_two_queues,
    services_share_a_queue,
    services_that_do_not_fit_together_are_refused,
}

async fn a_one_way_call_returns_before_it_runs_and_runs_once(world: World) {
    let (queue, gate, journal) = (unique("ledger"), Gate::closed(), Journal::default());
    let book = Book::new("first", &gate, &journal);
    let server = serve(&world.broker().await, &queue, 2, &book).await;
    let ledger = ledger(&world.broker().await, &queue);

    for entry in numbered(0..20) {
        soon("the broker has it", ledger.note(&entry)).await.unwrap();
    }
    gate.began(2).await;
    assert_eq!(entries(&journal).len(), 2, "all others wait their turn");
    gate.let_all_go();
    gate.began(18).await;
    soon("the drain", server.stop()).await.unwrap();
    // Whatever had not been settled would come again.
    let server = serve(&world.broker().await, &queue, 1, &book).await;
    ledger.post("later").await.unwrap();
    server.stop().await.unwrap();
    let mut expected = numbered(0..20);
    expected.push("later".into());
    assert_eq!(entries(&journal), expected);
}

async fn a_one_way_call_to_a_missing_queue_fails(world: World) {
    let ledger = ledger(&world.broker().await, &unique("missing"));
    let error = soon("the verdict", ledger.note("a")).await.unwrap_err();
    assert_eq!(error.executed(), Executed::No);
    assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
}

async fn a_call_whose_worker_is_lost_is_not_run_again(world: World) {
    let (queue, journal) = (unique("ledger"), Journal::default());
    let (lost, next) = (world.broker().await, world.broker().await);
    let gate = Gate::closed();
    let server = serve(&lost, &queue, 8, &Book::new("lost", &gate, &journal)).await;
    let calls = post(&ledger(&world.broker().await, &queue), 0..3);
    gate.began(3).await;

    // Its broker handle lives on; only the server goes.
    drop(server);
    let server = serve(&next, &queue, 8, &Book::new("next", &Gate::open(), &journal)).await;
    for call in calls {
        let error = soon("the fault", call).await.unwrap().unwrap_err();
        assert_eq!(error.executed(), Executed::Maybe);
        match error {
            CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Interrupted),
            other => panic!("{other:?}"),
        }
    }
    server.stop().await.unwrap();
    assert_eq!(entries(&journal), numbered(0..3));
}

async fn an_idempotent_call_whose_worker_is_lost_runs_again(world: World) {
    let (queue, journal) = (unique("ledger"), Journal::default());
    let (lost, next) = (world.broker().await, world.broker().await);
    let gate = Gate::closed();
    let server = serve(&lost, &queue, 8, &Book::new("lost", &gate, &journal)).await;
    let ledger = ledger(&world.broker().await, &queue);
    let call = tokio::spawn(ledger.look_up("a"));
    gate.began(1).await;

    drop(server);
    let server = serve(&next, &queue, 8, &Book::new("next", &Gate::open(), &journal)).await;
    let redelivered = soon("the answer", call).await.unwrap().unwrap();
    assert!(redelivered, "the handler is told that it may be a repetition");
    assert!(!ledger.look_up("b").await.unwrap(), "this one is not");
    server.stop().await.unwrap();
    assert_eq!(entries(&journal), ["a", "a", "b"]);
}

async fn shutdown_answers_all_that_runs_and_leaves_the_rest_to_others(world: World) {
    let (queue, journal) = (unique("ledger"), Journal::default());
    let gate = Gate::closed();
    let broker = world.broker().await;
    let server = serve(&broker, &queue, 4, &Book::new("first", &gate, &journal)).await;
    let ledger = ledger(&world.broker().await, &queue);
    let running = post(&ledger, 0..4);
    gate.began(4).await;
    let waiting = post(&ledger, 4..12);

    let mut stopping = Box::pin(server.stop());
    assert!((&mut stopping).now_or_never().is_none(), "it waits for what runs");
    gate.let_all_go();
    soon("the drain", stopping).await.unwrap();
    assert_eq!(answers(running).await, ["first"; 4]);

    // Nobody serves now; the broker handle is still there.
    let later = post(&ledger, 12..15);
    let next = Book::new("next", &Gate::open(), &journal);
    let server = serve(&world.broker().await, &queue, 4, &next).await;
    assert_eq!(answers(later).await, ["next"; 3]);
    // These arrived around the shutdown: either worker may have them, exactly one has.
    assert_eq!(answers(waiting).await.len(), 8);
    server.stop().await.unwrap();
    assert_eq!(entries(&journal), numbered(0..15));
}

async fn a_drain_that_takes_too_long_says_so_and_gives_requests_back(world: World) {
    let (queue, journal) = (unique("ledger"), Journal::default());
    let (gate, limit) = (Gate::closed(), Duration::from_millis(50));
    let book = Book::new("stuck", &gate, &journal);
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .drain_timeout(limit)
        .serve_on(RequestQueue::new(&queue), LedgerServer::new(book))
        .start()
        .await
        .unwrap();
    let ledger = ledger(&world.broker().await, &queue);
    let posted = post(&ledger, 0..2);
    let looked_up = tokio::spawn(ledger.look_up("x"));
    gate.began(3).await;

    match soon("the drain gives up", server.stop()).await {
        Err(ServerError::DrainTimedOut {
            unfinished,
            limit: told,
            ..
        }) => {
            assert_eq!((unfinished, told), (3, limit));
        }
        other => panic!("{other:?}"),
    }
    assert!(!looked_up.is_finished(), "nobody answered it yet");

    let next = Book::new("next", &Gate::open(), &journal);
    let server = serve(&world.broker().await, &queue, 8, &next).await;
    assert!(soon("the answer", looked_up).await.unwrap().unwrap());
    for call in posted {
        match soon("the fault", call).await.unwrap().unwrap_err() {
            CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Interrupted),
            other => panic!("{other:?}"),
        }
    }
    server.stop().await.unwrap();
    assert_eq!(entries(&journal), ["000", "001", "x", "x"]);
}

async fn no_more_requests_run_at_once_than_allowed(world: World) {
    let (queue, gate, journal) = (unique("ledger"), Gate::closed(), Journal::default());
    declare(&world, &queue).await;
    let ledger = ledger(&world.broker().await, &queue);
    for entry in numbered(0..12) {
        ledger.note(&entry).await.unwrap();
    }

    // All of them are in the queue when the worker comes.
    let book = Book::new("first", &gate, &journal);
    let server = serve(&world.broker().await, &queue, 3, &book).await;
    gate.began(3).await;
    for _ in 3..12 {
        gate.let_go(1);
        gate.began(1).await;
    }
    gate.let_all_go();
    server.stop().await.unwrap();
    assert_eq!(gate.most_inside(), 3);
    assert_eq!(entries(&journal), numbered(0..12));
}

async fn each_queue_has_its_own_bound(world: World) {
    let (first, second) = (unique("ledger"), unique("ledger"));
    let (gate, journal) = (Gate::closed(), Journal::default());
    let book = Book::new("first", &gate, &journal);
    let server = Server::new(&world.broker().await)
        .concurrency(1)
        .serve_on(RequestQueue::new(&first), LedgerServer::new(book.clone()))
        .serve_on(RequestQueue::new(&second), LedgerServer::new(book))
        .start()
        .await
        .unwrap();
    let broker = world.broker().await;
    let mut calls = post(&ledger(&broker, &first), 0..3);
    calls.append(&mut post(&ledger(&broker, &second), 3..6));
    gate.began(2).await;
    gate.let_all_go();
    answers(calls).await;
    server.stop().await.unwrap();
    assert_eq!(gate.most_inside(), 2);
}

async fn a_busy_worker_leaves_requests_to_an_idle_one(world: World) {
    let (queue, journal) = (unique("ledger"), Journal::default());
    let gates = [Gate::closed(), Gate::closed()];
    let mut servers = Vec::new();
    for (worker, gate) in ["first", "second"].into_iter().zip(&gates) {
        let book = Book::new(worker, gate, &journal);
        servers.push(serve(&world.broker().await, &queue, 1, &book).await);
    }
    let calls = post(&ledger(&world.broker().await, &queue), 0..2);
    for gate in &gates {
        gate.began(1).await;
    }
    for gate in &gates {
        gate.let_all_go();
    }
    let mut answers = answers(calls).await;
    answers.sort();
    assert_eq!(answers, ["first", "second"]);
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn an_expired_call_never_runs(world: World) {
    let (queue, gate, journal) = (unique("ledger"), Gate::open(), Journal::default());
    let ledger = ledger(&world.broker().await, &queue);
    let book = Book::new("early", &gate, &journal);
    let server = serve(&world.broker().await, &queue, 1, &book).await;
    ledger.post("before").await.unwrap();
    server.stop().await.unwrap();

    let limit = Duration::from_secs(3);
    let error = ledger.post("expired").timeout(limit).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.executed(), Executed::Maybe, "it had left");
    // The broker got it after the call began, so it expires a little later.
    match &world {
        World::InProcess(_) => tokio::time::sleep(limit).await,
        World::RabbitMq => {
            let peer = RawPeer::connect(shared().await).await.unwrap();
            peer.wait_until_empty(&queue, SOON).await.unwrap();
        }
    }
    let book = Book::new("late", &gate, &journal);
    let server = serve(&world.broker().await, &queue, 1, &book).await;
    ledger.post("after").await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(entries(&journal), ["after", "before"]);
}

/// A porter in front of a clock, each on its own queue; the porter calls through the clock's other
/// client.
async fn front_and_clock(world: &World, journal: &Journal) -> (FrontClient, [RunningServer; 2]) {
    let (front, clock) = (unique("front"), unique("clock"));
    let broker = world.broker().await;
    let sundial = Server::new(&broker)
        .serve_on(RequestQueue::new(&clock), ClockServer::new(Sundial))
        .start()
        .await
        .unwrap();
    let broker = world.broker().await;
    let porter = Porter {
        clock: ClockClient::builder(&broker).queue(&clock).build(),
        journal: Arc::clone(journal),
    };
    let porter = Server::new(&broker)
        .serve_on(RequestQueue::new(&front), FrontServer::new(porter))
        .start()
        .await
        .unwrap();
    let client = FrontClient::builder(&world.broker().await).queue(&front).build();
    (client, [sundial, porter])
}

async fn nested_calls_inherit_the_remaining_time(world: World) {
    let (front, servers) = front_and_clock(&world, &Journal::default()).await;
    let (outer, inner) = front.ask().timeout(Duration::from_secs(20)).await.unwrap();
    assert!(outer <= 20_000, "{outer}");
    // On the wire, time is rounded up to whole milliseconds.
    assert!(inner <= outer + 1, "{inner} ms inside of {outer} ms");
    assert!(inner > 5_000, "{inner}");
    // A call outside of a handler has the client's 30 seconds.
    let (outer, _) = front.ask().await.unwrap();
    assert!(outer > 20_000, "{outer}");
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn nested_calls_end_with_their_caller(world: World) {
    let journal = Journal::default();
    let (front, _servers) = front_and_clock(&world, &journal).await;
    // So that both links are open.
    front.ask().await.unwrap();
    let outcome = front.ask_in_vain().timeout(Duration::from_secs(5)).await;
    assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
    until("the nested call ends", SOON, async || {
        Ok(!entries(&journal).is_empty())
    })
    .await
    .unwrap();
    assert_eq!(entries(&journal), ["timed out with its caller"]);
}

async fn services_share_a_server_on_two_queues(world: World) {
    let (ledgers, mailboxes, journal) = (unique("ledger"), unique("mailbox"), Journal::default());
    let book = Book::new("both", &Gate::open(), &journal);
    let server = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&ledgers), LedgerServer::new(book.clone()))
        .serve_on(RequestQueue::new(&mailboxes), MailboxServer::new(book))
        .start()
        .await
        .unwrap();
    let broker = world.broker().await;
    let mailbox = MailboxClient::builder(&broker).queue(&mailboxes).build();
    // The same method's name, on each queue its own service.
    assert_eq!(ledger(&broker, &ledgers).post("entry").await.unwrap(), "both");
    assert_eq!(mailbox.post("letter").await.unwrap(), 6);
    server.stop().await.unwrap();
    assert_eq!(entries(&journal), ["entry", "letter"]);
}

async fn services_share_a_queue(world: World) {
    let (queue, journal) = (unique("shared"), Journal::default());
    let book = Book::new("both", &Gate::open(), &journal);
    let server = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&queue), LedgerServer::new(book))
        .serve_on(RequestQueue::new(&queue), ClockServer::new(Sundial))
        .start()
        .await
        .unwrap();
    let broker = world.broker().await;
    let clock = ClockClient::builder(&broker).queue(&queue).build();
    for _ in 0..3 {
        assert_eq!(ledger(&broker, &queue).post("entry").await.unwrap(), "both");
        assert!(clock.remaining().await.unwrap() > 0);
    }
    server.stop().await.unwrap();
}

async fn services_that_do_not_fit_together_are_refused(world: World) {
    let broker = world.broker().await;
    let name = unique("shared");
    let queue = || RequestQueue::new(&name);
    let book = Book::new("none", &Gate::open(), &Journal::default());
    let (ledger, mailbox) = (LedgerServer::new(book.clone()), MailboxServer::new(book));
    let (clock, calendar) = (ClockServer::new(Sundial), CalendarServer::new(Sundial));

    let error = Server::new(&broker).start().await.unwrap_err();
    assert!(matches!(error, ServerError::NoService), "{error:?}");

    let server = Server::new(&broker)
        .serve_on(queue(), ledger)
        .serve_on(queue(), mailbox);
    match server.start().await.unwrap_err() {
        ServerError::DuplicateMethod { queue, method, .. } => {
            assert_eq!((queue, method), (name.clone(), "post"));
        }
        other => panic!("{other:?}"),
    }

    let server = Server::new(&broker)
        .serve_on(queue(), clock)
        .serve_on(queue(), calendar);
    match server.start().await.unwrap_err() {
        ServerError::DuplicateDefault { queue, .. } => assert_eq!(queue, name),
        other => panic!("{other:?}"),
    }

    let server = Server::new(&broker)
        .serve_on(queue(), ClockServer::new(Sundial))
        .serve_on(
            queue().transient(),
            LedgerServer::new(Book::new("none", &Gate::open(), &Journal::default())),
        );
    match server.start().await.unwrap_err() {
        ServerError::ConflictingQueue { queue, .. } => assert_eq!(queue, name),
        other => panic!("{other:?}"),
    }

    // Refused before anything was declared.
    let clock = ClockClient::builder(&broker).queue(&name).build();
    let outcome = clock.remaining().await;
    assert!(matches!(outcome, Err(CallError::NoServer { .. })), "{outcome:?}");
}
