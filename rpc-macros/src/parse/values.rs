//! Checks of the values of options.

use std::time::Duration;

use syn::LitStr;

use crate::model::Retry;

/// AMQP 0-9-1 carries method and queue names as short strings, whose length is one byte.
const MAX_NAME: usize = 255;

/// The longest text of a duration, in bytes. humantime 2.4 panics on some sums of parts that
/// overflow, which takes a longer text.
const MAX_TEXT: usize = 24;

/// The longest timeout, in milliseconds: the runtime sends no longer `expiration`.
const LONGEST_TIMEOUT: u128 = u32::MAX as u128;

/// Reads a timeout, such as `"2s"`.
pub(super) fn timeout(text: &LitStr) -> syn::Result<Duration> {
    timeout_of(&text.value()).map_err(|message| syn::Error::new(text.span(), message))
}

fn timeout_of(text: &str) -> Result<Duration, String> {
    let out_of_range = "a timeout is a whole number of milliseconds, and at most 49 days: the runtime sends no longer `expiration`";
    if text.len() > MAX_TEXT {
        return Err(out_of_range.to_owned());
    }
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(
            "a timeout of zero would fail every call; remove `timeout` to get the default of 30 s".to_owned(),
        ),
        Ok(timeout) if timeout.as_millis() <= LONGEST_TIMEOUT && is_whole_milliseconds(timeout) => {
            Ok(timeout)
        }
        Ok(_) | Err(humantime::DurationError::NumberOverflow) => Err(out_of_range.to_owned()),
        Err(message) => Err(format!(
            "{message}; write numbers with units, such as `timeout = \"500ms\"` or `timeout = \"1m 30s\"`"
        )),
    }
}

/// The longest delay that the option `retry` allows. The runtime's own limit is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Reads how often a job is retried, such as `"5 times, 1s to 5m"`, or `"5 times, 1s"` if the
/// delays are equal.
pub(super) fn retry(text: &LitStr) -> syn::Result<Retry> {
    retry_of(&text.value()).map_err(|message| syn::Error::new(text.span(), message))
}

const RETRY_USAGE: &str = "write how often and after how long, such as `retry = \"5 times, 1s to 5m\"`";

fn retry_of(text: &str) -> Result<Retry, String> {
    let Some((times, delays)) = text.split_once(',') else {
        return Err(RETRY_USAGE.to_owned());
    };
    let times = times.trim();
    let times = times
        .strip_suffix("times")
        .or_else(|| times.strip_suffix("time"))
        .and_then(|times| times.trim().parse::<u16>().ok());
    let Some(times) = times.filter(|times| (1..=1000).contains(times)) else {
        return Err(format!("a job is retried 1 to 1000 times; {RETRY_USAGE}"));
    };
    let (min, max) = match delays.split_once(" to ") {
        Some((min, max)) => (delay_of(min)?, delay_of(max)?),
        None => {
            let delay = delay_of(delays)?;
            (delay, delay)
        }
    };
    if min > max {
        return Err(format!("the first delay is longer than the last; {RETRY_USAGE}"));
    }
    Ok(Retry { times, min, max })
}

fn delay_of(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let out_of_range = "the delay before a retry is a whole number of milliseconds, from 1ms to 7days";
    if text.len() > MAX_TEXT {
        return Err(out_of_range.to_owned());
    }
    match humantime::parse_duration(text) {
        Ok(delay) if !delay.is_zero() && delay <= LONGEST_DELAY && is_whole_milliseconds(delay) => Ok(delay),
        Ok(_) => Err(out_of_range.to_owned()),
        Err(message) => Err(format!("{message}; {RETRY_USAGE}")),
    }
}

fn is_whole_milliseconds(duration: Duration) -> bool {
    duration.subsec_nanos().is_multiple_of(1_000_000)
}

/// Why this cannot be a method's name on the wire, or `None` if it can.
pub(super) fn wire_name_refusal(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a wire name cannot be empty; remove `name` to use the name of the method")
    } else if name.len() > MAX_NAME {
        Some("a wire name is at most 255 bytes long; write a shorter one with `#[rpc(name = \"..\")]`")
    } else if name.chars().any(char::is_control) {
        Some("a wire name cannot contain control characters; write a printable one")
    } else if name.starts_with("rpc.") {
        Some("wire names starting with `rpc.` are reserved for built-in methods; choose another prefix")
    } else {
        None
    }
}

/// The runtime sends batches to a queue of their own, whose name is that of the service's queue
/// with this suffix.
const BATCH_SUFFIX: &str = ".batch";

/// Why this cannot be a queue's name, or `None` if it can. The runtime checks the queues of workers
/// by the same rules.
pub(super) fn queue_name_refusal(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a queue name cannot be empty; remove `queue` to use the name of the trait")
    } else if name.len() > MAX_NAME {
        Some("a queue name is at most 255 bytes long; write a shorter one with `#[service(queue = \"..\")]`")
    } else if name.starts_with("amq.") {
        Some("queue names starting with `amq.` are reserved by RabbitMQ; choose another prefix")
    } else if name.starts_with("rpc.") {
        Some("queue names starting with `rpc.` are reserved for the runtime; choose another prefix")
    } else if name.ends_with(BATCH_SUFFIX) {
        Some("queue names ending with `.batch` are reserved for the runtime; choose another suffix")
    } else if name.chars().any(char::is_control) {
        Some("a queue name cannot contain control characters; write a printable one")
    } else {
        None
    }
}
