//! A call that is ready to be made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::destination::{Destination, MethodIndex};
use super::time_limit::TimeLimit;
use crate::codec::Codec;
use crate::describe::MethodDescriptor;
use crate::error::CallError;
use crate::protocol::{Executed, Headers, MAX_TIME_TO_LIVE};
use crate::service::ambient_deadline;

/// A call that is ready to be made.
#[derive(Debug, Clone)]
pub(crate) struct CallPlan {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) destination: Arc<Destination>,
    /// Which of the destination's methods it is.
    pub(crate) method_index: MethodIndex,
    pub(crate) codec: Codec,
    pub(crate) arguments: Arguments,
    pub(crate) timeout: Duration,
    pub(crate) headers: Headers,
    pub(crate) priority: Option<u8>,
    /// Whether it is called again while there is no queue of that name.
    pub(crate) wait_for_server: bool,
    /// A handler that makes the call does not lend it its deadline.
    pub(crate) is_detached: bool,
}

impl CallPlan {
    /// The call's own limit, or what is left to the handler that makes it.
    ///
    /// # Errors
    ///
    /// Where there is no time at all.
    pub(crate) fn time_limit(&self) -> Result<TimeLimit, CallError> {
        let begun = Instant::now();
        let inherited = ambient_deadline()
            .filter(|_| !self.is_detached)
            .map(|deadline| deadline.saturating_duration_since(begun));
        // A request can live no longer on the wire, so neither can a call wait for ever.
        let limit = self
            .timeout
            .min(inherited.unwrap_or(MAX_TIME_TO_LIVE))
            .min(MAX_TIME_TO_LIVE);
        match limit.is_zero() {
            true => Err(CallError::TimedOut {
                limit,
                executed: Executed::No,
                source: None,
            }),
            false => Ok(TimeLimit {
                limit,
                deadline: begun + limit,
            }),
        }
    }
}

/// The arguments of a call, encoded; `Debug` keeps them secret.
#[derive(Clone)]
pub(crate) struct Arguments(pub(crate) Bytes);

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
