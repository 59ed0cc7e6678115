//! The command line as clap parses it.

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands::asyncapi::Asyncapi;
use crate::commands::bench::Bench;
use crate::commands::call::Call;
use crate::commands::check::Check;
use crate::commands::completions::Completions;
use crate::commands::console::Console;
use crate::commands::dead::Dead;
use crate::commands::describe::Describe;
use crate::commands::generate::Generate;
use crate::commands::list::List;
use crate::commands::new::New;
use crate::commands::ping::Ping;
use crate::commands::stats::Stats;
use crate::failure::{Failure, Outcome};
use crate::options::Options;
use crate::output::Output;

/// Finds, describes, calls and measures services over RabbitMQ, and manages dead letters.
///
/// A SERVICE is found by its name among the running workers. --queue names its queue instead: use
/// it if the service is on several queues, or if your RabbitMQ user may not search for workers.
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
  0  success; the result is printed
  1  the method returned its own error; a worker failed at a broadcast, or did not answer;
     `check`: a change breaks callers or workers; `bench`: a call failed; `ping`: no reply;
     `dead`: a letter that was selected stays in the queue, or not all were looked at
  2  the command line, an argument, a variable, the address or a file is invalid; nothing was sent
  3  the call failed and its method did not run; or there is no such service, method, queue or letter
  4  the call failed, and its method ran or may have run; or the output cannot be written
  5  the broker cannot be reached, or refuses the login or an operation

Environment:
  AMQP_URL         the broker's address, or several separated by commas; default amqp://localhost
  RPC_RUNTIME_...  options of the connection, such as RPC_RUNTIME_TLS_CA_FILE: see docs/production.md
  RUST_LOG         what to log to stderr, such as rpc_runtime=debug; default nothing

Times are numbers with units, such as 500ms, 1.5s or \"1m 30s\".

Examples:
  rpc list
  rpc describe UserDirectory
  rpc call UserDirectory get_email '{\"id\": \"user:12345\"}'
  rpc check old.json new.json
  rpc new user-directory";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(List),
    Describe(Describe),
    Call(Call),
    Ping(Ping),
    Stats(Stats),
    Bench(Bench),
    Dead(Dead),
    Console(Console),
    Asyncapi(Asyncapi),
    Generate(Generate),
    Check(Check),
    New(New),
    Completions(Completions),
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
            Self::Dead(command) => command.run(options, output).await,
            Self::Console(command) => command.run(options, output).await,
            Self::Asyncapi(command) => command.run(options, output).await,
            Self::Generate(command) => command.run(options, output).await,
            Self::Check(command) => command.run(options, output).await,
            Self::New(command) => command.run(output),
            Self::Completions(command) => command.run(&mut Cli::command(), output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definition() {
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
