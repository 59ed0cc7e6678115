//! Each fault that a network has, at each connection that a call takes, for each way that replies
//! come: calls in flight get their answer or the truth, and calls made later get through, with
//! nobody doing a thing.
//!
//! Each cell has a caller and a worker of its own; the one that the fault is for reaches the broker
//! through a proxy. How long the cells took to recover is left in `target/recovery.csv`.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rpc_runtime::{Broker, CallError, Executed, ReplyQueue, RequestQueue, RunningServer};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::hostile::Hostile;
use rpc_tests::ledger::{Book, LedgerClient, client, serve};
use rpc_tests::proxy::{Cut, Direction, Fault, Proxy, Sight, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::runs::Runs;
use rpc_tests::until;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

mod broadcasts;
mod jobs;
mod streams;
mod uploads;

/// How long a fault lasts that heals by itself.
const MOMENT: Duration = Duration::from_millis(300);

/// How long recovery may take, after the fault has passed or the connection was lost: many times
/// what it takes on an idle machine.
const RECOVERY: Duration = Duration::from_secs(20);

/// How often the peers of a connection must hear from each other where a fault never heals, in
/// seconds. The loss is known after twice that time. Shorter would do, but not on a machine that is
/// busy with other tests.
const HEARTBEAT: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Latency,
    Throttle,
    /// Nothing passes on this way for a moment.
    Hole(Direction),
    /// Nothing passes on this way any more: the peers have to find out.
    Dead(Direction),
    Reset,
    /// One way ends, in order; the other stays open.
    HalfClose(Direction),
    /// The connection is lost in the middle of a frame.
    CutInFrame,
    /// The connection is lost, and new ones are accepted and not served for a moment.
    Silence,
    /// The connection is lost, and new ones are refused for a moment.
    Refusal,
    /// The network is well. Somebody sends malformed requests, replies and questions, forged ones,
    /// and each twice.
    Stranger,
}

impl Trouble {
    /// Injects the fault into the connections of this target, which are also given one by one.
    /// Returns those faults that last.
    async fn strike(self, proxy: &Proxy, target: Target, connections: &[Target]) -> Vec<Fault> {
        match self {
            Self::Latency => vec![proxy.delay(target, Direction::Both, Duration::from_millis(100))],
            Self::Throttle => vec![proxy.throttle(target, Direction::Both, 2000)],
            Self::Hole(direction) => vec![proxy.black_hole(target, direction)],
            Self::Dead(direction) => {
                let holes = connections.iter().map(|&one| proxy.black_hole(one, direction));
                holes.collect()
            }
            Self::CutInFrame | Self::Stranger => Vec::new(),
            Self::Reset => {
                proxy.reset(target).await;
                Vec::new()
            }
            Self::HalfClose(direction) => {
                proxy.half_close(target, direction).await;
                // On both sides.
                until("the connection is over", SOON, async || {
                    Ok(connections.iter().all(|&it| proxy.counts(it).open == 0))
                })
                .await
                .unwrap();
                Vec::new()
            }
            Self::Silence => {
                let silence = proxy.silence_new();
                proxy.reset(target).await;
                vec![silence]
            }
            Self::Refusal => {
                let refusal = proxy.refuse_new().await;
                proxy.reset(target).await;
                vec![refusal]
            }
        }
    }

    fn heals(self) -> bool {
        !matches!(self, Self::Dead(_))
    }
}

/// How long recovery may take.
fn longest_recovery(trouble: Trouble) -> Duration {
    if trouble.heals() {
        RECOVERY
    } else {
        RECOVERY + 2 * Duration::from_secs(HEARTBEAT.into())
    }
}

/// Starts a proxy for the fault. Returns the broker's addresses for the caller and for the worker,
/// one of which leads through the proxy.
async fn proxied(trouble: Trouble, is_at_caller: bool) -> (Proxy, [String; 2]) {
    let direct = shared().await.to_owned();
    let proxy = Proxy::start(&direct).await.unwrap();
    let through_proxy = match trouble {
        Trouble::Dead(_) => format!("{}?heartbeat={HEARTBEAT}", proxy.url()),
        _ => proxy.url().to_owned(),
    };
    let addresses = match is_at_caller {
        true => [through_proxy, direct],
        false => [direct, through_proxy],
    };
    (proxy, addresses)
}

/// Which connection the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    CallerPublishing,
    CallerReceiving,
    WorkerConsuming,
    WorkerReplying,
}

use Place::{CallerPublishing, CallerReceiving, WorkerConsuming, WorkerReplying};

const PLACES: [Place; 4] = [CallerPublishing, CallerReceiving, WorkerConsuming, WorkerReplying];

const REPLY_QUEUES: [ReplyQueue; 3] = [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct];

#[derive(Debug, Clone, Copy)]
struct Cell {
    trouble: Trouble,
    place: Place,
    replies: ReplyQueue,
}

/// What becomes of a call that is not `idempotent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// It ends with an error, and may have run.
    Lost,
    /// One of the two: the reply and the fault race.
    Either,
}

impl Cell {
    /// What becomes of a call that is not `idempotent`, which runs when the fault strikes and ends
    /// while it lasts.
    ///
    /// One that is `idempotent` is answered in all cells.
    fn expected(self) -> Outcome {
        let Self {
            trouble,
            place,
            replies,
        } = self;
        match (place, replies) {
            // A worker sends its reply until the broker has it. A resumable queue keeps it for its
            // caller.
            (WorkerConsuming | WorkerReplying, _) | (_, ReplyQueue::Resumable) => Outcome::Answered,
            // The request had arrived, and replies come by the other connection.
            (CallerPublishing, ReplyQueue::Exclusive) => Outcome::Answered,
            // Here, the reply goes with the connection.
            (CallerPublishing | CallerReceiving, _) => match trouble {
                Trouble::Latency | Trouble::Throttle | Trouble::Hole(_) | Trouble::Stranger => {
                    Outcome::Answered
                }
                Trouble::Dead(Direction::ToBroker) => Outcome::Answered,
                Trouble::CutInFrame if place == CallerReceiving => Outcome::Either,
                _ => Outcome::Lost,
            },
        }
    }

    /// The connection's name, by the end that has a proxy.
    fn target(self) -> Target {
        Target::Named(match (self.place, self.replies) {
            (CallerPublishing, _) | (CallerReceiving, ReplyQueue::Direct) => "rpc publish",
            (CallerReceiving | WorkerConsuming, _) => "rpc consume",
            (WorkerReplying, ReplyQueue::Direct) => "rpc direct replies",
            (WorkerReplying, _) => "rpc publish",
        })
    }

    fn is_at_caller(self) -> bool {
        matches!(self.place, CallerPublishing | CallerReceiving)
    }

    /// A request and a reply both name their content type, and the names of their queues come
    /// before it.
    fn in_frame(self) -> Sight {
        let content_type = "application/msgpack";
        match self.place {
            CallerPublishing | WorkerReplying => Sight::to_broker(content_type),
            CallerReceiving | WorkerConsuming => Sight::from_broker(content_type),
        }
    }
}

/// Now that nothing runs any more: no call ran more often than it may, and no error has lied.
fn assert_ran_as_given(book: &Book, cell: Cell, made: &str, write: &Result<(), CallError>) {
    let reads = book.runs(&format!("read {made}"));
    // A worker knows a request again; but the caller's repetition may come by another address, or
    // after the answer.
    let most = if cell.is_at_caller() { 2 } else { 1 };
    assert!(
        (1..=most).contains(&reads),
        "the read made {made} ran {reads} times"
    );
    book.assert_wrote_as_told(&format!("write {made}"), write);
}

/// A read and a write that were made.
struct Pair {
    made: &'static str,
    read: JoinHandle<Result<(), CallError>>,
    write: JoinHandle<Result<(), CallError>>,
}

/// A caller and a worker, one of them behind a proxy.
struct Scene {
    cell: Cell,
    queue: String,
    book: Book,
    proxy: Proxy,
    caller: Broker,
    worker: RunningServer,
    hostile: Option<Hostile>,
}

impl Scene {
    async fn new(cell: Cell) -> Self {
        let queue = unique("matrix");
        let book = Book::behind(Gate::closed());
        let (proxy, [caller_url, worker_url]) = proxied(cell.trouble, cell.is_at_caller()).await;
        let worker = Broker::connect(&worker_url).await.unwrap();
        let worker = serve(&worker, RequestQueue::new(&queue).transient(), &book).await;
        let options = Broker::builder().reply_queue(cell.replies);
        let caller = options.address(&caller_url).connect().await.unwrap();
        let mut scene = Self {
            hostile: None,
            cell,
            queue,
            book,
            proxy,
            caller,
            worker,
        };
        // Once, so that all connections are there.
        scene.book.gate.let_go(1);
        scene.client(&scene.queue).read("first").await.unwrap();
        scene.book.gate.began(1).await;
        if cell.trouble == Trouble::Stranger {
            scene.meet_a_stranger().await;
        }
        scene
    }

    /// Somebody begins to do harm, and the caller calls them.
    async fn meet_a_stranger(&mut self) {
        let trap = unique("trap");
        let hostile = Hostile::start(shared().await, &self.queue, &trap, 7)
            .await
            .unwrap();
        let client = self.client(&trap);
        let calls = (0..8).map(|_| client.write("trapped").timeout(MOMENT));
        // Whatever comes of them.
        join_all(calls).await;
        self.hostile = Some(hostile);
    }

    fn client(&self, queue: &str) -> LedgerClient {
        client(&self.caller, queue)
    }

    fn make(&self, made: &'static str) -> Pair {
        let client = self.client(&self.queue);
        Pair {
            made,
            read: tokio::spawn(client.read(&format!("read {made}"))),
            write: tokio::spawn(client.write(&format!("write {made}"))),
        }
    }

    /// Waits until the broker has said of all requests so far that it has them: it says so of the
    /// next one.
    async fn confirmed(&self) {
        let error = self.client(&unique("nowhere")).write("").await.unwrap_err();
        assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
    }

    /// The fault strikes; lasting ones are returned.
    async fn strike(&self, struck: &[Target]) -> Vec<Fault> {
        if let Some(hostile) = &self.hostile {
            hostile.has_sent(ENOUGH).await.unwrap();
        }
        let Cell { trouble, .. } = self.cell;
        trouble.strike(&self.proxy, self.cell.target(), struck).await
    }

    /// Waits until the connection is cut, within a request or within a reply.
    async fn is_cut(&self, cut: &Cut) {
        if matches!(self.cell.place, CallerReceiving | WorkerReplying) {
            self.book.gate.let_all_go();
        }
        cut.happened(SOON).await.unwrap();
    }

    /// Waits for both calls. The read has its answer; what became of the write is returned.
    async fn ended(&self, pair: Pair) -> Result<(), CallError> {
        let read = soon("the read ends", pair.read).await.unwrap();
        assert!(read.is_ok(), "read {}: {read:?}", pair.made);
        soon("the write ends", pair.write).await.unwrap()
    }

    /// Writes until a write is answered. Those before it met a connection that was lost and not
    /// known to be.
    async fn writes_get_through(&self) -> Vec<Result<(), CallError>> {
        let client = self.client(&self.queue);
        let mut outcomes = Vec::new();
        until("a write is answered", SOON, async || {
            let outcome = client.write(&format!("write later {}", outcomes.len())).await;
            let is_answered = outcome.is_ok();
            outcomes.push(outcome);
            Ok(is_answered)
        })
        .await
        .unwrap();
        outcomes
    }
}

/// How many messages of a stranger's come while calls are in flight.
const ENOUGH: usize = 60;

/// Plays one cell, and answers with how long it took to recover.
async fn play(cell: Cell) -> Duration {
    let mut scene = Scene::new(cell).await;
    let connections = scene.proxy.counts(Target::All).accepted;
    let before = scene.make("before");
    scene.book.gate.began(2).await;
    scene.confirmed().await;

    let struck = scene.proxy.open(cell.target());
    assert!(!struck.is_empty());
    let cut =
        (cell.trouble == Trouble::CutInFrame).then(|| scene.proxy.cut_before(cell.target(), cell.in_frame()));
    let mut since = Instant::now();
    let mut faults = scene.strike(&struck).await;
    let during = scene.make("during");
    if let Some(cut) = cut {
        scene.is_cut(&cut).await;
        since = Instant::now();
    }
    if cell.place == WorkerConsuming && matches!(cell.trouble, Trouble::Reset | Trouble::HalfClose(_)) {
        // The worker consumes again, and what it still runs has come to it a second time.
        scene.book.gate.began(1).await;
    }
    scene.book.gate.let_all_go();
    if cell.trouble.heals() && !faults.is_empty() {
        sleep(MOMENT).await;
        since = Instant::now();
        for fault in faults.drain(..) {
            fault.heal().await;
        }
    }
    let client = scene.client(&scene.queue);
    soon("a call after all that", client.read("read after"))
        .await
        .unwrap();
    let recovery = since.elapsed();

    let before = scene.ended(before).await;
    match cell.expected() {
        Outcome::Answered => assert!(before.is_ok(), "{before:?}"),
        Outcome::Lost => assert!(before.is_err(), "its reply was lost"),
        Outcome::Either => {}
    }
    let during = scene.ended(during).await;
    let later = scene.writes_get_through().await;
    drop(faults);
    assert!(
        recovery < longest_recovery(cell.trouble),
        "it took {recovery:?} to recover"
    );

    if scene.hostile.take().is_some() {
        let now = scene.proxy.counts(Target::All).accepted;
        assert_eq!(now, connections, "no message costs a connection");
    }
    // Nothing is left behind that could still run.
    let peer = RawPeer::connect(shared().await).await.unwrap();
    peer.wait_until_empty(&scene.queue, SOON).await.unwrap();
    let Scene {
        book, worker, queue, ..
    } = scene;
    soon("the worker stops", worker.stop()).await.unwrap();
    assert_eq!(peer.queue_depth(&queue).await.unwrap(), Some(0));
    for (made, write) in [("before", before), ("during", during)] {
        assert_ran_as_given(&book, cell, made, &write);
    }
    for (number, write) in later.iter().enumerate() {
        book.assert_wrote_as_told(&format!("write later {number}"), write);
    }
    recovery
}

/// Plays all cells of one fault at once.
async fn play_cells<T>(trouble: Trouble, play: impl AsyncFn(Cell) -> T) -> Vec<(Cell, T)> {
    let cells = PLACES.iter().flat_map(|&place| {
        REPLY_QUEUES.map(|replies| Cell {
            trouble,
            place,
            replies,
        })
    });
    let plays = cells.map(
        async |cell| match AssertUnwindSafe(play(cell)).catch_unwind().await {
            Ok(played) => (cell, played),
            Err(panic) => {
                eprintln!("that was in {cell:?}");
                resume_unwind(panic)
            }
        },
    );
    join_all(plays).await
}

/// Plays all cells of one fault at once, and notes how long they took to recover.
async fn play_all(name: &'static str, trouble: Trouble) {
    note(name, play_cells(trouble, play).await);
}

/// The fault befalls calls that wait at a gate, and others that begin. Then the gate opens, and the
/// fault heals if it does by itself. Returns the calls that began, the faults that last, and since
/// when the network recovers.
async fn befall<T>(
    cell: Cell,
    proxy: &Proxy,
    gate: &Gate,
    begin: impl FnOnce() -> T,
) -> (T, Vec<Fault>, Instant) {
    let struck = proxy.open(cell.target());
    assert!(!struck.is_empty());
    let cut = (cell.trouble == Trouble::CutInFrame).then(|| proxy.cut_before(cell.target(), cell.in_frame()));
    let mut since = Instant::now();
    let mut faults = cell.trouble.strike(proxy, cell.target(), &struck).await;
    let began = begin();
    if let Some(cut) = cut {
        if matches!(cell.place, CallerReceiving | WorkerReplying) {
            gate.let_all_go();
        }
        cut.happened(SOON).await.unwrap();
        since = Instant::now();
    }
    gate.let_all_go();
    if cell.trouble.heals() && !faults.is_empty() {
        sleep(MOMENT).await;
        since = Instant::now();
        for fault in faults.drain(..) {
            fault.heal().await;
        }
    }
    (began, faults, since)
}

/// Checks that an error does not lie about whether its method ran, and that all replies were read.
fn assert_is_true<E: Debug>(error: &CallError<E>, entry: &str, runs: &Runs) {
    let ran = runs.of(entry);
    let is_told = match error.executed() {
        Executed::No => ran == 0,
        Executed::Maybe => true,
        Executed::Yes => ran > 0,
    };
    assert!(is_told, "{entry} ran {ran} times: {error:?}");
    let is_unread = matches!(error, CallError::BadReply { .. });
    assert!(!is_unread, "{entry} cannot be read: {error:?}");
}

/// Adds how long the cells of one fault took to recover to `target/recovery.csv`, which has those
/// of this run.
fn note(name: &'static str, recoveries: Vec<(Cell, Duration)>) {
    static NOTED: Mutex<BTreeMap<&str, Vec<(Cell, Duration)>>> = Mutex::new(BTreeMap::new());

    let mut noted = NOTED.lock().unwrap();
    noted.insert(name, recoveries);
    let mut table = "fault,median_ms,longest_ms,longest_at,longest_replies\n".to_owned();
    for (name, recoveries) in &mut *noted {
        recoveries.sort_by_key(|(_, recovery)| *recovery);
        let median = recoveries[recoveries.len() / 2].1.as_millis();
        let (cell, longest) = recoveries[recoveries.len() - 1];
        let (longest, place, replies) = (longest.as_millis(), cell.place, cell.replies);
        writeln!(table, "{name},{median},{longest},{place:?},{replies:?}").unwrap();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the target folder");
    std::fs::write(target.join("recovery.csv"), table).unwrap();
}

macro_rules! troubles {
    ($play_all:path; $($test:ident: $trouble:expr,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $play_all(stringify!($test), $trouble).await;
        })*
    };
}

/// Tests `play_all` with each fault of the network.
macro_rules! network_troubles {
    ($play_all:path) => {
        $crate::matrix::troubles! {
            $play_all;
            latency: Trouble::Latency,
            throttle: Trouble::Throttle,
            black_hole_to_the_broker: Trouble::Hole(Direction::ToBroker),
            black_hole_from_the_broker: Trouble::Hole(Direction::FromBroker),
            black_hole_both_ways: Trouble::Hole(Direction::Both),
            dead_to_the_broker: Trouble::Dead(Direction::ToBroker),
            dead_from_the_broker: Trouble::Dead(Direction::FromBroker),
            dead_both_ways: Trouble::Dead(Direction::Both),
            reset: Trouble::Reset,
            half_close_to_the_broker: Trouble::HalfClose(Direction::ToBroker),
            half_close_from_the_broker: Trouble::HalfClose(Direction::FromBroker),
            cut_in_a_frame: Trouble::CutInFrame,
            silence_on_reconnecting: Trouble::Silence,
            refusal_on_reconnecting: Trouble::Refusal,
        }
    };
}

use {network_troubles, troubles};

network_troubles!(play_all);

troubles! {
    play_all;
    a_stranger: Trouble::Stranger,
}
