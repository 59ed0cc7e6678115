//! The options that all commands share.

use std::io::IsTerminal as _;

use clap::Args;
use tracing_subscriber::EnvFilter;

/// The options of the program, which may stand before or after the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The broker's address: amqp://user:password@host:port/vhost, or amqps:// for TLS. Separate
    /// several addresses with commas.
    ///
    /// Defaults to AMQP_URL, or to amqp://localhost if that is not set. Other users of this machine
    /// may see a program's arguments: keep a password in AMQP_URL.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// Print JSON, one value per line. Failures and notes on stderr are JSON too.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Log to stderr; -vv logs more. RUST_LOG takes precedence.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Options {
    /// Starts logging to stderr if `-v` or a valid `RUST_LOG` that is not empty asks for it.
    pub(crate) fn start_logging_if_asked(&self) {
        let is_set = std::env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty());
        let filter = match (EnvFilter::try_from_default_env(), self.verbose) {
            (Ok(filter), _) if is_set => filter,
            (_, 0) => return,
            // lapin logs lost connections as errors although the runtime opens them again, and
            // returned requests with their payloads.
            (_, 1) => EnvFilter::new("info,lapin=off"),
            (_, _) => EnvFilter::new("debug,lapin=off"),
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
    }
}
