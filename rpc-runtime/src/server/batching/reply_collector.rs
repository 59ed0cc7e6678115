//! Collects the replies to the requests of one batch.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use uuid::Uuid;

use super::reply_batch::{BatchKey, ReplyBatch};
use crate::codec::Codec;
use crate::protocol::{
    BatchedAnswer, MAX_BATCH_CALLS, MAX_PART_BYTES, QUEUE_TIME_HEADER, ShortStr, headers_size, write_millis,
};
use crate::server::outgoing_reply::OutgoingReply;
use crate::server::pending_acks::{PendingAcks, RequestsInProgress};
use crate::server::request_handler::RequestHandler;
use crate::service::{ReplyTo, Response};

/// How long replies wait for the requests of the same batch that run after theirs.
const MAX_WAIT: Duration = Duration::from_micros(250);

/// The response to a request that did not end at once.
pub(super) struct LateResponse {
    pub(super) id: Uuid,
    pub(super) response: Response,
    pub(super) deadline: Option<Instant>,
    pub(super) acks: PendingAcks,
}

/// The replies to the requests of one batch, until they are sent.
pub(super) struct ReplyCollector<'a> {
    handler: &'a Arc<RequestHandler>,
    in_progress: &'a RequestsInProgress,
    /// `None` if no replies are expected.
    address: Option<&'a ShortStr>,
    batch: ReplyBatch,
    last_sent: Instant,
    /// How often the batch was rejected before.
    rejections: u32,
    /// How long messages waited in the queue when the batch was received.
    queue_time: Duration,
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
            batch: ReplyBatch::new(key, PendingAcks::new(&handler.deduplicator, in_progress)),
            last_sent: Instant::now(),
            rejections,
            queue_time,
        }
    }

    /// The acks of the requests that were added. The reply to the last one must be pushed, or its
    /// ack split off, before another one is added.
    pub(super) fn acks(&mut self) -> &mut PendingAcks {
        &mut self.batch.acks
    }

    /// Adds the response to the request whose ack was added last.
    pub(super) fn push(&mut self, id: Uuid, response: Response, deadline: Option<Instant>) {
        let batch_size = self.handler.advised_batch_size(response.batch_size);
        let Response {
            mut reply,
            is_refused,
            ..
        } = response;
        let Some(address) = self.address else {
            let acks = self.batch.acks.split_last();
            if is_refused {
                self.handler.reject(acks, self.rejections);
            } else {
                acks.ack();
            }
            return;
        };
        write_millis(&mut reply.headers, QUEUE_TIME_HEADER, self.queue_time);
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
                acks: self.batch.acks.split_last(),
                is_suspect: false,
                max_unchecked: 1,
            });
        }
        let reply = BatchedAnswer {
            id,
            kind: reply.kind,
            body: reply.body,
            wanted: batch_size,
            headers: reply.headers,
        };
        self.batch.push(reply, deadline);
        if self.batch.is_full() {
            self.send();
        }
    }

    /// Sends the collected replies if they have waited long enough.
    pub(super) fn send_if_due(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_sent) >= MAX_WAIT {
            self.send();
            self.last_sent = now;
        }
    }

    /// Sends the collected replies.
    pub(super) fn send(&mut self) {
        let acks = PendingAcks::new(&self.handler.deduplicator, self.in_progress);
        let empty = ReplyBatch::new(self.batch.key.clone(), acks);
        let batch = std::mem::replace(&mut self.batch, empty);
        self.handler.reply_sender.send_batch(batch);
    }

    /// Waits for the late responses. Those that are ready at the same time are sent together.
    pub(super) async fn send_late(&mut self, late: FuturesUnordered<BoxFuture<'_, Option<LateResponse>>>) {
        let mut late = late.ready_chunks(MAX_BATCH_CALLS);
        while let Some(responses) = late.next().await {
            // `None` means that the handle was closed. The broker delivers the request again.
            for LateResponse {
                id,
                response,
                deadline,
                acks,
            } in responses.into_iter().flatten()
            {
                self.batch.acks.append(acks);
                self.push(id, response, deadline);
            }
            self.send();
        }
    }
}
