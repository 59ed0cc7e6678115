//! Converts a reply to a message and back.

use bytes::Bytes;

use super::content::{self, UnsupportedContent};
use super::headers::Headers;
use super::overload::QueueTime;
use super::{
    Fault, FaultCode, Malformed, Message, Properties, RETRY_AFTER_HEADER, ShortStr, read_millis, write_millis,
};
use crate::codec::{Codec, DecodeError};
use crate::protocol::fault::FaultBody;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    /// The method's result. On the wire its `type` is `result`, missing, empty, or unknown.
    Result,
    /// The method's own error. On the wire its `type` is `error`.
    Error,
    /// A fault of the worker's runtime. On the wire its `type` is `fault`.
    Fault,
}

impl ReplyKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Error => "error",
            Self::Fault => "fault",
        }
    }

    /// Returns the number of this kind in a batch.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Result => 0,
            Self::Error => 1,
            Self::Fault => 2,
        }
    }

    pub(super) const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Result),
            1 => Some(Self::Error),
            2 => Some(Self::Fault),
            _ => None,
        }
    }
}

/// A reply with an encoded body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: ReplyKind,
    pub(crate) codec: Codec,
    pub(crate) body: Bytes,
    /// For example a trace context.
    pub(crate) headers: Headers,
    /// The `type`, if it is none of [`ReplyKind`]. A worker sets it in messages of a call's
    /// streams that are not the reply. If it arrives in a reply, another library's worker wrote it,
    /// perhaps as an echo of the request's `type`, and the reply counts as a result. Boxed, because
    /// few replies have one.
    pub(crate) unknown_type: Option<Box<ShortStr>>,
    pub(crate) queue_time: QueueTime,
}

impl Reply {
    pub(crate) fn new(kind: ReplyKind, codec: Codec, body: Bytes) -> Self {
        Self {
            kind,
            codec,
            body,
            headers: Headers::default(),
            unknown_type: None,
            queue_time: QueueTime::default(),
        }
    }

    pub(crate) fn fault(codec: Codec, fault: &Fault) -> Self {
        let body = match codec {
            Codec::Text => Bytes::from(fault.to_string()),
            // Two strings can always be encoded. Even without a body, the `type` says `fault`.
            Codec::MessagePack | Codec::Json => codec.encode(&FaultBody::from(fault)).unwrap_or_default(),
        };
        let mut reply = Self::new(ReplyKind::Fault, codec, body);
        if let Some(time) = fault.retry_after {
            write_millis(&mut reply.headers, RETRY_AFTER_HEADER, time);
        }
        reply
    }

    /// Converts the reply to the message that answers a request with this correlation id.
    pub(crate) fn into_message(self, correlation_id: Option<ShortStr>) -> Message {
        let kind = match self.unknown_type {
            Some(unknown) => *unknown,
            None => ShortStr::from_static(self.kind.as_str()),
        };
        let mut headers = self.headers;
        self.queue_time.write(&mut headers);
        Message {
            properties: Properties {
                kind: Some(kind),
                content_type: Some(ShortStr::from_static(self.codec.content_type())),
                correlation_id,
                headers,
                ..Properties::default()
            },
            body: self.body,
        }
    }

    /// Reads a message that arrived on a reply queue. If its content type does not determine a
    /// codec, it has the codec of the request, `request_codec`.
    ///
    /// # Errors
    ///
    /// [`BadReply`] if the body is in a content type or an encoding that this library cannot read.
    pub(crate) fn from_message(message: Message, request_codec: Codec) -> Result<Self, BadReply> {
        let properties = message.properties;
        let codec = content::codec_of(&properties)?.unwrap_or(request_codec);
        let (kind, unknown_type) = match properties.kind.as_ref().map(ShortStr::as_str) {
            None | Some("" | "result") => (ReplyKind::Result, None),
            Some("error") => (ReplyKind::Error, None),
            Some("fault") => (ReplyKind::Fault, None),
            Some(_) => (ReplyKind::Result, properties.kind.map(Box::new)),
        };
        Ok(Self {
            kind,
            codec,
            body: message.body,
            queue_time: QueueTime::read(&properties.headers),
            headers: properties.headers,
            unknown_type,
        })
    }

    /// Decodes the body as a fault, and reads its `retry_after` from the headers. A body that
    /// cannot be decoded, or is plain text without a code, becomes a fault with the code `fault`.
    pub(crate) fn read_fault(&self) -> Fault {
        Fault {
            retry_after: read_millis(&self.headers, RETRY_AFTER_HEADER),
            ..self.read_fault_body()
        }
    }

    fn read_fault_body(&self) -> Fault {
        match self.codec {
            Codec::Text => Fault::from_text(&String::from_utf8_lossy(&self.body)),
            codec => match codec.decode::<FaultBody<'_>>(&self.body) {
                Ok(body) => body.into(),
                Err(_) => Fault::new(
                    FaultCode::Other("fault".into()),
                    "the worker sent a fault that cannot be decoded",
                ),
            },
        }
    }
}

/// A reply that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BadReply {
    #[error("the reply cannot be read: {0}")]
    Malformed(Malformed),
    #[error(transparent)]
    Content(#[from] UnsupportedContent),
    #[error("the stream cannot be read: {0}")]
    Stream(&'static str),
    #[error(
        "the reply has the type {0:?} instead of result, error or fault, and its body is not the method's result"
    )]
    UnknownType(Box<str>, #[source] DecodeError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_reply_survives_the_wire(
            kind in prop::sample::select(vec![ReplyKind::Result, ReplyKind::Error, ReplyKind::Fault]),
            codec in prop::sample::select(vec![Codec::MessagePack, Codec::Json, Codec::Text]),
            body in prop::collection::vec(any::<u8>(), 0..100),
            header: Option<String>,
        ) {
            let mut reply = Reply::new(kind, codec, body.into());
            if let Some(value) = header {
                reply.headers.insert(ShortStr::from_static("traceparent"), value);
            }
            let message = reply.clone().into_message(Some(ShortStr::from_static("7")));
            prop_assert_eq!(message.properties.correlation_id.as_ref().map(ShortStr::as_str), Some("7"));
            prop_assert_eq!(Reply::from_message(message, Codec::Json).unwrap(), reply);
        }

        #[test]
        fn reading_a_fault_never_panics(
            codec in prop::sample::select(vec![Codec::MessagePack, Codec::Json, Codec::Text]),
            body in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            Reply::new(ReplyKind::Fault, codec, body.into()).read_fault();
        }
    }

    #[test]
    fn faults_survive_every_codec() {
        let fault = Fault::new(FaultCode::Interrupted, "its worker: gone \"here\"");
        for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
            assert_eq!(Reply::fault(codec, &fault).read_fault(), fault);
        }
    }

    #[test]
    fn a_reply_without_properties_is_a_result_in_the_codec_of_the_request() {
        let message = Message {
            body: Bytes::from_static(b"a@b"),
            ..Message::default()
        };
        let reply = Reply::from_message(message, Codec::Text).unwrap();
        assert_eq!((reply.kind, reply.codec), (ReplyKind::Result, Codec::Text));
    }

    fn read(properties: Properties) -> Result<Reply, BadReply> {
        let body = Bytes::from_static(b"a@b");
        Reply::from_message(Message { properties, body }, Codec::MessagePack)
    }

    #[test]
    fn a_reply_of_an_unknown_type_is_a_result() {
        let reply = read(Properties {
            kind: Some(ShortStr::from_static("get_email")),
            ..Properties::default()
        });
        let reply = reply.unwrap();
        assert_eq!(reply.kind, ReplyKind::Result);
        assert_eq!(
            reply.unknown_type.as_deref(),
            Some(&ShortStr::from_static("get_email"))
        );
    }

    #[test]
    fn octet_stream_means_the_codec_of_the_request() {
        let reply = read(Properties {
            content_type: Some(ShortStr::from_static("application/octet-stream")),
            ..Properties::default()
        });
        assert_eq!(reply.unwrap().codec, Codec::MessagePack);
    }

    #[test]
    fn a_compressed_reply_cannot_be_read() {
        let reply = read(Properties {
            content_encoding: Some(ShortStr::from_static("gzip")),
            ..Properties::default()
        });
        assert_eq!(
            reply.unwrap_err().to_string(),
            "unsupported content encoding \"gzip\": send the body unencoded"
        );
    }
}
