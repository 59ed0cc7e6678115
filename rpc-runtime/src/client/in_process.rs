//! Calls without a broker: the call itself runs the handler.
//!
//! The same code executes the request as with a broker. The sizes of requests and replies, repeated
//! deliveries and the time in a queue are not checked.

use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{BoxFuture, ready};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::in_flight_call::InFlightCall;
use super::received_reply::empty_reply;
use super::streaming::ItemInbox;
use super::time_limit::TimeLimit;
use super::uploading::{InProcessLink, Upload};
use crate::error::CallError;
use crate::protocol::{Executed, Fault, ItemWriter, Items, Reply, ReplyAddresses, Request, ShortStr, Volume};
use crate::service::{
    Credit, Decision, Dispatcher, Executor, IncomingError, IncomingInbox, ItemSink, Received, RequestLabel,
    RequestLog, RequestSource, Response, Rules, SendPermit, Service, end_of_stream,
};

/// What a worker would send in the header `rpc-worker`. The parts that receive items expect to know
/// their worker.
const IN_PROCESS_WORKER: &str = r#"{"id":"00000000-0000-0000-0000-000000000000"}"#;

/// A service in this process that clients call.
pub(crate) struct InProcess {
    executor: Executor,
}

impl InProcess {
    /// Creates the backend of a client that runs the methods of this service itself.
    ///
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

    /// Waits for a permit, and runs the method until it returns or the call's deadline passes. If
    /// the method has a stream, the deadline applies only until the stream begins. A one-way call
    /// waits for its method too.
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
        let serving = self.serve(&call, time_limit.deadline);
        if let Some(items) = &plan.destination.inbox {
            let outcome = Box::pin(serve_until_overdue(items, serving, time_limit)).await;
            items.show_arrived();
            return outcome;
        }
        let reply = timeout_at(time_limit.deadline, serving)
            .await
            .map_err(|_| time_limit.timeout_error(Executed::Maybe))??;
        if plan.method.is_oneway() {
            // As with a broker, the caller does not learn how the method ended.
            return empty_reply(plan.codec);
        }
        Ok(reply)
    }

    /// Runs the method or refuses the request, as a worker does. Returns the reply, which may be a
    /// fault.
    ///
    /// # Errors
    ///
    /// If an item that the caller sends cannot be encoded, or is too large.
    async fn serve(&self, call: &InFlightCall, deadline: Instant) -> Result<Reply, CallError> {
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
            credit: plan.destination.credit(),
            sends_items: plan.destination.upload.is_some(),
            dead_lettered: None,
            arguments: plan.arguments.0.clone(),
        };
        let is_redelivered = false;
        let mut decision = self
            .executor
            .decide_request(request, is_redelivered, Received::at(now), now);
        let sink = item_sink(call);
        let mut incoming = None;
        if let Decision::Run(admitted) = &mut decision {
            if let Some(sink) = &sink {
                let sink = Arc::clone(sink) as Arc<dyn ItemSink>;
                admitted.invocation.set_item_sink(sink);
            }
            if let Some(upload) = &plan.destination.upload {
                // The number orders the inboxes of a worker: here is only one. A caller in this
                // process cannot be lost, so its silence says nothing.
                let (number, may_be_silent) = (0, true);
                let inbox = Arc::new(IncomingInbox::new(number, may_be_silent));
                admitted.invocation.set_incoming_inbox(Arc::clone(&inbox));
                incoming = Some((upload, inbox));
            }
        }
        let queue = plan.destination.queue.as_str();
        let label = RequestLabel::default();
        let executing = self.executor.execute(queue, decision, &label, now);
        let response = match incoming {
            None => executing.await,
            Some((upload, inbox)) => Box::pin(run_and_send_items(call, upload, inbox, executing)).await?,
        };
        Ok(match sink {
            Some(sink) => end_of_stream(response.reply, sink.sent()),
            None => response.reply,
        })
    }
}

/// Returns the sink for the items of a call that grants credit for them; `None` for other calls.
fn item_sink(call: &InFlightCall) -> Option<Arc<InProcessItems>> {
    let destination = &call.plan().destination;
    // A call that only sends items has an inbox too, but grants no credit.
    destination.credit()?;
    let items = destination.inbox.as_ref()?;
    Some(Arc::new(InProcessItems::new(call, items)))
}

/// Runs a method, and meanwhile sends it the items of its caller. Returns its response.
///
/// # Errors
///
/// If an item cannot be encoded, or is too large.
async fn run_and_send_items(
    call: &InFlightCall,
    upload: &Arc<Upload>,
    inbox: Arc<IncomingInbox>,
    executing: impl Future<Output = Response>,
) -> Result<Response, CallError> {
    let _ends_items = EndsItems(Arc::clone(&inbox));
    // Passes the method's credit for items on to the caller's stream.
    let granting = async {
        while let Some(grant) = inbox.next_grant().await {
            // A call that sends items has an inbox.
            if let Some(inbox_of_call) = &call.plan().destination.inbox {
                // Tells this inbox that the streams have begun, so that a further attempt that a
                // layer makes does not run the method again. Only the first message matters.
                inbox_of_call.receive(call.id(), IN_PROCESS_WORKER, Items::keep_alive());
            }
            // This cannot fail: the worker's id is a UUID, and the method takes only items that
            // were sent.
            let _ = upload.grant(call.id(), IN_PROCESS_WORKER, grant);
        }
        pending().await
    };
    // Whatever the codec, an item becomes a MessagePack binary, which cannot be larger.
    let max_item_bytes = u32::MAX as usize;
    let link = InProcessLink(Arc::clone(&inbox));
    let sending = Arc::clone(upload).send_until_failure(call.id(), link, max_item_bytes);
    tokio::select! {
        biased;
        response = executing => Ok(response),
        error = sending => Err(error),
        never = granting => never,
    }
}

/// Ends the items of a method when dropped, because a task that the method has spawned may still
/// wait for them.
struct EndsItems(Arc<IncomingInbox>);

impl Drop for EndsItems {
    fn drop(&mut self) {
        self.0.fail(IncomingError::Interrupted);
    }
}

/// Runs a method with a stream, in either direction, until it ends. Gives up if the stream has not
/// begun at the deadline, or if the call is [overdue](ItemInbox::overdue) later.
async fn serve_until_overdue(
    items: &ItemInbox,
    serving: impl Future<Output = Result<Reply, CallError>>,
    time_limit: TimeLimit,
) -> Result<Reply, CallError> {
    let mut serving = pin!(serving);
    let mut deadline = time_limit.deadline;
    loop {
        if let Ok(reply) = timeout_at(deadline, &mut serving).await {
            return reply;
        }
        // The deadline limits the time until the first message. Once the stream has begun, each
        // wait of the reader has a time limit of its own. A method in this process cannot be lost,
        // so its silence says nothing.
        let may_be_silent = true;
        if !items.has_begun() || items.overdue(time_limit.limit, may_be_silent).is_some() {
            return Err(time_limit.timeout_error(Executed::Maybe));
        }
        deadline = items.overdue_at(time_limit.limit, may_be_silent);
    }
}

/// Hands the items of a stream to their reader.
#[derive(Debug)]
struct InProcessItems {
    call: Uuid,
    items: Arc<ItemInbox>,
    credit: Arc<Credit>,
    sent: AtomicU64,
}

impl InProcessItems {
    /// Creates the sink of a method's items. From now on, their reader raises the sink's credit.
    fn new(call: &InFlightCall, items: &Arc<ItemInbox>) -> Self {
        let credit = Arc::new(Credit::new(items.window()));
        items.set_credit(Arc::clone(&credit));
        Self {
            call: call.id(),
            items: Arc::clone(items),
            credit,
            sent: AtomicU64::new(0),
        }
    }
}

impl ItemSink for InProcessItems {
    fn credit(&self) -> &Credit {
        &self.credit
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn reserve(&self) -> BoxFuture<'_, Result<SendPermit, Fault>> {
        Box::pin(ready(Ok(SendPermit::default())))
    }

    fn survives_connection(&self) -> bool {
        true
    }

    fn send(&self, _: SendPermit, first: u64, items: ItemWriter, credit: Volume) {
        let sent = first + items.volume().items;
        self.sent.store(sent, Ordering::Relaxed);
        if items.is_empty() {
            // A message without items asks whether the caller is there. It is: a grant that raises
            // nothing says so.
            self.credit.raise(Volume::default());
        }
        let items = items.finish();
        let message = Items { first, items, credit };
        // The result only matters to messages from a broker: here, `serve` returns the reply that
        // ends the stream.
        self.items.receive(self.call, IN_PROCESS_WORKER, message);
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}
