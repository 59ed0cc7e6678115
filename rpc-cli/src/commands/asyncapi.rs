//! `rpc asyncapi`.

use std::path::PathBuf;

use clap::Args;
use rpc_contract::asyncapi;

use crate::connection::{close, connect};
use crate::description_file;
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Location};
use crate::options::Options;
use crate::output::Output;

/// Prints a service as an AsyncAPI 3.0 document, in JSON.
///
/// The document has JSON Schemas of the bodies if the service has `#[service(schema)]`.
#[derive(Debug, Args)]
#[command(
    override_usage = "rpc asyncapi [OPTIONS] <SERVICE>\n       rpc asyncapi [OPTIONS] --queue <QUEUE> [SERVICE]\n       rpc asyncapi [OPTIONS] --from <FILE> [SERVICE]"
)]
#[command(after_help = "\
Examples:
  rpc asyncapi UserDirectory > user_directory.asyncapi.json
  rpc describe UserDirectory --json | rpc asyncapi --from -")]
pub(crate) struct Asyncapi {
    /// The service's name. Not needed with --queue or --from if there is only one.
    #[arg(required_unless_present_any = ["queue", "from"])]
    service: Option<String>,

    /// Read the description from a file that `rpc describe --json` wrote, or from standard input if
    /// FILE is `-`. Needs no broker.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queue", "window"])]
    from: Option<PathBuf>,

    /// The version of the service's interface, for the document.
    #[arg(long, default_value = "1.0.0", value_name = "VERSION")]
    api_version: String,

    #[command(flatten)]
    location: Location,
}

impl Asyncapi {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let service = match &self.from {
            Some(file) => description_file::only(description_file::read(file)?, self.service.as_deref())?,
            None => {
                let broker = connect(options).await?;
                let service = self.service.as_deref();
                let found = lookup::service(&broker, &self.location, service, None, output).await;
                close(&broker).await;
                found?
            }
        };
        output.document(&asyncapi::document(&service, &self.api_version))?;
        Ok(Outcome::Done)
    }
}
