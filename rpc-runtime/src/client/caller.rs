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
/// The first call opens the session: a handle that only serves declares no reply queue. The session
/// ends with [`close`](Self::close), or with the last of the handle's clones and clients.
#[derive(Debug)]
pub(crate) struct Caller {
    session: SessionHandle,
}

impl Caller {
    pub(crate) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        Self {
            session: SessionHandle::new(transport, options),
        }
    }

    /// Fails all calls, present and future, and closes the session. Takes at most ten seconds.
    pub(crate) async fn close(&self) {
        self.session.close().await;
    }

    /// Returns the application and the user that requests name.
    pub(crate) fn names(&self) -> (Option<ShortStr>, Option<ShortStr>) {
        let CallerOptions { app_id, user_id, .. } = &*self.session.options;
        (app_id.clone(), user_id.clone())
    }

    /// Returns how many calls wait for a reply.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.session.in_flight.len()
    }

    /// Makes a call and waits for its reply, until its deadline.
    // Not an `async fn`, which would hold its arguments twice.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn call(
        self: Arc<Self>,
        call: Arc<InFlightCall>,
        time: TimeLimit,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + 'static {
        async move {
            let limiter = &call.plan().destination.limiter;
            let priority = call.plan().priority.unwrap_or(0);
            let permit = match limiter.try_acquire(priority) {
                Some(permit) => permit,
                None => limiter.acquire(time, priority).await?,
            };
            let outcome = match self.check_size(call.plan()) {
                Ok(()) => {
                    let guard = self.session.in_flight.insert(&call);
                    BrokerCall::new(&self.session, guard, time.limit)
                        .run(time.deadline)
                        .await
                }
                Err(too_large) => Err(too_large),
            };
            if !call.plan().method.is_oneway() {
                permit.ended(&outcome, time);
            }
            outcome
        }
    }

    fn check_size(&self, plan: &CallPlan) -> Result<(), CallError> {
        let (size, limit) = (plan.arguments.0.len(), self.session.options.max_sent_bytes);
        if size > limit {
            return Err(CallError::TooLarge { size, limit });
        }
        Ok(())
    }
}
