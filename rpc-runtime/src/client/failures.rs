//! Builds the errors of calls that fail on their way through the broker.

use crate::error::{BrokerError, CallError, Cause};
use crate::protocol::{Executed, ShortStr};

/// Builds the error of a call that a [`BrokerError`] ends.
pub(super) fn broker_error(source: BrokerError, may_have_run: bool) -> CallError {
    let executed = maybe_executed(may_have_run);
    CallError::Broker { source, executed }
}

/// Returns [`Executed::Maybe`] if the method may have run, and [`Executed::No`] if it has not.
pub(super) fn maybe_executed(may_have_run: bool) -> Executed {
    if may_have_run {
        Executed::Maybe
    } else {
        Executed::No
    }
}

/// Builds the error for a request that the broker refused.
pub(super) fn refused_error(queue: &ShortStr) -> CallError {
    CallError::Refused {
        queue: queue.to_string(),
    }
}

/// Builds the error for a request whose queue does not exist.
pub(super) fn no_server_error(queue: &ShortStr) -> CallError {
    CallError::NoServer {
        queue: queue.to_string(),
    }
}

/// Builds the error for a broadcast that no worker gets.
pub(super) fn no_workers_error(queue: &ShortStr) -> CallError {
    CallError::NoWorkers {
        queue: queue.to_string(),
    }
}

/// Builds the error for a queue that does not exist any more, although it may have got an earlier
/// request of the call.
pub(super) fn queue_gone_error(queue: &ShortStr) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_string(),
        source: Cause::new("it does not exist any more"),
        is_temporary: false,
    }
}
