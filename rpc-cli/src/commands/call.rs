//! `rpc call`.

use std::collections::BTreeMap;

use clap::Args;
use rpc_contract::{ArgumentDescription, MethodDescription, ServiceDescription};
use rpc_runtime::{Broadcast, Broker, DynamicClient, GatherEnd, MethodError, StreamingCall};
use serde::de::IgnoredAny;
use tokio::sync::oneshot;

use crate::call_args::{CallArgs, CallOptions, Target};
use crate::calling::{self, PreparedCall, Settings};
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::input;
use crate::items;
use crate::lookup::{self, Location};
use crate::options::Options;
use crate::output::Output;

/// Calls a method, and prints its result as JSON.
///
/// Prints the result to stdout: indented on a terminal, on one line otherwise or with --json. The
/// result of a method that returns nothing is `null`. A one-way method has no result. The method's
/// own error is printed to stderr as JSON, and the exit code is 1; `rpc --help` lists the exit
/// codes.
///
/// A broadcast prints a line of JSON for each worker as it answers: the worker, and its result or
/// failure. The exit code is 1 if a worker failed, or if fewer answered than --workers.
///
/// A method that replies with a stream prints a line of JSON for each item as it arrives. Ctrl-C
/// ends the stream, and cancels any other call.
///
/// A method that receives a stream gets its items from stdin: JSON, an item a line. Empty lines are
/// skipped.
#[derive(Debug, Args)]
#[command(
    override_usage = "rpc call [OPTIONS] <SERVICE> <METHOD> [ARGUMENTS]\n       rpc call [OPTIONS] --queue <QUEUE> <METHOD> [ARGUMENTS]"
)]
#[command(after_help = "\
Examples:
  rpc call UserDirectory get_email '{\"id\": \"user:12345\"}'
  rpc call UserDirectory get_email --arg id=user:12345
  rpc call --queue rpc_queue get_email '[\"user:12345\"]'
  rpc call Library import @books.json --timeout 2m
  jq -c .query search.json | rpc call Library find -
  rpc call Library add_all --arg shelf=7 < books.jsonl
  rpc call --queue rpc_queue --undescribed --codec text fib '{\"n\": 30}'")]
pub(crate) struct Call {
    #[command(flatten)]
    args: CallArgs,

    #[command(flatten)]
    location: Location,

    #[command(flatten)]
    call_options: CallOptions,

    /// Add a header to the request. Repeat it for several.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = input::parse_pair)]
    headers: Vec<(String, String)>,

    /// The priority of the request, for queues with priorities.
    #[arg(long)]
    priority: Option<u8>,

    /// For a broadcast: how many workers should answer. Without it, the command ends when no worker
    /// has answered for half a second.
    #[arg(long)]
    workers: Option<usize>,

    /// Call without asking for the service's description, for workers that do not describe
    /// themselves. The method is assumed to reply and not to be idempotent.
    #[arg(long, requires = "queue")]
    undescribed: bool,
}

impl Call {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let target = self.args.target(self.location.queue.is_some())?;
        let arguments = self.args.arguments(&target)?;
        let broker = connect(options).await?;
        let (items_failed, bad_items) = oneshot::channel();
        let called = tokio::select! {
            // In this order: a bad item fails the call however it ends, and a call with a stream
            // ends at Ctrl-C by itself, without a failure.
            biased;
            Ok(failure) = bad_items => Err(failure),
            called = self.call(&broker, &target, arguments, items_failed, output) => called,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        };
        // A call that was interrupted, or whose items failed, was dropped above. Closing waits
        // until the workers are told to cancel it.
        close(&broker).await;
        called
    }

    /// Makes the call and prints its result.
    async fn call(
        &self,
        broker: &Broker,
        target: &Target<'_>,
        arguments: String,
        items_failed: oneshot::Sender<Failure>,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        let service = match (&self.location.queue, self.undescribed) {
            (Some(queue), true) => assume_service(queue, target, &arguments)?,
            _ => {
                lookup::service(
                    broker,
                    &self.location,
                    target.service,
                    Some(target.method),
                    output,
                )
                .await?
            }
        };
        let Some(method) = service.method(target.method) else {
            return Err(lookup::no_method(&[&service], target.method));
        };
        let client = DynamicClient::builder(broker, service.clone())?
            .codec(self.call_options.codec.into())
            .build();
        self.check_options(method, target)?;
        let items = method.incoming.is_some().then(|| items::of_stdin(items_failed));
        let settings = Settings {
            timeout: self.call_options.timeout,
            priority: self.priority,
            headers: self.headers.clone(),
        };
        match calling::prepare(&client, method, &arguments, items, &settings) {
            PreparedCall::Single(call) => {
                let result = call.await?;
                if !method.is_oneway {
                    output.json_text(&result)?;
                }
                Ok(Outcome::Done)
            }
            PreparedCall::Streaming(stream) => stream_items(stream, output).await,
            PreparedCall::Broadcast(broadcast) => self.broadcast(broadcast, output).await,
        }
    }

    /// Refuses options that the method has no use for, and arguments from standard input if the
    /// method's items are read from there.
    fn check_options(&self, method: &MethodDescription, target: &Target<'_>) -> Result<(), Failure> {
        let name = &method.name;
        if method.is_broadcast && self.priority.is_some() {
            let message = "the requests of a broadcast have no priority";
            return Err(Failure::usage(message, "leave out `--priority`"));
        }
        let gathers_answers = method.is_broadcast && !method.is_oneway;
        if self.workers.is_some() && !gathers_answers {
            let message = if method.is_oneway {
                format!("no worker answers a request of {name:?}")
            } else {
                format!("one worker answers a call of {name:?}")
            };
            return Err(Failure::usage(
                message,
                "leave out `--workers`: it is for broadcasts with answers",
            ));
        }
        if method.incoming.is_some() && target.reads_stdin() {
            return Err(Failure::usage(
                format!("{name:?} receives a stream, whose items are read from standard input"),
                "give the arguments on the command line or in a file",
            ));
        }
        Ok(())
    }

    /// Sends a broadcast, and prints each answer as it arrives. The outcome is negative if a worker
    /// failed, may not have got the request, or did not answer.
    async fn broadcast(
        &self,
        mut broadcast: Broadcast<String, MethodError<String>>,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        if let Some(workers) = self.workers {
            broadcast = broadcast.expect_workers(workers);
        }
        let mut answers = broadcast.send().await?;
        let mut outcome = Outcome::Done;
        while let Some((worker, answer)) = answers.next().await {
            if answer.is_err() {
                outcome = Outcome::Negative;
            }
            output.json_text(&calling::answer_json(&worker, answer))?;
        }
        // Without a confirm, a worker that has not answered may not have got the request.
        let all_expected_answered = answers.missing() == Some(0);
        if !answers.is_confirmed() && !all_expected_answered {
            outcome = Outcome::Negative;
            output.note("the broker did not confirm the request: a worker may not have got it");
        }
        if let Some(missing @ 1..) = answers.missing() {
            outcome = Outcome::Negative;
            output.note(&format!("{missing} workers did not answer"));
        }
        if let Some(GatherEnd::Lost(reason)) = answers.end() {
            return Err(reason.into());
        }
        if answers.answered() == 0 {
            output.note("no worker answered in time; `--timeout` waits longer");
            outcome = Outcome::Negative;
        }
        Ok(outcome)
    }
}

/// Prints each item as it arrives, until the end or Ctrl-C.
async fn stream_items(
    mut stream: StreamingCall<String, MethodError<String>>,
    output: &Output,
) -> Result<Outcome, Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(Outcome::Done),
            item = stream.next() => match item {
                Some(item) => output.json_line(&item?)?,
                None => return Ok(Outcome::Done),
            },
        }
    }
}

/// Makes a description from the call alone, for `--undescribed`. Fails if the arguments have no
/// names.
fn assume_service(queue: &str, target: &Target<'_>, arguments: &str) -> Result<ServiceDescription, Failure> {
    let Ok(arguments) = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(arguments) else {
        return Err(Failure::usage(
            "an array of arguments needs the description, which has their names",
            "with `--undescribed`, write arguments by name: '{\"id\": \"user:12345\"}'",
        ));
    };
    let mut method = MethodDescription::new(target.method);
    let names = arguments.keys();
    method.arguments = names.map(|name| ArgumentDescription::new(name, "")).collect();
    let mut service = ServiceDescription::new(target.service.unwrap_or(queue), queue);
    service.methods = vec![method];
    Ok(service)
}
