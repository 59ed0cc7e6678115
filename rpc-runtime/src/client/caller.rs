//! Makes the calls of all clients of one broker handle.

use std::sync::Arc;

use super::broker_call::BrokerCall;
use super::in_flight_call::InFlightCall;
use super::options::CallerOptions;
use super::plan::CallPlan;
use super::session_handle::SessionHandle;
use super::time_limit::TimeLimit;
use crate::error::CallError;
use crate::protocol::{Reply, ShortStr};
use crate::transport::Transport;

/// Makes the calls of all clients of one broker handle.
///
/// The first call opens the session, so a handle that only serves declares no reply queue. The
/// session ends with [`close`](Self::close), or with the last of the handle's clones and clients.
#[derive(Debug)]
pub(crate) struct Caller {
    session_handle: SessionHandle,
}

impl Caller {
    pub(crate) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        Self {
            session_handle: SessionHandle::new(transport, options),
        }
    }

    /// Closes the session, and fails all present and future calls. Takes at most ten seconds.
    pub(crate) async fn close(&self) {
        self.session_handle.close().await;
    }

    /// Returns the application id and the user id of requests.
    pub(crate) fn app_and_user_id(&self) -> (Option<ShortStr>, Option<ShortStr>) {
        let CallerOptions { app_id, user_id, .. } = &*self.session_handle.options;
        (app_id.clone(), user_id.clone())
    }

    /// Returns how many calls wait for a reply.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.session_handle.in_flight.len()
    }

    /// Makes a call and waits for its reply, until its deadline.
    // Not an `async fn`, which would hold its arguments twice.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn call(
        self: Arc<Self>,
        call: Arc<InFlightCall>,
        time_limit: TimeLimit,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + 'static {
        async move {
            let limiter = &call.plan().destination.limiter;
            let priority = call.plan().priority.unwrap_or(0);
            // Not `match`, here and below: its operand would take memory while the call waits.
            let permit = if let Some(permit) = limiter.try_acquire(priority) {
                permit
            } else {
                limiter.acquire(time_limit, priority).await?
            };
            let outcome = if let Err(too_large) = self.check_size(call.plan()) {
                Err(too_large)
            } else {
                BrokerCall::new(
                    &self.session_handle,
                    self.session_handle.in_flight.insert(&call),
                    &time_limit,
                )
                .run()
                .await
            };
            if !call.plan().method.is_oneway() {
                permit.record_outcome(&outcome, time_limit);
            }
            outcome
        }
    }

    /// Returns [`CallError::TooLarge`] if a request is too large to be sent.
    pub(super) fn check_size(&self, plan: &CallPlan) -> Result<(), CallError> {
        let (size, limit) = (plan.arguments.0.len(), self.session_handle.options.max_sent_bytes);
        if size > limit {
            return Err(CallError::TooLarge { size, limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::in_flight_calls::tests::new_call;
    use super::*;
    use crate::Broker;

    /// A client may have a hundred thousand calls in flight. Each holds this future and an
    /// `InFlightCall`.
    #[tokio::test]
    async fn a_call_in_flight_takes_little_memory() {
        let caller = Arc::clone(Broker::in_process().caller());
        let time = TimeLimit {
            limit: Duration::from_secs(1),
            deadline: Instant::now(),
        };
        let waiting = caller.call(new_call(), time);
        assert!(size_of_val(&waiting) <= 320, "{}", size_of_val(&waiting));
        assert!(size_of::<InFlightCall>() <= 232, "{}", size_of::<InFlightCall>());
    }
}
