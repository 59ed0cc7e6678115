//! What the string values of options may say.

use std::time::Duration;

use syn::LitStr;

/// AMQP 0-9-1 carries method and queue names as short strings, whose length is one byte.
const SHORT_STRING: usize = 255;

/// RabbitMQ refuses a message whose `expiration` is longer.
const LONGEST_TIMEOUT: u64 = u32::MAX as u64;

/// Reads a duration such as `"2s"`.
pub(super) fn timeout(text: &LitStr) -> syn::Result<Duration> {
    let refuse = |message: &str| Err(syn::Error::new(text.span(), message));
    let Some((number, unit)) = split_duration(&text.value()) else {
        return refuse(
            "a timeout is a whole number and one of `ms`, `s`, `m`, `h`; write `timeout = \"2s\"`",
        );
    };
    match number.checked_mul(unit) {
        Some(0) => {
            refuse("a timeout of zero would fail every call; remove `timeout` to get the default of 30 s")
        }
        Some(milliseconds) if milliseconds <= LONGEST_TIMEOUT => Ok(Duration::from_millis(milliseconds)),
        _ => refuse("a timeout is at most 49 days, which is as long as RabbitMQ lets a message live"),
    }
}

/// The number, and the milliseconds of its unit.
fn split_duration(text: &str) -> Option<(u64, u64)> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    if digits.is_empty() {
        return None;
    }
    // What does not even fit 64 bits is too long in any unit.
    let number = digits.parse().unwrap_or(u64::MAX);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    Some((number, unit))
}

/// Why this cannot be a method's name on the wire.
pub(super) fn wire_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a wire name cannot be empty; remove `name` to use the name of the method")
    } else if name.len() > SHORT_STRING {
        Some("a wire name is at most 255 bytes long; write a shorter one with `#[rpc(name = \"..\")]`")
    } else if name.chars().any(char::is_control) {
        Some("a wire name cannot contain control characters; write a printable one")
    } else if name.starts_with("rpc.") {
        Some("wire names starting with `rpc.` are reserved for built-in methods; choose another prefix")
    } else {
        None
    }
}

/// The runtime names the queue for batched calls like this, behind the name of the service's queue.
const BATCH_SUFFIX: &str = ".batch";

/// Why this cannot be a queue's name. The runtime checks names by the same rules.
pub(super) fn queue_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a queue name cannot be empty; remove `queue` to use the name of the trait")
    } else if name.len() > SHORT_STRING {
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
