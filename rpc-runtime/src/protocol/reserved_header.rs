//! Headers that have a meaning to the runtime or to RabbitMQ.

use super::invalid_name::InvalidName;

/// Names of RabbitMQ's own: for whom else a message is, and what became of it before.
const RABBITMQ: [&str; 5] = ["CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"];

/// How other names of RabbitMQ's own begin.
const RABBITMQ_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];

/// Why a call cannot send a header of this name, and a handler does not see it; `None` if it may.
pub(crate) fn reserved_header(name: &str) -> Option<InvalidName> {
    if name.starts_with("rpc-") {
        return Some(InvalidName::ReservedByRuntime);
    }
    let is_rabbitmqs =
        RABBITMQ.contains(&name) || RABBITMQ_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_rabbitmqs.then_some(InvalidName::Reserved)
}
