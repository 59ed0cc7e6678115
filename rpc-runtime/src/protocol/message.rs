//! A message as all transports carry it: a body and the AMQP properties that this protocol uses.

use std::time::Duration;

use bytes::Bytes;

use super::headers::Headers;
use super::{DeadLettered, ShortStr};

/// An outgoing or incoming message.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

/// The basic properties of AMQP 0-9-1 that this protocol uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Properties {
    /// AMQP's `type`: a request's method, a reply's kind, or what other message this is, such as
    /// `rpc.batch`.
    pub(crate) kind: Option<ShortStr>,
    pub(crate) content_type: Option<ShortStr>,
    /// The compression of the body, or the charset of its text.
    pub(crate) content_encoding: Option<ShortStr>,
    pub(crate) correlation_id: Option<ShortStr>,
    pub(crate) reply_to: Option<ShortStr>,
    /// AMQP's `expiration`: the message's time to live. On the wire it is rounded down to a
    /// millisecond.
    pub(crate) expiration: Option<Duration>,
    /// AMQP's `delivery_mode` 2: the broker keeps the message on disk if the queue is durable.
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) app_id: Option<ShortStr>,
    /// The RabbitMQ user that published the message. RabbitMQ validates it.
    pub(crate) user_id: Option<ShortStr>,
    pub(crate) headers: Headers,
    /// The history of a dead-lettered message. Only in incoming messages.
    pub(crate) dead_lettered: Option<DeadLettered>,
}

/// Converts a body to [`Bytes`]. Frees its unused memory if that is more than a quarter of its
/// length: a large body comes in several frames, and a `Vec` that grows doubles its capacity.
pub(crate) fn body_of(mut bytes: Vec<u8>) -> Bytes {
    let unused = bytes.capacity() - bytes.len();
    if unused > bytes.len() / 4 {
        bytes.shrink_to_fit();
    }
    Bytes::from(bytes)
}

impl Properties {
    /// Subtracts the time that the message has waited to be sent from its expiration. The rest is
    /// rounded down to a millisecond, but is never zero: with zero, the broker drops a message that
    /// no consumer takes at once (RabbitMQ, "Time-To-Live and Expiration").
    pub(crate) fn shorten_expiration(&mut self, waited: Duration) {
        if let Some(expiration) = &mut self.expiration {
            let left = expiration.saturating_sub(waited).as_millis().max(1);
            *expiration = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_keeps_little_more_memory_than_it_has_bytes() {
        for (capacity, kept) in [(1000, 1000), (1200, 1200), (2000, 1000)] {
            let mut bytes = Vec::with_capacity(capacity);
            bytes.resize(1000, 7);
            let body = body_of(bytes).try_into_mut().unwrap();
            assert_eq!((body.capacity(), body.len()), (kept, 1000));
        }
    }

    #[test]
    fn an_expiration_is_shortened_to_a_millisecond_at_least() {
        let after = |expiration, waited| {
            let mut properties = Properties {
                expiration,
                ..Properties::default()
            };
            properties.shorten_expiration(Duration::from_micros(waited));
            properties.expiration
        };
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(after(None, 5000), None);
        assert_eq!(after(millis(30), 0), millis(30));
        assert_eq!(after(millis(30), 25_000), millis(5));
        assert_eq!(after(millis(30), 29_999), millis(1));
        assert_eq!(after(millis(30), 31_000), millis(1));
    }
}
