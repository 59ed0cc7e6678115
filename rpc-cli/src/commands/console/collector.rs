//! Asks all workers and the broker in rounds, for all pages together, as long as one is open.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rpc_contract::ServiceDescription;
use rpc_runtime::Broker;
use rpc_runtime::discovery::{Discovered, FoundService, WorkerStats};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::fleet::Fleet;
use super::messages::{self, MAX_SERVICES, Sample};
use crate::depths;
use crate::failure::Failure;
use crate::lookup::Search;
use crate::method_stats::history::History;
use crate::method_stats::rows::sums_of_workers;
use crate::method_text::has_jobs;

/// How many samples are kept for pages that open later.
const MAX_SAMPLES: usize = 150;

/// How many bytes these samples may have together.
const MAX_SAMPLE_BYTES: usize = 16 * 1024 * 1024;

/// What is known after the last round.
#[derive(Debug, Clone)]
pub(super) struct Latest {
    /// The number of the round. Zero before the first.
    pub(super) round: u64,
    /// The services, from the last round that asked for them.
    pub(super) catalog: Arc<str>,
    /// What the last round found: a sample, or why there is none. Empty before the first.
    pub(super) line: Arc<str>,
}

/// What the pages share.
#[derive(Debug)]
pub(super) struct Collector {
    latest: watch::Sender<Latest>,
    /// Notified when a page opens.
    opened: Notify,
    samples: Mutex<Samples>,
    services: Mutex<Arc<[ServiceDescription]>>,
}

impl Collector {
    pub(super) fn new() -> Self {
        let nothing = Latest {
            round: 0,
            catalog: messages::catalog(None).into(),
            line: "".into(),
        };
        Self {
            latest: watch::Sender::new(nothing),
            opened: Notify::new(),
            samples: Mutex::default(),
            services: Mutex::new(Arc::new([])),
        }
    }

    /// Returns the rounds from now on. There are rounds until all receivers are dropped.
    pub(super) fn subscribe(&self) -> watch::Receiver<Latest> {
        // Before the notification: `run` counts the receivers when it wakes up.
        let latest = self.latest.subscribe();
        self.opened.notify_one();
        latest
    }

    /// Returns the samples that are kept, the oldest first. They may be old: none are made while no
    /// page is open.
    pub(super) fn samples(&self) -> Vec<Arc<str>> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.lines.iter().cloned().collect()
    }

    /// Returns the description of a service, if a worker was found that serves it.
    pub(super) fn service(&self, queue: &str, name: &str) -> Option<ServiceDescription> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let services = Arc::clone(&services);
        let found = services
            .iter()
            .find(|service| service.queue == queue && service.name == name);
        found.cloned()
    }

    /// Collects while a page is open.
    pub(super) async fn run(&self, broker: &Broker, search: Search, interval: Duration) {
        let mut rounds = Rounds::default();
        loop {
            while self.latest.receiver_count() == 0 {
                self.opened.notified().await;
            }
            self.publish(rounds.next(broker, search).await);
            sleep(interval).await;
        }
    }

    /// Keeps what a round has found, and gives it to the pages.
    fn publish(&self, round: Round) {
        if let Some(services) = round.services {
            *self.services.lock().unwrap_or_else(PoisonError::into_inner) = services.into();
        }
        let line: Arc<str> = round.line.into();
        if round.is_sample {
            let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.push(Arc::clone(&line));
        }
        self.latest.send_modify(|latest| {
            latest.round += 1;
            latest.line = line;
            if let Some(catalog) = round.catalog {
                latest.catalog = catalog.into();
            }
        });
    }
}

/// The last samples.
#[derive(Debug, Default)]
struct Samples {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Samples {
    fn push(&mut self, line: Arc<str>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > MAX_SAMPLES || self.bytes > MAX_SAMPLE_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
    }
}

/// What a round has found.
struct Round {
    /// A sample, or why there is none.
    line: String,
    is_sample: bool,
    /// The services, for the page. `None` if the workers were not asked what they serve.
    catalog: Option<String>,
    /// The services, for calls. `None` if `catalog` is.
    services: Option<Vec<ServiceDescription>>,
}

/// Makes the rounds, with what is known from earlier ones.
#[derive(Debug, Default)]
struct Rounds {
    fleet: Fleet,
    history: History,
}

impl Rounds {
    /// Makes a round. If it fails, its line says why.
    async fn next(&mut self, broker: &Broker, search: Search) -> Round {
        match self.ask(broker, search).await {
            Ok(round) => round,
            Err(failure) => Round {
                line: messages::trouble(millis_since_1970(), &failure.message()),
                is_sample: false,
                catalog: None,
                services: None,
            },
        }
    }

    /// Asks the workers what they count, and the broker for the depths of queues. Also asks the
    /// workers what they serve if [`Fleet::must_ask_services`] says so.
    async fn ask(&mut self, broker: &Broker, search: Search) -> Result<Round, Failure> {
        let discover = || broker.discover().window(search.window).timeout(search.limit());
        let stats = discover().stats().await?;
        let now = Instant::now();
        self.fleet.note_round(&stats.workers);
        let asks_services = self.fleet.must_ask_services(now);
        if asks_services {
            let found = discover().services().await?;
            self.fleet.note_services(found, now);
        }
        let found = self.fleet.found();
        let line = self.sample(broker, &stats, now).await;
        // After the sample, which compares the counts with those of earlier rounds.
        self.history.remember(&stats.workers, now);
        Ok(Round {
            line,
            is_sample: true,
            catalog: asks_services.then(|| messages::catalog(found)),
            services: asks_services.then(|| messages::callable(found)),
        })
    }

    /// Asks the broker for the depths of queues, and makes the line of a round.
    async fn sample(&self, broker: &Broker, stats: &Discovered<WorkerStats>, now: Instant) -> String {
        let mut services = self.fleet.found().map(Discovered::services).unwrap_or_default();
        services.truncate(MAX_SERVICES);
        let queues: BTreeSet<_> = services.iter().map(|service| service.queue).collect();
        let job_queues = job_queues(&services);
        let all_queues = queues
            .iter()
            .copied()
            .chain(job_queues.iter().map(String::as_str));
        let depths = depths::ask(broker, all_queues).await;
        messages::sample(&Sample {
            at: millis_since_1970(),
            is_complete: stats.is_complete,
            refused: stats.refusals.len(),
            workers: self.fleet.workers().collect(),
            queues,
            depths: &depths,
            rows: &sums_of_workers(&stats.workers, &self.history, now),
        })
    }
}

/// Returns the retry queues and dead-letter queues of the services that have jobs.
fn job_queues(services: &[FoundService<'_>]) -> Vec<String> {
    let with_jobs = services.iter().filter(|service| has_jobs(service));
    with_jobs
        .flat_map(|service| depths::job_queues(service.queue))
        .collect()
}

fn millis_since_1970() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_no_page_is_open() {
        let collector = Collector::new();
        let rounds = || collector.latest.borrow().round;
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let looking = async {
            sleep(hour).await;
            assert_eq!(rounds(), 0);
            for _ in 0..2 {
                let before = rounds();
                let page = collector.subscribe();
                sleep(hour).await;
                assert!(rounds() > before + 1000, "{before} {}", rounds());
                drop(page);
                // One round may be under way.
                let after = rounds();
                sleep(hour).await;
                assert!(rounds() <= after + 1, "{after} {}", rounds());
            }
        };
        let (broker, search) = (Broker::in_process(), Search { window: second });
        tokio::select! {
            () = looking => {}
            () = collector.run(&broker, search, second) => {}
        }
    }

    #[test]
    fn samples_are_limited_in_number_and_size() {
        let mut samples = Samples::default();
        for _ in 0..1000 {
            samples.push("x".into());
        }
        assert_eq!((samples.lines.len(), samples.bytes), (MAX_SAMPLES, MAX_SAMPLES));
        samples.push("y".repeat(MAX_SAMPLE_BYTES).into());
        assert_eq!(samples.lines.len(), 1);
        samples.push("z".repeat(MAX_SAMPLE_BYTES + 1).into());
        assert_eq!((samples.lines.len(), samples.bytes), (0, 0));
    }
}
