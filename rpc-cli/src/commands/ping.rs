//! `rpc ping`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use rpc_runtime::discovery::{Worker, WorkerClient};
use rpc_runtime::{Broker, CallError, Chain, FaultCode};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Location};
use crate::options::Options;
use crate::output::Output;
use crate::table::{Column, Table};
use crate::text::one_line;
use crate::units::{self, nanos};
use crate::worker::short_id;

/// How many pings are in flight at once, at most.
const CONCURRENCY: usize = 64;

/// Measures how long workers take to reply to a ping.
///
/// A ping is a call like any other: it waits in the queue and goes to one of the queue's workers,
/// which the reply names. One ping is sent before the others and is not counted. Without SERVICE,
/// pings the queues of all running services. The exit code is 1 if there was no reply. With --json,
/// prints one line per ping and the summary last.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc ping
  rpc ping UserDirectory --count 10 --interval 200ms
  rpc ping --queue rpc_queue --count 0        # until Ctrl-C")]
pub(crate) struct Ping {
    /// The service's name. Defaults to all services.
    #[arg(conflicts_with = "queue")]
    service: Option<String>,

    /// How many pings to send to each queue. With 0, pings until Ctrl-C.
    #[arg(short, long, default_value_t = 4)]
    count: u32,

    /// The time between pings.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = units::parse_time)]
    interval: Duration,

    /// How long to wait for a reply.
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = units::parse_time)]
    timeout: Duration,

    #[command(flatten)]
    location: Location,
}

impl Ping {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let pinged = self.ping(&broker, output).await;
        close(&broker).await;
        let summary = pinged?;
        if output.json {
            output.value(&summary.json())?;
        } else {
            output.text(&format!("\n{}", summary.text()))?;
        }
        Ok(match summary.answered() {
            0 => Outcome::Negative,
            _ => Outcome::Done,
        })
    }

    /// Sends the pings, in rounds of one to each queue, and prints their outcomes. Stops at Ctrl-C,
    /// and does not count pings without an outcome by then.
    async fn ping(&self, broker: &Broker, output: &Output) -> Result<Summary, Failure> {
        let queues = self.queues(broker, output).await?;
        // The first call opens the reply queue, which is not part of a round trip.
        if let Some(queue) = queues.first() {
            self.ping_one(broker, queue, 0).await;
        }
        let mut summary = Summary::default();
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while self.count == 0 || number < self.count {
            number += 1;
            let round = async {
                ticks.tick().await;
                let pings = queues.iter().map(|queue| self.ping_one(broker, queue, number));
                let mut pings = stream::iter(pings).buffer_unordered(CONCURRENCY);
                while let Some(outcome) = pings.next().await {
                    if output.json {
                        output.value(&outcome.json())?;
                    } else {
                        output.text(&outcome.text())?;
                    }
                    summary.add(outcome);
                }
                Ok::<_, Failure>(())
            };
            tokio::select! {
                printed = round => printed?,
                _ = &mut interrupted => break,
            }
        }
        Ok(summary)
    }

    /// Returns the queues to ping.
    async fn queues(&self, broker: &Broker, output: &Output) -> Result<BTreeSet<String>, Failure> {
        if let Some(queue) = &self.location.queue {
            return Ok([queue.clone()].into());
        }
        if let Some(service) = &self.service {
            let described = lookup::versions(broker, self.location.search, service, output).await?;
            return Ok(described.into_iter().map(|service| service.queue).collect());
        }
        let found = self.location.search.workers(broker, output).await?;
        let queues = found
            .services()
            .into_iter()
            .map(|service| service.queue.to_owned());
        let queues: BTreeSet<_> = queues.collect();
        if queues.is_empty() {
            return Err(Failure::NotFound {
                message: "no worker was found".to_owned(),
                hint: "is one running, and on this virtual host? `--window` waits longer, and `--queue` names the queue".to_owned(),
            });
        }
        Ok(queues)
    }

    /// Sends a ping, and waits for its reply.
    async fn ping_one(&self, broker: &Broker, queue: &str, number: u32) -> PingOutcome {
        let client = WorkerClient::builder(broker, queue).timeout(self.timeout).build();
        let begun = Instant::now();
        let answer = client.ping().await;
        let time = begun.elapsed();
        PingOutcome {
            queue: queue.to_owned(),
            number,
            time,
            answer: match answer {
                Ok(worker) => Ok(Some(worker)),
                // A worker without self-description replied, which is an answer too.
                Err(CallError::Fault(fault)) if fault.code == FaultCode::UnknownMethod => Ok(None),
                Err(error) => Err(Chain(&error).to_string()),
            },
        }
    }
}

#[derive(Debug)]
struct PingOutcome {
    queue: String,
    number: u32,
    time: Duration,
    /// The worker that replied, `None` if it does not describe itself; or why there is no answer.
    answer: Result<Option<Worker>, String>,
}

impl PingOutcome {
    fn text(&self) -> String {
        let Self { queue, number, .. } = self;
        let text = match &self.answer {
            Ok(worker) => format!(
                "{queue}: {}: seq={number} time={}",
                describe(worker.as_ref()),
                units::show_time(self.time)
            ),
            Err(error) => format!("{queue}: seq={number}: {error}"),
        };
        one_line(&text)
    }

    fn json(&self) -> Value {
        let mut json = json!({"queue": self.queue, "seq": self.number, "time_ns": nanos(self.time)});
        match &self.answer {
            Ok(worker) => json["worker"] = json!(worker),
            Err(error) => json["failure"] = json!(error),
        }
        json
    }
}

fn describe(worker: Option<&Worker>) -> String {
    match worker {
        Some(worker) => format!(
            "worker {} on {}, process {}",
            short_id(&worker.id),
            worker.host,
            worker.pid
        ),
        None => "a worker that does not describe itself".to_owned(),
    }
}

#[derive(Debug, Default)]
struct Summary {
    /// The pings whose outcome is known.
    sent: u64,
    /// By queue and worker id. The id is empty for workers that do not describe themselves.
    answers: BTreeMap<(String, String), RoundTrips>,
}

#[derive(Debug, Default)]
struct RoundTrips {
    worker: Option<Worker>,
    count: u32,
    least: Duration,
    most: Duration,
    sum: Duration,
}

impl Summary {
    fn add(&mut self, outcome: PingOutcome) {
        self.sent += 1;
        let Ok(worker) = outcome.answer else {
            return;
        };
        let id = worker
            .as_ref()
            .map(|worker| worker.id.clone())
            .unwrap_or_default();
        let times = self.answers.entry((outcome.queue, id)).or_default();
        times.least = match times.count {
            0 => outcome.time,
            _ => times.least.min(outcome.time),
        };
        times.most = times.most.max(outcome.time);
        times.sum += outcome.time;
        times.count += 1;
        times.worker = worker;
    }

    fn answered(&self) -> u64 {
        self.answers.values().map(|times| u64::from(times.count)).sum()
    }

    fn text(&self) -> String {
        use Column::{Left, Right};
        let mut table = Table::new([
            Left("QUEUE"),
            Left("WORKER"),
            Left("HOST"),
            Right("PROCESS"),
            Right("ANSWERS"),
            Right("MIN"),
            Right("MEAN"),
            Right("MAX"),
        ]);
        for ((queue, _), times) in &self.answers {
            let of_worker = |show: fn(&Worker) -> String| times.worker.as_ref().map_or("-".to_owned(), show);
            table.row([
                queue.clone(),
                of_worker(|worker| short_id(&worker.id).to_owned()),
                of_worker(|worker| worker.host.clone()),
                of_worker(|worker| worker.pid.to_string()),
                times.count.to_string(),
                units::show_time(times.least),
                units::show_time(times.mean()),
                units::show_time(times.most),
            ]);
        }
        let (sent, answered) = (self.sent, self.answered());
        let lost = match sent {
            0 => 0.0,
            _ => (sent - answered) as f64 / sent as f64 * 100.0,
        };
        let totals = format!("{sent} sent, {answered} answered, {lost:.0}% lost");
        if table.is_empty() {
            return totals;
        }
        format!("{}\n\n{totals}", table.render())
    }

    fn json(&self) -> Value {
        let answers = self.answers.iter().map(|((queue, id), times)| {
            json!({
                "queue": queue,
                "worker": id,
                "answers": times.count,
                "min_ns": nanos(times.least),
                "mean_ns": nanos(times.mean()),
                "max_ns": nanos(times.most),
            })
        });
        json!({"sent": self.sent, "answered": self.answered(), "workers": answers.collect::<Vec<_>>()})
    }
}

impl RoundTrips {
    fn mean(&self) -> Duration {
        self.sum / self.count.max(1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    fn outcome(number: u32, millis: u64, answer: Result<Option<&str>, &str>) -> PingOutcome {
        let worker = |id: &str| from_value(json!({"id": id, "host": "web-1", "pid": 7})).unwrap();
        PingOutcome {
            queue: "q".into(),
            number,
            time: Duration::from_millis(millis),
            answer: answer.map(|id| id.map(worker)).map_err(str::to_owned),
        }
    }

    #[test]
    fn the_summary_has_a_row_per_worker() {
        let mut summary = Summary::default();
        assert_eq!(summary.text(), "0 sent, 0 answered, 0% lost");
        let one = outcome(1, 2, Ok(Some("0123456789")));
        assert_eq!(
            one.text(),
            "q: worker 01234567 on web-1, process 7: seq=1 time=2.00ms"
        );
        summary.add(one);
        summary.add(outcome(2, 4, Ok(Some("0123456789"))));
        summary.add(outcome(3, 1, Ok(None)));
        let lost = outcome(4, 9, Err("no reply within 2s"));
        assert_eq!(lost.text(), "q: seq=4: no reply within 2s");
        summary.add(lost);
        assert_eq!(
            summary.text(),
            "\
QUEUE  WORKER    HOST   PROCESS  ANSWERS     MIN    MEAN     MAX
q      -         -            -        1  1.00ms  1.00ms  1.00ms
q      01234567  web-1        7        2  2.00ms  3.00ms  4.00ms

4 sent, 3 answered, 25% lost"
        );
        assert_eq!(summary.json()["workers"][1]["mean_ns"], 3_000_000);
    }
}
