//! Queues over which the broker may have closed a connection. Pure: decisions over data.
//!
//! RabbitMQ closes the whole connection over some things that are asked for a queue. For instance,
//! RabbitMQ 4.3 answers the declaration of a transient queue with `INTERNAL_ERROR`. It does not say
//! which queue it was, and others may have been asked for at the same time. A queue for which
//! something was asked when the connection was closed is a suspect, until it can be used.

use std::collections::HashMap;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError};

use crate::error::{BrokerError, Cause};

/// How many connections in a row are closed over a queue until that is what the broker answers.
pub(super) const MAX_CLOSED: u32 = 3;

/// How many connections in a row were closed while something was asked for a queue.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    closed: HashMap<String, u32>,
}

impl Suspects {
    /// Whether the last connection on which something was asked for the queue was closed.
    pub(super) fn contains(&self, queue: &str) -> bool {
        self.closed.contains_key(queue)
    }

    /// Notes what was answered for the queue. Returns the error to report: a refusal of the queue
    /// once it has closed as many connections as it may.
    pub(super) fn judge(&mut self, queue: &str, error: Option<BrokerError>) -> Option<BrokerError> {
        let Some(error) = error else {
            self.closed.remove(queue);
            return None;
        };
        let Some(source) = closed_by_broker(&error) else {
            return Some(error);
        };
        let closed = self.closed.entry(queue.to_owned()).or_default();
        *closed += 1;
        Some(match *closed >= MAX_CLOSED {
            true => BrokerError::Queue {
                queue: queue.to_owned(),
                source,
            },
            false => error,
        })
    }
}

/// Why the broker closed the connection, if it did so over something that a client did.
///
/// An operator who closes connections, or shuts the broker down, is no such reason.
pub(super) fn closed_by_broker(error: &BrokerError) -> Option<Cause> {
    let BrokerError::Lost { source: Some(source) } = error else {
        return None;
    };
    let lapin = source.downcast_ref::<lapin::Error>()?;
    let ErrorKind::ProtocolError(protocol) = lapin.kind() else {
        return None;
    };
    match protocol.kind() {
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) | AMQPErrorKind::Soft(_) => None,
        AMQPErrorKind::Hard(_) => Some(source.clone()),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn lost(error: AMQPHardError) -> BrokerError {
        let error = AMQPError::new(error.into(), "why".into());
        BrokerError::Lost {
            source: Some(Cause::new(lapin::Error::from(ErrorKind::ProtocolError(error)))),
        }
    }

    fn is_lost(error: Option<BrokerError>) -> bool {
        matches!(error, Some(BrokerError::Lost { .. }))
    }

    #[test]
    fn a_queue_that_closes_each_connection_is_refused() {
        let mut suspects = Suspects::default();
        let closed = || Some(lost(AMQPHardError::INTERNALERROR));
        assert!(is_lost(suspects.judge("a", closed())));
        assert!(suspects.contains("a") && !suspects.contains("b"));
        assert!(is_lost(suspects.judge("a", closed())));
        assert!(is_lost(suspects.judge("b", closed())));
        let refused = suspects.judge("a", closed());
        let Some(BrokerError::Queue { queue, source }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(queue, "a");
        assert!(source.to_string().contains("why"), "{source}");
    }

    #[test]
    fn a_queue_that_can_be_used_is_no_suspect() {
        let mut suspects = Suspects::default();
        for _ in 0..MAX_CLOSED - 1 {
            suspects.judge("a", Some(lost(AMQPHardError::NOTALLOWED)));
        }
        assert!(suspects.judge("a", None).is_none());
        assert!(!suspects.contains("a"));
        assert!(is_lost(
            suspects.judge("a", Some(lost(AMQPHardError::NOTALLOWED)))
        ));
    }

    #[test]
    fn a_connection_that_is_lost_otherwise_says_nothing_of_a_queue() {
        let mut suspects = Suspects::default();
        for error in [
            BrokerError::Lost { source: None },
            lost(AMQPHardError::CONNECTIONFORCED),
            BrokerError::Closed,
        ] {
            for _ in 0..2 * MAX_CLOSED {
                let told = suspects.judge("a", Some(error.clone()));
                assert!(!matches!(told, Some(BrokerError::Queue { .. })));
            }
        }
        assert!(!suspects.contains("a"));
    }
}
