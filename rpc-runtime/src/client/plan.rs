//! A call that is ready to be made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::batching::LearnedBatchSize;
use super::called_method::CalledMethod;
use super::destination::{Destination, MethodIndex};
use super::time_limit::TimeLimit;
use crate::codec::Codec;
use crate::error::CallError;
use crate::protocol::{Executed, Headers, MAX_TIME_TO_LIVE};
use crate::service::ambient_deadline;
use crate::telemetry::Method;

/// A call that is ready to be made.
#[derive(Debug, Clone)]
pub(crate) struct CallPlan {
    pub(crate) method: CalledMethod,
    pub(crate) destination: Arc<Destination>,
    /// The method's index in the destination.
    pub(crate) method_index: MethodIndex,
    pub(crate) codec: Codec,
    pub(crate) arguments: Arguments,
    pub(crate) timeout: Duration,
    pub(crate) headers: Headers,
    pub(crate) priority: Option<u8>,
    /// Whether the request is sent again while the queue does not exist.
    pub(crate) wait_for_server: bool,
    /// Whether the call ignores the deadline of the handler that makes it.
    pub(crate) is_detached: bool,
}

impl CallPlan {
    /// Returns the batch size of the method. `None` if its calls are always sent on their own.
    pub(super) fn batch_size(&self) -> Option<&LearnedBatchSize> {
        self.destination.batch_size(self.method_index)
    }

    /// Returns the method in spans and metrics.
    pub(super) fn label(&self) -> Method {
        let known = self.destination.label(self.method_index);
        known
            .cloned()
            .unwrap_or_else(|| Method::new(self.destination.service.label(), self.method.label()))
    }

    /// Whether a message of a stream that the call sends or receives has arrived. Then a worker
    /// runs the method, and the request must not be sent again.
    pub(super) fn has_stream_begun(&self) -> bool {
        let items = self.destination.inbox.as_ref();
        items.is_some_and(|items| items.has_begun())
    }

    /// Begins the call's time limit: its own, or the time left to the handler that makes it if that
    /// is shorter and the call is not detached. At most [`MAX_TIME_TO_LIVE`].
    ///
    /// # Errors
    ///
    /// If there is no time left.
    pub(crate) fn time_limit(&self) -> Result<TimeLimit, CallError> {
        let begun = Instant::now();
        let inherited = ambient_deadline()
            .filter(|_| !self.is_detached)
            .map(|deadline| deadline.saturating_duration_since(begun));
        // A message cannot live for longer than `MAX_TIME_TO_LIVE`.
        let limit = self
            .timeout
            .min(inherited.unwrap_or(MAX_TIME_TO_LIVE))
            .min(MAX_TIME_TO_LIVE);
        let time_limit = TimeLimit {
            limit,
            deadline: begun + limit,
        };
        if limit.is_zero() {
            return Err(time_limit.timeout_error(Executed::No));
        }
        Ok(time_limit)
    }
}

/// The encoded arguments of a call. `Debug` shows only their size.
#[derive(Clone)]
pub(crate) struct Arguments(pub(crate) Bytes);

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
