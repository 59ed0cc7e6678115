//! A request that comes back is answered with the outcome of its first delivery, if a layer has
//! stored it; and all deliveries of a request have the same id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_runtime::middleware::{BoxError, Idempotency, IdempotencyStore, InMemoryStore, StoredOutcome};
use rpc_runtime::{
    Broker, CallError, Context, EncodedCall, Executed, FaultCode, RequestId, RequestQueue, RunningServer,
    Server, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde::{Deserialize, Serialize};
use tower::limit::ConcurrencyLimitLayer;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Declined;

#[service]
trait Bank {
    /// Returns how many payments there are.
    async fn pay(&self, #[rpc(context)] cx: &Context, cents: u64) -> Result<usize, Declined>;
    #[rpc(idempotent)]
    async fn pay_again(&self, #[rpc(context)] cx: &Context, cents: u64) -> usize;
    #[rpc(oneway, idempotent, retry = "2 times, 100ms")]
    async fn book(&self, #[rpc(context)] cx: &Context, cents: u64) -> Result<(), Declined>;
}

/// Declines payments of nothing, and books only at the third attempt if there is nothing to book.
#[derive(Clone)]
struct Account {
    gate: Gate,
    payments: Arc<Mutex<Vec<RequestId>>>,
}

impl Account {
    fn behind(gate: &Gate) -> Self {
        Self {
            gate: gate.clone(),
            payments: Arc::default(),
        }
    }

    fn payments(&self) -> Vec<RequestId> {
        self.payments.lock().unwrap().clone()
    }

    async fn run(&self, cx: &Context) -> usize {
        let number = {
            let mut payments = self.payments.lock().unwrap();
            payments.push(cx.request_id().expect("it has an id"));
            payments.len()
        };
        self.gate.pass().await;
        number
    }
}

impl Bank for Account {
    async fn pay(&self, cx: &Context, cents: u64) -> Result<usize, Declined> {
        let number = self.run(cx).await;
        (cents > 0).then_some(number).ok_or(Declined)
    }

    async fn pay_again(&self, cx: &Context, _cents: u64) -> usize {
        self.run(cx).await
    }

    async fn book(&self, cx: &Context, cents: u64) -> Result<(), Declined> {
        self.run(cx).await;
        let is_booked = cents > 0 || cx.attempt() == 3;
        is_booked.then_some(()).ok_or(Declined)
    }
}

/// A store that all workers share. It may hang after it has stored an outcome, fail or panic.
#[derive(Clone)]
struct Store {
    outcomes: Arc<InMemoryStore>,
    before_seen: Gate,
    after_done: Gate,
    fails_before: Arc<AtomicBool>,
    fails_after: Arc<AtomicBool>,
    /// Whether it panics where it would fail.
    panics: bool,
}

impl Store {
    fn new() -> Self {
        Self {
            outcomes: Arc::new(InMemoryStore::new(100, Duration::from_secs(600))),
            before_seen: Gate::open(),
            after_done: Gate::open(),
            fails_before: Arc::default(),
            fails_after: Arc::default(),
            panics: false,
        }
    }

    fn failure(&self) -> BoxError {
        assert!(!self.panics, "the store panics");
        "the password of the database is wrong".into()
    }

    /// The same store for a worker that will be lost once it has stored an outcome.
    fn of_lost_worker(&self) -> Self {
        Self {
            after_done: Gate::closed(),
            ..self.clone()
        }
    }
}

impl IdempotencyStore for Store {
    async fn load(&self, id: RequestId) -> Result<Option<StoredOutcome>, BoxError> {
        if self.fails_before.load(Ordering::SeqCst) {
            return Err(self.failure());
        }
        self.before_seen.pass().await;
        // As a database keeps it.
        let outcome = self.outcomes.load(id).await?;
        let bytes = outcome.map(|outcome| outcome.to_bytes());
        Ok(bytes.map(|bytes| StoredOutcome::from_bytes(&bytes)).transpose()?)
    }

    async fn save(&self, id: RequestId, outcome: StoredOutcome) -> Result<(), BoxError> {
        if self.fails_after.load(Ordering::SeqCst) {
            return Err(self.failure());
        }
        self.outcomes.save(id, outcome).await?;
        self.after_done.pass().await;
        Ok(())
    }
}

async fn serve(broker: &Broker, queue: &str, store: &Store, account: &Account) -> RunningServer {
    Server::new(broker)
        .layer(Idempotency::new(store.clone()))
        .layer(ConcurrencyLimitLayer::new(64))
        .serve_on(RequestQueue::new(queue), BankServer::new(account.clone()))
        .start()
        .await
        .unwrap()
}

fn client(broker: &Broker, queue: &str) -> BankClient {
    BankClient::builder(broker).queue(queue).build()
}

on_both_brokers! {
    a_call_whose_worker_is_lost_after_the_outcome_was_stored_is_answered_with_it,
    an_error_is_stored_like_a_result,
    an_idempotent_method_does_not_run_again_if_its_outcome_is_stored,
    a_call_whose_worker_is_lost_before_the_outcome_was_stored_is_not_run_again,
    a_store_that_fails_before_the_method_keeps_it_from_running,
    a_method_does_not_begin_after_its_deadline_because_the_store_is_slow,
    a_store_that_fails_after_the_method_does_not_hide_that_it_ran,
    a_job_is_done_although_its_outcome_cannot_be_stored,
    the_same_job_at_the_same_time_runs_once,
    a_job_that_failed_is_retried_with_the_same_id,
    a_method_that_the_layer_does_not_apply_to_runs_again,
}

/// A worker that runs the methods until their outcomes are stored, and the next one.
struct Relay {
    account: Account,
    bank: BankClient,
    store: Store,
    lost: Store,
    queue: String,
    server: RunningServer,
    next: Broker,
}

impl Relay {
    async fn start(world: &World) -> Self {
        let (queue, store) = (unique("bank"), Store::new());
        let account = Account::behind(&Gate::open());
        let lost = store.of_lost_worker();
        Self {
            server: serve(&world.broker().await, &queue, &lost, &account).await,
            bank: client(&world.broker().await, &queue),
            next: world.broker().await,
            account,
            store,
            lost,
            queue,
        }
    }

    /// Loses the first worker and starts the next one.
    async fn lose_worker(&mut self) {
        self.lost.after_done.began(1).await;
        let next = serve(&self.next, &self.queue, &self.store, &self.account).await;
        drop(std::mem::replace(&mut self.server, next));
    }
}

async fn a_call_whose_worker_is_lost_after_the_outcome_was_stored_is_answered_with_it(world: World) {
    let mut relay = Relay::start(&world).await;
    let call = tokio::spawn(relay.bank.pay(5));
    relay.lose_worker().await;
    assert_eq!(soon("the answer", call).await.unwrap().unwrap(), 1);
    assert_eq!(relay.account.payments().len(), 1);
    // Another call is another request.
    assert_eq!(relay.bank.pay(5).await.unwrap(), 2);
    relay.server.stop().await.unwrap();
}

async fn an_error_is_stored_like_a_result(world: World) {
    let mut relay = Relay::start(&world).await;
    let call = tokio::spawn(relay.bank.pay(0));
    relay.lose_worker().await;
    let answer = soon("the answer", call).await.unwrap();
    assert!(matches!(answer, Err(CallError::Service(Declined))), "{answer:?}");
    assert_eq!(relay.account.payments().len(), 1);
    relay.server.stop().await.unwrap();
}

async fn an_idempotent_method_does_not_run_again_if_its_outcome_is_stored(world: World) {
    let mut relay = Relay::start(&world).await;
    let call = tokio::spawn(relay.bank.pay_again(5));
    relay.lose_worker().await;
    assert_eq!(soon("the answer", call).await.unwrap().unwrap(), 1);
    assert_eq!(relay.account.payments().len(), 1);
    relay.server.stop().await.unwrap();
}

async fn a_call_whose_worker_is_lost_before_the_outcome_was_stored_is_not_run_again(world: World) {
    let (queue, store, gate) = (unique("bank"), Store::new(), Gate::closed());
    let account = Account::behind(&gate);
    let server = serve(&world.broker().await, &queue, &store, &account).await;
    let bank = client(&world.broker().await, &queue);
    let call = tokio::spawn(bank.pay(5));
    gate.began(1).await;
    let next = serve(&world.broker().await, &queue, &store, &account).await;
    drop(server);
    match soon("the fault", call).await.unwrap() {
        Err(CallError::Fault(fault)) => assert_eq!(fault.code, FaultCode::Interrupted),
        other => panic!("{other:?}"),
    }
    assert_eq!(account.payments().len(), 1);
    gate.let_all_go();
    next.stop().await.unwrap();
}

async fn a_store_that_fails_before_the_method_keeps_it_from_running(world: World) {
    for panics in [false, true] {
        let (broker, queue, store) = (
            world.broker().await,
            unique("bank"),
            Store {
                panics,
                ..Store::new()
            },
        );
        let account = Account::behind(&Gate::open());
        let server = serve(&broker, &queue, &store, &account).await;
        store.fails_before.store(true, Ordering::SeqCst);
        let error = soon("the fault", client(&broker, &queue).pay(5))
            .await
            .unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        match error {
            CallError::Fault(fault) => {
                assert_eq!(fault.code, FaultCode::Rejected);
                assert!(!fault.message.contains("password"), "{fault}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(account.payments(), []);
        store.fails_before.store(false, Ordering::SeqCst);
        assert_eq!(client(&broker, &queue).pay(5).await.unwrap(), 1);
        server.stop().await.unwrap();
    }
}

async fn a_method_does_not_begin_after_its_deadline_because_the_store_is_slow(world: World) {
    let (broker, queue) = (world.broker().await, unique("bank"));
    let slow = Gate::closed();
    let store = Store {
        before_seen: slow.clone(),
        ..Store::new()
    };
    let account = Account::behind(&Gate::open());
    let server = serve(&broker, &queue, &store, &account).await;
    let bank = client(&broker, &queue);
    let limit = Duration::from_secs(3);
    let late = tokio::spawn(bank.pay(5).timeout(limit).into_future());
    slow.began(1).await;
    // The worker's deadline is later than the caller's: it counts from the arrival.
    tokio::time::sleep(limit).await;
    let late = soon("its time is up", late).await.unwrap();
    assert!(late.is_err(), "{late:?}");
    slow.let_all_go();
    assert_eq!(soon("it is paid", bank.pay(5)).await.unwrap(), 1);
    server.stop().await.unwrap();
    assert_eq!(account.payments().len(), 1);
}

async fn a_store_that_fails_after_the_method_does_not_hide_that_it_ran(world: World) {
    for panics in [false, true] {
        let (broker, queue, store) = (
            world.broker().await,
            unique("bank"),
            Store {
                panics,
                ..Store::new()
            },
        );
        let account = Account::behind(&Gate::open());
        let server = serve(&broker, &queue, &store, &account).await;
        store.fails_after.store(true, Ordering::SeqCst);
        let error = soon("the fault", client(&broker, &queue).pay(5))
            .await
            .unwrap_err();
        assert_eq!(error.executed(), Executed::Maybe);
        match error {
            CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Abandoned),
            other => panic!("{other:?}"),
        }
        assert_eq!(account.payments().len(), 1);
        server.stop().await.unwrap();
    }
}

async fn a_job_is_done_although_its_outcome_cannot_be_stored(world: World) {
    let (broker, queue, store) = (world.broker().await, unique("bank"), Store::new());
    let account = Account::behind(&Gate::open());
    let server = serve(&broker, &queue, &store, &account).await;
    store.fails_after.store(true, Ordering::SeqCst);
    client(&broker, &queue).book(5).await.unwrap();
    until("it runs", SOON, async || Ok(account.payments().len() == 1))
        .await
        .unwrap();
    server.stop().await.unwrap();
    // A retry would have come by now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let server = serve(&broker, &queue, &store, &account).await;
    client(&broker, &queue).pay(5).await.unwrap_err();
    server.stop().await.unwrap();
    assert_eq!(account.payments().len(), 2);
}

async fn the_same_job_at_the_same_time_runs_once(world: World) {
    let (broker, queue, gate) = (world.broker().await, unique("bank"), Gate::closed());
    let account = Account::behind(&gate);
    let server = serve(&broker, &queue, &Store::new(), &account).await;
    let call = client(&broker, &queue).book(5).encode().unwrap();
    let call = EncodedCall::from_bytes(&call.to_bytes()).unwrap();
    broker.send(&call).await.unwrap();
    gate.began(1).await;
    broker.send(&call).await.unwrap();
    let other = tokio::spawn(client(&broker, &queue).pay(5));
    // The other request arrived after the second delivery, which waits.
    gate.began(1).await;
    gate.let_all_go();
    other.await.unwrap().unwrap();
    server.stop().await.unwrap();
    let payments = account.payments();
    assert_eq!((payments.len(), payments[0]), (2, call.request_id()));
    assert_ne!(payments[1], call.request_id());
}

async fn a_job_that_failed_is_retried_with_the_same_id(world: World) {
    let (broker, queue, store) = (world.broker().await, unique("bank"), Store::new());
    let account = Account::behind(&Gate::open());
    let server = serve(&broker, &queue, &store, &account).await;
    let call = client(&broker, &queue).book(0).encode().unwrap();
    broker.send(&call).await.unwrap();
    until("it is retried", SOON, async || Ok(account.payments().len() == 3))
        .await
        .unwrap();
    until("the last attempt is stored", SOON, async || {
        Ok(store.outcomes.load(call.request_id()).await.unwrap().is_some())
    })
    .await
    .unwrap();
    // Its success is an outcome.
    broker.send(&call).await.unwrap();
    client(&broker, &queue).pay(5).await.unwrap();
    server.stop().await.unwrap();
    let payments = account.payments();
    assert_eq!(payments[..3], [call.request_id(); 3]);
    assert_eq!(payments.len(), 4);
}

async fn a_method_that_the_layer_does_not_apply_to_runs_again(world: World) {
    let (broker, queue) = (world.broker().await, unique("bank"));
    let account = Account::behind(&Gate::open());
    let server = Server::new(&broker)
        .layer(Idempotency::new(Store::new()).only(["Bank.pay*"]))
        .serve_on(RequestQueue::new(&queue), BankServer::new(account.clone()))
        .start()
        .await
        .unwrap();
    let call = client(&broker, &queue).book(5).encode().unwrap();
    broker.send(&call).await.unwrap();
    broker.send(&call).await.unwrap();
    client(&broker, &queue).pay(5).await.unwrap();
    until("both run", SOON, async || Ok(account.payments().len() == 3))
        .await
        .unwrap();
    server.stop().await.unwrap();
}
