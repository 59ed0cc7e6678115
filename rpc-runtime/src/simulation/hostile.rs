//! Messages of a hostile peer, which may publish to every queue. No method sees any of them, so
//! they must not break a promise.

use bytes::Bytes;
use fastrand::Rng;
use uuid::Uuid;

use crate::protocol::{BATCH_TYPE, ITEMS_TYPE, Message, Properties, ShortStr};
use crate::transport::memory::{InProcessBroker, MALFORMED_HEADER, MemoryTransport};

/// The request queue.
pub(super) const QUEUE: &str = "work";

/// The queue for batches.
pub(super) const BATCH_QUEUE: &str = "work.batch";

/// A message that a hostile peer publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostileMessage {
    content: Content,
    /// Whether its properties are malformed.
    is_malformed: bool,
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Bytes that are neither arguments nor a result.
    Garbage,
    /// An unknown method, or a message of an unknown type.
    Unknown,
    /// An unknown content type.
    Foreign,
    /// A batch that cannot be decoded.
    Batch,
    /// Items of a stream that cannot be decoded.
    Items,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Requests,
    BatchedRequests,
    /// All reply queues of this caller, also those for the answers to broadcasts.
    Replies(usize),
}

impl HostileMessage {
    pub(super) fn random(rng: &mut Rng, callers: usize) -> Self {
        Self {
            content: [
                Content::Garbage,
                Content::Unknown,
                Content::Foreign,
                Content::Batch,
                Content::Items,
            ][rng.usize(..5)],
            is_malformed: rng.bool(),
            target: match rng.u8(..3) {
                0 => Target::Requests,
                1 => Target::BatchedRequests,
                _ => Target::Replies(rng.usize(..callers)),
            },
        }
    }

    /// Puts the message into its target queues, if they exist. `transport_of` returns the transport
    /// of a caller.
    pub(super) fn publish<'a>(
        self,
        broker: &InProcessBroker,
        transport_of: impl FnOnce(usize) -> &'a MemoryTransport,
    ) {
        match self.target {
            Target::Requests => broker.inject(QUEUE, self.message("read")),
            Target::BatchedRequests => broker.inject(BATCH_QUEUE, self.message(BATCH_TYPE)),
            Target::Replies(caller) => {
                for address in transport_of(caller).reply_queues() {
                    broker.inject(&address, self.message("result"));
                }
            }
        }
    }

    /// Makes the message. `kind` is the type that messages of its target have, unless the content
    /// needs another one.
    fn message(self, kind: &'static str) -> Message {
        let (kind, content_type) = match self.content {
            Content::Garbage => (kind, "application/json"),
            Content::Unknown => ("erase", "application/json"),
            Content::Foreign => (kind, "image/png"),
            Content::Batch => (BATCH_TYPE, "application/msgpack"),
            Content::Items => (ITEMS_TYPE, "application/msgpack"),
        };
        let mut properties = Properties {
            kind: Some(ShortStr::from_static(kind)),
            content_type: Some(ShortStr::from_static(content_type)),
            // No call has this id.
            correlation_id: Some(ShortStr::from_uuid(Uuid::nil())),
            // An address that workers reply to, but no such queue exists.
            reply_to: Some(ShortStr::from_static("amq.gen-hostile")),
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
