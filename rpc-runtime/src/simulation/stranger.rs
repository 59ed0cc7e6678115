//! Somebody who may publish to every queue of a world, and wants to do harm. Nothing of it is for a method to see, so all promises hold.

use bytes::Bytes;
use fastrand::Rng;
use uuid::Uuid;

use super::world::{BATCHED_QUEUE, QUEUE};
use crate::protocol::{BATCH_TYPE, Message, Properties, ShortStr};
use crate::transport::memory::faults::MALFORMED_HEADER;
use crate::transport::memory::{InProcessBroker, MemoryTransport};

/// A message of a stranger's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hostility {
    content: Content,
    /// The properties cannot be read.
    is_malformed: bool,
    to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Bytes that are no arguments, and no result.
    Garbage,
    /// The method does not exist, or the reply is of no kind that is known.
    Unknown,
    /// It is to be compressed, or in a content type that is not known.
    Foreign,
    /// Several calls or answers in one message, that cannot be read.
    Batch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Requests,
    BatchedRequests,
    /// The reply address of this caller.
    Replies(usize),
}

impl Hostility {
    pub(super) fn any(rng: &mut Rng, callers: usize) -> Self {
        Self {
            content: [
                Content::Garbage,
                Content::Unknown,
                Content::Foreign,
                Content::Batch,
            ][rng.usize(..4)],
            is_malformed: rng.bool(),
            to: match rng.u8(..3) {
                0 => To::Requests,
                1 => To::BatchedRequests,
                _ => To::Replies(rng.usize(..callers)),
            },
        }
    }

    /// Publishes it.
    pub(super) fn happen<'a>(
        self,
        broker: &InProcessBroker,
        transport_of: impl FnOnce(usize) -> &'a MemoryTransport,
    ) {
        match self.to {
            To::Requests => broker.inject(QUEUE, self.message("read")),
            To::BatchedRequests => broker.inject(BATCHED_QUEUE, self.message(BATCH_TYPE)),
            To::Replies(caller) => {
                for address in transport_of(caller).reply_queues() {
                    broker.inject(&address, self.message("result"));
                }
            }
        }
    }

    fn message(self, kind: &'static str) -> Message {
        let (kind, content_type) = match self.content {
            Content::Garbage => (kind, "application/json"),
            Content::Unknown => ("erase", "application/json"),
            Content::Foreign => (kind, "image/png"),
            Content::Batch => (BATCH_TYPE, "application/msgpack"),
        };
        let mut properties = Properties {
            kind: Some(ShortStr::from_static(kind)),
            content_type: Some(ShortStr::from_static(content_type)),
            // Of no call.
            correlation_id: Some(ShortStr::from_uuid(Uuid::nil())),
            reply_to: Some(ShortStr::from_static("amq.gen-stranger")),
            ..Properties::default()
        };
        if self.is_malformed {
            let name = ShortStr::from_static(MALFORMED_HEADER);
            properties.headers.insert(name, String::new());
        }
        Message {
            properties,
            body: Bytes::from_static(b"\xff{[\x00"),
        }
    }
}
