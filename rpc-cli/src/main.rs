//! `rpc`: finds, describes, calls and measures services over RabbitMQ.
//!
//! A file a command in [`commands`]; what they print is made by plain functions over data, and leaves through [`output`] alone.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod commands;
mod connection;
mod failure;
mod input;
mod lookup;
mod output;
mod suggestion;
mod table;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::output::Output;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.options.log_to_stderr();
    let output = Output::of_process(cli.options.json);
    match cli.command.run(&cli.options, &output).await {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output.fail(&failure);
            failure.outcome().into()
        }
    }
}
