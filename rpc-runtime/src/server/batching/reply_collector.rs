//! Collects the replies to the requests of one batch.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use uuid::Uuid;

use super::reply_batch::{BatchKey, ReplyGroup};
use crate::codec::Codec;
use crate::protocol::{
    BatchedReply, MAX_BATCH_CALLS, MAX_PART_BYTES, Message, ReplyKind, ShortStr, headers_size,
};
use crate::server::outgoing_reply::OutgoingReply;
use crate::server::pending_acks::{PendingAcks, RequestsInProgress};
use crate::server::request_handler::RequestHandler;
use crate::service::{ReplyTo, Response};

/// How long collected replies wait for later requests of the same batch, counted from when replies
/// were last sent for this reason, or when the collecting began. Checked only when a request ends.
const MAX_WAIT: Duration = Duration::from_micros(250);

/// A request that had to wait.
pub(super) struct Deferral {
    pub(super) id: Uuid,
    pub(super) deadline: Option<Instant>,
    pub(super) acks: PendingAcks,
    /// The request, if it expects no reply and jobs are served on its queue: it may be a job.
    pub(super) job: Option<Message>,
}

/// The response to a request that had to wait.
pub(super) struct DeferredResponse {
    pub(super) deferral: Deferral,
    pub(super) response: Response,
}

/// The replies to the requests of one batch, until they are sent.
pub(super) struct ReplyCollector<'a> {
    handler: &'a Arc<RequestHandler>,
    in_progress: &'a RequestsInProgress,
    /// Where the replies go. `None` if the sender expects none.
    address: Option<&'a ShortStr>,
    /// The replies that are not sent yet.
    group: ReplyGroup,
    /// When [`send_if_due`](Self::send_if_due) last sent replies, or when the collecting began.
    last_sent: Instant,
    /// How many times the batch was rejected before.
    rejections: u32,
    /// How long messages waited in the queue when the batch was received.
    queue_time: Duration,
    /// Failed requests without a reply: the jobs among them are being moved to other queues.
    moving: FuturesUnordered<BoxFuture<'a, ()>>,
}

impl<'a> ReplyCollector<'a> {
    pub(super) fn new(
        handler: &'a Arc<RequestHandler>,
        in_progress: &'a RequestsInProgress,
        codec: Codec,
        address: Option<&'a ShortStr>,
        rejections: u32,
        queue_time: Duration,
    ) -> Self {
        let address = address.filter(|address| !address.as_str().is_empty());
        let key = BatchKey {
            address: address.cloned().unwrap_or(ShortStr::from_static("")),
            codec,
        };
        Self {
            handler,
            in_progress,
            address,
            group: ReplyGroup::new(key, PendingAcks::new(&handler.deduplicator, in_progress)),
            last_sent: Instant::now(),
            rejections,
            queue_time,
            moving: FuturesUnordered::new(),
        }
    }

    /// The acks of the collected replies. After an ack is added, its response must be
    /// [pushed](Self::push), or the ack split off, before another one is added.
    pub(super) fn acks(&mut self) -> &mut PendingAcks {
        &mut self.group.acks
    }

    /// Sets aside the request whose ack was added last, because it has to wait. See [`Deferral`]
    /// for `job`.
    pub(super) fn defer_last(
        &mut self,
        id: Uuid,
        deadline: Option<Instant>,
        job: Option<Message>,
    ) -> Deferral {
        Deferral {
            id,
            deadline,
            acks: self.group.acks.split_last(),
            job,
        }
    }

    /// Adds the response to the request whose ack was added last. Sends a large reply at once, and
    /// the collected replies once a batch is full. A request that gets no reply ends here: it is
    /// acked, rejected, or moved to another queue. See [`Deferral`] for `job`.
    pub(super) fn push(
        &mut self,
        id: Uuid,
        response: Response,
        deadline: Option<Instant>,
        job: Option<Message>,
    ) {
        let batch_size = self.handler.advised_batch_size(response.batch_size);
        let Response {
            mut reply,
            is_refused,
            is_cancelled,
            ..
        } = response;
        if is_cancelled {
            return self.group.acks.split_last().ack();
        }
        let Some(address) = self.address else {
            let acks = self.group.acks.split_last();
            match (&self.handler.jobs, job) {
                (Some(jobs), Some(message)) if reply.kind != ReplyKind::Result => {
                    let handler = self.handler;
                    self.moving.push(Box::pin(async move {
                        handler.end_job(jobs, message, &reply, is_refused, acks).await;
                    }));
                }
                _ if is_refused => self.handler.reject(acks, self.rejections),
                _ => acks.ack(),
            }
            return;
        };
        reply.queue_time = self.queue_time.into();
        // A large reply gains nothing from sharing a message.
        if reply.body.len() + headers_size(&reply.headers) > MAX_PART_BYTES {
            return self.handler.reply_sender.send(OutgoingReply {
                to: ReplyTo {
                    address: address.clone(),
                    correlation_id: Some(ShortStr::from_uuid(id)),
                    content_type: None,
                },
                reply,
                batch_size,
                deadline,
                acks: self.group.acks.split_last(),
                may_have_closed_channel: false,
            });
        }
        let reply = BatchedReply {
            id,
            kind: reply.kind,
            body: reply.body,
            batch_size,
            headers: reply.headers,
            queue_time: reply.queue_time,
        };
        self.group.push(reply, deadline);
        if self.group.is_full(self.handler.executor.rules.max_sent_bytes) {
            self.send();
        }
    }

    /// Sends the collected replies if [`MAX_WAIT`] has passed.
    pub(super) fn send_if_due(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_sent) >= MAX_WAIT {
            self.send();
            self.last_sent = now;
        }
    }

    /// Sends the collected replies.
    pub(super) fn send(&mut self) {
        let acks = PendingAcks::new(&self.handler.deduplicator, self.in_progress);
        let empty = ReplyGroup::new(self.group.key.clone(), acks);
        let group = std::mem::replace(&mut self.group, empty);
        self.handler.reply_sender.send_group(group);
    }

    /// Waits for the deferred responses and sends them. Those that are ready at the same time are
    /// sent together. Meanwhile, failed jobs are moved to other queues.
    pub(super) async fn send_deferred(
        &mut self,
        deferred: FuturesUnordered<BoxFuture<'_, Option<DeferredResponse>>>,
    ) {
        let mut deferred = deferred.ready_chunks(MAX_BATCH_CALLS);
        loop {
            let responses = tokio::select! {
                Some(()) = self.moving.next() => continue,
                responses = deferred.next() => responses,
            };
            let Some(responses) = responses else { return };
            // `None` would mean that the request got no permit, which never happens.
            for DeferredResponse {
                deferral:
                    Deferral {
                        id,
                        deadline,
                        acks,
                        job,
                    },
                response,
            } in responses.into_iter().flatten()
            {
                self.group.acks.append(acks);
                self.push(id, response, deadline, job);
            }
            self.send();
        }
    }

    /// Waits for the failed jobs that are still being moved.
    pub(super) async fn move_jobs(&mut self) {
        while let Some(()) = self.moving.next().await {}
    }
}
