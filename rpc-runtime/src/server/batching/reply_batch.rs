//! Replies to batched requests. Several replies may share a message.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::codec::Codec;
use crate::protocol::{
    BATCH_TYPE, BatchedReply, MAX_BATCH_BYTES, MAX_BATCH_CALLS, MAX_PART_BYTES, Message, Properties, Reply,
    ShortStr, headers_size, write_batch,
};
use crate::server::outgoing_reply::{OutgoingReply, give_up_at};
use crate::server::pending_acks::PendingAcks;
use crate::server::reply_channel::{ReplyChannel, SendOutcome};
use crate::service::ReplyTo;
use crate::telemetry::{Event, count};
use crate::transport::Outgoing;

/// An upper bound of what a batch adds to the body and headers of a reply, in bytes: its id,
/// lengths and other fields.
const OVERHEAD: usize = 48;

/// What replies that share a message have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::server) struct BatchKey {
    pub(super) address: ShortStr,
    pub(super) codec: Codec,
}

/// Replies to batched requests of one caller. Groups with the same key may share a message.
#[derive(Debug)]
pub(in crate::server) struct ReplyGroup {
    pub(in crate::server) key: BatchKey,
    pub(in crate::server) replies: Vec<BatchedReply>,
    /// An upper estimate of the encoded size of the replies, with headers and overhead.
    pub(in crate::server) bytes: usize,
    /// The latest deadline of the replies. `None` if one of them has no deadline.
    deadline: Option<Instant>,
    /// One ack for each reply, in the same order.
    pub(super) acks: PendingAcks,
}

impl ReplyGroup {
    /// A group without replies. `acks` must have no requests.
    pub(super) fn new(key: BatchKey, acks: PendingAcks) -> Self {
        Self {
            key,
            replies: Vec::new(),
            bytes: 0,
            // Already passed, so that any deadline still ahead replaces it.
            deadline: Some(Instant::now()),
            acks,
        }
    }

    /// Adds a reply. Its ack must already be the last of `acks`.
    pub(super) fn push(&mut self, reply: BatchedReply, deadline: Option<Instant>) {
        self.bytes += reply.body.len() + headers_size(&reply.headers) + OVERHEAD;
        self.deadline = later(self.deadline, deadline);
        self.replies.push(reply);
    }

    /// Whether another reply might exceed the limits of a batch, or `max_sent_bytes`.
    pub(super) fn is_full(&self, max_sent_bytes: usize) -> bool {
        let next = MAX_PART_BYTES + OVERHEAD;
        let max_bytes = MAX_BATCH_BYTES.min(max_sent_bytes);
        self.replies.len() >= MAX_BATCH_CALLS || self.bytes + next > max_bytes
    }

    /// Splits the group into single replies.
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
                    queue_time: reply.queue_time,
                },
                batch_size: reply.batch_size,
                deadline,
                acks,
                may_have_closed_channel: false,
            })
    }
}

/// Sends groups with this key in one batch. Acks their requests once the broker has it, or once it
/// is given up. A single reply is sent in a message of its own, and so is each reply of a batch
/// that the broker refuses. Returns the key, so that the next groups with it can be sent.
pub(in crate::server) async fn send_together(
    channel: Arc<ReplyChannel>,
    key: BatchKey,
    groups: Vec<ReplyGroup>,
) -> BatchKey {
    let replies = groups.iter().map(|group| group.replies.len()).sum::<usize>();
    if replies > 1 {
        // The batch is worth sending for as long as the caller waits for one of its replies.
        let deadlines = groups.iter().map(|group| group.deadline);
        let deadline = deadlines.reduce(later).flatten();
        let outgoing = Outgoing {
            queue: key.address.clone(),
            mandatory: false,
            message: message(&groups, key.codec),
            send_token: None,
        };
        let deadline = Some(give_up_at(deadline));
        let may_have_closed_channel = false;
        match channel.send(outgoing, deadline, may_have_closed_channel).await {
            // `Unroutable` cannot happen, because replies are not mandatory.
            Ok(SendOutcome::Confirmed | SendOutcome::Unroutable) => {
                groups.into_iter().for_each(|group| group.acks.ack());
                return key;
            }
            // There was no connection, or no confirm came.
            Ok(SendOutcome::Expired) => {
                for _ in 0..replies {
                    count(Event::ReplyLost {
                        reason: "no_connection",
                    });
                }
                channel.log.expired();
                groups.into_iter().for_each(|group| group.acks.ack());
                return key;
            }
            // The broker may still accept some of the replies.
            Ok(SendOutcome::Refused | SendOutcome::Unsendable(_)) => {}
            // The handle was closed, so the broker delivers the requests again.
            Err(_) => return key,
        }
    }
    let singles = groups.into_iter().flat_map(ReplyGroup::split);
    join_all(singles.map(async |reply| reply.send(&channel).await)).await;
    key
}

/// Returns the later of two deadlines. `None` is later than any.
fn later(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    Some(one?.max(other?))
}

fn message(groups: &[ReplyGroup], codec: Codec) -> Message {
    let replies: Vec<_> = groups.iter().flat_map(|group| &group.replies).collect();
    Message {
        properties: Properties {
            kind: Some(ShortStr::from_static(BATCH_TYPE)),
            content_type: Some(ShortStr::from_static(codec.content_type())),
            ..Properties::default()
        },
        body: write_batch(&replies),
    }
}
