//! Builds the errors of calls that fail on their way through the broker.

use crate::error::{BrokerError, CallError, Cause};
use crate::protocol::{Executed, ShortStr};

/// Builds the error of a call that a [`BrokerError`] ends.
pub(super) fn broker_error(source: BrokerError, may_have_run: bool) -> CallError {
    let executed = if may_have_run {
        Executed::Maybe
    } else {
        Executed::No
    };
    CallError::Broker { source, executed }
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

/// Builds the error for a queue that does not exist any more. An earlier request may have reached
/// it, so the method may have run.
pub(super) fn queue_gone_error(queue: &ShortStr) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_string(),
        source: Cause::new("it does not exist any more"),
        is_temporary: false,
    }
}
