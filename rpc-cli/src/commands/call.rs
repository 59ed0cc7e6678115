//! `rpc call`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rpc_contract::{ArgumentDescription, MethodDescription, ServiceDescription};
use rpc_runtime::{Broker, Codec, DynamicClient};
use serde::de::IgnoredAny;

use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::input::{self, Words};
use crate::lookup::{self, Where};
use crate::output::Output;
use crate::units;

/// Calls a method, and prints its result as JSON.
///
/// The result is on stdout: on several lines in a terminal, and on one otherwise, or with --json. A method that returns nothing is `null`; of a
/// one-way method, nothing is printed. The method's own error is JSON on stderr, and the exit code is 1; `rpc --help` has the others.
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
  rpc call --queue rpc_queue --undescribed --codec text fib '{\"n\": 30}'")]
pub(crate) struct Call {
    #[command(flatten)]
    whom: Whom,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    how: How,

    /// Send a header with the request; several times for several.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = input::pair)]
    headers: Vec<(String, String)>,

    /// Send the request with this priority, for queues that have priorities.
    #[arg(long)]
    priority: Option<u8>,

    /// Do not ask what the service is: send what is given here as it is. For workers that do not describe themselves; the method is
    /// taken to be one that is answered, and is never repeated.
    #[arg(long, requires = "queue")]
    undescribed: bool,
}

/// Which method is called, with what.
#[derive(Debug, Clone, Args)]
pub(crate) struct Whom {
    /// The service's name; not needed with --queue.
    #[arg(value_name = "SERVICE", required = true)]
    first: String,

    /// The method's name.
    #[arg(value_name = "METHOD")]
    second: Option<String>,

    /// The arguments as a JSON object, by their names, or as an array, in their order; `-`: standard input has them; @FILE: a file has
    /// them. None at all unless given.
    #[arg(value_name = "ARGUMENTS")]
    third: Option<String>,

    /// An argument by its name, in place of ARGUMENTS; several times for several. The value is JSON where it can be read as that, and else
    /// text: --arg 'id="7"' is a text, --arg id=7 a number.
    #[arg(short, long = "arg", value_name = "NAME=VALUE", value_parser = input::pair)]
    args: Vec<(String, String)>,
}

impl Whom {
    /// What is meant by the words.
    pub(crate) fn words(&self, has_queue: bool) -> Result<Words<'_>, Failure> {
        let words = std::iter::once(&self.first)
            .chain(&self.second)
            .chain(&self.third);
        let words: Vec<_> = words.map(String::as_str).collect();
        Words::new(&words, has_queue)
    }

    pub(crate) fn arguments(&self, words: &Words<'_>) -> Result<String, Failure> {
        match (words.arguments, self.args.is_empty()) {
            (given, true) => input::arguments(given),
            (None, false) => Ok(input::named_arguments(&self.args)),
            (Some(_), false) => Err(Failure::usage(
                "arguments are given twice",
                "give them as JSON, or one by one with `--arg`, and not both",
            )),
        }
    }
}

/// How methods are called.
#[derive(Debug, Clone, Args)]
pub(crate) struct How {
    /// How long a call may take; the method's own time unless given, and 30s where it has none.
    #[arg(short, long, value_name = "TIME", value_parser = units::time)]
    pub(crate) timeout: Option<Duration>,

    /// How arguments and results are sent.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) codec: WireCodec,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum WireCodec {
    /// application/json.
    #[default]
    Json,
    /// application/msgpack, as generated clients send it.
    Msgpack,
    /// text/plain: the one argument as it is.
    Text,
}

impl From<WireCodec> for Codec {
    fn from(codec: WireCodec) -> Self {
        match codec {
            WireCodec::Json => Self::Json,
            WireCodec::Msgpack => Self::MessagePack,
            WireCodec::Text => Self::Text,
        }
    }
}

impl Call {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let words = self.whom.words(self.place.queue.is_some())?;
        let arguments = self.whom.arguments(&words)?;
        let broker = connect(options).await?;
        let called = self.call(&broker, &words, arguments, output).await;
        close(&broker).await;
        if let Some(result) = called? {
            output.json_text(&result)?;
        }
        Ok(Outcome::Done)
    }

    /// The result; nothing of a one-way method.
    async fn call(
        &self,
        broker: &Broker,
        words: &Words<'_>,
        arguments: String,
        output: &Output,
    ) -> Result<Option<String>, Failure> {
        let service = match (&self.place.queue, self.undescribed) {
            (Some(queue), true) => undescribed(queue, words, &arguments)?,
            _ => lookup::service(broker, &self.place, words.service, Some(words.method), output).await?,
        };
        let Some(method) = service.method(words.method) else {
            return Err(lookup::no_method(&[&service], words.method));
        };
        let is_oneway = method.is_oneway;
        let client = DynamicClient::builder(broker, service)?
            .codec(self.how.codec.into())
            .build();
        let mut call = client.call_json(words.method, &arguments);
        if let Some(timeout) = self.how.timeout {
            call = call.timeout(timeout);
        }
        if let Some(priority) = self.priority {
            call = call.priority(priority);
        }
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        let result = call.await?;
        Ok((!is_oneway).then_some(result))
    }
}

/// A service of which nothing is known but what it is called with.
fn undescribed(queue: &str, words: &Words<'_>, arguments: &str) -> Result<ServiceDescription, Failure> {
    let Ok(arguments) = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(arguments) else {
        return Err(Failure::usage(
            "arguments in their order need the description, which has their names",
            "give them by name with `--undescribed`: '{\"id\": \"user:12345\"}'",
        ));
    };
    let mut method = MethodDescription::new(words.method);
    let names = arguments.keys();
    method.arguments = names.map(|name| ArgumentDescription::new(name, "")).collect();
    let mut service = ServiceDescription::new(words.service.unwrap_or(queue), queue);
    service.methods = vec![method];
    Ok(service)
}
