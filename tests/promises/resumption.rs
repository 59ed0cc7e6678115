//! A stream with `#[rpc(resume)]` goes on after an interruption, without gaps or duplicates, for as
//! long as its reader waits for an item.

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::middleware::{CallReply, OutgoingCall};
use rpc_runtime::{
    Broker, CallError, Codec, Executed, FaultCode, ReplyQueue, RequestQueue, RunningServer, Server, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::on_both_brokers;
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::world::World;
use serde::{Deserialize, Serialize};
use tower::retry::{Policy, RetryLayer};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    table: String,
    number: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NoTable;

#[service]
trait Export {
    /// The rows below a number. Waits at the gate before each.
    #[rpc(idempotent)]
    fn rows(
        &self,
        table: &str,
        #[rpc(resume)]
        #[serde(rename = "since \"\u{e9}\"")]
        after: Option<Row>,
        to: u64,
    ) -> impl Stream<Item = Result<Row, NoTable>>;

    #[rpc(idempotent)]
    fn blocks(&self, to: u8, #[rpc(resume)] after: Option<Vec<u8>>) -> impl Stream<Item = Vec<u8>>;
}

/// Records the number after which each run begins.
#[derive(Clone)]
struct Tables {
    gate: Gate,
    runs: Arc<Mutex<Vec<u64>>>,
}

impl Tables {
    fn behind(gate: Gate) -> Self {
        let runs = Arc::default();
        Self { gate, runs }
    }

    fn runs(&self) -> Vec<u64> {
        self.runs.lock().unwrap().clone()
    }
}

impl Export for Tables {
    fn rows(&self, table: &str, after: Option<Row>, to: u64) -> impl Stream<Item = Result<Row, NoTable>> {
        let first = after.map_or(0, |row| row.number + 1);
        self.runs.lock().unwrap().push(first);
        stream::iter(first..to).then(move |number| async move {
            self.gate.pass().await;
            let table = table.to_owned();
            match table.as_str() {
                "none" => Err(NoTable),
                "damaged" if number == first + 1 => panic!("injected by the test"),
                _ => Ok(Row { table, number }),
            }
        })
    }

    fn blocks(&self, to: u8, after: Option<Vec<u8>>) -> impl Stream<Item = Vec<u8>> {
        let first = after.map_or(0, |block| block[0] + 1);
        self.runs.lock().unwrap().push(first.into());
        stream::iter(first..to).then(async |number| {
            self.gate.pass().await;
            vec![number; 3]
        })
    }
}

on_both_brokers! {
    a_stream_goes_on_at_another_worker,
    bytes_are_resumed_in_their_own_form,
    the_reader_gets_what_interrupted_the_stream_if_it_cannot_go_on,
    other_errors_are_final,
    a_layer_that_repeats_calls_does_not_hide_a_final_error,
}

/// A worker with a handle of its own, which does not wait for its streams when it stops.
async fn serve(world: &World, queue: &str, tables: &Tables) -> RunningServer {
    let server = Server::new(&world.broker().await)
        .drain_timeout(Duration::ZERO)
        .serve_on(RequestQueue::new(queue), ExportServer::new(tables.clone()));
    soon("it starts", server.start()).await.unwrap()
}

async fn stop(server: RunningServer) {
    // The streams do not end before it does.
    let _ = soon("it stops", server.stop()).await;
}

fn row(number: u64) -> Row {
    let table = "t".to_owned();
    Row { table, number }
}

async fn a_stream_goes_on_at_another_worker(world: World) {
    for codec in [Codec::MessagePack, Codec::Json] {
        let queue = unique("export");
        let broker = world.broker().await;
        let export = ExportClient::builder(&broker)
            .queue(&queue)
            .codec(codec)
            .timeout(SOON)
            .build();
        let tables = Tables::behind(Gate::closed());
        let mut worker = serve(&world, &queue, &tables).await;
        let mut rows = export.rows("t", Some(row(4)), 30).credit(3);
        for number in 5..30 {
            tables.gate.let_go(1);
            assert_eq!(
                soon("it arrives", rows.next()).await.unwrap().unwrap(),
                row(number)
            );
            if number % 10 == 9 {
                let next = serve(&world, &queue, &tables).await;
                stop(std::mem::replace(&mut worker, next)).await;
            }
        }
        tables.gate.let_all_go();
        assert!(soon("it ends", rows.next()).await.is_none());
        let runs = tables.runs();
        assert!(runs.starts_with(&[5, 10]) && runs.contains(&20), "{runs:?}");
        stop(worker).await;
    }
}

async fn bytes_are_resumed_in_their_own_form(world: World) {
    let queue = unique("export");
    let broker = world.broker().await;
    let export = ExportClient::builder(&broker).queue(&queue).timeout(SOON).build();
    let tables = Tables::behind(Gate::closed());
    let worker = serve(&world, &queue, &tables).await;
    let mut blocks = export.blocks(4, None);
    for number in 0..4 {
        tables.gate.let_go(1);
        assert_eq!(
            soon("it arrives", blocks.next()).await.unwrap().unwrap(),
            [number; 3]
        );
        if number == 1 {
            break;
        }
    }
    let next = serve(&world, &queue, &tables).await;
    stop(worker).await;
    tables.gate.let_all_go();
    let rest: Vec<_> = soon("it ends", blocks.map(Result::unwrap).collect()).await;
    assert_eq!(rest, [[2; 3], [3; 3]]);
    assert_eq!(tables.runs(), [0, 2]);
    stop(next).await;
}

async fn the_reader_gets_what_interrupted_the_stream_if_it_cannot_go_on(world: World) {
    let queue = unique("export");
    let broker = world.broker().await;
    let limit = Duration::from_secs(5);
    let export = ExportClient::builder(&broker)
        .queue(&queue)
        .timeout(limit)
        .build();
    let tables = Tables::behind(Gate::closed());
    let worker = serve(&world, &queue, &tables).await;
    tables.gate.let_go(1);
    let mut rows = export.rows("t", None, 30);
    assert_eq!(soon("it arrives", rows.next()).await.unwrap().unwrap(), row(0));
    stop(worker).await;
    // The broker keeps the queue, so the request waits in it.
    let error = soon("it ends", rows.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut { limit: of, .. } if of == limit),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::Maybe);
    assert!(soon("it has ended", rows.next()).await.is_none());
}

async fn other_errors_are_final(world: World) {
    let queue = unique("export");
    let broker = world.broker().await;
    let export = ExportClient::builder(&broker).queue(&queue).timeout(SOON).build();
    let tables = Tables::behind(Gate::open());
    let worker = serve(&world, &queue, &tables).await;
    let mut rows = export.rows("none", None, 3);
    let error = soon("it ends", rows.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Service(NoTable)), "{error:?}");
    assert_eq!(tables.runs(), [0]);
    let too_late = export.rows("t", None, 3).timeout(Duration::from_millis(50));
    let closed = Tables::behind(Gate::closed());
    stop(worker).await;
    let worker = serve(&world, &queue, &closed).await;
    let outcome: Vec<_> = soon("it ends", too_late.collect()).await;
    assert!(
        matches!(outcome[..], [Err(CallError::TimedOut { .. })]),
        "{outcome:?}"
    );
    stop(worker).await;
}

/// Repeats each call that fails, once.
#[derive(Clone)]
struct Once(bool);

impl Policy<OutgoingCall, CallReply, CallError> for Once {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut OutgoingCall,
        outcome: &mut Result<CallReply, CallError>,
    ) -> Option<Self::Future> {
        let repeats = outcome.is_err() && !self.0;
        self.0 = true;
        repeats.then(|| ready(()))
    }

    fn clone_request(&mut self, call: &OutgoingCall) -> Option<OutgoingCall> {
        Some(call.clone())
    }
}

async fn a_layer_that_repeats_calls_does_not_hide_a_final_error(world: World) {
    let queue = unique("export");
    let broker = world.broker().await;
    let client = ExportClient::builder(&broker).queue(&queue).timeout(SOON);
    let export = client.layer(RetryLayer::new(Once(false))).build();
    let tables = Tables::behind(Gate::closed());
    let worker = serve(&world, &queue, &tables).await;
    let mut rows = export.rows("damaged", None, 5);
    tables.gate.let_go(1);
    soon("it arrives", rows.next()).await.unwrap().unwrap();
    tables.gate.let_all_go();
    let error = soon("it ends", rows.next()).await.unwrap().unwrap_err();
    let is_panic = matches!(&error, CallError::Fault(fault) if fault.code == FaultCode::Panicked);
    assert!(is_panic, "{error:?}");
    assert_eq!(tables.runs(), [0], "it was resumed");
    stop(worker).await;
}

/// The worker sends its items to a reply queue that has gone with the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_with_another_reply_queue() {
    for replies in [ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let queue = unique("export");
        let proxy = Proxy::start(shared().await).await.unwrap();
        let options = Broker::builder().reply_queue(replies);
        let caller = options.address(proxy.url()).connect().await.unwrap();
        let export = ExportClient::builder(&caller).queue(&queue).timeout(SOON).build();
        let tables = Tables::behind(Gate::open());
        let worker = serve(&World::RabbitMq, &queue, &tables).await;
        let mut rows = export.rows("t", None, 600).credit(50);
        for number in 0..600 {
            assert_eq!(
                soon("it arrives", rows.next()).await.unwrap().unwrap(),
                row(number)
            );
            if number % 200 == 100 {
                proxy.reset(Target::All).await;
            }
        }
        assert!(soon("it ends", rows.next()).await.is_none());
        assert!(tables.runs().len() > 1, "it was not interrupted");
        stop(worker).await;
    }
}

/// In process, the only worker is the implementation, and nothing interrupts its streams.
#[tokio::test]
async fn a_client_in_process_has_the_same_stream() {
    let tables = Tables::behind(Gate::open());
    let export = ExportClient::in_process(tables.clone());
    let rows: Vec<_> = export
        .rows("t", Some(row(6)), 9)
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(rows, [row(7), row(8)]);
    assert_eq!(tables.runs(), [7]);
}
