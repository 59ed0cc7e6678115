//! Makes the calls of all clients of one broker handle.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::broker_call::BrokerCall;
use super::encoded_call_limiters::EncodedCallLimiters;
use super::failures::{broker_error, maybe_executed, no_workers_error, refused_error};
use super::in_flight_call::InFlightCall;
use super::limiter::Permit;
use super::options::CallerOptions;
use super::plan::CallPlan;
use super::queued_request::time_to_live;
use super::received_reply::empty_reply;
use super::session_handle::SessionHandle;
use super::time_limit::TimeLimit;
use super::uploading::{BrokerLink, Upload};
use crate::error::{BrokerError, CallError};
use crate::protocol::{
    Executed, Grant, MAX_BROADCAST_BYTES, MAX_ITEM_FRAME_BYTES, Message, Reply, Request, ShortStr, Volume,
};
use crate::transport::{Backoff, Published, SendToken, Transport};

/// Makes the calls of all clients of one broker handle.
///
/// The first call opens the session, so a handle that only serves declares no reply queue. The
/// session ends with [`close`](Self::close), or with the last of the handle's clones, clients and
/// calls.
#[derive(Debug)]
pub(crate) struct Caller {
    session_handle: SessionHandle,
    pub(super) encoded_call_limiters: EncodedCallLimiters,
}

impl Caller {
    pub(crate) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        Self {
            session_handle: SessionHandle::new(transport, options),
            encoded_call_limiters: EncodedCallLimiters::default(),
        }
    }

    /// Closes the session, and fails all present and future calls, except for broadcasts, which
    /// fail once the transport is closed. Takes at most ten seconds.
    pub(crate) async fn close(&self) {
        self.session_handle.close().await;
    }

    /// Returns the application id and the user id of requests.
    pub(crate) fn app_and_user_id(&self) -> (Option<ShortStr>, Option<ShortStr>) {
        let CallerOptions { app_id, user_id, .. } = &*self.session_handle.options;
        (app_id.clone(), user_id.clone())
    }

    /// Returns how many calls are in flight.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.session_handle.in_flight.len()
    }

    /// Makes a call and waits for its reply, until its deadline, or until its stream ends if one
    /// has begun. A one-way call or a broadcast ends once its request is confirmed, with an empty
    /// reply.
    // Not an `async fn`, whose future would have room for its arguments twice: as they were passed,
    // and as variables of its body.
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
            if call.plan().method.is_broadcast() {
                return Box::pin(self.broadcast(call, time_limit)).await;
            }
            if call.plan().destination.inbox.is_some() {
                return Box::pin(self.call_with_items(&call, &time_limit, permit)).await;
            }
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
            // The outcome of a one-way call says nothing about its workers.
            if !call.plan().method.is_oneway() {
                permit.record_outcome(&outcome, time_limit);
            }
            outcome
        }
    }

    /// Makes a call with a stream, in either direction.
    async fn call_with_items(
        &self,
        call: &Arc<InFlightCall>,
        time_limit: &TimeLimit,
        permit: Permit,
    ) -> Result<Reply, CallError> {
        self.check_size(call.plan())?;
        let permit = Arc::new(permit);
        let destination = &call.plan().destination;
        if let Some(inbox) = &destination.inbox {
            inbox.add_permit(call.id(), &permit, *time_limit);
        }
        let in_flight = self.session_handle.in_flight.insert(call);
        let running = BrokerCall::new(&self.session_handle, in_flight, time_limit).run();
        let outcome = match &destination.upload {
            Some(upload) => self.send_items_while(call, upload, running).await,
            None => running.await,
        };
        if let Some(inbox) = &destination.inbox {
            inbox.show_arrived();
        }
        // How long a stream takes depends on its reader, and says nothing about overload.
        if !call.plan().has_stream_begun() {
            permit.record_outcome(&outcome, *time_limit);
        }
        outcome
    }

    /// Sends the items of a call while `running` makes the call. Returns the call's outcome, or the
    /// error if items cannot be sent.
    async fn send_items_while(
        &self,
        call: &InFlightCall,
        upload: &Arc<Upload>,
        running: impl Future<Output = Result<Reply, CallError>>,
    ) -> Result<Reply, CallError> {
        let options = &self.session_handle.options;
        let link = BrokerLink {
            transport: Arc::clone(self.transport()),
            publisher: Arc::clone(&self.session_handle.item_publisher),
            id: call.id(),
            codec: call.plan().codec,
        };
        let max_bytes = options.max_sent_bytes.saturating_sub(MAX_ITEM_FRAME_BYTES);
        let sending = Arc::clone(upload).send_until_failure(call.id(), link, max_bytes);
        // In a task, so that it goes on even if nobody polls the call: a worker gives up a caller
        // that sends nothing for a while.
        let mut sending = AbortOnDropHandle::new(self.transport().runtime().spawn(sending));
        let outcome = tokio::select! {
            biased;
            outcome = running => outcome,
            failed = &mut sending => return Err(match failed {
                Ok(error) => error,
                // The stream of the caller has panicked.
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => broker_error(BrokerError::RuntimeEnded, true),
            }),
        };
        // The caller's stream is neither polled nor kept once the call has returned.
        sending.abort();
        let _ = sending.await;
        outcome
    }

    /// Publishes a request to all workers of the queue. The returned reply is empty.
    ///
    /// A broadcast whose answers are gathered also succeeds if the broker refuses its request or
    /// the confirm is lost, because the workers that got it answer.
    async fn broadcast(&self, call: Arc<InFlightCall>, time_limit: TimeLimit) -> Result<Reply, CallError> {
        let (plan, options) = (call.plan(), &*self.session_handle.options);
        let (size, limit) = (
            plan.arguments.0.len(),
            options.max_sent_bytes.min(MAX_BROADCAST_BYTES),
        );
        if size > limit {
            return Err(CallError::TooLarge { size, limit });
        }
        let queue = &plan.destination.queue;
        let timed_out = |executed| Err(self.broadcast_timeout_error(time_limit, executed));
        let unconfirmed = |error| match &plan.destination.gather_target {
            Some(target) => {
                target.mark_unconfirmed();
                empty_reply(plan.codec)
            }
            None => Err(error),
        };
        let mut backoff = Backoff::new();
        loop {
            let send_token = SendToken::default();
            let message = broadcast_request(&call, options, time_limit.deadline);
            let publishing = self
                .transport()
                .publish_control(queue, message, send_token.clone());
            match timeout_at(time_limit.deadline, publishing).await {
                Ok(Published::Confirmed) => return empty_reply(plan.codec),
                // No worker has the request, so it is sent again below.
                Ok(Published::Returned) if plan.wait_for_server => {}
                Ok(Published::Failed { source, written }) if !written && source.is_waited_out() => {}
                Ok(Published::Returned) => return Err(no_workers_error(queue)),
                Ok(Published::Refused) => return unconfirmed(refused_error(queue)),
                Ok(Published::Failed { source, written }) if written => {
                    return unconfirmed(broker_error(source, true));
                }
                Ok(Published::Failed { source, .. }) => return Err(broker_error(source, false)),
                Ok(Published::Withdrawn) | Err(_) => {
                    let is_sent = !send_token.withdraw();
                    return timed_out(maybe_executed(is_sent));
                }
            }
            if timeout_at(time_limit.deadline, backoff.wait()).await.is_err() {
                return timed_out(Executed::No);
            }
        }
    }

    /// Tells a worker how much it may send, in total, in answer to the request with this id.
    pub(super) fn grant(&self, worker: ShortStr, id: Uuid, credit: Volume) {
        let grant = Grant { id, credit };
        self.session_handle
            .in_flight
            .control_messages
            .grant(worker, grant);
    }

    pub(super) fn transport(&self) -> &Arc<dyn Transport> {
        self.session_handle.transport()
    }

    /// Returns the largest body of a reply, and the largest item of a stream, that is accepted, in
    /// bytes.
    pub(super) fn max_accepted_bytes(&self) -> usize {
        self.session_handle.options.max_accepted_bytes
    }

    /// Builds the error of a broadcast whose request was not sent, or not confirmed, by its
    /// deadline, with the obstacle if one is known.
    pub(super) fn broadcast_timeout_error(&self, time_limit: TimeLimit, executed: Executed) -> CallError {
        CallError::TimedOut {
            limit: time_limit.limit,
            executed,
            source: self.transport().status().status().obstacle(),
        }
    }

    /// Returns [`CallError::TooLarge`] if the arguments of a request are too large to be sent.
    /// Those of a broadcast have a further limit, which [`broadcast`](Self::broadcast) checks.
    pub(super) fn check_size(&self, plan: &CallPlan) -> Result<(), CallError> {
        let (size, limit) = (plan.arguments.0.len(), self.session_handle.options.max_sent_bytes);
        if size > limit {
            return Err(CallError::TooLarge { size, limit });
        }
        Ok(())
    }
}

/// Returns the message of a broadcast. Without a target for answers, the broadcast is one-way: its
/// request does not expire.
fn broadcast_request(call: &InFlightCall, options: &CallerOptions, deadline: Instant) -> Message {
    let plan = call.plan();
    let target = plan.destination.gather_target.as_ref();
    let correlation_id = match target {
        Some(target) => target.correlation_id.clone(),
        None => ShortStr::from_uuid(call.id()),
    };
    Request {
        method: Some(plan.method.wire_name()),
        codec: plan.codec,
        correlation_id: Some(correlation_id),
        reply_to: target.map(|target| target.reply_to.clone()),
        time_to_live: target.map(|_| time_to_live(deadline, Instant::now())),
        persistent: false,
        priority: None,
        app_id: options.app_id.clone(),
        user_id: options.user_id.clone(),
        headers: plan.headers.clone(),
        asks_batch_size: false,
        credit: None,
        sends_items: false,
        dead_lettered: None,
        arguments: plan.arguments.0.clone(),
    }
    .into_message()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        assert!(size_of_val(&waiting) <= 304, "{}", size_of_val(&waiting));
        assert!(size_of::<InFlightCall>() <= 216, "{}", size_of::<InFlightCall>());
    }
}
