//! `rpc stats`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use rpc_runtime::discovery::{MethodStats, WorkerClient, WorkerStats};
use rpc_runtime::{Broker, CallError};
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
/// the mean time of a call, and the time that 99 of 100 calls of the slowest worker did not exceed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc stats
  rpc stats UserDirectory --workers
  rpc stats --watch            # every 2 seconds, with calls a second; until Ctrl-C
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
        let rounds = match self.watch {
            Some(_) => self.count,
            None => Some(1),
        };
        let mut ticks = tokio::time::interval(self.watch.unwrap_or(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<(Instant, Rows)> = None;
        let mut round = 0;
        while rounds.is_none_or(|rounds| round < rounds) {
            round += 1;
            ticks.tick().await;
            let stats = self.ask(broker, output).await?;
            let now = Instant::now();
            let rows = self.rows(&stats)?;
            let earlier = before
                .as_ref()
                .map(|(then, rows)| (now.duration_since(*then), rows));
            match output.json {
                true => output.value(&json_of(&rows, earlier))?,
                false => {
                    if self.watch.is_some() && output.is_terminal {
                        output.raw(CLEAR)?;
                    } else if round > 1 {
                        output.raw("\n")?;
                    }
                    output.text(&text(&rows, self.workers, earlier, self.watch.is_some()))?;
                }
            }
            before = Some((now, rows));
        }
        Ok(())
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
            .limit(window.limit())
            .stats()
            .await?;
        tell_what_is_missing(&found, output);
        Ok(found.workers)
    }

    fn rows(&self, stats: &[WorkerStats]) -> Result<Rows, Failure> {
        let mut rows = rows(stats, self.workers);
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
    calls: u64,
    failures: u64,
    in_flight: u64,
    /// The time of all calls together, in nanoseconds.
    spent: u128,
    p99: Duration,
}

type Rows = BTreeMap<Key, Row>;

impl Row {
    fn add(&mut self, stats: &MethodStats) {
        self.workers += 1;
        self.calls = self.calls.saturating_add(stats.calls);
        self.failures = self.failures.saturating_add(stats.failures);
        self.in_flight = self.in_flight.saturating_add(stats.in_flight);
        let spent = u128::from(stats.mean_ns) * u128::from(stats.calls);
        self.spent = self.spent.saturating_add(spent);
        self.p99 = self.p99.max(stats.p99());
    }

    fn mean(&self) -> Duration {
        let mean = self.spent / u128::from(self.calls.max(1));
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// Calls a second since an earlier time; a worker that started anew counts from then.
    fn rate(&self, earlier: Option<&Self>, time: Duration) -> f64 {
        let before = earlier.map_or(0, |row| row.calls);
        units::rate(self.calls.saturating_sub(before), time)
    }
}

/// All methods, of all workers together or each by itself.
fn rows(stats: &[WorkerStats], by_worker: bool) -> Rows {
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
                rows.entry(key).or_default().add(method);
            }
        }
    }
    rows
}

/// A table; with calls a second where that is wanted, as far as it is known.
fn text(rows: &Rows, by_worker: bool, earlier: Option<(Duration, &Rows)>, with_rates: bool) -> String {
    use Column::{Left, Right};
    let workers = if by_worker {
        Left("WORKER")
    } else {
        Right("WORKERS")
    };
    let rate = if with_rates { Right("A SECOND") } else { Right("") };
    let mut table = Table::new([
        Left("SERVICE"),
        Left("QUEUE"),
        Left("METHOD"),
        workers,
        Right("CALLS"),
        Right("FAILED"),
        Right("RUNNING"),
        Right("MEAN"),
        Right("P99"),
        rate,
    ]);
    for (key, row) in rows {
        let rate = earlier.map(|(time, earlier)| format!("{:.1}", row.rate(earlier.get(key), time)));
        let time = |time| match row.calls {
            0 => "-".to_owned(),
            _ => units::show(time),
        };
        table.row([
            key.service.clone(),
            key.queue.clone(),
            key.method.clone(),
            match &key.worker {
                Some(id) => id.get(..8).unwrap_or(id).to_owned(),
                None => row.workers.to_string(),
            },
            row.calls.to_string(),
            row.failures.to_string(),
            row.in_flight.to_string(),
            time(row.mean()),
            time(row.p99),
            match with_rates {
                true => rate.unwrap_or_else(|| "-".to_owned()),
                false => String::new(),
            },
        ]);
    }
    table.render()
}

fn json_of(rows: &Rows, earlier: Option<(Duration, &Rows)>) -> Value {
    let methods = rows.iter().map(|(key, row)| {
        let mut json = json!({
            "service": key.service,
            "queue": key.queue,
            "method": key.method,
            "workers": row.workers,
            "calls": row.calls,
            "failures": row.failures,
            "in_flight": row.in_flight,
            "mean_ns": u64::try_from(row.mean().as_nanos()).unwrap_or(u64::MAX),
            "p99_ns": u64::try_from(row.p99.as_nanos()).unwrap_or(u64::MAX),
        });
        if let Some(worker) = &key.worker {
            json["worker"] = json!(worker);
        }
        if let Some((time, earlier)) = earlier {
            json["calls_per_second"] = json!(row.rate(earlier.get(key), time));
        }
        json
    });
    json!({"methods": methods.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    fn worker(id: &str, calls: u64, mean_ms: u64, p99_ms: u64) -> WorkerStats {
        let method = json!({
            "service": "Store", "method": "get", "calls": calls, "failures": 1, "in_flight": 2,
            "mean_ns": mean_ms * 1_000_000, "p99_ns": p99_ms * 1_000_000,
        });
        let queue = json!({"queue": "q", "methods": [method]});
        from_value(json!({"worker": {"id": id}, "queues": [queue]})).unwrap()
    }

    #[test]
    fn workers_are_summed_up_with_their_weight() {
        let stats = [worker("0123456789", 30, 1, 5), worker("1", 10, 5, 9)];
        let together = rows(&stats, false);
        assert_eq!(
            text(&together, false, None, false),
            "\
SERVICE  QUEUE  METHOD  WORKERS  CALLS  FAILED  RUNNING    MEAN     P99
Store    q      get           2     40       2        4  2.00ms  9.00ms"
        );
        let apart = rows(&stats, true);
        assert_eq!(
            text(&apart, true, None, false).lines().nth(1).unwrap(),
            "Store    q      get     01234567     30       1        2  1.00ms  5.00ms"
        );
        assert_eq!(json_of(&together, None)["methods"][0]["mean_ns"], 2_000_000);
    }

    #[test]
    fn calls_a_second_are_those_since_the_last_look() {
        let before = rows(&[worker("1", 10, 1, 1)], false);
        let now = rows(&[worker("1", 30, 1, 1)], false);
        let later = Some((Duration::from_secs(2), &before));
        assert!(text(&now, false, later, true).ends_with("  10.0"));
        assert!(text(&now, false, None, true).ends_with("  -"));
        assert_eq!(json_of(&now, later)["methods"][0]["calls_per_second"], 10.0);
        // One that started anew has counted less.
        let anew = rows(&[worker("1", 3, 1, 1)], false);
        assert!(text(&anew, false, later, true).ends_with("  0.0"));
    }

    #[test]
    fn numbers_from_a_peer_may_be_anything() {
        let wild = worker("1", u64::MAX, u64::MAX / 1_000_000, 1);
        let rows = rows(&[wild.clone(), wild], false);
        let row = rows.values().next().unwrap();
        assert_eq!(row.calls, u64::MAX);
        assert!(!text(&rows, false, None, false).is_empty());
    }
}
