//! `rpc generate`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rpc_contract::ServiceDescription;
use rpc_contract::generate::{Language, module};

use crate::connection::{close, connect};
use crate::description_file;
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Location};
use crate::options::Options;
use crate::output::Output;

/// Prints a client and the base of a worker in another language.
///
/// The module declares the service's types. They are exact if the service has `#[service(schema)]`;
/// otherwise only types of the standard library are known, and others may be any value. Generate it
/// again for a new version of the service. It needs the package rpc-runtime of its language.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  rpc generate python UserDirectory > user_directory.py
  rpc generate typescript --from user_directory.json > user-directory.ts
  rpc describe UserDirectory --json | rpc generate python --from -")]
pub(crate) struct Generate {
    #[command(subcommand)]
    language: Target,
}

#[derive(Debug, Subcommand)]
enum Target {
    /// Prints a module in Python 3.11 or later.
    Python(Source),
    /// Prints an ES module in TypeScript 5 or later.
    Typescript(Source),
}

/// Where the description is.
#[derive(Debug, Args)]
struct Source {
    /// The service's name. Not needed with --queue or --from if there is only one.
    #[arg(required_unless_present_any = ["queue", "from"])]
    service: Option<String>,

    /// Read the description from a file that `rpc describe --json` wrote, or from standard input if
    /// FILE is `-`. Needs no broker.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queue", "window"])]
    from: Option<PathBuf>,

    #[command(flatten)]
    location: Location,
}

impl Generate {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let (language, source) = match &self.language {
            Target::Python(source) => (Language::Python, source),
            Target::Typescript(source) => (Language::TypeScript, source),
        };
        let service = source.service(options, output).await?;
        output.raw(&module(&service, language))?;
        Ok(Outcome::Done)
    }
}

impl Source {
    async fn service(&self, options: &Options, output: &Output) -> Result<ServiceDescription, Failure> {
        let name = self.service.as_deref();
        if let Some(file) = &self.from {
            return read(file, name);
        }
        let broker = connect(options).await?;
        let any_method = None;
        let found = lookup::service(&broker, &self.location, name, any_method, output).await;
        close(&broker).await;
        found
    }
}

fn read(file: &Path, name: Option<&str>) -> Result<ServiceDescription, Failure> {
    description_file::only(description_file::read(file)?, name)
}
