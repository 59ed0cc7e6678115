//! The command-line arguments that `call` and `bench` share: which method to call, with what, and
//! how.

use std::time::Duration;

use clap::{Args, ValueEnum};
use rpc_runtime::Codec;
use serde::Deserialize;

use crate::failure::Failure;
use crate::input;
use crate::units;

/// The method to call, and its arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct CallArgs {
    // Without SERVICE, METHOD is the first and ARGUMENTS the second; see `Target`.
    /// The service's name. Not needed with --queue.
    #[arg(value_name = "SERVICE", required = true)]
    first: String,

    /// The method's name.
    #[arg(value_name = "METHOD")]
    second: Option<String>,

    /// The arguments: a JSON object by name, or an array in order; `-` reads them from standard
    /// input, @FILE from a file.
    ///
    /// Defaults to no arguments.
    #[arg(value_name = "ARGUMENTS")]
    third: Option<String>,

    /// One argument by name, instead of ARGUMENTS. Repeat it for several. A value is read as JSON
    /// if it is valid JSON, and as text otherwise: --arg id=7 is a number, --arg 'id="7"' is text.
    #[arg(short, long = "arg", value_name = "NAME=VALUE", value_parser = input::parse_pair)]
    args: Vec<(String, String)>,
}

impl CallArgs {
    /// Parses the positional arguments. `has_queue` is whether `--queue` is given.
    pub(crate) fn target(&self, has_queue: bool) -> Result<Target<'_>, Failure> {
        let words = std::iter::once(&self.first)
            .chain(&self.second)
            .chain(&self.third);
        let words: Vec<_> = words.map(String::as_str).collect();
        Target::new(&words, has_queue)
    }

    /// Returns the method's arguments as JSON. May read them from a file or standard input.
    pub(crate) fn arguments(&self, target: &Target<'_>) -> Result<String, Failure> {
        match (target.arguments, self.args.as_slice()) {
            (given, []) => input::arguments(given),
            (None, named) => Ok(input::named_arguments(named)),
            (Some(_), _) => Err(Failure::usage(
                "arguments are given twice",
                "give them either as JSON or with `--arg`",
            )),
        }
    }
}

/// What to call, from the positional arguments `SERVICE METHOD [ARGUMENTS]`. The service is
/// optional with `--queue`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) service: Option<&'a str>,
    pub(crate) method: &'a str,
    arguments: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Whether the arguments are read from standard input.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.arguments == Some("-")
    }

    /// Splits the names from the arguments. The last of several words has the arguments if it is
    /// `-`, or begins with `{`, `[` or `@`.
    fn new(words: &[&'a str], has_queue: bool) -> Result<Self, Failure> {
        let is_arguments = |word: &str| word == "-" || word.trim_start().starts_with(['{', '[', '@']);
        let (names, arguments) = match words {
            [names @ .., last] if !names.is_empty() && is_arguments(last) => (names, Some(*last)),
            names => (names, None),
        };
        match *names {
            [service, method] => Ok(Self {
                service: Some(service),
                method,
                arguments,
            }),
            [method] if has_queue => Ok(Self {
                service: None,
                method,
                arguments,
            }),
            [only] => Err(Failure::usage(
                format!("no method is given, only {only}"),
                format!(
                    "write `SERVICE METHOD`, or `--queue QUEUE METHOD`; `rpc describe {only}` shows the methods of a service"
                ),
            )),
            [_, _, third] => Err(Failure::usage(
                format!("{third} is neither a JSON object nor an array"),
                "write arguments by name, '{\"id\": \"user:12345\"}', in order, '[\"user:12345\"]', or one by one: --arg id=user:12345",
            )),
            _ => Err(Failure::usage(
                "no service and no method are given",
                "write `SERVICE METHOD`",
            )),
        }
    }
}

/// How to call.
#[derive(Debug, Clone, Args)]
pub(crate) struct CallOptions {
    /// How long to wait for the reply. Defaults to the method's own timeout, or to 30s if it has
    /// none.
    #[arg(short, long, value_name = "TIME", value_parser = units::parse_time)]
    pub(crate) timeout: Option<Duration>,

    /// The format of arguments and results on the wire.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) codec: CodecName,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CodecName {
    /// application/json
    #[default]
    Json,
    /// application/msgpack, the default of generated clients
    Msgpack,
    /// text/plain: a single argument as text
    Text,
}

impl From<CodecName> for Codec {
    fn from(name: CodecName) -> Self {
        match name {
            CodecName::Json => Self::Json,
            CodecName::Msgpack => Self::MessagePack,
            CodecName::Text => Self::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Outcome;

    #[test]
    fn arguments_are_recognized_by_their_first_character() {
        let target = |words: &[&'static str], has_queue| {
            let target = Target::new(words, has_queue).map_err(|failure| failure.outcome())?;
            Ok((target.service, target.method, target.arguments))
        };
        assert_eq!(target(&["S", "m"], false), Ok((Some("S"), "m", None)));
        assert_eq!(target(&["S", "m", "{}"], false), Ok((Some("S"), "m", Some("{}"))));
        assert_eq!(target(&["m", "-"], true), Ok((None, "m", Some("-"))));
        assert_eq!(target(&["m"], true), Ok((None, "m", None)));
        assert_eq!(target(&["S", "m", "@f"], true), Ok((Some("S"), "m", Some("@f"))));
        for (bad, has_queue) in [
            (&["S"][..], false),
            (&["S", "{}"], false),
            (&["S", "m", "user:1"], false),
            (&[], true),
        ] {
            assert_eq!(target(bad, has_queue), Err(Outcome::InvalidInput), "{bad:?}");
        }
    }
}
