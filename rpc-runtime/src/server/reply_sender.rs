//! Sends replies: single ones at once, those of batches together if they go to the same caller.

use std::sync::{Arc, PoisonError};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::batching::{BatchKey, ReplyBatch, send_together};
use super::outgoing_reply::OutgoingReply;
use super::reply_channel::ReplyChannel;
use crate::protocol::{Batcher, Load, MAX_BATCH_CALLS, gather};
use crate::transport::{Published, Receipt, supervised};

/// Sends replies and acks their requests.
///
/// The queue has no bound of its own: it never holds more replies than there are requests in
/// progress, which the prefetch limits.
#[derive(Debug, Clone)]
pub(super) struct ReplySender {
    queue: UnboundedSender<QueuedReply>,
    channel: Arc<ReplyChannel>,
}

#[derive(Debug)]
enum QueuedReply {
    Single(Box<OutgoingReply>),
    Batch(ReplyBatch),
}

impl ReplySender {
    /// Returns a sender and its task, which ends with the last clone of the sender.
    ///
    /// If the task panics, the requests of the replies that it was sending are abandoned. It then
    /// continues with the replies that are still queued.
    pub(super) fn new(channel: Arc<ReplyChannel>) -> (Self, impl Future<Output = ()>) {
        let (queue, queued) = unbounded_channel();
        let sender = Self {
            queue,
            channel: Arc::clone(&channel),
        };
        let queued = Arc::new(Mutex::new(queued));
        let task = supervised("replies", move || {
            let task = SenderTask {
                channel: Arc::clone(&channel),
                batcher: Batcher::new(),
                in_flight: FuturesUnordered::new(),
            };
            task.run(Arc::clone(&queued))
        });
        (sender, task)
    }

    /// Sends a reply in a message of its own, at once if possible.
    pub(super) fn send(&self, reply: OutgoingReply) {
        let (message, max_unchecked) = (reply.message(), reply.max_unchecked);
        let in_flight = Arc::new(InFlightReply {
            reply: std::sync::Mutex::new(Some(Box::new(reply))),
            sender: self.clone(),
        });
        let receipt = Arc::clone(&in_flight) as Arc<dyn Receipt>;
        if self.channel.try_send(message, receipt, max_unchecked).is_err()
            && let Some(reply) = in_flight.take()
        {
            self.enqueue(QueuedReply::Single(reply));
        }
    }

    /// Sends the replies of a batch, together with others to the same caller if some are queued.
    pub(super) fn send_batch(&self, batch: ReplyBatch) {
        if !batch.replies.is_empty() {
            self.enqueue(QueuedReply::Batch(batch));
        }
    }

    fn enqueue(&self, reply: QueuedReply) {
        // This fails only if the server was dropped. The broker delivers the requests again then.
        let _ = self.queue.send(reply);
    }
}

/// A single reply that waits for its confirm.
struct InFlightReply {
    reply: std::sync::Mutex<Option<Box<OutgoingReply>>>,
    sender: ReplySender,
}

impl InFlightReply {
    fn take(&self) -> Option<Box<OutgoingReply>> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Receipt for InFlightReply {
    fn published(self: Arc<Self>, published: Published) {
        let Some(mut reply) = self.take() else { return };
        match published {
            // A returned reply has no caller any more.
            Published::Routed | Published::Returned => reply.acks.ack(),
            Published::Refused => reply.refused(&self.sender.channel),
            // The handle was closed, so the broker delivers the request elsewhere.
            Published::Failed { source, .. } if source.is_of_ended_handle() => {}
            // The task sends it again, as often as necessary.
            Published::Failed { .. } | Published::Withdrawn => {
                reply.is_suspect = published.is_of_channel();
                self.sender.enqueue(QueuedReply::Single(reply));
            }
        }
    }
}

struct SenderTask {
    channel: Arc<ReplyChannel>,
    batcher: Batcher<BatchKey, ReplyBatch>,
    /// Each future resolves once its message was sent, to the key if it was a batch.
    in_flight: FuturesUnordered<BoxFuture<'static, Option<BatchKey>>>,
}

impl SenderTask {
    async fn run(mut self, queued: Arc<Mutex<UnboundedReceiver<QueuedReply>>>) {
        // Only one task runs at a time.
        let mut queued = queued.lock().await;
        let mut received = Vec::new();
        let mut is_open = true;
        while is_open || !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                Some(sent) = self.in_flight.next() => if let Some(key) = sent {
                    self.batcher.done(&key);
                },
                count = queued.recv_many(&mut received, MAX_BATCH_CALLS), if is_open => {
                    is_open = count > 0;
                    if received.iter().any(|reply| matches!(reply, QueuedReply::Batch(_))) {
                        gather(&mut queued, &mut received).await;
                    }
                }
            }
            for reply in received.drain(..) {
                self.accept(reply);
            }
            while let Some((key, batches)) = self.batcher.next() {
                let channel = Arc::clone(&self.channel);
                self.in_flight.push(Box::pin(async {
                    Some(send_together(channel, key, batches).await)
                }));
            }
        }
    }

    fn accept(&mut self, reply: QueuedReply) {
        match reply {
            QueuedReply::Single(reply) => {
                let channel = Arc::clone(&self.channel);
                self.in_flight.push(Box::pin(async move {
                    reply.send(&channel).await;
                    None
                }));
            }
            QueuedReply::Batch(batch) => {
                let load = Load::of_many(batch.bytes, batch.replies.len());
                self.batcher.push(batch.key.clone(), batch, load);
            }
        }
    }
}
