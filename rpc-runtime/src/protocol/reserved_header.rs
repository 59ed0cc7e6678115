//! Header names that are reserved by this library or by RabbitMQ.

use super::invalid_name::InvalidName;

/// Headers of RabbitMQ: `CC` and `BCC` send copies of a message, the others are its history.
const RABBITMQ: [&str; 5] = ["CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"];

/// The prefixes of other headers of RabbitMQ.
const RABBITMQ_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];

/// Returns why this name is reserved, or `None` if it is not. A call cannot send a reserved header
/// and a handler does not see it.
pub(crate) fn reserved_header(name: &str) -> Option<InvalidName> {
    if name.starts_with("rpc-") {
        return Some(InvalidName::ReservedByRuntime);
    }
    is_rabbitmqs_header(name).then_some(InvalidName::Reserved)
}

/// Whether RabbitMQ writes or reads this header.
pub(crate) fn is_rabbitmqs_header(name: &str) -> bool {
    RABBITMQ.contains(&name) || RABBITMQ_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
