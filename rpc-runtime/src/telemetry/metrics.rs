//! Metrics, for the recorder of the [`metrics`](https://docs.rs/metrics) facade. Without the
//! feature `metrics`, nothing is counted.

use std::time::Duration;

use tokio::time::Instant;

use super::counted::Counted;
use super::method::Method;
use super::outcome::Outcome;
use super::span::Side;
use super::stream_item::SentBy;

/// Whether metrics are counted, which does not depend on whether a recorder is installed.
pub(super) const ARE_ON: bool = cfg!(feature = "metrics");

/// An event that metrics count.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) enum Event<'a> {
    /// A call or a request began, at this time. Attempts are only counted when they end.
    Began(Counted, &'a Method, Instant),
    /// A call, an attempt that a layer made, or a request ended, at this time.
    Ended(Counted, &'a Method, Ending, Instant),
    /// A message with this many calls was sent.
    CallsSent { queue: &'a str, calls: usize },
    /// The broker returned a single request because the queue does not exist. Returned batches are
    /// not counted: their calls are sent again one by one.
    RequestReturned { queue: &'a str },
    /// This many replies arrived that no call waits for, or that cannot be decoded.
    RepliesDiscarded(usize),
    /// A message with this many requests arrived.
    RequestsReceived {
        queue: &'a str,
        requests: usize,
        redelivered: bool,
    },
    /// Items of a stream reached their reader, or left their sender.
    ItemsPassed {
        side: Side,
        method: &'a Method,
        sent_by: SentBy,
        items: u64,
        bytes: u64,
    },
    /// A request was refused, or was cancelled before its method began (the code `cancelled`).
    RequestRefused { queue: &'a str, code: &'static str },
    /// The time that requests currently wait in a queue was measured.
    QueueTime { queue: &'a str, time: Duration },
    /// The limit of calls in flight changed.
    LimitChanged { queue: &'a str, limit: usize },
    /// A call starts or stops waiting in the client until it may be sent.
    Waiting { queue: &'a str, waits: bool },
    /// A reply could not be published and is lost. A fault may have been sent in its place.
    ReplyLost { reason: &'static str },
    /// A failed job waits in a retry queue.
    JobRetried { queue: &'a str },
    /// A job, or a one-way request that was refused, was moved to the dead-letter queue.
    JobDied { queue: &'a str, reason: &'static str },
    /// The dead-letter queue did not take a job, which waits in a retry queue.
    DeadLetterRefused { queue: &'a str },
    /// The worker starts or stops keeping a job that cannot be moved to its next queue.
    JobStuck { queue: &'a str, is_stuck: bool },
    /// A connection was opened, or was lost or closed.
    Connected { role: &'static str, is_up: bool },
    /// The broker blocked or unblocked a connection.
    Blocked { is_blocked: bool },
}

/// How a call or a request ended.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) enum Ending {
    /// It ended with this outcome after this time. The outcome may be `Cancelled`: the worker drops
    /// a method whose caller is gone.
    Completed(Outcome, Duration),
    /// The method of the request did not run; see [`Event::RequestRefused`].
    NotRun,
    /// Its future was dropped before that. Counts as cancelled, without a duration.
    Dropped,
}

/// Counts an event. Does nothing without the feature `metrics`.
#[inline]
pub(crate) fn count(event: Event<'_>) {
    #[cfg(feature = "metrics")]
    on::count(event);
    #[cfg(not(feature = "metrics"))]
    let _ = event;
}

#[cfg(feature = "metrics")]
pub use on::describe;

#[cfg(feature = "metrics")]
mod on {
    use metrics::{Counter, Gauge, Histogram, Label, Unit, counter, gauge, histogram};

    use super::super::handles::{EndHandles, EndKey};
    use super::{Counted, Ending, Event, Instant, Method, Outcome, SentBy, Side};

    impl Method {
        fn labels(&self) -> Vec<Label> {
            vec![
                Label::new("service", self.service().clone()),
                Label::new("method", self.method().clone()),
            ]
        }

        fn labels_with_sender(&self, sent_by: SentBy) -> Vec<Label> {
            let mut labels = self.labels();
            labels.push(Label::from_static_parts("sent_by", sent_by.as_str()));
            labels
        }

        fn labels_with_outcome(&self, outcome: &'static str) -> Vec<Label> {
            let mut labels = self.labels();
            labels.push(Label::from_static_parts("outcome", outcome));
            labels
        }
    }

    #[allow(clippy::cast_precision_loss)] // a message holds at most 1024 calls, and a limit is no larger than 2^52
    pub(super) fn count(event: Event<'_>) {
        match event {
            Event::Began(counted, method, at) => {
                change_in_flight(counted, method, at, |gauge| gauge.increment(1));
            }
            Event::Ended(counted, method, ending, at) => count_end(counted, method, ending, at),
            Event::CallsSent { queue, calls } => {
                histogram!("rpc_client_calls_per_message", "queue" => queue.to_owned()).record(calls as f64);
            }
            Event::RequestReturned { queue } => {
                counter!("rpc_client_returned_total", "queue" => queue.to_owned()).increment(1);
            }
            Event::RepliesDiscarded(replies) => {
                counter!("rpc_client_replies_discarded_total").increment(replies as u64);
            }
            Event::RequestsReceived {
                queue,
                requests,
                redelivered,
            } => {
                histogram!("rpc_server_requests_per_message", "queue" => queue.to_owned())
                    .record(requests as f64);
                if redelivered {
                    counter!("rpc_server_redelivered_total", "queue" => queue.to_owned())
                        .increment(requests as u64);
                }
            }
            Event::ItemsPassed {
                side,
                method,
                sent_by,
                items,
                bytes,
            } => {
                let labels = method.labels_with_sender(sent_by);
                let (items_total, bytes_total) = match side {
                    Side::Caller => (
                        counter!("rpc_client_items_total", labels.iter()),
                        counter!("rpc_client_item_bytes_total", labels.iter()),
                    ),
                    Side::Worker => (
                        counter!("rpc_server_items_total", labels.iter()),
                        counter!("rpc_server_item_bytes_total", labels.iter()),
                    ),
                };
                items_total.increment(items);
                bytes_total.increment(bytes);
            }
            Event::RequestRefused { queue, code } => {
                counter!("rpc_server_refused_total", "queue" => queue.to_owned(), "code" => code)
                    .increment(1);
            }
            Event::QueueTime { queue, time } => {
                gauge!("rpc_server_queue_time_seconds", "queue" => queue.to_owned()).set(time);
            }
            Event::LimitChanged { queue, limit } => {
                gauge!("rpc_client_limit", "queue" => queue.to_owned()).set(limit as f64);
            }
            Event::Waiting { queue, waits } => {
                step(&gauge!("rpc_client_waiting", "queue" => queue.to_owned()), waits);
            }
            Event::ReplyLost { reason } => {
                counter!("rpc_server_replies_lost_total", "reason" => reason).increment(1);
            }
            Event::JobRetried { queue } => {
                counter!("rpc_server_jobs_retried_total", "queue" => queue.to_owned()).increment(1);
            }
            Event::JobDied { queue, reason } => {
                counter!("rpc_server_jobs_dead_total", "queue" => queue.to_owned(), "reason" => reason)
                    .increment(1);
            }
            Event::DeadLetterRefused { queue } => {
                counter!("rpc_server_dead_letters_refused_total", "queue" => queue.to_owned()).increment(1);
            }
            Event::JobStuck { queue, is_stuck } => {
                step(
                    &gauge!("rpc_server_jobs_stuck", "queue" => queue.to_owned()),
                    is_stuck,
                );
            }
            Event::Connected { role, is_up } => {
                step(&gauge!("rpc_connections", "role" => role), is_up);
                if is_up {
                    counter!("rpc_connections_opened_total", "role" => role).increment(1);
                } else {
                    counter!("rpc_connections_lost_total", "role" => role).increment(1);
                }
            }
            Event::Blocked { is_blocked } => step(&gauge!("rpc_connections_blocked"), is_blocked),
        }
    }

    impl Counted {
        fn total(self, labels: &[Label]) -> Counter {
            match self {
                Self::Calls => counter!("rpc_client_calls_total", labels.iter()),
                Self::Attempts => counter!("rpc_client_attempts_total", labels.iter()),
                Self::Requests => counter!("rpc_server_requests_total", labels.iter()),
            }
        }

        /// Returns the histogram of durations. `None` for attempts.
        fn duration(self, labels: &[Label]) -> Option<Histogram> {
            match self {
                Self::Calls => Some(histogram!("rpc_client_call_duration_seconds", labels.iter())),
                Self::Attempts => None,
                Self::Requests => Some(histogram!("rpc_server_request_duration_seconds", labels.iter())),
            }
        }
    }

    fn count_end(counted: Counted, method: &Method, ending: Ending, at: Instant) {
        change_in_flight(counted, method, at, |gauge| gauge.decrement(1));
        let (outcome, took) = match ending {
            Ending::Completed(outcome, took) => (outcome.as_str(), Some(took)),
            Ending::Dropped => (Outcome::Cancelled.as_str(), None),
            Ending::NotRun => return,
        };
        let key = EndKey {
            counted,
            outcome,
            has_duration: took.is_some(),
        };
        let register = || {
            let labels = method.labels_with_outcome(outcome);
            EndHandles {
                total: counted.total(&labels),
                duration: took.and_then(|_| counted.duration(&labels)),
            }
        };
        method.handles().count_end(at, key, register, |handles| {
            handles.total.increment(1);
            if let (Some(duration), Some(took)) = (&handles.duration, took) {
                duration.record(took);
            }
        });
    }

    fn change_in_flight(counted: Counted, method: &Method, at: Instant, change: impl Fn(&Gauge)) {
        let name = match counted {
            Counted::Calls => "rpc_client_in_flight",
            Counted::Requests => "rpc_server_in_flight",
            // The call that an attempt belongs to is in flight.
            Counted::Attempts => return,
        };
        let register = || gauge!(name, method.labels());
        method.handles().change_in_flight(at, register, change);
    }

    /// Raises a gauge by one, or lowers it by one.
    fn step(gauge: &Gauge, is_up: bool) {
        if is_up {
            gauge.increment(1);
        } else {
            gauge.decrement(1);
        }
    }

    /// Registers descriptions and units of this crate's metrics with the installed recorder.
    /// Exporters such as Prometheus show them.
    ///
    /// Must be called after the recorder is installed. `docs/observability.md` in the repository
    /// lists all metrics.
    ///
    /// ```
    /// # use metrics::NoopRecorder;
    /// metrics::set_global_recorder(NoopRecorder).expect("no recorder is installed yet");
    /// rpc_runtime::describe_metrics();
    /// ```
    pub fn describe() {
        for (name, description) in COUNTERS {
            metrics::describe_counter!(*name, Unit::Count, *description);
        }
        for (name, unit, description) in GAUGES {
            metrics::describe_gauge!(*name, *unit, *description);
        }
        for (name, unit, description) in HISTOGRAMS {
            metrics::describe_histogram!(*name, *unit, *description);
        }
    }

    type Metrics = &'static [(&'static str, Unit, &'static str)];

    const COUNTERS: &[(&str, &str)] = &[
        ("rpc_client_calls_total", "calls that ended"),
        (
            "rpc_client_attempts_total",
            "attempts of calls that client layers made",
        ),
        (
            "rpc_client_items_total",
            "items of streams that callers sent or read",
        ),
        ("rpc_client_item_bytes_total", "bytes of these items"),
        ("rpc_client_returned_total", "requests that the broker returned"),
        (
            "rpc_client_replies_discarded_total",
            "replies that no call waits for, or that cannot be decoded",
        ),
        (
            "rpc_server_requests_total",
            "requests whose method may have run, or that a layer answered",
        ),
        (
            "rpc_server_redelivered_total",
            "requests that had been delivered before, here or in a queue that dead-lettered them",
        ),
        (
            "rpc_server_items_total",
            "items of streams that methods sent or took",
        ),
        ("rpc_server_item_bytes_total", "bytes of these items"),
        ("rpc_server_refused_total", "requests that were refused"),
        (
            "rpc_server_replies_lost_total",
            "replies that could not be published",
        ),
        (
            "rpc_server_jobs_retried_total",
            "failed jobs that were moved to a retry queue",
        ),
        (
            "rpc_server_jobs_dead_total",
            "jobs that were moved to the dead-letter queue",
        ),
        (
            "rpc_server_dead_letters_refused_total",
            "times that a job waited because the dead-letter queue did not take it",
        ),
        (
            "rpc_connections_opened_total",
            "connections to the broker that were opened",
        ),
        (
            "rpc_connections_lost_total",
            "connections to the broker that were lost or closed",
        ),
    ];

    const GAUGES: Metrics = &[
        (
            "rpc_client_in_flight",
            Unit::Count,
            "calls that have begun and not ended",
        ),
        (
            "rpc_client_waiting",
            Unit::Count,
            "calls that wait in the client until they may be sent",
        ),
        (
            "rpc_client_limit",
            Unit::Count,
            "limit of calls in flight, once overload has changed it",
        ),
        ("rpc_server_in_flight", Unit::Count, "requests that run"),
        (
            "rpc_server_queue_time_seconds",
            Unit::Seconds,
            "time that requests wait in the queue",
        ),
        (
            "rpc_server_jobs_stuck",
            Unit::Count,
            "jobs that cannot be moved to their next queue",
        ),
        ("rpc_connections", Unit::Count, "connections to the broker"),
        (
            "rpc_connections_blocked",
            Unit::Count,
            "connections that the broker blocks",
        ),
    ];

    const HISTOGRAMS: Metrics = &[
        (
            "rpc_client_call_duration_seconds",
            Unit::Seconds,
            "duration of calls",
        ),
        ("rpc_client_calls_per_message", Unit::Count, "calls in a message"),
        (
            "rpc_server_request_duration_seconds",
            Unit::Seconds,
            "duration of methods",
        ),
        (
            "rpc_server_requests_per_message",
            Unit::Count,
            "requests in a message",
        ),
    ];
}
