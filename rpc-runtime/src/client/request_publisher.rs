//! Builds the messages of requests and publishes them. A message holds one request or a batch.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::time::Instant;

use super::batching::{LearnedBatchSize, fits_in_batch};
use super::destination::Destination;
use super::in_flight_call::InFlightCall;
use super::in_flight_calls::InFlightCalls;
use super::options::CallerOptions;
use super::queued_request::QueuedRequest;
use crate::codec::Codec;
use crate::protocol::{
    BATCH_HEADER, BATCH_TYPE, BatchedCallRef, Headers, Message, Properties, RESENT_HEADER, Request, ShortStr,
    write_batch,
};
use crate::telemetry::{Event, count};
use crate::transport::{Outgoing, Published, Publisher, ReplyQueue};

/// Builds the messages of requests and publishes them.
#[derive(Debug)]
pub(super) struct RequestPublisher {
    /// Whether requests wait in the channel to the `SendTask` or in its backlog, where later ones
    /// must not overtake them. `RequestSender` sets it, and the task clears it once both are empty.
    /// Requests that are held back, or in the batcher, do not count.
    pub(super) has_backlog: AtomicBool,
    publisher: Arc<dyn Publisher>,
    reply_to: ShortStr,
    options: Arc<CallerOptions>,
    in_flight: Arc<InFlightCalls>,
}

impl RequestPublisher {
    pub(super) fn new(
        publisher: Arc<dyn Publisher>,
        reply_to: ShortStr,
        options: Arc<CallerOptions>,
        in_flight: Arc<InFlightCalls>,
    ) -> Self {
        Self {
            has_backlog: AtomicBool::new(false),
            publisher,
            reply_to,
            options,
            in_flight,
        }
    }

    /// Returns the maximum size of a message's body.
    pub(super) fn max_sent_bytes(&self) -> usize {
        self.options.max_sent_bytes
    }

    /// Waits until messages can be published. Cancel safe.
    pub(super) async fn wait_ready(&self) {
        self.publisher.wait_ready().await;
    }

    /// Publishes a message and waits for the broker's confirm.
    // Not an `async fn`, which would hold the message twice.
    pub(super) fn publish<'a>(&'a self, message: Outgoing) -> impl Future<Output = Published> + Send + 'a {
        self.publisher.publish(message)
    }

    /// Publishes a message without waiting. The transport reports the confirm to the call later.
    ///
    /// # Errors
    ///
    /// Returns the message if the transport does not accept it now.
    pub(super) fn try_publish(
        &self,
        message: Outgoing,
        call: Arc<InFlightCall>,
    ) -> Result<(), Box<Outgoing>> {
        self.publisher.try_publish(message, call)
    }

    /// Returns the message of one request, with the time that is left now: takes the one that was
    /// built already, or builds it.
    pub(super) fn single(&self, request: &mut QueuedRequest) -> Outgoing {
        let now = Instant::now();
        if let Some(mut built) = request.built.take() {
            built.message.properties.expiration = request.time_to_live(now);
            return *built;
        }
        Outgoing {
            queue: request.plan().destination.queue.clone(),
            mandatory: true,
            message: self.build_single(request, now).into_message(),
            send_token: Some(request.confirm.send_token()),
        }
    }

    /// Builds a request that is sent on its own. That may count it, and record that it asks for the
    /// batch size of its method, so it must happen once.
    fn build_single(&self, queued: &QueuedRequest, now: Instant) -> Request {
        let plan = queued.plan();
        let oneway = plan.method.is_oneway();
        // One-way requests ask by a header, and requests in plain text are never batched.
        let may_ask = !oneway && plan.codec != Codec::Text;
        Request {
            method: Some(plan.method.wire_name()),
            codec: plan.codec,
            correlation_id: Some(ShortStr::from_uuid(queued.confirm.call().id())),
            reply_to: (!oneway).then(|| self.reply_to.clone()),
            time_to_live: queued.time_to_live(now),
            persistent: oneway,
            priority: plan.priority,
            app_id: self.options.app_id.clone(),
            user_id: self.options.user_id.clone(),
            headers: self.headers(queued, now).into_owned(),
            asks_batch_size: may_ask && plan.batch_size().is_some_and(LearnedBatchSize::record_single),
            credit: plan.destination.credit(),
            sends_items: plan.destination.upload.is_some(),
            dead_lettered: None,
            arguments: plan.arguments.0.clone(),
        }
    }

    /// Returns the message of a batch of requests that may share one (their `BatchKey`s are equal).
    /// `None` if there are no requests, or if the destination has no queue for batches.
    pub(super) fn batch(&self, requests: &[QueuedRequest]) -> Option<Outgoing> {
        let plan = requests.first()?.plan();
        Some(Outgoing {
            queue: plan.destination.batch_queue.clone()?,
            mandatory: true,
            message: self.batch_message(requests)?,
            send_token: None,
        })
    }

    /// Builds the message of a batch; `None` if there are no requests. It expires with the first of
    /// its requests: an expired request must not run, and a consumer does not know how long the
    /// message has waited in the queue. One-way requests do not expire.
    fn batch_message(&self, requests: &[QueuedRequest]) -> Option<Message> {
        let first = requests.first()?;
        let now = Instant::now();
        let oneway = first.plan().method.is_oneway();
        let calls: Vec<_> = requests
            .iter()
            .map(|request| BatchedCallRef {
                id: request.confirm.call().id(),
                method: request.plan().method.name(),
                time_to_live: request.time_to_live(now),
                arguments: &request.plan().arguments.0,
                headers: self.headers(request, now),
            })
            .collect();
        Some(Message {
            properties: Properties {
                kind: Some(ShortStr::from_static(BATCH_TYPE)),
                content_type: Some(ShortStr::from_static(first.plan().codec.content_type())),
                // The id of one of the calls identifies the message if the broker returns it.
                correlation_id: Some(ShortStr::from_uuid(first.confirm.call().id())),
                reply_to: (!oneway).then(|| self.reply_to.clone()),
                expiration: calls.iter().filter_map(|call| call.time_to_live).min(),
                persistent: oneway,
                priority: first.plan().priority,
                app_id: self.options.app_id.clone(),
                user_id: self.options.user_id.clone(),
                ..Properties::default()
            },
            body: write_batch(&calls),
        })
    }

    /// Returns the headers of a request: those of the call, a mark if an earlier request of the
    /// call may have reached a worker, and if a one-way request asks for the batch size, the
    /// address for the answer. Records that it asks.
    fn headers<'a>(&self, request: &'a QueuedRequest, now: Instant) -> Cow<'a, Headers> {
        let mut headers = Cow::Borrowed(&request.plan().headers);
        if request.is_resent {
            let name = ShortStr::from_static(RESENT_HEADER);
            headers.to_mut().insert(name, String::new());
        }
        if self.oneway_asks_batch_size(request, now) {
            self.in_flight.batch_size_asks.add(request.confirm.call());
            let name = ShortStr::from_static(BATCH_HEADER);
            headers.to_mut().insert(name, self.reply_to.as_str().to_owned());
        }
        headers
    }

    /// Returns whether a request is one-way and asks for the batch size of its method. Records that
    /// it asks, which forgets the batch size if no worker has answered for a long time.
    fn oneway_asks_batch_size(&self, request: &QueuedRequest, now: Instant) -> bool {
        let plan = request.plan();
        // A direct reply-to address could not receive the answer: it is valid only in the property
        // `reply_to`, which would make the request a call.
        let may_ask =
            plan.method.is_oneway() && fits_in_batch(plan) && self.options.reply_queue != ReplyQueue::Direct;
        // Calls that are made one after another gain nothing from batches, so they do not ask.
        let asks = |batch_size: &LearnedBatchSize| self.in_flight.len() > 1 && batch_size.record_oneway(now);
        may_ask && plan.batch_size().is_some_and(asks)
    }
}

/// Counts a message that holds this many calls and goes to the transport.
pub(super) fn count_sent(destination: &Destination, calls: usize) {
    let queue = destination.queue.as_str();
    count(Event::CallsSent { queue, calls });
}
