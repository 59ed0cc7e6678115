//! The statistics that workers report.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::worker::Worker;
use crate::escape::OneLine;

/// The reply to `rpc.stats`: what a worker has counted since it started.
///
/// A reply to a request through a service's queue has this queue only. A reply to a request through
/// the control exchange has all queues of the worker. Built-in methods are not counted. As in a
/// [`ServiceDescription`](crate::describe::ServiceDescription), missing fields are empty or zero,
/// and unknown fields are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerStats {
    /// The worker.
    pub worker: Worker,
    /// The queues that it serves.
    pub queues: Vec<QueueStats>,
}

impl WorkerStats {
    /// Returns the statistics of a method by the name of its service and its name on the wire, on
    /// the first queue that has it.
    #[must_use]
    pub fn method(&self, service: &str, method: &str) -> Option<&MethodStats> {
        let mut all = self.queues.iter().flat_map(|queue| &queue.methods);
        all.find(|stats| stats.service == service && stats.method == method)
    }
}

/// The statistics of the methods on one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QueueStats {
    /// The queue's name.
    pub queue: String,
    /// How long requests wait in the queue now, in nanoseconds. The longest wait counts if requests
    /// have different priorities or arrive in batches. Waits beyond the time limits of the requests
    /// are cut to about that. Zero if none wait, if no request has had a time limit yet, or if the
    /// worker [does not measure it](crate::Server::admission).
    pub queue_time_ns: u64,
    /// Requests that ended or run now: the [`calls`](MethodStats::calls) and
    /// [`in_flight`](MethodStats::in_flight) of all methods.
    pub admitted: u64,
    /// Requests that were refused because the reply would have been late.
    pub shed: u64,
    /// The methods of its services, in the order of their traits.
    pub methods: Vec<MethodStats>,
}

impl QueueStats {
    /// Returns how long requests wait in the queue now.
    #[must_use]
    pub fn queue_time(&self) -> Duration {
        Duration::from_nanos(self.queue_time_ns)
    }
}

/// The statistics of one method.
///
/// The counts are read one after another, so one may include a request that another does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MethodStats {
    /// The service's name.
    pub service: String,
    /// The method's name on the wire.
    pub method: String,
    /// Requests that ended: the method returned, panicked or was dropped, or a layer answered.
    pub calls: u64,
    /// Requests that ended with the method's own error or with a fault.
    pub failures: u64,
    /// Failures that are the method's own errors.
    pub errors: u64,
    /// Requests that run now. A request of a batch that ends at once is not counted.
    pub in_flight: u64,
    /// Requests that were refused because the reply would have been late.
    pub shed: u64,
    /// Requests that were not run, or not to their end, because the caller no longer waited. They
    /// are no failures. Those that had begun are also in `calls`.
    pub cancelled: u64,
    /// The mean duration of a request, in nanoseconds. It includes the server's layers.
    pub mean_ns: u64,
    /// The duration of all requests together, in nanoseconds. Two readings give the mean of the
    /// requests between them.
    pub total_ns: u64,
    /// The duration that 99 of 100 requests did not exceed, in nanoseconds. It is at most an eighth
    /// too long, and never more than 137 seconds.
    pub p99_ns: u64,
    /// A histogram: pairs of a duration in nanoseconds and the number of requests that took at most
    /// that long, but longer than the duration of the pair before. In ascending order, without
    /// pairs that have no requests. The longest duration is 137 seconds, and its pair also counts
    /// the requests that took longer. The difference of two readings gives the percentiles of the
    /// requests between them, and the sum of several workers those of all their requests. Empty if
    /// no request has ended, or the worker does not tell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub durations: Vec<(u64, u64)>,
}

impl MethodStats {
    /// Returns the mean duration of a request.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean_ns)
    }

    /// Returns the duration that 99 of 100 requests did not exceed.
    #[must_use]
    pub fn p99(&self) -> Duration {
        Duration::from_nanos(self.p99_ns)
    }
}

/// The reply in plain text: a line for the worker, and one for each queue and method.
impl fmt::Display for WorkerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.worker)?;
        for queue_stats in &self.queues {
            let QueueStats {
                queue,
                admitted,
                shed,
                methods,
                ..
            } = queue_stats;
            let (queue, time) = (OneLine(queue), queue_stats.queue_time());
            write!(
                f,
                "\n{queue}: queue time {time:?}, {admitted} admitted, {shed} shed"
            )?;
            for stats in methods {
                let MethodStats {
                    service,
                    method,
                    calls,
                    failures,
                    errors,
                    in_flight,
                    shed,
                    cancelled,
                    ..
                } = stats;
                let (service, method) = (OneLine(service), OneLine(method));
                write!(
                    f,
                    "\n{service}.{method} on {queue}: {calls} calls, {errors} errors, {} faults, {shed} shed, {cancelled} cancelled, ",
                    failures.saturating_sub(*errors)
                )?;
                write!(
                    f,
                    "{in_flight} in flight, mean {:?}, p99 {:?}",
                    stats.mean(),
                    stats.p99()
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_have_a_line_per_queue_and_method() {
        let get = MethodStats {
            service: "Store".into(),
            // Names come from the worker.
            method: "get\n".into(),
            calls: 3,
            failures: 2,
            errors: 1,
            in_flight: 2,
            shed: 4,
            cancelled: 6,
            mean_ns: 1_500_000,
            total_ns: 4_500_000,
            p99_ns: 2_000_000,
            durations: vec![(1_000_000, 2), (2_000_000, 1)],
        };
        let stats = WorkerStats {
            worker: Worker::default(),
            queues: vec![QueueStats {
                queue: "store".into(),
                queue_time_ns: 250_000_000,
                admitted: 5,
                shed: 4,
                methods: vec![get.clone()],
            }],
        };
        let text = stats.to_string();
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "store: queue time 250ms, 5 admitted, 4 shed",
                "Store.get\\n on store: 3 calls, 1 errors, 1 faults, 4 shed, 6 cancelled, 2 in flight, mean 1.5ms, p99 2ms",
            ]
        );
        assert_eq!(stats.method("Store", "get\n"), Some(&get));
        assert_eq!(stats.method("Store", "put"), None);
    }

    #[test]
    fn missing_counts_are_zero() {
        let older =
            r#"{"queues": [{"queue": "q", "methods": [{"service": "S", "method": "m", "calls": 1}]}]}"#;
        let stats: WorkerStats = serde_json::from_str(older).unwrap();
        let queue = &stats.queues[0];
        assert_eq!(
            (queue.queue_time(), queue.admitted, queue.shed),
            (Duration::ZERO, 0, 0)
        );
        assert_eq!(queue.methods[0].shed, 0);
    }
}
