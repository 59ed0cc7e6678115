//! Header names that are reserved by this library or by RabbitMQ.

use super::invalid_name::InvalidName;

/// Headers of RabbitMQ: `CC` and `BCC` send copies of a message, the others are its history.
const RABBITMQ_NAMES: [&str; 5] = ["CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"];

/// The prefixes of other headers of RabbitMQ.
const RABBITMQ_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];

/// Fails if this header name is reserved. A call cannot send a reserved header, and a handler does
/// not see it.
pub(crate) fn check_not_reserved(name: &str) -> Result<(), InvalidName> {
    if name.starts_with("rpc-") {
        return Err(InvalidName::ReservedByRuntime);
    }
    if is_rabbitmqs_header(name) {
        return Err(InvalidName::Reserved);
    }
    Ok(())
}

/// Whether RabbitMQ writes or reads this header.
pub(crate) fn is_rabbitmqs_header(name: &str) -> bool {
    RABBITMQ_NAMES.contains(&name) || RABBITMQ_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
