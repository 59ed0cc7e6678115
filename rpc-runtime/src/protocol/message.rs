//! A message as both transports carry it: AMQP's basic properties that this protocol uses, and a body.

use std::time::Duration;

use bytes::Bytes;

use super::headers::Headers;
use super::{DeadLettered, ShortStr};

/// A message, on its way out or just arrived.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

/// The basic properties of AMQP 0-9-1 that a request or a reply uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Properties {
    /// AMQP's `type`: a request's method, a reply's kind.
    pub(crate) kind: Option<ShortStr>,
    pub(crate) content_type: Option<ShortStr>,
    /// How the body is compressed, or the charset of its text.
    pub(crate) content_encoding: Option<ShortStr>,
    pub(crate) correlation_id: Option<ShortStr>,
    pub(crate) reply_to: Option<ShortStr>,
    /// AMQP's `expiration`: how long the message is worth delivering. Whole milliseconds on the wire.
    pub(crate) expiration: Option<Duration>,
    /// `delivery_mode` 2: the broker keeps the message on disk where the queue is durable.
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) app_id: Option<ShortStr>,
    /// The user who published; RabbitMQ has checked it against the publishing connection.
    pub(crate) user_id: Option<ShortStr>,
    pub(crate) headers: Headers,
    /// What the broker says of queues that gave the message up. Not sent.
    pub(crate) dead_lettered: Option<DeadLettered>,
}
