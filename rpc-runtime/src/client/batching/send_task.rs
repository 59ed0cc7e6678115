//! The task that collects requests into batches and publishes them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::batch_key::{BatchKey, can_share_message, publishes_at_once};
use super::held_requests::HeldRequests;
use crate::client::in_flight_calls::InFlightCalls;
use crate::client::queued_request::QueuedRequest;
use crate::client::request_publisher::{RequestPublisher, count_sent};
use crate::protocol::{Batcher, Load, MAX_BATCH_CALLS, fair_share, receive_more};

/// Publishes the requests that [`RequestSender`](crate::client::request_sender::RequestSender) does
/// not publish itself: those that may be batched, that are held back, or that have to wait for the
/// broker or behind others.
pub(in crate::client) struct SendTask {
    publisher: Arc<RequestPublisher>,
    in_flight: Arc<InFlightCalls>,
    /// Received requests that wait to be distributed: published, held back, or added to the lane of
    /// the requests with the same batch key.
    backlog: VecDeque<QueuedRequest>,
    /// If the backlog is longer than this, withdrawn requests are dropped.
    prune_above: usize,
    held: HeldRequests,
    batcher: Batcher<BatchKey, QueuedRequest>,
    /// Each future publishes a message and waits until its outcome is known. Then it returns the
    /// batch key of the message, if that came from the batcher.
    unconfirmed: FuturesUnordered<BoxFuture<'static, Option<BatchKey>>>,
}

impl SendTask {
    pub(in crate::client) fn new(publisher: Arc<RequestPublisher>, in_flight: Arc<InFlightCalls>) -> Self {
        let batcher = Batcher::new(publisher.max_sent_bytes());
        Self {
            publisher,
            in_flight,
            backlog: VecDeque::new(),
            prune_above: MAX_BATCH_CALLS,
            held: HeldRequests::default(),
            batcher,
            unconfirmed: FuturesUnordered::new(),
        }
    }

    /// Publishes requests until their sender is dropped and the outcome of each is known.
    pub(in crate::client) async fn run(mut self, mut requests: UnboundedReceiver<QueuedRequest>) {
        let (publisher, in_flight) = (Arc::clone(&self.publisher), Arc::clone(&self.in_flight));
        let mut received = Vec::new();
        let mut is_open = true;
        while is_open || self.has_work() {
            tokio::select! {
                biased;
                Some(batch_key) = self.unconfirmed.next() => if let Some(key) = batch_key {
                    self.batcher.done(&key);
                },
                // While the broker is not ready, requests wait here, where they can be withdrawn.
                () = publisher.wait_ready(), if !self.backlog.is_empty() || self.batcher.has_ready() => {
                    self.distribute_backlog();
                    self.publish_batches();
                    // From now on, new requests may be published past this task. One that arrives
                    // between the check and the store may be overtaken, but is not forgotten.
                    if self.backlog.is_empty() && requests.is_empty() {
                        self.publisher.has_backlog.store(false, Ordering::Relaxed);
                    }
                }
                // The batch size of a method may be known now. Requests of other methods are held
                // back again.
                () = in_flight.first_reply.notified(), if self.held.has_release_time() => {
                    self.backlog.extend(self.held.take());
                }
                () = self.held.wait_release_time() => self.release_held(),
                count = requests.recv_many(&mut received, MAX_BATCH_CALLS), if is_open => {
                    is_open = count > 0;
                    // Lets other tasks send more requests that can share a message with these.
                    if received.iter().any(can_share_message) {
                        receive_more(&mut requests, &mut received).await;
                    }
                    self.backlog.extend(received.drain(..));
                    self.drop_withdrawn();
                }
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.backlog.is_empty() || !self.unconfirmed.is_empty() || self.held.has_release_time()
    }

    /// Drops withdrawn requests once the backlog is long, so that they take at most about as much
    /// memory as those that wait. Waits until the backlog has doubled before it looks again, so
    /// that it checks each request only a few times.
    fn drop_withdrawn(&mut self) {
        if self.backlog.len() > self.prune_above {
            self.backlog.retain(|request| !request.is_withdrawn());
            self.prune_above = MAX_BATCH_CALLS.max(2 * self.backlog.len());
        }
    }

    /// Moves the held requests to the backlog, as the time to release them has come. Further
    /// requests of their methods are not held back.
    fn release_held(&mut self) {
        let requests = self.held.release();
        for request in &requests {
            if let Some(batch_size) = request.plan().batch_size() {
                batch_size.stop_holding_back();
            }
        }
        self.backlog.extend(requests);
    }

    /// Takes requests from the backlog. Publishes each on its own, holds it back, or adds it to its
    /// lane. Takes only some at once, because a request takes less memory in the backlog than in
    /// the batcher or in a message.
    fn distribute_backlog(&mut self) {
        let now = Instant::now();
        let count = self.backlog.len().min(MAX_BATCH_CALLS);
        let mut backlog = std::mem::take(&mut self.backlog);
        // Consecutive requests usually have the same key.
        let mut group: Option<(BatchKey, Vec<(QueuedRequest, Load)>)> = None;
        for request in backlog.drain(..count) {
            // The transport did not accept its message before, which was built to be sent alone.
            if request.built.is_some() {
                self.publish_single(request, None);
                continue;
            }
            let Some((key, load)) = BatchKey::of(&request, now) else {
                if publishes_at_once(&request) {
                    self.publish_single(request, None);
                } else {
                    self.held.add(request, now);
                }
                continue;
            };
            match &mut group {
                Some((group_key, requests)) if *group_key == key => requests.push((request, load)),
                _ => {
                    let finished = group.replace((key, vec![(request, load)]));
                    self.enqueue_group(finished);
                }
            }
        }
        self.enqueue_group(group);
        self.backlog = backlog;
        if self.backlog.capacity() > 16 * MAX_BATCH_CALLS {
            // Releases the memory that a burst needed.
            self.backlog.shrink_to(MAX_BATCH_CALLS);
        }
    }

    /// Adds consecutive requests with the same key to their lane. Drops withdrawn requests from a
    /// long lane.
    fn enqueue_group(&mut self, group: Option<(BatchKey, Vec<(QueuedRequest, Load)>)>) {
        if let Some((key, requests)) = group {
            let is_waiting = |request: &QueuedRequest| !request.is_withdrawn();
            self.batcher.push_all(key, requests, is_waiting);
        }
    }

    /// Publishes the batches that are ready.
    fn publish_batches(&mut self) {
        let max_requests = |key: &BatchKey, waiting_in_lane| {
            // If several clients share the lane, these are the calls of only one of them.
            let in_flight = key.destination.limiter.in_flight();
            fair_share(in_flight.max(waiting_in_lane))
        };
        while let Some((key, mut requests)) = self.batcher.take_message(max_requests) {
            requests.retain(|request| !request.is_withdrawn());
            if requests.len() > 1 {
                self.publish_batch(requests, key);
            } else if let Some(request) = requests.pop() {
                self.publish_single(request, Some(key));
            } else {
                self.batcher.done(&key);
            }
        }
    }

    /// Publishes a request on its own, unless its call withdraws it before the transport sends it.
    /// `key` is the request's lane in the batcher; `None` if it did not come from there.
    fn publish_single(&mut self, mut request: QueuedRequest, key: Option<BatchKey>) {
        let message = self.publisher.single(&mut request);
        count_sent(&request.plan().destination, 1);
        let publisher = Arc::clone(&self.publisher);
        self.unconfirmed.push(Box::pin(async move {
            request.confirm.resolve(publisher.publish(message).await);
            key
        }));
    }

    /// Publishes requests in one message, except those that were withdrawn.
    fn publish_batch(&mut self, mut requests: Vec<QueuedRequest>, key: BatchKey) {
        requests.retain(|request| request.confirm.mark_sent());
        let Some(message) = self.publisher.batch(&requests) else {
            // All were withdrawn.
            self.batcher.done(&key);
            return;
        };
        count_sent(&key.destination, requests.len());
        let confirms: Vec<_> = requests.into_iter().map(|request| request.confirm).collect();
        for confirm in &confirms {
            confirm.call().set_batched();
        }
        let publisher = Arc::clone(&self.publisher);
        self.unconfirmed.push(Box::pin(async move {
            let published = publisher.publish(message).await;
            for confirm in confirms {
                confirm.resolve(published.clone());
            }
            Some(key)
        }));
    }
}
