//! `rpc stats`.

use std::time::{Duration, Instant};

use clap::Args;
use rpc_runtime::discovery::{WorkerClient, WorkerStats};
use rpc_runtime::{Broker, BrokerError, CallError, Chain};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::connection::{close, connect};
use crate::depths::{self, Depths};
use crate::failure::{Failure, Outcome};
use crate::lookup::{Location, note_missing};
use crate::method_stats::history::History;
use crate::method_stats::rows::{Recent, RowKey, Rows, rows_of_workers, sums_of_workers};
use crate::options::Options;
use crate::output::Output;
use crate::suggestion::did_you_mean;
use crate::table::{Column, Table};
use crate::units;
use crate::worker::short_id;

/// Clears the terminal.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Shows what workers have counted since they started.
///
/// There is one row per method, with the sums over all workers.
///
/// With --watch, there are also rates since the last update, and MEAN is that of the requests that
/// ended since then. --watch goes on while there are no workers or no connection.
#[derive(Debug, Args)]
#[command(after_help = "\
Columns:
  DEPTH, CONSUMERS  requests that are ready in the queue, and its consumers; - if the broker does not tell
  CALLS             requests that ended
  ERRORS            requests that ended with the method's own error
  FAILED            requests that ended with a fault, such as a panic
  SHED              requests that workers refused because the reply would have been late
  CANCELLED         requests that did not run, or not to their end, because the caller no longer waited
  RUNNING           requests that run now
  WAIT              how long requests wait in the queue now
  MEAN              the mean duration of a request
  P99               the duration that 99 of 100 requests of the slowest worker did not exceed

Examples:
  rpc stats
  rpc stats UserDirectory --workers
  rpc stats --watch            # every 2 seconds, with what happened since; until Ctrl-C
  rpc stats --watch 500ms --count 10 --json")]
pub(crate) struct Stats {
    /// The service's name. Defaults to all services.
    service: Option<String>,

    /// Show one row per worker and method.
    #[arg(short, long)]
    workers: bool,

    /// Update at this interval.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = units::parse_time)]
    watch: Option<Duration>,

    /// With --watch: how many updates to show. Without it, updates go on until Ctrl-C.
    #[arg(short, long, requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    location: Location,
}

impl Stats {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let watched = tokio::select! {
            watched = self.show_updates(&broker, output) => watched,
            // Without `--watch`, Ctrl-C ends the process at once.
            _ = tokio::signal::ctrl_c(), if self.watch.is_some() => Ok(()),
        };
        close(&broker).await;
        watched.map(|()| Outcome::Done)
    }

    /// Shows the statistics once, or with `--watch` at each interval.
    async fn show_updates(&self, broker: &Broker, output: &Output) -> Result<(), Failure> {
        let mut history = History::default();
        let Some(interval) = self.watch else {
            let (rows, depths) = self.update(broker, &mut history, output).await?;
            return self.show(&rows, &depths, output);
        };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut updates = 0;
        while self.count.is_none_or(|count| updates < count) {
            updates += 1;
            ticks.tick().await;
            let updated = self.update(broker, &mut history, output).await;
            let is_last = self.count == Some(updates);
            let may_show_nothing = history.has_updates() || !is_last;
            let (rows, depths) = match updated {
                Ok(update) => update,
                // A later update may succeed, because workers and the connection come back. The
                // last update fails if none before it had anything to show.
                Err(failure) if is_transient(&failure) && may_show_nothing => {
                    output.note(&format!("nothing to show now: {}", failure.message()));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if !output.json {
                if output.is_terminal {
                    output.raw(CLEAR)?;
                } else if updates > 1 {
                    output.raw("\n")?;
                }
            }
            self.show(&rows, &depths, output)?;
        }
        Ok(())
    }

    /// Asks for statistics, compares them with those of earlier updates, and remembers them.
    async fn update(
        &self,
        broker: &Broker,
        history: &mut History,
        output: &Output,
    ) -> Result<(Rows, Depths), Failure> {
        let stats = self.ask(broker, output).await?;
        let now = Instant::now();
        let rows = self.selected_rows(&stats, history, now)?;
        history.remember(&stats, now);
        let depths = ask_depths(broker, &rows).await;
        Ok((rows, depths))
    }

    fn show(&self, rows: &Rows, depths: &Depths, output: &Output) -> Result<(), Failure> {
        if output.json {
            output.value(&json_of(rows, depths))
        } else {
            output.text(&text(rows, depths, self.workers, self.watch.is_some()))
        }
    }

    /// Asks one of the workers on `--queue`, or all workers, for their statistics.
    async fn ask(&self, broker: &Broker, output: &Output) -> Result<Vec<WorkerStats>, Failure> {
        if let Some(queue) = &self.location.queue {
            let stats = WorkerClient::new(broker, queue)
                .stats()
                .timeout(self.location.search.limit())
                .await;
            return match stats {
                Ok(stats) => Ok(vec![stats]),
                Err(CallError::Broker { source, .. }) => Err(Failure::Broker(source)),
                Err(error) => Err(Failure::NotFound {
                    message: format!(
                        "the worker on queue {queue:?} does not answer with statistics: {}",
                        Chain(&error)
                    ),
                    hint: "`rpc ping` shows whether it answers".to_owned(),
                }),
            };
        }
        let search = self.location.search;
        let found = broker
            .discover()
            .window(search.window)
            .timeout(search.limit())
            .stats()
            .await?;
        note_missing(&found, output);
        Ok(found.workers)
    }

    /// Returns the rows of the service, or of all services. Fails if there are none.
    fn selected_rows(&self, stats: &[WorkerStats], history: &History, now: Instant) -> Result<Rows, Failure> {
        let all = if self.workers {
            rows_of_workers(stats, history, now)
        } else {
            sums_of_workers(stats, history, now)
        };
        let service = self.service.as_deref();
        let is_selected = |key: &RowKey| service.is_none_or(|service| key.service == service);
        let (selected, others): (Rows, Rows) = all.into_iter().partition(|(key, _)| is_selected(key));
        if selected.is_empty() {
            return Err(not_found(service, stats, &others));
        }
        Ok(selected)
    }
}

async fn ask_depths(broker: &Broker, rows: &Rows) -> Depths {
    depths::ask(broker, rows.keys().map(|key| key.queue.as_str())).await
}

/// Returns the failure if there are no rows of the service, or none at all if no service is named.
/// `others` are the rows of other services.
fn not_found(service: Option<&str>, stats: &[WorkerStats], others: &Rows) -> Failure {
    let is_it_running = || "is it running, and on this virtual host? see `rpc list`".to_owned();
    let (message, hint) = match (service, stats) {
        (Some(service), _) => {
            let known = others.keys().map(|key| key.service.as_str());
            let hint = did_you_mean(service, known).unwrap_or_else(is_it_running);
            (format!("no service {service} was found"), hint)
        }
        (None, []) => ("no worker was found".to_owned(), is_it_running()),
        (None, _) => (
            "no worker that was found serves a method".to_owned(),
            "`rpc list --workers` shows what they serve".to_owned(),
        ),
    };
    Failure::NotFound { message, hint }
}

/// Whether a later update may succeed.
fn is_transient(failure: &Failure) -> bool {
    match failure {
        Failure::Broker(BrokerError::Closed) => false,
        Failure::NotFound { .. } | Failure::Call(_) | Failure::Broker(_) | Failure::NotSent(_) => {
            failure.outcome() != Outcome::InvalidInput
        }
        _ => false,
    }
}

/// Returns the table. With `is_watched`, it also has rates since the last update, and MEAN is about
/// the requests since then.
fn text(rows: &Rows, depths: &Depths, by_worker: bool, is_watched: bool) -> String {
    use Column::{Left, Right};
    let workers = if by_worker {
        Left("WORKER")
    } else {
        Right("WORKERS")
    };
    let rates = if is_watched {
        ["CALLS/S", "ERRORS/S", "FAILED/S", "SHED/S"]
    } else {
        // Empty columns leave no trace at the end of a line.
        [""; 4]
    };
    let [calls, errors, failures, shed] = rates.map(Right);
    let mut table = Table::new([
        Left("SERVICE"),
        Left("QUEUE"),
        Right("DEPTH"),
        Right("CONSUMERS"),
        Left("METHOD"),
        workers,
        Right("CALLS"),
        Right("ERRORS"),
        Right("FAILED"),
        Right("SHED"),
        Right("CANCELLED"),
        Right("RUNNING"),
        Right("WAIT"),
        Right("MEAN"),
        Right("P99"),
        calls,
        errors,
        failures,
        shed,
    ]);
    for (key, row) in rows {
        let rate = |per_second: fn(&Recent) -> f64| match &row.recent {
            _ if !is_watched => String::new(),
            None => "-".to_owned(),
            Some(recent) => format!("{:.1}", per_second(recent)),
        };
        let mean = if is_watched {
            row.recent.as_ref().and_then(|recent| recent.counted.mean())
        } else {
            row.counted.mean()
        };
        let [depth, consumers] = depths::cells(depths, &key.queue);
        let time = |time: Option<Duration>| time.map_or("-".to_owned(), units::show_time);
        table.row([
            key.service.clone(),
            key.queue.clone(),
            depth,
            consumers,
            key.method.clone(),
            match &key.worker {
                Some(id) => short_id(id).to_owned(),
                None => row.workers.to_string(),
            },
            row.counted.calls.to_string(),
            row.counted.errors.to_string(),
            row.counted.failures.to_string(),
            row.counted.shed.to_string(),
            row.counted.cancelled.to_string(),
            row.in_flight.to_string(),
            time((!row.queue_time.is_zero()).then_some(row.queue_time)),
            time(mean),
            time((row.counted.calls > 0).then_some(row.p99)),
            rate(|recent| recent.calls_per_second),
            rate(|recent| recent.errors_per_second),
            rate(|recent| recent.failures_per_second),
            rate(|recent| recent.shed_per_second),
        ]);
    }
    table.render()
}

fn json_of(rows: &Rows, depths: &Depths) -> Value {
    let methods = rows.iter().map(|(key, row)| {
        let mut json = row.json(key);
        depths::add_to_json(&mut json, depths, &key.queue);
        json
    });
    json!({"methods": methods.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;
    use serde_json::from_value;

    use super::*;
    use crate::method_stats::rows::Row;

    /// Returns the statistics of a worker that started an hour ago.
    fn worker(id: &str, calls: u64, mean_ms: u64, p99_ms: u64) -> WorkerStats {
        let method = json!({
            "service": "Store", "method": "get", "calls": calls, "failures": calls / 5, "errors": calls / 10, "in_flight": 2,
            "shed": calls / 2, "cancelled": calls / 10, "mean_ns": mean_ms * 1_000_000, "p99_ns": p99_ms * 1_000_000,
        });
        let queue = json!({"queue": "q", "queue_time_ns": p99_ms * 100_000, "methods": [method]});
        from_value(json!({"worker": {"id": id, "uptime_ms": 3_600_000}, "queues": [queue]})).unwrap()
    }

    fn once(stats: &[WorkerStats], by_worker: bool) -> Rows {
        let (history, now) = (History::default(), Instant::now());
        if by_worker {
            rows_of_workers(stats, &history, now)
        } else {
            sums_of_workers(stats, &history, now)
        }
    }

    /// Returns the only row of the last of several updates, two seconds apart.
    fn last(all: &[&[WorkerStats]]) -> Row {
        let mut history = History::default();
        let mut now = Instant::now();
        let mut row = None;
        for stats in all {
            row = sums_of_workers(stats, &history, now).into_values().next();
            history.remember(stats, now);
            now += Duration::from_secs(2);
        }
        row.unwrap()
    }

    #[test]
    fn workers_are_summed_up_weighted_by_their_calls() {
        let stats = [worker("0123456789", 30, 1, 5), worker("1", 10, 5, 9)];
        let together = once(&stats, false);
        assert_eq!(
            text(&together, &Depths::new(), false, false),
            "\
SERVICE  QUEUE  DEPTH  CONSUMERS  METHOD  WORKERS  CALLS  ERRORS  FAILED  SHED  CANCELLED  RUNNING   WAIT    MEAN     P99
Store    q          -          -  get           2     40       4       4    20          4        4  900µs  2.00ms  9.00ms"
        );
        let apart = once(&stats, true);
        assert_eq!(
            text(&apart, &Depths::new(), true, false).lines().nth(1).unwrap(),
            "Store    q          -          -  get     01234567     30       3       3    15          3        2  500µs  1.00ms  5.00ms"
        );
        let json = &json_of(&together, &Depths::new())["methods"][0];
        assert_eq!(
            (&json["mean_ns"], &json["queue_time_ns"], &json["shed"]),
            (&json!(2_000_000), &json!(900_000), &json!(20))
        );
        let idle = once(&[worker("1", 1, 1, 0)], false);
        assert!(text(&idle, &Depths::new(), false, false).contains("2     -  1.00ms"));
    }

    #[test]
    fn the_depth_of_the_queue_is_shown_if_it_is_known() {
        let rows = once(&[worker("1", 10, 1, 1)], false);
        let text = text(&rows, &Depths::new(), false, false);
        assert!(text.contains("Store    q          -          -  get"), "{text}");
        let json = &json_of(&rows, &Depths::new())["methods"][0];
        assert_eq!((&json["depth"], &json["consumers"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn watching_shows_what_happened_since_the_last_update() {
        let (before, now) = (worker("1", 10, 1, 1), worker("1", 30, 3, 4));
        let row = last(&[&[before], std::slice::from_ref(&now)]);
        let recent = row.recent.clone().unwrap();
        assert_eq!((recent.calls_per_second, recent.failures_per_second), (10.0, 1.0));
        assert_eq!(recent.shed_per_second, 5.0);
        assert_eq!(recent.counted.mean(), Some(Duration::from_millis(4)));
        let key = once(&[now], false).into_keys().next().unwrap();
        let rows = Rows::from([(key, row)]);
        assert_eq!(
            text(&rows, &Depths::new(), false, true),
            "\
SERVICE  QUEUE  DEPTH  CONSUMERS  METHOD  WORKERS  CALLS  ERRORS  FAILED  SHED  CANCELLED  RUNNING   WAIT    MEAN     P99  CALLS/S  ERRORS/S  FAILED/S  SHED/S
Store    q          -          -  get           1     30       3       3    15          3        2  400µs  4.00ms  4.00ms     10.0       1.0       1.0     5.0"
        );
        let json = &json_of(&rows, &Depths::new())["methods"][0];
        assert_eq!(
            (&json["calls_per_second"], &json["recent_mean_ns"]),
            (&json!(10.0), &json!(4_000_000))
        );
        // The worker does not tell how long its requests took.
        assert_eq!(
            (&json["p50_ns"], &json["recent_p99_ns"]),
            (&json!(null), &json!(null))
        );
        // The first update has no rates.
        let first = once(&[worker("1", 10, 1, 1)], false);
        let shown = text(&first, &Depths::new(), false, true);
        assert!(
            shown.ends_with("  100µs     -  1.00ms        -         -         -       -"),
            "{shown}"
        );
        assert_eq!(
            json_of(&first, &Depths::new())["methods"][0]["calls_per_second"],
            json!(null)
        );
    }

    #[test]
    fn workers_that_start_and_stop_do_not_change_the_rates_of_others() {
        let rate = |all: &[&[WorkerStats]]| last(all).recent.map(|recent| recent.calls_per_second);
        let (one, other) = (|calls| worker("1", calls, 1, 1), |calls| worker("2", calls, 1, 1));
        // A worker that is not new but was not seen before has no rates.
        assert_eq!(rate(&[&[one(10)], &[one(30), other(1_000_000)]]), Some(10.0));
        assert_eq!(rate(&[&[one(10)], &[other(1_000_000)]]), None);
        // A worker that is gone does not count.
        assert_eq!(rate(&[&[one(10), other(1_000_000)], &[one(30)]]), Some(10.0));
        // A worker that comes back is compared with its last counts.
        assert_eq!(rate(&[&[one(10)], &[other(5)], &[one(50)]]), Some(10.0));
        // A worker that has started since the last update counts from its start.
        let mut young = other(7);
        young.worker.uptime_ms = 1000;
        assert_eq!(rate(&[&[one(10)], &[one(30), young]]), Some(17.0));
    }

    #[test]
    fn watching_goes_on_after_transient_failures() {
        let gone = || Failure::NotFound {
            message: String::new(),
            hint: String::new(),
        };
        assert!(is_transient(&gone()));
        assert!(is_transient(&Failure::Broker(BrokerError::lost())));
        assert!(!is_transient(&Failure::Broker(BrokerError::Closed)));
        assert!(!is_transient(&Failure::usage("", "")));
        assert!(!is_transient(&Failure::Output(
            std::io::ErrorKind::BrokenPipe.into()
        )));
    }

    #[test]
    fn extreme_numbers_of_a_worker_do_not_overflow() {
        let mut wild = worker("1", u64::MAX, u64::MAX / 1_000_000, 1);
        for total in [0, u64::MAX] {
            wild.queues[0].methods[0].total_ns = total;
            let row = last(&[&[worker("1", 1, 1, 1)], &[wild.clone(), wild.clone()]]);
            assert_eq!(row.counted.calls, u64::MAX);
            let less = last(&[std::slice::from_ref(&wild), &[worker("1", 1, 1, 1)]]);
            assert_eq!(less.recent.unwrap().calls_per_second, 0.0);
        }
        assert!(!text(&once(&[wild], false), &Depths::new(), false, true).is_empty());
    }

    #[test]
    fn a_worker_without_methods_is_not_missing() {
        let command = Stats::augment_args(clap::Command::new("stats"));
        let stats = Stats::from_arg_matches(&command.get_matches_from(["stats"])).unwrap();
        let message = |found: &[WorkerStats]| {
            let rows = stats.selected_rows(found, &History::default(), Instant::now());
            rows.unwrap_err().to_string()
        };
        assert!(message(&[]).contains("no worker was found"));
        let idle = from_value(json!({"worker": {"id": "a"}, "queues": [{"queue": "q"}]})).unwrap();
        assert!(message(&[idle]).contains("no worker that was found serves a method"));
    }
}
