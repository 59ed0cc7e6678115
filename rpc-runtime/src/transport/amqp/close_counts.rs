//! Counts the connections that the broker closed because of a queue. Pure: no I/O.
//!
//! RabbitMQ closes the whole connection because of some operations on a queue. For instance,
//! RabbitMQ 4.3 answers the declaration of a transient queue with `INTERNAL_ERROR`. The error does
//! not name the queue, and operations on other queues may have been pending at the same time. So a
//! close counts for each queue that had one pending, until an operation on that queue succeeds.

use std::collections::HashMap;

use super::errors::closed_by_broker;
use crate::error::BrokerError;

/// After this many closed connections without a success in between, the queue counts as refused.
pub(super) const MAX_CLOSED: u32 = 3;

/// How many connections the broker has closed during operations on each queue, since the last
/// operation that succeeded.
#[derive(Debug, Default)]
pub(super) struct CloseCounts {
    closed: HashMap<String, u32>,
}

impl CloseCounts {
    /// Whether the broker has closed a connection during an operation on the queue, and none has
    /// succeeded since.
    pub(super) fn has_closes(&self, queue: &str) -> bool {
        self.closed.contains_key(queue)
    }

    /// Records that an operation on the queue succeeded.
    pub(super) fn succeeded(&mut self, queue: &str) {
        self.closed.remove(queue);
    }

    /// Records that an operation on the queue failed. Returns the error to report: a refusal of the
    /// queue if [`MAX_CLOSED`] connections were closed.
    pub(super) fn failed(&mut self, queue: &str, error: BrokerError) -> BrokerError {
        let Some(source) = closed_by_broker(&error) else {
            return error;
        };
        let closed = self.closed.entry(queue.to_owned()).or_default();
        *closed += 1;
        if *closed < MAX_CLOSED {
            return error;
        }
        BrokerError::Queue {
            queue: queue.to_owned(),
            source,
            is_temporary: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::ErrorKind;
    use lapin::protocol::{AMQPError, AMQPHardError};

    use super::*;
    use crate::error::Cause;

    fn lost(error: AMQPHardError) -> BrokerError {
        let error = AMQPError::new(error.into(), "why".into());
        BrokerError::Lost {
            source: Some(Cause::new(lapin::Error::from(ErrorKind::ProtocolError(error)))),
        }
    }

    fn is_lost(error: &BrokerError) -> bool {
        matches!(error, BrokerError::Lost { .. })
    }

    #[test]
    fn a_queue_that_closes_each_connection_is_refused() {
        let mut counts = CloseCounts::default();
        let closed = || lost(AMQPHardError::INTERNALERROR);
        assert!(is_lost(&counts.failed("a", closed())));
        assert!(counts.has_closes("a") && !counts.has_closes("b"));
        assert!(is_lost(&counts.failed("a", closed())));
        assert!(is_lost(&counts.failed("b", closed())));
        let refused = counts.failed("a", closed());
        let BrokerError::Queue { queue, source, .. } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(queue, "a");
        assert!(source.to_string().contains("why"), "{source}");
    }

    #[test]
    fn a_success_resets_the_count() {
        let mut counts = CloseCounts::default();
        for _ in 0..MAX_CLOSED - 1 {
            counts.failed("a", lost(AMQPHardError::NOTALLOWED));
        }
        counts.succeeded("a");
        assert!(!counts.has_closes("a"));
        assert!(is_lost(&counts.failed("a", lost(AMQPHardError::NOTALLOWED))));
    }

    #[test]
    fn other_losses_are_not_counted() {
        let mut counts = CloseCounts::default();
        for error in [
            BrokerError::Lost { source: None },
            lost(AMQPHardError::CONNECTIONFORCED),
            BrokerError::Closed,
        ] {
            for _ in 0..2 * MAX_CLOSED {
                let reported = counts.failed("a", error.clone());
                assert!(!matches!(reported, BrokerError::Queue { .. }));
            }
        }
        assert!(!counts.has_closes("a"));
    }
}
