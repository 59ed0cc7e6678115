//! `rpc bench`.

use std::time::Duration;

use clap::Args;
use rpc_contract::{MethodDescription, ServiceDescription};
use rpc_runtime::{Broker, CallError, DynamicClient};

use self::load::RepeatedCall;
use self::pace::Pace;
use self::report::Report;
use crate::call_args::{CallArgs, CallOptions, Target};
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Location};
use crate::options::Options;
use crate::output::Output;
use crate::units;

mod load;
mod pace;
mod report;
mod tally;

/// The duration of a run if neither `--duration` nor `--count` is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Calls a method repeatedly, and measures throughput and latency.
///
/// Without --rate, a call starts when another one ends, and --concurrency calls are always in
/// flight. With --rate, a call starts when it is due, whether or not earlier ones have ended, but
/// at most --concurrency are in flight. The latency of a call that starts late counts from when it
/// was due, so that calls that a stalled worker delays are measured too. A call that is answered
/// with a stream ends with its last item, and its items are counted. One call is made before the
/// run and is not counted. Ctrl-C ends the run and prints what was measured.
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
    args: CallArgs,

    #[command(flatten)]
    location: Location,

    #[command(flatten)]
    call_options: CallOptions,

    /// The maximum number of calls in flight.
    #[arg(short, long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,

    /// Calls to start per second.
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,

    /// For how long to start new calls. Defaults to 10s, or to no limit with --count.
    #[arg(short, long, value_name = "TIME", value_parser = units::parse_time)]
    duration: Option<Duration>,

    /// How many calls to make.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Call the method even if it is not idempotent. It then takes effect with each call.
    #[arg(long)]
    force: bool,
}

impl Bench {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let target = self.args.target(self.location.queue.is_some())?;
        let arguments = self.args.arguments(&target)?;
        let broker = connect(options).await?;
        let measured = self.measure(&broker, &target, arguments, output).await;
        close(&broker).await;
        let report = measured?;
        if output.json {
            output.value(&report.json())?;
        } else {
            output.text(&report.text())?;
        }
        Ok(if report.tally.has_failed() {
            Outcome::Negative
        } else {
            Outcome::Done
        })
    }

    /// Finds the service, makes a first call that is not measured, and then makes the calls that
    /// are. Fails if the first call fails other than with the method's own error.
    async fn measure(
        &self,
        broker: &Broker,
        target: &Target<'_>,
        arguments: String,
        output: &Output,
    ) -> Result<Report, Failure> {
        let service = lookup::service(
            broker,
            &self.location,
            target.service,
            Some(target.method),
            output,
        )
        .await?;
        let is_streaming = self.repeatable_method(&service, target.method)?.is_streaming;
        let (name, queue) = (service.name.clone(), service.queue.clone());
        let client = DynamicClient::builder(broker, service)?
            .codec(self.call_options.codec.into())
            .max_in_flight(self.concurrency as usize)
            .build();
        let call = RepeatedCall {
            client,
            method: target.method.to_owned(),
            arguments,
            timeout: self.call_options.timeout,
            is_streaming,
        };
        // Opens the reply queue, and shows whether the arguments are valid.
        match call.call_once().await {
            Ok(_) | Err(CallError::Service(_) | CallError::ServiceText(_)) => {}
            Err(error) => return Err(Failure::from(error)),
        }
        let duration = match self.count {
            None => Some(self.duration.unwrap_or(DEFAULT_DURATION)),
            Some(_) => self.duration,
        };
        let pace = Pace::new(self.rate, duration, self.count);
        let run = call.run(pace, self.concurrency as usize, output).await;
        Ok(Report {
            service: name,
            queue,
            method: target.method.to_owned(),
            concurrency: self.concurrency,
            rate: self.rate,
            time: run.time,
            missed: run.missed,
            is_interrupted: run.is_interrupted,
            is_streaming,
            tally: run.tally,
        })
    }

    /// Returns the method's description. Fails if there is no such method, or if it is not
    /// idempotent and `--force` is not given.
    fn repeatable_method<'a>(
        &self,
        service: &'a ServiceDescription,
        method: &str,
    ) -> Result<&'a MethodDescription, Failure> {
        let Some(description) = service.method(method) else {
            return Err(lookup::no_method(&[service], method));
        };
        if description.is_idempotent || self.force {
            return Ok(description);
        }
        Err(Failure::usage(
            format!(
                "{}.{method} is not idempotent: it would take effect with each call",
                service.name
            ),
            "if that does no harm, add `--force`",
        ))
    }
}
