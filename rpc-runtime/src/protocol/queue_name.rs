//! Checks the names of request queues.
//!
//! The macro applies the same rules to the names in its attributes.

use super::ShortStr;
use super::batch::BATCH_SUFFIX;
use super::invalid_name::InvalidName;

/// The prefix of queue names that RabbitMQ generates.
const GENERATED_NAME_PREFIX: &str = "amq.gen-";

/// Checks the name of a queue that a client sends requests to. Unlike [`check_queue_name`], it
/// accepts names that RabbitMQ generates, for workers of other libraries that declare their queues
/// without a name.
///
/// # Errors
///
/// See [`check_queue_name`].
pub(crate) fn check_destination_name(name: &str) -> Result<ShortStr, InvalidName> {
    let Some(generated_part) = name.strip_prefix(GENERATED_NAME_PREFIX) else {
        return check_queue_name(name);
    };
    // First, so that the error of a name that is too long says the length of the whole name.
    let name = ShortStr::new(name)?;
    check_queue_name(generated_part)?;
    Ok(name)
}

/// Checks the name of a request queue that a worker declares.
///
/// # Errors
///
/// [`InvalidName`] if the name is empty, too long or reserved, or contains a control character.
pub(crate) fn check_queue_name(name: &str) -> Result<ShortStr, InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.starts_with("amq.") {
        return Err(InvalidName::Reserved);
    }
    if name.starts_with("rpc.") || name.ends_with(BATCH_SUFFIX) {
        return Err(InvalidName::ReservedByRuntime);
    }
    if name.chars().any(char::is_control) {
        return Err(InvalidName::ControlCharacter);
    }
    Ok(ShortStr::new(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::MAX_SHORT_STR;

    #[test]
    fn reserved_and_invalid_names_are_refused() {
        let longest = "n".repeat(MAX_SHORT_STR);
        for name in [
            "orders",
            "rpc_queue",
            "rpc",
            "batch",
            "orders.batch.eu",
            "été",
            &longest,
        ] {
            assert!(
                check_queue_name(name).is_ok_and(|checked| checked.as_str() == name),
                "{name}"
            );
        }
        let too_long = "n".repeat(MAX_SHORT_STR + 1);
        for (name, reason) in [
            ("", InvalidName::Empty),
            ("amq.orders", InvalidName::Reserved),
            ("rpc.orders", InvalidName::ReservedByRuntime),
            ("rpc.reply.1", InvalidName::ReservedByRuntime),
            ("orders.batch", InvalidName::ReservedByRuntime),
            (".batch", InvalidName::ReservedByRuntime),
            ("or\nders", InvalidName::ControlCharacter),
            ("orders\0", InvalidName::ControlCharacter),
            (
                &too_long,
                InvalidName::TooLong {
                    length: too_long.len(),
                    limit: MAX_SHORT_STR,
                },
            ),
        ] {
            assert_eq!(check_queue_name(name).unwrap_err(), reason, "{name:?}");
            assert_eq!(check_destination_name(name).unwrap_err(), reason, "{name:?}");
        }
        assert_eq!(check_queue_name("amq.gen-1"), Err(InvalidName::Reserved));
        assert!(check_destination_name("amq.gen-1").is_ok() && check_destination_name("amq.gen-").is_err());
    }
}
