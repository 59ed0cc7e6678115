//! Calls without a broker: the call itself runs the handler.
//!
//! The same code executes the request as with a broker. Sizes, repeated deliveries and the time in
//! a queue are not checked.

use std::fmt;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::in_flight_call::InFlightCall;
use super::received_reply::empty_reply;
use super::time_limit::TimeLimit;
use crate::error::CallError;
use crate::protocol::{Executed, Reply, ReplyAddresses, Request, ShortStr};
use crate::service::{
    Dispatcher, Executor, Received, RequestLabel, RequestLog, RequestSource, Rules, Service,
};

/// A service in this process that clients call.
pub(crate) struct InProcess {
    executor: Executor,
}

impl InProcess {
    /// # Panics
    ///
    /// If [`Dispatcher::add`] refuses the service. The macro refuses such a service at compile
    /// time, except for two methods with the same name, or two default methods, that both have
    /// `#[cfg]` conditions.
    pub(super) fn new(service: impl Service) -> Self {
        let queue = service.descriptor().queue;
        let mut dispatcher = Dispatcher::default();
        if let Err(error) = dispatcher.add(Arc::new(service), queue) {
            panic!("the service cannot be called: {error}");
        }
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            // Nothing is sent to a broker, so no size is too large.
            max_accepted_bytes: usize::MAX,
            max_sent_bytes: usize::MAX,
            // Nothing is delivered twice.
            max_deliveries: u32::MAX,
            is_classic: false,
            // Nothing waits in a queue.
            admission: false,
            layers_may_answer: false,
        };
        let log = RequestLog::new(queue);
        Self {
            executor: Executor::new(dispatcher, rules, log, RequestSource::InProcess),
        }
    }

    /// Runs the method until it returns or the call's deadline passes.
    pub(super) async fn call(
        self: Arc<Self>,
        call: Arc<InFlightCall>,
        time_limit: TimeLimit,
    ) -> Result<Reply, CallError> {
        let plan = call.plan();
        let limiter = &plan.destination.limiter;
        let priority = plan.priority.unwrap_or(0);
        let _permit = match limiter.try_acquire(priority) {
            Some(permit) => permit,
            None => limiter.acquire(time_limit, priority).await?,
        };
        let reply = timeout_at(time_limit.deadline, self.serve(&call, time_limit.deadline))
            .await
            .map_err(|_| time_limit.timeout_error(Executed::Maybe))?;
        if plan.method.is_oneway() {
            // As with a broker, the caller does not learn how the method ended.
            return empty_reply(plan.codec);
        }
        Ok(reply)
    }

    async fn serve(&self, call: &InFlightCall, deadline: Instant) -> Reply {
        let (plan, now) = (call.plan(), Instant::now());
        let request = Request {
            method: Some(plan.method.wire_name()),
            codec: plan.codec,
            correlation_id: Some(ShortStr::from_uuid(call.id())),
            // The reply is returned, not sent to an address.
            reply_to: None,
            time_to_live: (!plan.method.is_oneway()).then(|| deadline.saturating_duration_since(now)),
            persistent: plan.method.is_oneway(),
            priority: plan.priority,
            app_id: None,
            user_id: None,
            headers: plan.headers.clone(),
            asks_batch_size: false,
            dead_lettered: None,
            arguments: plan.arguments.0.clone(),
        };
        let decision = self
            .executor
            .decide_request(request, false, Received::at(now), now);
        let queue = plan.destination.queue.as_str();
        let label = RequestLabel::default();
        let response = self.executor.execute(queue, decision, &label, now).await;
        response.reply
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}
