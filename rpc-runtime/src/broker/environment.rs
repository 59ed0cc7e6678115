//! Parses the names and values of environment variables into the options of a broker. Reads neither
//! the environment nor files.
//!
//! An error never repeats a value: it may be a password in the wrong variable.

use std::path::PathBuf;
use std::time::Duration;

use super::builder::BrokerBuilder;
use crate::error::BrokerError;
use crate::protocol::MAX_SHORT_STR;
use crate::transport::ReplyQueue;
use crate::transport::amqp::Address;

/// The prefix of all variables but [`AMQP_URL`]. `RPC_` alone would be too common: Kubernetes sets
/// such variables for each service named `rpc-…`.
const PREFIX: &str = "RPC_RUNTIME_";

const AMQP_URL: &str = "AMQP_URL";
const APP_ID: &str = "RPC_RUNTIME_APP_ID";
const CONNECTION_NAME: &str = "RPC_RUNTIME_CONNECTION_NAME";
const CONNECT_TIMEOUT: &str = "RPC_RUNTIME_CONNECT_TIMEOUT";
const HEARTBEAT: &str = "RPC_RUNTIME_HEARTBEAT";
const MAX_ACCEPTED_BYTES: &str = "RPC_RUNTIME_MAX_ACCEPTED_BYTES";
const MAX_SENT_BYTES: &str = "RPC_RUNTIME_MAX_SENT_BYTES";
const REPLY_QUEUE: &str = "RPC_RUNTIME_REPLY_QUEUE";
const SEND_USER_ID: &str = "RPC_RUNTIME_SEND_USER_ID";
const TLS_CA_FILE: &str = "RPC_RUNTIME_TLS_CA_FILE";
const TLS_CERTIFICATE_FILE: &str = "RPC_RUNTIME_TLS_CERTIFICATE_FILE";
const TLS_KEY_FILE: &str = "RPC_RUNTIME_TLS_KEY_FILE";

const VARIABLES: [&str; 11] = [
    APP_ID,
    CONNECTION_NAME,
    CONNECT_TIMEOUT,
    HEARTBEAT,
    MAX_ACCEPTED_BYTES,
    MAX_SENT_BYTES,
    REPLY_QUEUE,
    SEND_USER_ID,
    TLS_CA_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_KEY_FILE,
];

/// A builder with the options that are set, and the files to read for it.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) builder: BrokerBuilder,
    pub(super) tls: TlsFiles,
}

/// The PEM files to read.
#[derive(Debug, Default)]
pub(super) struct TlsFiles {
    pub(super) authority: Option<NamedFile>,
    /// The certificate and its key.
    pub(super) identity: Option<(NamedFile, NamedFile)>,
}

/// A file, and the variable that names it.
#[derive(Debug)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(super) struct NamedFile {
    pub(super) variable: &'static str,
    pub(super) path: PathBuf,
}

impl NamedFile {
    /// Fails if this build has no TLS, because all files are certificates and keys.
    fn new(variable: &'static str, path: &str) -> Result<Self, BrokerError> {
        if cfg!(feature = "tls") {
            let path = PathBuf::from(path);
            return Ok(Self { variable, path });
        }
        Err(error(
            variable,
            "needs TLS, which this build does not have: enable the feature \"tls\" of rpc-runtime",
        ))
    }
}

/// Whether a variable is an option, or looks like a misspelt one.
pub(super) fn may_be_option(name: &str) -> bool {
    name == AMQP_URL || name.starts_with(PREFIX)
}

/// Returns an error that reads "the environment variable VARIABLE PROBLEM".
pub(super) fn error(variable: &str, problem: impl Into<String>) -> BrokerError {
    BrokerError::Environment {
        variable: variable.to_owned(),
        problem: problem.into(),
        source: None,
    }
}

impl Settings {
    /// Parses variables in any order. Ignores those that [cannot be options](may_be_option), and
    /// options that are empty.
    pub(super) fn parse(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, BrokerError> {
        let mut settings = Self::default();
        let (mut certificate, mut key) = (None, None);
        for (name, value) in variables {
            if !may_be_option(&name) {
                continue;
            }
            // A misspelt name is an error even if its value is empty.
            let is_known = name == AMQP_URL || VARIABLES.contains(&name.as_str());
            if is_known && value.is_empty() {
                continue;
            }
            match name.as_str() {
                AMQP_URL => settings.builder.addresses = Ok(parse_addresses(&value)?),
                APP_ID => settings.builder.app_id = Some(parse_app_id(&value)?),
                CONNECTION_NAME => settings.builder.connection_name = Some(value),
                CONNECT_TIMEOUT => settings.builder.connect_timeout = parse_connect_timeout(&value)?,
                HEARTBEAT => settings.builder.heartbeat = Some(parse_heartbeat(&value)?),
                MAX_ACCEPTED_BYTES => {
                    settings.builder.limits.accepted = parse_bytes(MAX_ACCEPTED_BYTES, &value)?;
                }
                MAX_SENT_BYTES => settings.builder.limits.sent = parse_bytes(MAX_SENT_BYTES, &value)?,
                REPLY_QUEUE => settings.builder.reply_queue = parse_reply_queue(&value)?,
                SEND_USER_ID => settings.builder.send_user_id = parse_flag(SEND_USER_ID, &value)?,
                TLS_CA_FILE => settings.tls.authority = Some(NamedFile::new(TLS_CA_FILE, &value)?),
                TLS_CERTIFICATE_FILE => certificate = Some(NamedFile::new(TLS_CERTIFICATE_FILE, &value)?),
                TLS_KEY_FILE => key = Some(NamedFile::new(TLS_KEY_FILE, &value)?),
                _ => {
                    let problem = format!("is unknown: use one of {AMQP_URL}, {}", VARIABLES.join(", "));
                    return Err(error(&name, problem));
                }
            }
        }
        settings.tls.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(error(TLS_KEY_FILE, missing_beside(TLS_CERTIFICATE_FILE))),
            (None, Some(_)) => return Err(error(TLS_CERTIFICATE_FILE, missing_beside(TLS_KEY_FILE))),
        };
        Ok(settings)
    }
}

fn missing_beside(other: &str) -> String {
    format!("is not set, but {other} is: set both, the certificate and its key")
}

/// Parses addresses that are separated by commas. The error tells which of them is invalid.
fn parse_addresses(list: &str) -> Result<Vec<Address>, BrokerError> {
    let urls: Vec<_> = list.split(',').map(str::trim).collect();
    let count = urls.len();
    let hint = if count > 1 {
        " (commas separate addresses: write %2C for a comma in a password)"
    } else {
        ""
    };
    let numbered = (1..).zip(&urls);
    let addresses = numbered.map(|(number, url)| {
        Address::parse(url).map_err(|reason| BrokerError::Environment {
            variable: AMQP_URL.to_owned(),
            problem: format!("has an invalid address, number {number} of {count}{hint}"),
            source: Some(crate::error::Cause::new(reason)),
        })
    });
    addresses.collect()
}

fn parse_app_id(text: &str) -> Result<String, BrokerError> {
    match text.len() {
        0..=MAX_SHORT_STR => Ok(text.to_owned()),
        _ => Err(error(APP_ID, "is longer than the 255 bytes that AMQP allows")),
    }
}

fn parse_reply_queue(text: &str) -> Result<ReplyQueue, BrokerError> {
    text.parse()
        .map_err(|_| error(REPLY_QUEUE, "must be resumable, exclusive or direct"))
}

fn parse_flag(variable: &str, text: &str) -> Result<bool, BrokerError> {
    text.parse().map_err(|_| error(variable, "must be true or false"))
}

fn parse_connect_timeout(text: &str) -> Result<Duration, BrokerError> {
    const MIN: Duration = Duration::from_millis(1);
    const MAX: Duration = Duration::from_secs(60 * 60);
    match parse_time(text) {
        Some(time) if (MIN..=MAX).contains(&time) => Ok(time),
        _ => Err(error(
            CONNECT_TIMEOUT,
            "is not a time of 1ms to 60m in at most 24 characters: numbers with units, such as 10s or 1m 30s",
        )),
    }
}

/// Parses a time in the grammar of humantime. `None` if the text is invalid or too long.
fn parse_time(text: &str) -> Option<Duration> {
    /// Longer texts are refused, because humantime 2.4 panics on some of them: a sum overflows.
    const MAX_TEXT: usize = 24;
    if text.len() > MAX_TEXT {
        return None;
    }
    humantime::parse_duration(text).ok()
}

fn parse_heartbeat(text: &str) -> Result<u16, BrokerError> {
    let whole_seconds = parse_time(text).filter(|time| time.subsec_nanos() == 0);
    match whole_seconds.map(|time| u16::try_from(time.as_secs())) {
        Some(Ok(seconds @ 1..)) => Ok(seconds),
        _ => Err(error(
            HEARTBEAT,
            "is not a time of 1s to 65535s in whole seconds and at most 24 characters, such as 10s or 1m 30s",
        )),
    }
}

fn parse_bytes(variable: &str, text: &str) -> Result<usize, BrokerError> {
    match parse_size(text) {
        Some(size @ 1..) => Ok(size),
        _ => Err(error(
            variable,
            "is not a size from 1 byte to 16 EiB: a whole number of bytes, or one with KiB or MiB after it, such as 16MiB",
        )),
    }
}

/// Parses a whole number of bytes, KiB or MiB. `None` if the text is invalid or the size too large.
fn parse_size(text: &str) -> Option<usize> {
    let end_of_digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end_of_digits);
    let unit_size = match unit {
        "" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit_size)?;
    usize::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Chain;

    const URL: (&str, &str) = (AMQP_URL, "amqp://alice:s3cret@rabbit");

    fn parse(variables: &[(&str, &str)]) -> Result<Settings, BrokerError> {
        Settings::parse(
            variables
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned())),
        )
    }

    /// Returns the variable that the error names, and the message. Panics if either shows a secret.
    #[track_caller]
    fn refusal(variables: &[(&str, &str)]) -> (String, String) {
        let error = parse(variables).unwrap_err();
        let message = Chain(&error).to_string();
        assert!(!format!("{message} {error:?}").contains("s3cret"), "{error:?}");
        match error {
            BrokerError::Environment { variable, .. } => (variable, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_options_are_parsed() {
        let Settings { builder, tls } = parse(&[
            (AMQP_URL, "amqp://alice:s3cret@one, amqp://alice:s3cret@two:5673"),
            (APP_ID, "shop"),
            (CONNECT_TIMEOUT, "1.5s"),
            (HEARTBEAT, "1m 30s"),
            (MAX_ACCEPTED_BYTES, "1048576"),
            (MAX_SENT_BYTES, "2MiB"),
            (REPLY_QUEUE, "direct"),
            (SEND_USER_ID, "true"),
            ("PATH", "/bin"),
            ("AMQP_URL_OF_SOMEBODY_ELSE", "nonsense"),
            ("RPC_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("RPC_URL", "https://elsewhere"),
            ("RPC_RUNTIMES", "3"),
        ])
        .unwrap();
        assert_eq!(format!("{:?}", builder.addresses), "Ok([one:5672, two:5673])");
        assert_eq!(builder.app_id.as_deref(), Some("shop"));
        assert_eq!(builder.connect_timeout, Duration::from_millis(1500));
        assert_eq!(builder.heartbeat, Some(90));
        assert_eq!(builder.limits.accepted, 1024 * 1024);
        assert_eq!(builder.limits.sent, 2 * 1024 * 1024);
        assert_eq!(builder.reply_queue, ReplyQueue::Direct);
        assert!(builder.send_user_id);
        assert!(tls.authority.is_none() && tls.identity.is_none());
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let settings = parse(&[URL, (APP_ID, ""), (REPLY_QUEUE, ""), (TLS_KEY_FILE, "")]).unwrap();
        assert_eq!(settings.builder.app_id, None);
        assert_eq!(settings.builder.reply_queue, ReplyQueue::Resumable);
    }

    #[test]
    fn options_are_parsed_without_an_address() {
        for none in [&[(APP_ID, "shop")][..], &[(APP_ID, "shop"), (AMQP_URL, "")]] {
            let builder = parse(none).unwrap().builder;
            assert_eq!(builder.app_id.as_deref(), Some("shop"));
            assert!(builder.addresses.unwrap().is_empty());
        }
    }

    #[test]
    fn the_error_for_an_invalid_value_says_what_is_allowed() {
        for (variable, value, allowed) in [
            (REPLY_QUEUE, "s3cret", "resumable, exclusive or direct"),
            (SEND_USER_ID, "yes", "true or false"),
            (CONNECT_TIMEOUT, "10", "such as 10s"),
            (CONNECT_TIMEOUT, "0s", "such as 10s"),
            (CONNECT_TIMEOUT, "s", "such as 10s"),
            (CONNECT_TIMEOUT, "2h", "such as 10s"),
            (CONNECT_TIMEOUT, "99999999999999999999s", "such as 10s"),
            (CONNECT_TIMEOUT, "18446744073709551615m", "such as 10s"),
            (CONNECT_TIMEOUT, "18446744073709551615s 1000ms", "such as 10s"),
            (HEARTBEAT, "0s", "such as 10s"),
            (HEARTBEAT, "500ms", "such as 10s"),
            (HEARTBEAT, "1.5s", "such as 10s"),
            (HEARTBEAT, "65536s", "such as 10s"),
            (MAX_SENT_BYTES, "-1", "such as 16MiB"),
            (MAX_SENT_BYTES, "0", "such as 16MiB"),
            (MAX_ACCEPTED_BYTES, "16MB", "such as 16MiB"),
            (APP_ID, &"x".repeat(256), "255 bytes"),
        ] {
            let (named, message) = refusal(&[URL, (variable, value)]);
            assert_eq!(named, variable);
            assert!(message.contains(allowed), "{variable}={value}: {message}");
        }
    }

    #[test]
    fn the_error_for_an_unknown_variable_lists_the_known_ones() {
        let (variable, message) = refusal(&[URL, ("RPC_RUNTIME_REPLAY_QUEUE", "s3cret")]);
        assert_eq!(variable, "RPC_RUNTIME_REPLAY_QUEUE");
        assert!(
            message.contains("RPC_RUNTIME_REPLY_QUEUE") && message.contains(AMQP_URL),
            "{message}"
        );
        // Even if it is empty, because it is probably misspelt.
        assert_eq!(refusal(&[URL, ("RPC_RUNTIME_", "")]).0, "RPC_RUNTIME_");
    }

    #[test]
    fn the_error_for_an_invalid_address_says_which_one_without_showing_it() {
        let (variable, message) =
            refusal(&[(AMQP_URL, "amqp://alice:s3cret@one,amqp://alice:s3cret@two:port")]);
        assert_eq!(variable, AMQP_URL);
        assert!(
            message.contains("number 2 of 2") && message.contains("amqp://user:password@host"),
            "{message}"
        );
        assert!(refusal(&[(AMQP_URL, "amqp://one,")]).1.contains("number 2 of 2"));
    }

    #[test]
    fn no_part_of_an_unencoded_password_is_shown() {
        for url in [
            "amqp://shop:12#s3cret@rabbit",
            "amqp://shop:12/s3cret@rabbit",
            "amqp://shop:s3cret#12@rabbit",
        ] {
            assert!(refusal(&[(AMQP_URL, url)]).1.contains("percent-encoded"), "{url}");
        }
        let (_, message) = refusal(&[(AMQP_URL, "amqp://shop:12,s3cret@rabbit")]);
        assert!(message.contains("%2C"), "{message}");
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_certificate_and_its_key_go_together() {
        let settings = parse(&[
            URL,
            (TLS_CA_FILE, "ca.pem"),
            (TLS_KEY_FILE, "a.key"),
            (TLS_CERTIFICATE_FILE, "a.pem"),
        ]);
        let tls = settings.unwrap().tls;
        assert_eq!(tls.authority.unwrap().path, PathBuf::from("ca.pem"));
        let (certificate, key) = tls.identity.unwrap();
        assert_eq!(
            (certificate.variable, certificate.path),
            (TLS_CERTIFICATE_FILE, "a.pem".into())
        );
        assert_eq!((key.variable, key.path), (TLS_KEY_FILE, "a.key".into()));

        assert_eq!(refusal(&[URL, (TLS_KEY_FILE, "a.key")]).0, TLS_CERTIFICATE_FILE);
        assert_eq!(refusal(&[URL, (TLS_CERTIFICATE_FILE, "a.pem")]).0, TLS_KEY_FILE);
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn tls_options_are_refused_without_the_feature() {
        let (variable, message) = refusal(&[URL, (TLS_CA_FILE, "ca.pem")]);
        assert_eq!(variable, TLS_CA_FILE);
        assert!(message.contains("enable the feature \"tls\""), "{message}");
        assert!(
            refusal(&[(AMQP_URL, "amqps://one")])
                .1
                .contains("enable the feature \"tls\"")
        );
    }
}
