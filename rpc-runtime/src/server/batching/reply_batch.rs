//! Replies to batched requests that may share a message.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::codec::Codec;
use crate::protocol::{
    BATCH_TYPE, BatchedAnswer, MAX_BATCH_BYTES, MAX_BATCH_CALLS, MAX_PART_BYTES, Message, Properties, Reply,
    ShortStr, headers_size, write_batch,
};
use crate::server::outgoing_reply::{OutgoingReply, with_grace_period};
use crate::server::pending_acks::PendingAcks;
use crate::server::reply_channel::{ReplyChannel, SendOutcome};
use crate::service::ReplyTo;
use crate::telemetry::{Event, count};
use crate::transport::{Departure, Outgoing};

/// The most that an id and lengths add to a reply in a batch, in bytes.
const OVERHEAD: usize = 48;

/// What replies that share a message have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::server) struct BatchKey {
    pub(super) address: ShortStr,
    pub(super) codec: Codec,
}

/// Replies to batched requests of one caller.
#[derive(Debug)]
pub(in crate::server) struct ReplyBatch {
    pub(in crate::server) key: BatchKey,
    pub(in crate::server) replies: Vec<BatchedAnswer>,
    /// The size of the replies.
    pub(in crate::server) bytes: usize,
    /// The latest deadline of the replies. `None` if one of them has no deadline.
    deadline: Option<Instant>,
    /// One ack for each reply, in the same order.
    pub(super) acks: PendingAcks,
}

impl ReplyBatch {
    /// A batch without replies.
    pub(super) fn new(key: BatchKey, acks: PendingAcks) -> Self {
        Self {
            key,
            replies: Vec::new(),
            bytes: 0,
            deadline: Some(Instant::now()),
            acks,
        }
    }

    /// Adds a reply, whose ack must be the one that was added last.
    pub(super) fn push(&mut self, reply: BatchedAnswer, deadline: Option<Instant>) {
        self.bytes += reply.body.len() + headers_size(&reply.headers) + OVERHEAD;
        self.deadline = self.deadline.zip(deadline).map(|(one, other)| one.max(other));
        self.replies.push(reply);
    }

    /// Whether another reply may not fit into the message.
    pub(super) fn is_full(&self) -> bool {
        self.replies.len() >= MAX_BATCH_CALLS || self.bytes + MAX_PART_BYTES + OVERHEAD > MAX_BATCH_BYTES
    }

    /// Splits the batch into single replies.
    fn split(self) -> impl Iterator<Item = OutgoingReply> {
        let Self {
            key,
            replies,
            deadline,
            acks,
            ..
        } = self;
        replies
            .into_iter()
            .zip(acks.split())
            .map(move |(reply, acks)| OutgoingReply {
                to: ReplyTo {
                    address: key.address.clone(),
                    correlation_id: Some(ShortStr::from_uuid(reply.id)),
                    content_type: None,
                },
                reply: Reply {
                    kind: reply.kind,
                    codec: key.codec,
                    body: reply.body,
                    headers: reply.headers,
                    unknown_type: None,
                },
                batch_size: reply.wanted,
                deadline,
                acks,
                is_suspect: false,
                max_unchecked: 1,
            })
    }
}

/// Sends batches with the same key in one message, then acks their requests. If the broker refuses
/// that message, it sends each reply in a message of its own. Returns the key.
pub(in crate::server) async fn send_together(
    channel: Arc<ReplyChannel>,
    key: BatchKey,
    batches: Vec<ReplyBatch>,
) -> BatchKey {
    let replies = batches.iter().map(|batch| batch.replies.len()).sum::<usize>();
    if replies > 1 {
        // One reply that a caller still waits for is reason enough to send the message.
        let deadlines = batches.iter().map(|batch| batch.deadline);
        let deadline = deadlines.reduce(|one, other| Some(one?.max(other?))).flatten();
        let outgoing = Outgoing {
            queue: key.address.clone(),
            mandatory: false,
            message: message(&batches, key.codec),
            departure: Departure::default(),
        };
        let deadline = deadline.map(with_grace_period);
        match channel.send(outgoing, deadline, false).await {
            Ok(SendOutcome::Confirmed) => {
                batches.into_iter().for_each(|batch| batch.acks.ack());
                return key;
            }
            Ok(SendOutcome::Expired) => {
                for _ in 0..replies {
                    count(Event::ReplyLost {
                        reason: "no_connection",
                    });
                }
                channel.log.expired();
                batches.into_iter().for_each(|batch| batch.acks.ack());
                return key;
            }
            // The broker may still take some of the replies.
            Ok(SendOutcome::Refused(_)) => {}
            // The handle was closed, so the broker delivers the requests elsewhere.
            Err(_) => return key,
        }
    }
    let singles = batches.into_iter().flat_map(ReplyBatch::split);
    join_all(singles.map(async |reply| reply.send(&channel).await)).await;
    key
}

fn message(batches: &[ReplyBatch], codec: Codec) -> Message {
    let replies: Vec<_> = batches.iter().flat_map(|batch| &batch.replies).collect();
    Message {
        properties: Properties {
            kind: Some(ShortStr::from_static(BATCH_TYPE)),
            content_type: Some(ShortStr::from_static(codec.content_type())),
            ..Properties::default()
        },
        body: write_batch(&replies),
    }
}
