//! The statistics of all methods, with the sums over all workers or for each worker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpc_runtime::discovery::WorkerStats;
use serde_json::{Value, json};

use super::counts::Counts;
use super::history::History;
use crate::units::{self, nanos};

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowKey {
    pub(crate) service: String,
    pub(crate) queue: String,
    pub(crate) method: String,
    /// `None` if the row is the sum over all workers.
    pub(crate) worker: Option<String>,
}

/// What is known of a method, in all workers or in one of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) workers: usize,
    pub(crate) counted: Counts,
    pub(crate) in_flight: u64,
    /// How long requests wait in the queue: the longest time that a worker reports.
    pub(crate) queue_time: Duration,
    /// The longest that a worker reports.
    pub(crate) p99: Duration,
    /// `None` if no worker has earlier counts to compare with.
    pub(crate) recent: Option<Recent>,
}

impl Row {
    /// Returns the row as JSON. Recent times, the rates and the median are left out if they are not
    /// known. Without calls, the mean and the 99th percentile are zero.
    pub(crate) fn json(&self, key: &RowKey) -> Value {
        let mut json = json!({
            "service": key.service,
            "queue": key.queue,
            "method": key.method,
            "workers": self.workers,
            "calls": self.counted.calls,
            "errors": self.counted.errors,
            "failures": self.counted.failures,
            "shed": self.counted.shed,
            "cancelled": self.counted.cancelled,
            "in_flight": self.in_flight,
            "queue_time_ns": nanos(self.queue_time),
            "mean_ns": nanos(self.counted.mean().unwrap_or_default()),
            "p99_ns": nanos(self.p99),
        });
        if let Some(worker) = &key.worker {
            json["worker"] = json!(worker);
        }
        let mut add_time = |name: &str, time: Option<Duration>| {
            if let Some(time) = time {
                json[name] = json!(nanos(time));
            }
        };
        add_time("p50_ns", self.counted.durations.percentile(50));
        if let Some(recent) = &self.recent {
            add_time("recent_mean_ns", recent.counted.mean());
            add_time("recent_p50_ns", recent.counted.durations.percentile(50));
            add_time("recent_p99_ns", recent.counted.durations.percentile(99));
            json["calls_per_second"] = json!(recent.calls_per_second);
            json["errors_per_second"] = json!(recent.errors_per_second);
            json["failures_per_second"] = json!(recent.failures_per_second);
            json["shed_per_second"] = json!(recent.shed_per_second);
        }
        json
    }
}

pub(crate) type Rows = BTreeMap<RowKey, Row>;

/// What was counted since the last counts of each worker. They are older than the last update if
/// the worker was missing from it, so each worker has a rate of its own, and the rates are summed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Recent {
    pub(crate) counted: Counts,
    pub(crate) calls_per_second: f64,
    pub(crate) errors_per_second: f64,
    pub(crate) failures_per_second: f64,
    pub(crate) shed_per_second: f64,
}

impl Recent {
    fn add(&mut self, more: &Counts, time: Duration) {
        self.counted.add(more);
        self.calls_per_second += units::per_second(more.calls, time);
        self.errors_per_second += units::per_second(more.errors, time);
        self.failures_per_second += units::per_second(more.failures, time);
        self.shed_per_second += units::per_second(more.shed, time);
    }
}

/// Returns a row for each method on each queue, with the sums over all workers.
pub(crate) fn sums_of_workers(stats: &[WorkerStats], history: &History, now: Instant) -> Rows {
    rows(stats, false, history, now)
}

/// Returns a row for each method on each queue, and each worker.
pub(crate) fn rows_of_workers(stats: &[WorkerStats], history: &History, now: Instant) -> Rows {
    rows(stats, true, history, now)
}

fn rows(stats: &[WorkerStats], by_worker: bool, history: &History, now: Instant) -> Rows {
    let mut rows = Rows::new();
    for worker in stats {
        for queue in &worker.queues {
            for method in &queue.methods {
                let key = RowKey {
                    service: method.service.clone(),
                    queue: queue.queue.clone(),
                    method: method.method.clone(),
                    worker: by_worker.then(|| worker.worker.id.clone()),
                };
                let row = rows.entry(key).or_default();
                row.workers += 1;
                row.counted.add(&Counts::of(method));
                row.in_flight = row.in_flight.saturating_add(method.in_flight);
                row.queue_time = row.queue_time.max(queue.queue_time());
                row.p99 = row.p99.max(method.p99());
                if let Some((counted, time)) = history.recent(worker, &queue.queue, method, now) {
                    row.recent.get_or_insert_default().add(&counted, time);
                }
            }
        }
    }
    rows
}
