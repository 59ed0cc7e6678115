//! `rpc stats`.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use clap::Args;
use rpc_runtime::discovery::{MethodStats, WorkerClient, WorkerStats};
use rpc_runtime::{Broker, BrokerError, CallError};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::{Where, tell_what_is_missing};
use crate::output::Output;
use crate::suggestion::did_you_mean;
use crate::table::{Column, Table};
use crate::units;

/// Clears a terminal, and goes to its top.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Shows what workers counted of their methods since they started.
///
/// A row is a method, over all workers: calls that ended, those of them that failed (with the method's own error, or a fault), those that run now,
/// the mean time of a call, and the time that 99 of 100 calls of the slowest worker did not exceed. SHED are requests that workers refused, as they could
/// not be answered in time; the others were admitted. WAIT is how long requests wait in the queue now. With --watch, there are also the calls, the
/// failures and the shed requests a second, and the mean time is that of calls since the last look. A moment without workers, or without the
/// broker, does not end it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc stats
  rpc stats UserDirectory --workers
  rpc stats --watch            # every 2 seconds, with what happened since; until Ctrl-C
  rpc stats --watch 500ms --count 10 --json")]
pub(crate) struct Stats {
    /// The service's name; all services unless given.
    service: Option<String>,

    /// Show each worker's methods in rows of their own.
    #[arg(short, long)]
    workers: bool,

    /// Show them again and again, this time apart.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = units::time)]
    watch: Option<Duration>,

    /// With --watch: how often; until Ctrl-C unless given.
    #[arg(short, long, requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    place: Where,
}

impl Stats {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let watched = tokio::select! {
            watched = self.watch(&broker, output) => watched,
            _ = tokio::signal::ctrl_c(), if self.watch.is_some() => Ok(()),
        };
        close(&broker).await;
        watched.map(|()| Outcome::Done)
    }

    async fn watch(&self, broker: &Broker, output: &Output) -> Result<(), Failure> {
        let Some(pause) = self.watch else {
            let stats = self.ask(broker, output).await?;
            let rows = self.rows(&stats, &Looks::default(), Instant::now())?;
            return self.show(&rows, output);
        };
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = Looks::default();
        let mut round = 0;
        while self.count.is_none_or(|rounds| round < rounds) {
            round += 1;
            ticks.tick().await;
            let looked = self.look(broker, &mut looks, output).await;
            let rows = match looked {
                Ok(rows) => rows,
                // Workers come and go, and the connection is opened again: who watches wants to see it.
                Err(failure) if may_pass(&failure) && (looks.is_any() || self.count != Some(round)) => {
                    output.note(&format!("nothing to show now: {}", failure.message()));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if !output.json {
                if output.is_terminal {
                    output.raw(CLEAR)?;
                } else if round > 1 {
                    output.raw("\n")?;
                }
            }
            self.show(&rows, output)?;
        }
        Ok(())
    }

    async fn look(&self, broker: &Broker, looks: &mut Looks, output: &Output) -> Result<Rows, Failure> {
        let stats = self.ask(broker, output).await?;
        let now = Instant::now();
        let rows = self.rows(&stats, looks, now)?;
        looks.remember(&stats, now);
        Ok(rows)
    }

    fn show(&self, rows: &Rows, output: &Output) -> Result<(), Failure> {
        match output.json {
            true => output.value(&json_of(rows)),
            false => output.text(&text(rows, self.workers, self.watch.is_some())),
        }
    }

    async fn ask(&self, broker: &Broker, output: &Output) -> Result<Vec<WorkerStats>, Failure> {
        if let Some(queue) = &self.place.queue {
            let stats = WorkerClient::new(broker, queue)
                .stats()
                .timeout(self.place.window.limit())
                .await;
            return match stats {
                Ok(stats) => Ok(vec![stats]),
                Err(CallError::Broker { source, .. }) => Err(Failure::Broker(source)),
                Err(error) => Err(Failure::NotFound {
                    message: format!(
                        "the worker on queue {queue:?} does not tell: {}",
                        rpc_runtime::Chain(&error)
                    ),
                    hint: "see `rpc ping`".to_owned(),
                }),
            };
        }
        let window = self.place.window;
        let found = broker
            .discover()
            .window(window.window)
            .timeout(window.limit())
            .stats()
            .await?;
        tell_what_is_missing(&found, output);
        Ok(found.workers)
    }

    fn rows(&self, stats: &[WorkerStats], looks: &Looks, now: Instant) -> Result<Rows, Failure> {
        let mut rows = rows(stats, self.workers, looks, now);
        let Some(service) = &self.service else {
            return match rows.is_empty() {
                true => Err(not_found("no worker was found".to_owned(), None, &Rows::new())),
                false => Ok(rows),
            };
        };
        let all = rows.clone();
        rows.retain(|key, _| key.service == *service);
        match rows.is_empty() {
            true => Err(not_found(
                format!("no service {service} was found"),
                Some(service),
                &all,
            )),
            false => Ok(rows),
        }
    }
}

fn not_found(message: String, service: Option<&str>, all: &Rows) -> Failure {
    let meant = service.and_then(|service| did_you_mean(service, all.keys().map(|key| key.service.as_str())));
    Failure::NotFound {
        message,
        hint: meant.unwrap_or_else(|| "is it running, and on this virtual host? see `rpc list`".to_owned()),
    }
}

/// Of what a row is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    service: String,
    queue: String,
    method: String,
    /// Nothing where it is of all workers.
    worker: Option<String>,
}

/// What a row tells.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    workers: usize,
    counted: Counted,
    in_flight: u64,
    /// How long requests wait in the queue, by the worker that says the longest.
    queue_time: Duration,
    p99: Duration,
    /// What was counted since the last look; nothing where there was none.
    recent: Option<Recent>,
}

type Rows = BTreeMap<Key, Row>;

/// Calls that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counted {
    calls: u64,
    failures: u64,
    /// Requests that were refused, as they could not be answered in time. They are no calls that ended.
    shed: u64,
    /// The time of all of them together, in nanoseconds.
    spent: u128,
}

impl Counted {
    fn of(stats: &MethodStats) -> Self {
        let spent = match stats.total_ns {
            // An older worker does not tell.
            0 => u128::from(stats.mean_ns) * u128::from(stats.calls),
            total => u128::from(total),
        };
        Self {
            calls: stats.calls,
            failures: stats.failures,
            shed: stats.shed,
            spent,
        }
    }

    fn add(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.failures = self.failures.saturating_add(more.failures);
        self.shed = self.shed.saturating_add(more.shed);
        self.spent = self.spent.saturating_add(more.spent);
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            failures: self.failures.saturating_sub(earlier.failures),
            shed: self.shed.saturating_sub(earlier.shed),
            spent: self.spent.saturating_sub(earlier.spent),
        }
    }

    /// The mean time of a call; nothing of none.
    fn mean(self) -> Option<Duration> {
        let mean = self.spent.checked_div(u128::from(self.calls))?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }
}

/// What was counted since a while ago, which may be another one for each worker.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Recent {
    counted: Counted,
    calls_per_second: f64,
    failures_per_second: f64,
    shed_per_second: f64,
}

impl Recent {
    fn add(&mut self, more: Counted, time: Duration) {
        self.counted.add(more);
        self.calls_per_second += units::rate(more.calls, time);
        self.failures_per_second += units::rate(more.failures, time);
        self.shed_per_second += units::rate(more.shed, time);
    }
}

/// What each worker said when it was seen last. Workers come and go, and not each of them is seen each time.
#[derive(Debug, Default)]
struct Looks {
    number: u64,
    last: Option<Instant>,
    workers: HashMap<String, Look>,
}

#[derive(Debug)]
struct Look {
    number: u64,
    at: Instant,
    /// By queue, service and method.
    methods: HashMap<(String, String, String), Counted>,
}

/// After how many looks without it a worker is forgotten.
const FORGOTTEN: u64 = 10;

impl Looks {
    fn is_any(&self) -> bool {
        self.last.is_some()
    }

    /// What a method counted since its worker was seen last, and how long ago that is. A worker that started meanwhile counts from its start.
    fn recent(
        &self,
        stats: &WorkerStats,
        queue: &str,
        method: &MethodStats,
        now: Instant,
    ) -> Option<(Counted, Duration)> {
        let last = self.last?;
        let counted = Counted::of(method);
        match self.workers.get(&stats.worker.id) {
            Some(look) => {
                let key = (queue.to_owned(), method.service.clone(), method.method.clone());
                let earlier = look.methods.get(&key).copied().unwrap_or_default();
                Some((counted.since(earlier), now.saturating_duration_since(look.at)))
            }
            None => {
                let is_new = stats.worker.uptime() <= now.saturating_duration_since(last);
                is_new.then(|| (counted, stats.worker.uptime()))
            }
        }
    }

    fn remember(&mut self, stats: &[WorkerStats], now: Instant) {
        self.number += 1;
        self.last = Some(now);
        for stats in stats {
            let methods = stats.queues.iter().flat_map(|queue| {
                queue.methods.iter().map(|method| {
                    let key = (queue.queue.clone(), method.service.clone(), method.method.clone());
                    (key, Counted::of(method))
                })
            });
            let look = Look {
                number: self.number,
                at: now,
                methods: methods.collect(),
            };
            self.workers.insert(stats.worker.id.clone(), look);
        }
        self.workers
            .retain(|_, look| self.number - look.number < FORGOTTEN);
    }
}

/// Whether it may be otherwise a moment later.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Broker(BrokerError::Closed) => false,
        Failure::NotFound { .. } | Failure::Call(_) | Failure::Broker(_) => {
            failure.outcome() != Outcome::Unusable
        }
        _ => false,
    }
}

/// All methods, of all workers together or each by itself.
fn rows(stats: &[WorkerStats], by_worker: bool, looks: &Looks, now: Instant) -> Rows {
    let mut rows = Rows::new();
    for worker in stats {
        for queue in &worker.queues {
            for method in &queue.methods {
                let key = Key {
                    service: method.service.clone(),
                    queue: queue.queue.clone(),
                    method: method.method.clone(),
                    worker: by_worker.then(|| worker.worker.id.clone()),
                };
                let row = rows.entry(key).or_default();
                row.workers += 1;
                row.counted.add(Counted::of(method));
                row.in_flight = row.in_flight.saturating_add(method.in_flight);
                row.queue_time = row.queue_time.max(queue.queue_time());
                row.p99 = row.p99.max(method.p99());
                if let Some((counted, time)) = looks.recent(worker, &queue.queue, method, now) {
                    row.recent.get_or_insert_default().add(counted, time);
                }
            }
        }
    }
    rows
}

/// A table: of what was counted since the workers started; or, of those that are watched, also of what happens now.
fn text(rows: &Rows, by_worker: bool, is_watched: bool) -> String {
    use Column::{Left, Right};
    let workers = if by_worker {
        Left("WORKER")
    } else {
        Right("WORKERS")
    };
    let [calls, failures, shed] = match is_watched {
        true => ["CALLS/S", "FAILED/S", "SHED/S"].map(Right),
        false => [Right(""), Right(""), Right("")],
    };
    let mut table = Table::new([
        Left("SERVICE"),
        Left("QUEUE"),
        Left("METHOD"),
        workers,
        Right("CALLS"),
        Right("FAILED"),
        Right("SHED"),
        Right("RUNNING"),
        Right("WAIT"),
        Right("MEAN"),
        Right("P99"),
        calls,
        failures,
        shed,
    ]);
    for (key, row) in rows {
        let rate = |rate: fn(&Recent) -> f64| match (is_watched, &row.recent) {
            (false, _) => String::new(),
            (true, None) => "-".to_owned(),
            (true, Some(recent)) => format!("{:.1}", rate(recent)),
        };
        let mean = match is_watched {
            true => row.recent.and_then(|recent| recent.counted.mean()),
            false => row.counted.mean(),
        };
        let time = |time: Option<Duration>| time.map_or("-".to_owned(), units::show);
        table.row([
            key.service.clone(),
            key.queue.clone(),
            key.method.clone(),
            match &key.worker {
                Some(id) => id.get(..8).unwrap_or(id).to_owned(),
                None => row.workers.to_string(),
            },
            row.counted.calls.to_string(),
            row.counted.failures.to_string(),
            row.counted.shed.to_string(),
            row.in_flight.to_string(),
            time((!row.queue_time.is_zero()).then_some(row.queue_time)),
            time(mean),
            time((row.counted.calls > 0).then_some(row.p99)),
            rate(|recent| recent.calls_per_second),
            rate(|recent| recent.failures_per_second),
            rate(|recent| recent.shed_per_second),
        ]);
    }
    table.render()
}

fn json_of(rows: &Rows) -> Value {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let methods = rows.iter().map(|(key, row)| {
        let mut json = json!({
            "service": key.service,
            "queue": key.queue,
            "method": key.method,
            "workers": row.workers,
            "calls": row.counted.calls,
            "failures": row.counted.failures,
            "shed": row.counted.shed,
            "in_flight": row.in_flight,
            "queue_time_ns": nanos(row.queue_time),
            "mean_ns": nanos(row.counted.mean().unwrap_or_default()),
            "p99_ns": nanos(row.p99),
        });
        if let Some(worker) = &key.worker {
            json["worker"] = json!(worker);
        }
        if let Some(recent) = &row.recent {
            json["calls_per_second"] = json!(recent.calls_per_second);
            json["failures_per_second"] = json!(recent.failures_per_second);
            json["shed_per_second"] = json!(recent.shed_per_second);
            if let Some(mean) = recent.counted.mean() {
                json["recent_mean_ns"] = json!(nanos(mean));
            }
        }
        json
    });
    json!({"methods": methods.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    /// A worker that has been up for an hour.
    fn worker(id: &str, calls: u64, mean_ms: u64, p99_ms: u64) -> WorkerStats {
        let method = json!({
            "service": "Store", "method": "get", "calls": calls, "failures": calls / 10, "in_flight": 2,
            "shed": calls / 2, "mean_ns": mean_ms * 1_000_000, "p99_ns": p99_ms * 1_000_000,
        });
        let queue = json!({"queue": "q", "queue_time_ns": p99_ms * 100_000, "methods": [method]});
        from_value(json!({"worker": {"id": id, "uptime_ms": 3_600_000}, "queues": [queue]})).unwrap()
    }

    fn once(stats: &[WorkerStats], by_worker: bool) -> Rows {
        rows(stats, by_worker, &Looks::default(), Instant::now())
    }

    /// The one row of the last look of some, two seconds apart.
    fn last(all: &[&[WorkerStats]]) -> Row {
        let mut looks = Looks::default();
        let mut now = Instant::now();
        let mut row = None;
        for stats in all {
            row = rows(stats, false, &looks, now).into_values().next();
            looks.remember(stats, now);
            now += Duration::from_secs(2);
        }
        row.unwrap()
    }

    #[test]
    fn workers_are_summed_up_with_their_weight() {
        let stats = [worker("0123456789", 30, 1, 5), worker("1", 10, 5, 9)];
        let together = once(&stats, false);
        assert_eq!(
            text(&together, false, false),
            "\
SERVICE  QUEUE  METHOD  WORKERS  CALLS  FAILED  SHED  RUNNING   WAIT    MEAN     P99
Store    q      get           2     40       4    20        4  900µs  2.00ms  9.00ms"
        );
        let apart = once(&stats, true);
        assert_eq!(
            text(&apart, true, false).lines().nth(1).unwrap(),
            "Store    q      get     01234567     30       3    15        2  500µs  1.00ms  5.00ms"
        );
        let json = &json_of(&together)["methods"][0];
        assert_eq!(
            (&json["mean_ns"], &json["queue_time_ns"], &json["shed"]),
            (&json!(2_000_000), &json!(900_000), &json!(20))
        );
        let idle = once(&[worker("1", 1, 1, 0)], false);
        assert!(text(&idle, false, false).contains("2     -  1.00ms"));
    }

    #[test]
    fn who_watches_sees_what_happened_since_the_last_look() {
        let (before, now) = (worker("1", 10, 1, 1), worker("1", 30, 3, 4));
        let row = last(&[&[before], std::slice::from_ref(&now)]);
        let recent = row.recent.unwrap();
        assert_eq!((recent.calls_per_second, recent.failures_per_second), (10.0, 1.0));
        assert_eq!(recent.shed_per_second, 5.0);
        assert_eq!(recent.counted.mean(), Some(Duration::from_millis(4)));
        let key = once(&[now], false).into_keys().next().unwrap();
        let rows = Rows::from([(key, row)]);
        assert_eq!(
            text(&rows, false, true),
            "\
SERVICE  QUEUE  METHOD  WORKERS  CALLS  FAILED  SHED  RUNNING   WAIT    MEAN     P99  CALLS/S  FAILED/S  SHED/S
Store    q      get           1     30       3    15        2  400µs  4.00ms  4.00ms     10.0       1.0     5.0"
        );
        let json = &json_of(&rows)["methods"][0];
        assert_eq!(
            (&json["calls_per_second"], &json["recent_mean_ns"]),
            (&json!(10.0), &json!(4_000_000))
        );
        // The first look has none before it, and says nothing of now.
        let first = once(&[worker("1", 10, 1, 1)], false);
        let shown = text(&first, false, true);
        assert!(
            shown.ends_with("  100µs     -  1.00ms        -         -       -"),
            "{shown}"
        );
        assert_eq!(json_of(&first)["methods"][0]["calls_per_second"], json!(null));
    }

    #[test]
    fn workers_that_come_and_go_make_no_calls_up() {
        let rate = |all: &[&[WorkerStats]]| last(all).recent.map(|recent| recent.calls_per_second);
        let (one, other) = (|calls| worker("1", calls, 1, 1), |calls| worker("2", calls, 1, 1));
        // One that was not seen before, and has long been there, says nothing of now.
        assert_eq!(rate(&[&[one(10)], &[one(30), other(1_000_000)]]), Some(10.0));
        assert_eq!(rate(&[&[one(10)], &[other(1_000_000)]]), None);
        // One that is gone takes no calls of others with it.
        assert_eq!(rate(&[&[one(10), other(1_000_000)], &[one(30)]]), Some(10.0));
        // One that comes back is compared with when it was seen last.
        assert_eq!(rate(&[&[one(10)], &[other(5)], &[one(50)]]), Some(10.0));
        // One that has started meanwhile counts from its start.
        let mut young = other(7);
        young.worker.uptime_ms = 1000;
        assert_eq!(rate(&[&[one(10)], &[one(30), young]]), Some(17.0));
    }

    #[test]
    fn workers_that_are_gone_are_forgotten() {
        let mut looks = Looks::default();
        for number in 0..100 {
            looks.remember(&[worker(&number.to_string(), 1, 1, 1)], Instant::now());
        }
        assert_eq!(looks.workers.len(), 10);
    }

    #[test]
    fn who_watches_goes_on_unless_nothing_can_change() {
        let gone = || Failure::NotFound {
            message: String::new(),
            hint: String::new(),
        };
        assert!(may_pass(&gone()));
        assert!(may_pass(&Failure::Broker(BrokerError::lost())));
        assert!(!may_pass(&Failure::Broker(BrokerError::Closed)));
        assert!(!may_pass(&Failure::usage("", "")));
        assert!(!may_pass(&Failure::Output(std::io::ErrorKind::BrokenPipe.into())));
    }

    #[test]
    fn numbers_from_a_peer_may_be_anything() {
        let mut wild = worker("1", u64::MAX, u64::MAX / 1_000_000, 1);
        for total in [0, u64::MAX] {
            wild.queues[0].methods[0].total_ns = total;
            let row = last(&[&[worker("1", 1, 1, 1)], &[wild.clone(), wild.clone()]]);
            assert_eq!(row.counted.calls, u64::MAX);
            let less = last(&[std::slice::from_ref(&wild), &[worker("1", 1, 1, 1)]]);
            assert_eq!(less.recent.unwrap().calls_per_second, 0.0);
        }
        assert!(!text(&once(&[wild], false), false, true).is_empty());
    }
}
