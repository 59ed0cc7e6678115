//! Each fault that a network has, at each step of a broadcast: it is published, a worker receives
//! it, the worker answers, and the caller gathers. Each gathering ends within its limit, lists each
//! worker once, with its own answer, and counts who is missing. No worker runs a broadcast twice,
//! and the worker without the fault misses none.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rpc_runtime::{
    Broker, CallError, Executed, GatherEnd, Gathered, RequestQueue, RunningServer, Server, service,
};
use rpc_tests::asking::until_found;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy, Sight, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::until;
use tokio::time::{Instant, sleep};

use super::{MOMENT, Trouble, longest_recovery, network_troubles, proxied};

/// The limit of broadcasts before the fault, and during one that is noticed at once.
const LIMIT: Duration = Duration::from_secs(8);

/// The limit of broadcasts during another fault: longer than it takes to notice a dead connection.
const LONG: Duration = Duration::from_secs(15);

/// The limit of the attempts after the fault.
const SHORT: Duration = Duration::from_secs(2);

/// How late gathering may end on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// The worker that the fault strikes, if it strikes a worker, and the other one.
const WORKERS: [&str; 2] = ["struck", "other"];

/// The entry, and the name of the worker.
type Echo = (String, String);

#[service]
trait Polls {
    #[rpc(broadcast)]
    async fn survey(&self, entry: &str) -> Echo;

    #[rpc(broadcast, oneway)]
    async fn announce(&self, entry: &str);
}

/// Records the entries that ran on a worker. They wait at a gate.
#[derive(Clone)]
struct Part {
    name: &'static str,
    gate: Gate,
    /// The name of the worker and the entry.
    runs: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Polls for Part {
    async fn survey(&self, entry: &str) -> Echo {
        self.announce(entry).await;
        (entry.to_owned(), self.name.to_owned())
    }

    async fn announce(&self, entry: &str) {
        self.runs.lock().unwrap().push((self.name, entry.to_owned()));
        self.gate.pass().await;
    }
}

/// The step of a broadcast during which the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Publish,
    Receive,
    Answer,
    Gather,
}

const STEPS: [Step; 4] = [Step::Publish, Step::Receive, Step::Answer, Step::Gather];

#[derive(Debug, Clone, Copy)]
struct Cell {
    trouble: Trouble,
    step: Step,
}

impl Cell {
    /// The connection's name, by the end that has a proxy.
    fn target(self) -> Target {
        Target::Named(match self.step {
            Step::Publish | Step::Answer => "rpc publish",
            Step::Receive | Step::Gather => "rpc consume",
        })
    }

    fn is_at_caller(self) -> bool {
        matches!(self.step, Step::Publish | Step::Gather)
    }

    /// A request and an answer both name their content type, and their addresses come before it.
    fn in_frame(self) -> Sight {
        let content_type = "application/msgpack";
        match self.step {
            Step::Publish | Step::Answer => Sight::to_broker(content_type),
            Step::Receive | Step::Gather => Sight::from_broker(content_type),
        }
    }

    fn limit(self) -> Duration {
        match self.trouble {
            Trouble::Hole(_) | Trouble::Dead(_) => LONG,
            _ => LIMIT,
        }
    }

    /// Whether the answers to a broadcast that runs when the fault strikes are lost. Workers send
    /// theirs until the broker has them. The caller's queue ends with its connection.
    fn loses_answers(self) -> bool {
        let keeps_the_connection = matches!(
            self.trouble,
            Trouble::Latency | Trouble::Throttle | Trouble::Hole(_) | Trouble::Dead(Direction::ToBroker)
        );
        self.step == Step::Gather && !keeps_the_connection
    }
}

/// A broadcast that has ended.
struct Survey {
    entry: String,
    limit: Duration,
    took: Duration,
    outcome: Result<Gathered<Echo>, CallError>,
}

impl Survey {
    /// The workers whose answers were gathered.
    fn workers(&self) -> BTreeSet<&str> {
        let answers = self.outcome.iter().flat_map(|gathered| &gathered.answers);
        let names = answers.map(|(worker, _)| worker.name.as_deref().unwrap_or_default());
        names.collect()
    }

    fn is_complete(&self) -> bool {
        self.workers() == BTreeSet::from(WORKERS)
    }

    /// Checks what holds whatever the fault. `ran` are the workers that ran it.
    fn assert_kept(&self, ran: &[&str]) {
        let Self {
            entry,
            limit,
            took,
            outcome,
        } = self;
        assert!(*took <= *limit + SLACK, "{entry} took {took:?}");
        let gathered = match outcome {
            Ok(gathered) => gathered,
            Err(error) => {
                let is_true = error.executed() != Executed::No || ran.is_empty();
                return assert!(is_true, "{entry} ran on {ran:?}: {error}");
            }
        };
        let answers = &gathered.answers;
        assert_eq!(
            self.workers().len(),
            answers.len(),
            "{answers:?} list a worker twice"
        );
        for (worker, answer) in answers {
            let name = worker.name.as_deref().unwrap_or_default();
            let (of, by) = answer.as_ref().unwrap();
            assert_eq!((of.as_str(), by.as_str()), (entry.as_str(), name));
            assert!(ran.contains(&name), "{entry} did not run on {name}");
        }
        assert_eq!(gathered.missing, Some(WORKERS.len() - answers.len()));
        let is_complete = matches!(gathered.end, GatherEnd::Expected);
        assert_eq!(is_complete, self.is_complete(), "{:?}", gathered.end);
    }
}

/// A caller and two workers. The caller or a worker is behind a proxy.
struct Scene {
    part: Part,
    proxy: Proxy,
    client: PollsClient,
    servers: Vec<RunningServer>,
    /// The connections of the workers and of the caller.
    _brokers: Vec<Broker>,
}

impl Scene {
    async fn new(cell: Cell) -> Self {
        let queue = unique("matrix");
        let part = Part {
            name: "",
            gate: Gate::closed(),
            runs: Arc::default(),
        };
        let (proxy, [caller_url, worker_url]) = proxied(cell.trouble, cell.is_at_caller()).await;
        let (mut brokers, mut servers) = (Vec::new(), Vec::new());
        for (name, url) in WORKERS.into_iter().zip([worker_url.as_str(), shared().await]) {
            let broker = Broker::connect(url).await.unwrap();
            let part = Part { name, ..part.clone() };
            let requests = RequestQueue::new(&queue).transient();
            let server = Server::new(&broker).worker_name(name);
            let server = server.serve_on(requests, PollsServer::new(part));
            servers.push(server.start().await.unwrap());
            until_found(&broker, &queue, |worker| worker.name.as_deref() == Some(name)).await;
            brokers.push(broker);
        }
        let caller = Broker::connect(&caller_url).await.unwrap();
        let scene = Self {
            client: PollsClient::builder(&caller).queue(&queue).timeout(LONG).build(),
            part,
            proxy,
            servers,
            _brokers: brokers.into_iter().chain([caller]).collect(),
        };
        // Once, so that all connections are there.
        scene.part.gate.let_go(WORKERS.len());
        let first = soon("a survey ends", scene.survey("first", LIMIT)).await;
        assert!(first.is_complete(), "{:?}", first.outcome);
        scene.part.gate.began(WORKERS.len() as u32).await;
        scene
    }

    fn survey(&self, entry: &str, limit: Duration) -> impl Future<Output = Survey> + use<> {
        let survey = self.client.survey(entry).limit(limit);
        let survey = survey.expect_workers(WORKERS.len());
        let entry = entry.to_owned();
        async move {
            let since = Instant::now();
            let outcome = match survey.send().await {
                Ok(answers) => Ok(answers.collect().await),
                Err(error) => Err(error),
            };
            Survey {
                entry,
                limit,
                took: since.elapsed(),
                outcome,
            }
        }
    }

    /// The workers that ran an entry, as often as they did.
    fn ran(&self, entry: &str) -> Vec<&'static str> {
        let runs = self.part.runs.lock().unwrap();
        let runs = runs.iter().filter(|(_, ran)| ran == entry);
        runs.map(|(worker, _)| *worker).collect()
    }
}

/// Plays one cell.
async fn play(cell: Cell) {
    let scene = Scene::new(cell).await;
    let limit = cell.limit();
    let before = tokio::spawn(scene.survey("before", limit));
    scene.part.gate.began(WORKERS.len() as u32).await;
    let struck = scene.proxy.open(cell.target());
    assert!(!struck.is_empty());
    let cut =
        (cell.trouble == Trouble::CutInFrame).then(|| scene.proxy.cut_before(cell.target(), cell.in_frame()));
    let mut since = Instant::now();
    let mut faults = cell.trouble.strike(&scene.proxy, cell.target(), &struck).await;
    let during = tokio::spawn(scene.survey("during", limit));
    let announced = tokio::spawn(scene.client.announce("announced").into_future());
    if let Some(cut) = cut {
        if matches!(cell.step, Step::Answer | Step::Gather) {
            scene.part.gate.let_all_go();
        }
        cut.happened(SOON).await.unwrap();
        since = Instant::now();
    }
    scene.part.gate.let_all_go();
    if cell.trouble.heals() && !faults.is_empty() {
        sleep(MOMENT).await;
        since = Instant::now();
        for fault in faults.drain(..) {
            fault.heal().await;
        }
    }
    let mut surveys = Vec::new();
    until("both workers answer", SOON, async || {
        let survey = scene.survey(&format!("later {}", surveys.len()), SHORT).await;
        let is_complete = survey.is_complete();
        surveys.push(survey);
        Ok(is_complete)
    })
    .await
    .unwrap();
    let recovery = since.elapsed();

    let before = soon("a survey ends", before).await.unwrap();
    assert_eq!(
        before.is_complete(),
        !cell.loses_answers(),
        "{:?}",
        before.outcome
    );
    let during = soon("a survey ends", during).await.unwrap();
    let announced = soon("a one-way broadcast ends", announced).await.unwrap();
    if !cell.is_at_caller() {
        let workers = during.workers();
        assert!(workers.contains("other"), "it misses {:?}", during.outcome);
        // It runs on both, whose answers arrive.
        let is_complete = cell.step == Step::Answer;
        assert!(!is_complete || during.is_complete(), "{:?}", during.outcome);
    }
    drop(faults);
    let longest = longest_recovery(cell.trouble);
    assert!(recovery < longest, "it took {recovery:?} to recover");

    surveys.extend([before, during]);
    assert_ran_as_told(scene, &surveys, announced).await;
}

/// Checks what ran, once nothing runs any more.
async fn assert_ran_as_told(mut scene: Scene, surveys: &[Survey], announced: Result<(), CallError>) {
    for server in scene.servers.drain(..) {
        soon("a worker stops", server.stop()).await.unwrap();
    }
    for entry in surveys
        .iter()
        .map(|survey| survey.entry.as_str())
        .chain(["announced"])
    {
        let ran = scene.ran(entry);
        let workers: BTreeSet<_> = ran.iter().collect();
        assert_eq!(workers.len(), ran.len(), "{entry} ran twice on a worker: {ran:?}");
    }
    for survey in surveys {
        survey.assert_kept(&scene.ran(&survey.entry));
    }
    let ran = scene.ran("announced");
    match announced.map_err(|error| error.executed()) {
        Ok(()) => assert!(ran.contains(&"other"), "it ran on {ran:?}"),
        Err(executed) => assert!(executed == Executed::Maybe || ran.is_empty(), "it ran on {ran:?}"),
    }
}

/// Plays all cells of one fault at once.
async fn play_all(_: &'static str, trouble: Trouble) {
    let plays = STEPS.map(async |step| {
        let cell = Cell { trouble, step };
        if let Err(panic) = AssertUnwindSafe(play(cell)).catch_unwind().await {
            eprintln!("that was in {cell:?}");
            resume_unwind(panic)
        }
    });
    join_all(plays).await;
}

network_troubles!(play_all);
