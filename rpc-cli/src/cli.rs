//! The command line as clap reads it.

use std::io::IsTerminal as _;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::{asyncapi, bench, call, check, completions, describe, list, ping, stats};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Finds, describes, calls and measures services over RabbitMQ.
///
/// A SERVICE is found by its name among the workers that are running; `--queue` names its queue instead, for a service that is on several
/// queues, or a user who may not look for workers.
#[derive(Debug, Parser)]
#[command(name = "rpc", version, max_term_width = 110, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) options: Options,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done: the result is printed
  1  the method's own error; `check`: something breaks; `bench`: a call failed; `ping`: no answer
  2  the command line, an argument, a variable, the address or a file cannot be used; nothing was sent
  3  the call failed, and its method did not run; no such service or method
  4  the call failed, and its method ran, or may have
  5  the broker cannot be reached, or refuses

Environment:
  AMQP_URL         the broker's address, or several with commas in between; amqp://localhost unless set
  RPC_RUNTIME_...  options of the connection, such as RPC_RUNTIME_TLS_CA_FILE: see docs/production.md
  RUST_LOG         what is logged to stderr, such as rpc_runtime=debug; nothing unless set

Examples:
  rpc list
  rpc describe UserDirectory
  rpc call UserDirectory get_email '{\"id\": \"user:12345\"}'
  rpc check old.json new.json";

/// What all commands have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The broker's address, amqp://user:password@host:port/vhost, or several with commas in between; amqps:// is TLS.
    ///
    /// Unless given, AMQP_URL, and else amqp://localhost. Others on this machine may see the arguments of a program: a password is better
    /// kept in AMQP_URL.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// Print JSON for programs: a value a line. Failures and notes are JSON too, on stderr.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Log to stderr what happens; twice: more of it. RUST_LOG wins.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Options {
    /// Without `-v` and `RUST_LOG`, nothing is logged: failures are printed.
    pub(crate) fn log_to_stderr(&self) {
        // lapin warns of returned requests with their payloads.
        let filter = match (EnvFilter::try_from_default_env(), self.verbose) {
            (Ok(filter), _) if std::env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty()) => {
                filter
            }
            (_, 0) => return,
            (_, 1) => EnvFilter::new("info,lapin=off"),
            (_, _) => EnvFilter::new("debug,lapin=warn,lapin::returned_messages=off"),
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(list::List),
    Describe(describe::Describe),
    Call(call::Call),
    Ping(ping::Ping),
    Stats(stats::Stats),
    Bench(bench::Bench),
    Asyncapi(asyncapi::Asyncapi),
    Check(check::Check),
    Completions(completions::Completions),
}

impl Command {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        match self {
            Self::List(command) => command.run(options, output).await,
            Self::Describe(command) => command.run(options, output).await,
            Self::Call(command) => command.run(options, output).await,
            Self::Ping(command) => command.run(options, output).await,
            Self::Stats(command) => command.run(options, output).await,
            Self::Bench(command) => command.run(options, output).await,
            Self::Asyncapi(command) => command.run(options, output).await,
            Self::Check(command) => command.run(options, output).await,
            Self::Completions(command) => command.run(output),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains(&format!("rpc {}", command.get_name())),
                "{}",
                command.get_name()
            );
        }
    }
}
