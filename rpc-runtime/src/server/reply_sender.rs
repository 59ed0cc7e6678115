//! Sends replies: single ones at once if possible, those to batched requests together if they go to
//! the same caller in the same codec.

use std::sync::{Arc, PoisonError};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::batching::{BatchKey, ReplyGroup, send_together};
use super::outgoing_reply::{OutgoingReply, give_up_at};
use super::reply_channel::{CONFIRM_GRACE, ReplyChannel};
use crate::protocol::{Batcher, Load, MAX_BATCH_CALLS, receive_more};
use crate::transport::{ConfirmListener, Published, restart_on_panic};

/// Sends replies and acks their requests.
///
/// The outbox is unbounded, but it never holds more replies than there are requests in progress.
/// The prefetch limits these, except for streams that have begun, which need a permit.
#[derive(Debug, Clone)]
pub(super) struct ReplySender {
    outbox: UnboundedSender<QueuedReply>,
    channel: Arc<ReplyChannel>,
}

#[derive(Debug)]
enum QueuedReply {
    Single(OutgoingReply),
    Group(ReplyGroup),
}

impl ReplySender {
    /// Returns a sender and the future that sends what is queued. Spawn it. It ends after the last
    /// clone of the sender is dropped and the queued replies are sent.
    ///
    /// If the sending panics, it starts again with the replies that are still in the outbox. Those
    /// that it had taken out are dropped, and their requests are abandoned: the broker delivers
    /// them again over a new subscription.
    pub(super) fn new(channel: Arc<ReplyChannel>, max_sent_bytes: usize) -> (Self, impl Future<Output = ()>) {
        let (outbox, queued) = unbounded_channel();
        let sender = Self {
            outbox,
            channel: Arc::clone(&channel),
        };
        // The mutex only lets a restarted task take over the receiver. It is never contended.
        let queued = Arc::new(Mutex::new(queued));
        let task = restart_on_panic("replies", move || {
            let task = SenderTask {
                channel: Arc::clone(&channel),
                batcher: Batcher::new(max_sent_bytes),
                in_flight: FuturesUnordered::new(),
            };
            task.run(Arc::clone(&queued))
        });
        (sender, task)
    }

    /// Sends a reply in a message of its own, at once if possible. Otherwise queues it.
    pub(super) fn send(&self, reply: OutgoingReply) {
        let message = reply.message();
        let in_flight = Arc::new(InFlightReply {
            give_up_at: give_up_at(reply.deadline) + CONFIRM_GRACE,
            reply: std::sync::Mutex::new(Some(reply)),
            sender: self.clone(),
        });
        let listener = Arc::clone(&in_flight) as Arc<dyn ConfirmListener>;
        if self.channel.try_send(message, listener).is_err()
            && let Some(reply) = in_flight.take()
        {
            self.enqueue(QueuedReply::Single(reply));
        }
    }

    /// Queues a group of replies. They are sent together, in one message with other queued groups
    /// of the same key; see [`send_together`]. Does nothing if the group is empty.
    pub(super) fn send_group(&self, group: ReplyGroup) {
        if !group.replies.is_empty() {
            self.enqueue(QueuedReply::Group(group));
        }
    }

    fn enqueue(&self, reply: QueuedReply) {
        // This fails only if the server was dropped. The broker then delivers the requests again.
        let _ = self.outbox.send(reply);
    }
}

/// A single reply that waits for its confirm.
struct InFlightReply {
    /// `None` once its outcome is known, or if it was given up or could not leave at once.
    reply: std::sync::Mutex<Option<OutgoingReply>>,
    /// When its request is acked although the reply is not confirmed.
    give_up_at: Instant,
    sender: ReplySender,
}

impl InFlightReply {
    fn take(&self) -> Option<OutgoingReply> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ConfirmListener for InFlightReply {
    fn published(self: Arc<Self>, published: Published) {
        let Some(mut reply) = self.take() else { return };
        match published {
            // `Returned` cannot happen, because replies are not mandatory.
            Published::Confirmed | Published::Returned => reply.acks.ack(),
            Published::Refused => reply.end_refused(&self.sender.channel),
            // The handle was closed, so the broker delivers the request again.
            Published::Failed { source, .. } if source.is_handle_ended() => {}
            // The task sends the reply again, until the broker confirms it.
            Published::Failed { .. } | Published::Withdrawn => {
                let is_written = matches!(published, Published::Failed { written: true, .. });
                reply.may_have_closed_channel = is_written && published.is_channel_closed();
                self.sender.enqueue(QueuedReply::Single(reply));
            }
        }
    }

    /// Gives up the reply if its time is over, and acks its request, which must not take up the
    /// prefetch forever. A quorum queue without a majority never confirms a reply.
    fn still_unconfirmed(&self) {
        if self.give_up_at <= Instant::now()
            && let Some(reply) = self.take()
        {
            reply.expire(&self.sender.channel);
        }
    }
}

/// Sends the queued replies.
struct SenderTask {
    channel: Arc<ReplyChannel>,
    batcher: Batcher<BatchKey, ReplyGroup>,
    /// Each future sends a message. It resolves to the key of the groups in it, or to `None` for a
    /// single reply.
    in_flight: FuturesUnordered<BoxFuture<'static, Option<BatchKey>>>,
}

impl SenderTask {
    /// Sends replies until none is queued any more, because the last sender was dropped, and none
    /// is in flight.
    async fn run(mut self, queued: Arc<Mutex<UnboundedReceiver<QueuedReply>>>) {
        // Never waits, because only one task runs at a time.
        let mut queued = queued.lock().await;
        let mut received = Vec::new();
        let mut is_outbox_open = true;
        while is_outbox_open || !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                Some(sent) = self.in_flight.next() => if let Some(key) = sent {
                    self.batcher.done(&key);
                },
                count = queued.recv_many(&mut received, MAX_BATCH_CALLS), if is_outbox_open => {
                    is_outbox_open = count > 0;
                    if received.iter().any(|reply| matches!(reply, QueuedReply::Group(_))) {
                        // Other batches may be about to have replies to the same callers, which can
                        // share the message.
                        receive_more(&mut queued, &mut received).await;
                    }
                }
            }
            for reply in received.drain(..) {
                self.accept(reply);
            }
            // The loads of the groups limit how many replies a message has.
            while let Some((key, groups)) = self.batcher.take_message(|_, _| MAX_BATCH_CALLS) {
                let channel = Arc::clone(&self.channel);
                self.in_flight.push(Box::pin(async {
                    Some(send_together(channel, key, groups).await)
                }));
            }
        }
    }

    /// Begins to send a single reply, or adds a group to those that wait for the same caller.
    fn accept(&mut self, reply: QueuedReply) {
        match reply {
            QueuedReply::Single(reply) => {
                let channel = Arc::clone(&self.channel);
                self.in_flight.push(Box::pin(async move {
                    reply.send(&channel).await;
                    None
                }));
            }
            QueuedReply::Group(group) => {
                let load = Load::of_replies(group.bytes, group.replies.len());
                self.batcher.push(group.key.clone(), group, load);
            }
        }
    }
}
