//! `rpc asyncapi`.

use std::path::PathBuf;

use clap::Args;
use rpc_contract::{ServiceDescription, asyncapi};

use super::check;
use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Where};
use crate::output::Output;

/// Prints a service as an AsyncAPI 3.0 document, in JSON.
///
/// Bodies are described by JSON Schemas where the service has them: with `#[service(schema)]`.
#[derive(Debug, Args)]
#[command(
    override_usage = "rpc asyncapi [OPTIONS] <SERVICE>\n       rpc asyncapi [OPTIONS] --queue <QUEUE> [SERVICE]\n       rpc asyncapi [OPTIONS] --from <FILE> [SERVICE]"
)]
#[command(after_help = "\
Examples:
  rpc asyncapi UserDirectory > user_directory.asyncapi.json
  rpc describe UserDirectory --json | rpc asyncapi --from -")]
pub(crate) struct Asyncapi {
    /// The service's name; not needed with --queue or --from, where there is only one.
    #[arg(required_unless_present_any = ["queue", "from"])]
    service: Option<String>,

    /// Read the description from a file that `rpc describe --json` wrote, `-` for standard input; no broker is needed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queue", "window"])]
    from: Option<PathBuf>,

    /// The version of the interface, for the document.
    #[arg(long, default_value = "1.0.0", value_name = "VERSION")]
    api_version: String,

    #[command(flatten)]
    place: Where,
}

impl Asyncapi {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let service = match &self.from {
            Some(file) => only(check::read(file)?, self.service.as_deref())?,
            None => {
                let broker = connect(options).await?;
                let service = self.service.as_deref();
                let found = lookup::service(&broker, &self.place, service, None, output).await;
                close(&broker).await;
                found?
            }
        };
        output.document(&asyncapi::document(&service, &self.api_version))?;
        Ok(Outcome::Done)
    }
}

/// The service of that name, or the only one.
fn only(services: Vec<ServiceDescription>, name: Option<&str>) -> Result<ServiceDescription, Failure> {
    let names: Vec<_> = services.iter().map(|service| service.name.clone()).collect();
    let is_meant = |service: &ServiceDescription| name.is_none_or(|name| service.name == name);
    let mut meant: Vec<_> = services.into_iter().filter(is_meant).collect();
    match (meant.pop(), meant.len()) {
        (Some(service), 0) => Ok(service),
        _ => Err(Failure::usage(
            format!("it is not clear which service is meant of {}", names.join(", ")),
            "name one of them",
        )),
    }
}
