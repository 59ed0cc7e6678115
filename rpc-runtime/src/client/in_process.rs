//! Calls without a broker: the call itself runs the handler.
//!
//! The request is the same message, and is decided about, read, run and answered by the code that serves a broker's, so
//! that what fails there fails here.

use std::fmt;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::slot::Slot;
use super::time_limit::TimeLimit;
use crate::error::CallError;
use crate::protocol::{Executed, Reply, ReplyAddresses, ReplyKind, Request, ShortStr};
use crate::service::{Decision, Dispatcher, Received, RequestLog, Rules, Service, run};

/// An implementation to call.
pub(crate) struct InProcess {
    dispatcher: Dispatcher,
    rules: Rules,
    log: RequestLog,
}

impl InProcess {
    /// # Panics
    ///
    /// Where two methods of the service share a name, or are both the default one. Those that the macro makes do not
    /// compile then.
    pub(super) fn new(service: impl Service) -> Self {
        let queue = service.descriptor().queue;
        let mut dispatcher = Dispatcher::default();
        if let Err(error) = dispatcher.add(Arc::new(service), queue) {
            panic!("the service cannot be called: {error}");
        }
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            // Nothing is sent: there is nothing to protect.
            max_accepted_bytes: usize::MAX,
            max_sent_bytes: usize::MAX,
            // Nothing is delivered twice.
            max_deliveries: u32::MAX,
            // Nothing waits in a queue.
            admission: false,
        };
        let log = RequestLog::new(queue);
        Self {
            dispatcher,
            rules,
            log,
        }
    }

    /// Runs the method within the call's time.
    pub(super) async fn call(self: Arc<Self>, call: Arc<Slot>, time: TimeLimit) -> Result<Reply, CallError> {
        let plan = call.plan();
        let TimeLimit { limit, deadline } = time;
        let limiter = &plan.destination.limiter;
        let priority = plan.priority.unwrap_or(0);
        let _place = match limiter.try_enter(priority) {
            Some(place) => place,
            None => limiter.enter_by(time, priority).await?,
        };
        let (codec, oneway) = (plan.codec, plan.method.is_oneway);
        let reply = match timeout_at(deadline, self.serve(&call, deadline)).await {
            Ok(reply) => reply,
            Err(_) => {
                return Err(CallError::TimedOut {
                    limit,
                    executed: Executed::Maybe,
                    source: None,
                });
            }
        };
        if oneway {
            // Its outcome is nobody's business, as it would be on the other side of a broker.
            let body = codec.encode(&()).map_err(CallError::Encode)?;
            return Ok(Reply::new(ReplyKind::Result, codec, body));
        }
        Ok(reply)
    }

    async fn serve(&self, call: &Slot, deadline: Instant) -> Reply {
        let (plan, now) = (call.plan(), Instant::now());
        let request = Request {
            method: Some(ShortStr::from_static(plan.method.name)),
            codec: plan.codec,
            correlation_id: Some(ShortStr::from_uuid(call.id())),
            // The reply is returned, and not sent to an address.
            reply_to: None,
            time_to_live: (!plan.method.is_oneway).then(|| deadline.saturating_duration_since(now)),
            persistent: plan.method.is_oneway,
            priority: plan.priority,
            app_id: None,
            user_id: None,
            headers: plan.headers.clone(),
            batches: false,
            dead_lettered: None,
            arguments: plan.arguments.0.clone(),
        };
        let decision =
            self.dispatcher
                .decide_request(request, None, false, Received::at(now), now, &self.rules);
        match decision {
            Decision::Run {
                service, invocation, ..
            } => {
                let queue = plan.destination.queue.as_str();
                run(service, queue, &self.log, &self.rules, &invocation)
                    .await
                    .reply
            }
            Decision::Refuse { reply, .. } => reply,
        }
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}
