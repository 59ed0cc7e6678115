//! `rpc asyncapi`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rpc_contract::asyncapi::{self, AsyncApi, Server, View};

use crate::connection::{close, connect};
use crate::description_file;
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Location};
use crate::options::Options;
use crate::output::Output;

/// Prints a service as an AsyncAPI document, in JSON.
///
/// Other tools make documentation of it, or types in other languages. Bodies are exact if the
/// service has `#[service(schema)]`; otherwise only types of the standard library are known, and
/// others may be any value.
#[derive(Debug, Args)]
#[command(
    override_usage = "rpc asyncapi [OPTIONS] <SERVICE>\n       rpc asyncapi [OPTIONS] --queue <QUEUE> [SERVICE]\n       rpc asyncapi [OPTIONS] --from <FILE> [SERVICE]"
)]
#[command(after_help = "\
Examples:
  rpc asyncapi UserDirectory > user_directory.asyncapi.json
  rpc asyncapi UserDirectory --view caller --server amqps://broker.example.com/sales
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

    /// Whose operations the document describes: a caller sends requests, a worker receives them.
    #[arg(long, value_enum, default_value_t, value_name = "WHO")]
    view: ViewName,

    /// The broker, for the document: amqp://host:port/vhost without a user. Without this option,
    /// the document names no broker, and no virtual host.
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,

    /// The version of AsyncAPI. Many tools do not read 3.1.
    #[arg(long, value_enum, default_value_t, value_name = "VERSION")]
    asyncapi: Version,

    #[command(flatten)]
    location: Location,
}

/// The program whose operations a document describes.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ViewName {
    Caller,
    #[default]
    Worker,
}

/// A version of AsyncAPI.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Version {
    #[default]
    #[value(name = "3.0")]
    V3_0,
    #[value(name = "3.1")]
    V3_1,
}

impl Asyncapi {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let document_options = self.document_options()?;
        let name = self.service.as_deref();
        let service = match &self.from {
            Some(file) => description_file::only(description_file::read(file)?, name)?,
            None => {
                let broker = connect(options).await?;
                let found = lookup::service(&broker, &self.location, name, None, output).await;
                close(&broker).await;
                found?
            }
        };
        output.document(&document_options.document(&service))?;
        Ok(Outcome::Done)
    }

    fn document_options(&self) -> Result<asyncapi::Options, Failure> {
        let view = match self.view {
            ViewName::Caller => View::Caller,
            ViewName::Worker => View::Worker,
        };
        let version = match self.asyncapi {
            Version::V3_0 => AsyncApi::V3_0,
            Version::V3_1 => AsyncApi::V3_1,
        };
        let options = asyncapi::Options::new(self.api_version.as_str())
            .view(view)
            .version(version);
        let Some(address) = &self.server else {
            return Ok(options);
        };
        // Not parsed by clap, whose error would show the address: it may hold a password.
        match address.parse::<Server>() {
            Ok(server) => Ok(options.server(server)),
            Err(error) => Err(Failure::usage(
                error.to_string(),
                "--server takes amqp://host:port/vhost",
            )),
        }
    }
}
