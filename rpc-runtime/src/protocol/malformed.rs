//! Malformed properties of a message.

use std::fmt;

/// The maximum nesting depth of a message's headers.
pub(crate) const MAX_HEADER_DEPTH: usize = 32;

/// Why the properties of a message are malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("its {0} is not UTF-8")]
    NotUtf8(Property),
    #[error("its {0} is cut off")]
    Truncated(Property),
    #[error("the name of a header is not UTF-8")]
    HeaderName,
    #[error("its headers are not a valid table")]
    InvalidHeaders,
    #[error("its headers are nested more than {MAX_HEADER_DEPTH} levels deep")]
    DeepHeaders,
    #[error("its properties are larger than a frame")]
    TooLarge,
    #[error("more bytes follow its properties")]
    TrailingBytes,
}

/// A basic property of AMQP 0-9-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

impl Property {
    /// All properties, in wire order.
    pub(crate) const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// The property's name in AMQP's specification, with underscores.
    const fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Headers => "headers",
            Self::DeliveryMode => "delivery_mode",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::MessageId => "message_id",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
            Self::ClusterId => "cluster_id",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
