//! `rpc dead`.

use clap::{Args, Subcommand};

use self::drop::DropLetters;
use self::list::ListLetters;
use self::retry::RetryLetters;
use self::show::ShowLetter;
use crate::dead_letters::parse_queue;
use crate::failure::{Failure, Outcome};
use crate::options::Options;
use crate::output::Output;

mod drop;
mod filter;
mod hold;
mod list;
mod report;
mod retry;
mod selection;
mod show;

/// Shows, retries and drops dead letters.
///
/// Dead letters are the jobs that the workers of QUEUE gave up. Workers keep them in the queue
/// QUEUE.dead, with the reason. While this command looks at letters, it holds them, so that nobody
/// else sees them. Afterwards they are back in their places. ID is a letter's id or its beginning.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc dead mail list
  rpc dead mail list --method send --error 'no route' --older-than 1h
  rpc dead mail show 3f2a
  rpc dead mail retry 3f2a 90cc
  rpc dead mail retry --all --reason error --dry-run
  rpc dead mail drop --all --older-than 30d")]
pub(crate) struct Dead {
    /// The queue that the jobs were sent to, without `.dead`.
    #[arg(value_parser = parse_queue)]
    queue: String,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListLetters),
    Show(ShowLetter),
    Retry(RetryLetters),
    Drop(DropLetters),
}

impl Dead {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let queue = &self.queue;
        match &self.action {
            Action::List(action) => action.run(queue, options, output).await,
            Action::Show(action) => action.run(queue, options, output).await,
            Action::Retry(action) => action.run(queue, options, output).await,
            Action::Drop(action) => action.run(queue, options, output).await,
        }
    }
}
