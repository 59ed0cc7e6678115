//! `rpc bench`.

use std::time::Duration;

use clap::Args;
use rpc_contract::ServiceDescription;
use rpc_runtime::{Broker, CallError, DynamicClient};

use self::load::Load;
use self::pace::Pace;
use self::report::Report;
use super::call::{How, Whom};
use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::input::Words;
use crate::lookup::{self, Where};
use crate::output::Output;
use crate::units;

mod load;
mod pace;
mod report;
mod tally;

/// How long calls are made, where neither a time nor a number is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Calls a method again and again, and tells how many calls a second there are and how long they take.
///
/// Without --rate, a call begins when another one ends, and --concurrency of them are in flight at all times. With --rate, a call begins when it is
/// due, whether or not earlier ones have ended, as long as no more than --concurrency are in flight; one that has to wait for its turn counts from
/// when it was due, so that a worker that stands still is not measured by the few calls it kept waiting. One call is made first, and does not
/// count. Ctrl-C ends it, and what was measured until then is told.
#[derive(Debug, Args)]
#[command(
    override_usage = "rpc bench [OPTIONS] <SERVICE> <METHOD> [ARGUMENTS]\n       rpc bench [OPTIONS] --queue <QUEUE> <METHOD> [ARGUMENTS]"
)]
#[command(after_help = "\
Examples:
  rpc bench UserDirectory get_email '{\"id\": \"user:12345\"}'
  rpc bench UserDirectory count --concurrency 256 --duration 30s --codec msgpack
  rpc bench UserDirectory count --rate 500 --count 5000 --json")]
pub(crate) struct Bench {
    #[command(flatten)]
    whom: Whom,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    how: How,

    /// How many calls may be in flight at once.
    #[arg(short, long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,

    /// Begin so many calls a second.
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,

    /// How long calls are made; 10s unless given, or --count is.
    #[arg(short, long, value_name = "TIME", value_parser = units::time)]
    duration: Option<Duration>,

    /// How many calls are made.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Call a method that is not idempotent: what it does, it does as often as it is called.
    #[arg(long)]
    force: bool,
}

impl Bench {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let words = self.whom.words(self.place.queue.is_some())?;
        let arguments = self.whom.arguments(&words)?;
        let broker = connect(options).await?;
        let measured = self.measure(&broker, &words, arguments, output).await;
        close(&broker).await;
        let report = measured?;
        match output.json {
            true => output.value(&report.json())?,
            false => output.text(&report.text())?,
        }
        Ok(match report.tally.has_failed() {
            true => Outcome::Negative,
            false => Outcome::Done,
        })
    }

    async fn measure(
        &self,
        broker: &Broker,
        words: &Words<'_>,
        arguments: String,
        output: &Output,
    ) -> Result<Report, Failure> {
        let service = lookup::service(broker, &self.place, words.service, Some(words.method), output).await?;
        self.permit(&service, words.method)?;
        let (name, queue) = (service.name.clone(), service.queue.clone());
        let client = DynamicClient::builder(broker, service)?
            .codec(self.how.codec.into())
            .max_in_flight(self.concurrency as usize)
            .build();
        let load = Load {
            client,
            method: words.method.to_owned(),
            arguments,
            timeout: self.how.timeout,
        };
        // It opens the reply queue, and what is wrong with the arguments is told at once.
        match load.call().await {
            Ok(_) | Err(CallError::Service(_) | CallError::ServiceText(_)) => {}
            Err(error) => return Err(Failure::from(error)),
        }
        let duration = self
            .duration
            .or_else(|| self.count.is_none().then_some(DEFAULT_DURATION));
        let pace = Pace::new(self.rate, duration, self.count);
        let ran = load.run(pace, self.concurrency as usize, output).await;
        Ok(Report {
            service: name,
            queue,
            method: words.method.to_owned(),
            concurrency: self.concurrency,
            rate: self.rate,
            time: ran.time,
            missed: ran.missed,
            is_interrupted: ran.is_interrupted,
            tally: ran.tally,
        })
    }

    /// Refuses what should not be done thousands of times.
    fn permit(&self, service: &ServiceDescription, method: &str) -> Result<(), Failure> {
        let Some(description) = service.method(method) else {
            return Err(lookup::no_method(&[service], method));
        };
        match description.is_idempotent || self.force {
            true => Ok(()),
            false => Err(Failure::usage(
                format!(
                    "{}.{method} is not idempotent: each call does again what it does",
                    service.name
                ),
                "if that is no harm, `--force` calls it all the same",
            )),
        }
    }
}
