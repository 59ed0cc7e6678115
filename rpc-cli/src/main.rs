//! `rpc`: finds, describes, calls and measures services over RabbitMQ, and manages dead letters.
//!
//! Each command is a module in [`commands`]. Most commands connect, collect data, and pass it to
//! plain functions that make text or JSON of it. Results, notes and failures are printed
//! through [`output`].

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod call_args;
mod calling;
mod cli;
mod commands;
mod connection;
mod dead_letters;
mod depths;
mod description_file;
mod failure;
mod input;
mod items;
mod lookup;
mod method_stats;
mod method_text;
mod options;
mod output;
mod progress;
mod schema_text;
mod suggestion;
mod table;
mod text;
mod units;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::output::Output;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.options.start_logging_if_asked();
    let output = Output::of_process(cli.options.json);
    match cli.command.run(&cli.options, &output).await {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.outcome().into()
        }
    }
}
