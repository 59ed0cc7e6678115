//! Remembers queues that are dangerous to a connection: those because of which the broker may have
//! closed connections, and those about which it did not answer. Pure: no I/O.
//!
//! RabbitMQ closes the whole connection because of some operations on a queue. For instance,
//! RabbitMQ 4.3 answers the declaration of a transient queue with `INTERNAL_ERROR`. The error does
//! not name the queue, and operations on other queues may have been pending at the same time. So a
//! close counts for each queue with a pending operation, until an operation on that queue succeeds.
//!
//! RabbitMQ does not answer the `basic.consume` of a quorum queue without a leader. After 65
//! seconds it closes the connection, with all its other consumers.

use std::collections::{HashMap, HashSet};

use super::errors::hard_close_reason;
use super::opener::NoAnswer;
use crate::error::BrokerError;

/// After this many closed connections without a success in between, the queue counts as refused.
pub(super) const MAX_CLOSED: u32 = 3;

/// What went wrong in operations on each queue, since the last one that succeeded.
#[derive(Debug, Default)]
pub(super) struct QueueFailures {
    /// How many connections the broker has closed during operations on the queue, without counting
    /// those that an operator or the broker's shutdown closed.
    closed: HashMap<String, u32>,
    /// The queues about which the broker did not answer.
    unanswered: HashSet<String>,
}

impl QueueFailures {
    /// Whether [`failed`](Self::failed) has counted a closed connection for the queue, and no
    /// operation on the queue has succeeded since.
    pub(super) fn has_closes(&self, queue: &str) -> bool {
        self.closed.contains_key(queue)
    }

    /// Whether the broker did not answer an operation on the queue, and no operation on the queue
    /// has succeeded since.
    pub(super) fn is_unanswered(&self, queue: &str) -> bool {
        self.unanswered.contains(queue)
    }

    /// Forgets that the broker did not answer, so that the queue is consumed on the shared
    /// connection next time.
    pub(super) fn forget_unanswered(&mut self, queue: &str) {
        self.unanswered.remove(queue);
    }

    /// Records that an operation on the queue succeeded.
    pub(super) fn succeeded(&mut self, queue: &str) {
        self.closed.remove(queue);
        self.unanswered.remove(queue);
    }

    /// Records that the broker has closed the connection of an operation on the queue, or did not
    /// answer it. Any other error is not recorded.
    ///
    /// Returns the error to report: a refusal of the queue for a close if at least [`MAX_CLOSED`]
    /// are counted, or else the given one.
    pub(super) fn failed(&mut self, queue: &str, error: BrokerError) -> BrokerError {
        if is_unanswered(&error) {
            self.unanswered.insert(queue.to_owned());
        }
        let Some(source) = hard_close_reason(&error) else {
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

fn is_unanswered(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Queue { source, .. } if source.downcast_ref::<NoAnswer>().is_some())
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
        let mut failures = QueueFailures::default();
        let closed = || lost(AMQPHardError::INTERNALERROR);
        assert!(is_lost(&failures.failed("a", closed())));
        assert!(failures.has_closes("a") && !failures.has_closes("b"));
        assert!(is_lost(&failures.failed("a", closed())));
        assert!(is_lost(&failures.failed("b", closed())));
        let refused = failures.failed("a", closed());
        let BrokerError::Queue { queue, source, .. } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(queue, "a");
        assert!(source.to_string().contains("why"), "{source}");
    }

    #[test]
    fn a_success_resets_the_count() {
        let mut failures = QueueFailures::default();
        for _ in 0..MAX_CLOSED - 1 {
            failures.failed("a", lost(AMQPHardError::NOTALLOWED));
        }
        failures.succeeded("a");
        assert!(!failures.has_closes("a"));
        assert!(is_lost(&failures.failed("a", lost(AMQPHardError::NOTALLOWED))));
    }

    #[test]
    fn a_queue_without_an_answer_is_remembered_until_a_success() {
        let mut failures = QueueFailures::default();
        let queue_error = |source: Cause| BrokerError::Queue {
            queue: "a".into(),
            source,
            is_temporary: true,
        };
        failures.failed("a", queue_error(Cause::new("it is locked")));
        assert!(!failures.is_unanswered("a"));
        let limit = std::time::Duration::from_secs(10);
        failures.failed("a", queue_error(Cause::new(NoAnswer { limit })));
        assert!(failures.is_unanswered("a") && !failures.is_unanswered("b"));
        failures.succeeded("a");
        assert!(!failures.is_unanswered("a"));
    }

    #[test]
    fn other_losses_are_not_counted() {
        let mut failures = QueueFailures::default();
        for error in [
            BrokerError::Lost { source: None },
            lost(AMQPHardError::CONNECTIONFORCED),
            BrokerError::Closed,
        ] {
            for _ in 0..2 * MAX_CLOSED {
                let reported = failures.failed("a", error.clone());
                assert!(!matches!(reported, BrokerError::Queue { .. }));
            }
        }
        assert!(!failures.has_closes("a"));
    }
}
