//! The errors of a call that fails on its way through the broker.

use crate::error::{BrokerError, CallError, Cause};
use crate::protocol::{Executed, ShortStr};

/// The session or its connection failed.
pub(super) fn broker_failure(source: BrokerError, was_written: bool) -> CallError {
    let executed = if was_written {
        Executed::Maybe
    } else {
        Executed::No
    };
    CallError::Broker { source, executed }
}

pub(super) fn refused(queue: &ShortStr) -> CallError {
    CallError::Refused {
        queue: queue.to_string(),
    }
}

pub(super) fn no_server(queue: &ShortStr) -> CallError {
    CallError::NoServer {
        queue: queue.to_string(),
    }
}

/// The queue was deleted after an earlier request reached it, so the method may have run.
pub(super) fn queue_is_gone(queue: &ShortStr) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_string(),
        source: Cause::new("it does not exist any more"),
        is_temporary: false,
    }
}
