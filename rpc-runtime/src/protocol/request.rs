//! Converts a request to a message and back.

use std::time::Duration;

use bytes::Bytes;

use super::batch::BATCH_HEADER;
use super::headers::Headers;
use super::incoming::{INCOMING_HEADER, INCOMING_VERSION};
use super::stream::{CREDIT_BYTES_HEADER, CREDIT_HEADER};
use super::volume::Volume;
use super::{DeadLettered, Fault, FaultCode, Message, Properties, ShortStr, content};
use crate::codec::Codec;

/// The longest time to live that is sent: 2^32 - 1 milliseconds, about 49 days. RabbitMQ accepts up
/// to ten years.
pub(crate) const MAX_TIME_TO_LIVE: Duration = Duration::from_millis(u32::MAX as u64);

/// The header of a request that is sent again because the broker or a worker may have lost the
/// earlier one. A worker that still runs the earlier one does not run the method again. The value
/// says who sent it again: see [`RESENT_BY_WORKER`].
pub(crate) const RESENT_HEADER: &str = "rpc-resent";

/// The value of [`RESENT_HEADER`] if a worker forwarded the request: it published a copy of a
/// redelivered request for another worker. The value is empty if the caller sent the request again.
/// The copy of a job that is retried, delayed or returned to its queue does not have this header.
pub(crate) const RESENT_BY_WORKER: &str = "worker";
/// The value of [`RESENT_HEADER`] if a worker forwarded a request that its caller had sent again.
pub(crate) const RESENT_BY_CALLER_AND_WORKER: &str = "caller, worker";

/// The header with a random token of a copy that a worker published. Two deliveries with the same
/// token are the same copy. In messages with items from a caller, it holds a number, by which the
/// caller recognizes those that the broker returns.
pub(crate) const COPY_HEADER: &str = "rpc-copy";

/// The header in which workers count redeliveries of a request, for queues that do not count them.
pub(crate) const REDELIVERIES_HEADER: &str = "rpc-redeliveries";

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// The method's name. `None` or empty for the service's default method.
    pub(crate) method: Option<ShortStr>,
    pub(crate) codec: Codec,
    /// Echoed in the reply.
    pub(crate) correlation_id: Option<ShortStr>,
    /// The queue for the reply, or `None` if the caller wants none.
    pub(crate) reply_to: Option<ShortStr>,
    /// How long the caller still waits: for the reply, or for the first message if there is a
    /// stream. `None` if that is not limited.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) app_id: Option<ShortStr>,
    pub(crate) user_id: Option<ShortStr>,
    pub(crate) headers: Headers,
    /// Whether the caller can send and read batches, and asks for the worker's batch size.
    pub(crate) asks_batch_size: bool,
    /// What the caller of a stream accepts at first. `None` if it expects one reply.
    pub(crate) credit: Option<Volume>,
    /// Whether the caller sends items while the method runs, in the version that this library
    /// knows.
    pub(crate) sends_items: bool,
    /// The history of a dead-lettered request. Only in incoming requests.
    pub(crate) dead_lettered: Option<DeadLettered>,
    pub(crate) arguments: Bytes,
}

impl Request {
    pub(crate) fn into_message(mut self) -> Message {
        let mut insert = |name, value| self.headers.insert(ShortStr::from_static(name), value);
        if self.asks_batch_size {
            insert(BATCH_HEADER, String::new());
        }
        if let Some(credit) = self.credit {
            insert(CREDIT_HEADER, credit.items.to_string());
            if credit.limits_bytes() {
                insert(CREDIT_BYTES_HEADER, credit.bytes.to_string());
            }
        }
        if self.sends_items {
            insert(INCOMING_HEADER, INCOMING_VERSION.to_owned());
        }
        Message {
            properties: Properties {
                kind: self.method,
                content_type: Some(ShortStr::from_static(self.codec.content_type())),
                content_encoding: None,
                correlation_id: self.correlation_id,
                reply_to: self.reply_to,
                expiration: self.time_to_live.map(|time| time.min(MAX_TIME_TO_LIVE)),
                persistent: self.persistent,
                priority: self.priority,
                app_id: self.app_id,
                user_id: self.user_id,
                headers: self.headers,
                dead_lettered: None,
            },
            body: self.arguments,
        }
    }

    /// Reads the message of a request. If its content type does not determine a codec, it is plain
    /// text. Removes the headers that become fields.
    ///
    /// # Errors
    ///
    /// [`UnreadableRequest`] if the body is in a content type or an encoding that this library
    /// cannot read.
    pub(crate) fn from_message(message: Message) -> Result<Self, UnreadableRequest> {
        let Message { mut properties, body } = message;
        let asks_batch_size = properties.headers.remove(BATCH_HEADER).is_some();
        let mut take_number = |name| properties.headers.remove(name)?.parse().ok();
        let credit_items: Option<u64> = take_number(CREDIT_HEADER);
        let credit_bytes = take_number(CREDIT_BYTES_HEADER).unwrap_or(u64::MAX);
        let credit = credit_items.map(|items| Volume {
            items,
            bytes: credit_bytes,
        });
        let incoming = properties.headers.remove(INCOMING_HEADER);
        let sends_items = incoming.is_some_and(|version| version == INCOMING_VERSION);
        let codec = content::codec_of(&properties)
            .map_err(|error| UnreadableRequest {
                codec: error.readable_codec(),
                fault: Fault::new(FaultCode::UnsupportedContentType, error.to_string()),
            })?
            .unwrap_or(Codec::Text);
        Ok(Self {
            method: properties.kind,
            codec,
            correlation_id: properties.correlation_id,
            // Some of RabbitMQ's clients send an empty string for a property that is not set.
            reply_to: properties.reply_to.filter(|address| !address.as_str().is_empty()),
            // For a dead-lettered request this is an upper bound: how long it waited is unknown.
            time_to_live: properties
                .expiration
                .or_else(|| properties.dead_lettered.as_ref()?.original_expiration),
            persistent: properties.persistent,
            priority: properties.priority,
            app_id: properties.app_id,
            user_id: properties.user_id,
            headers: properties.headers,
            asks_batch_size,
            credit,
            sends_items,
            dead_lettered: properties.dead_lettered,
            arguments: body,
        })
    }
}

/// A request in an unsupported content type or encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadableRequest {
    /// The codec of the reply.
    pub(crate) codec: Codec,
    pub(crate) fault: Fault,
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short_str() -> impl Strategy<Value = ShortStr> {
        "[a-z.:0-9é-]{1,60}".prop_map(|text| ShortStr::new(text).unwrap())
    }

    prop_compose! {
        fn request()(
            method in prop::option::of(short_str()),
            codec in prop::sample::select(vec![Codec::MessagePack, Codec::Json, Codec::Text]),
            correlation_id in prop::option::of(short_str()),
            reply_to in prop::option::of(short_str()),
            time_to_live in prop::option::of((1u64..4_000_000_000).prop_map(Duration::from_millis)),
            persistent: bool,
            priority in prop::option::of(any::<u8>()),
            header in prop::option::of((short_str(), ".{0,20}")),
            (asks_batch_size, sends_items, credit) in any::<(bool, bool, Option<(u64, u64)>)>(),
            arguments in prop::collection::vec(any::<u8>(), 0..100),
        ) -> Request {
            let mut headers = Headers::default();
            if let Some((name, value)) = header {
                headers.insert(name, value);
            }
            Request {
                method, codec, correlation_id, reply_to, time_to_live, persistent, priority,
                app_id: None, user_id: None, headers, asks_batch_size, sends_items, dead_lettered: None,
                credit: credit.map(|(items, bytes)| Volume { items, bytes }),
                arguments: arguments.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_request_survives_the_wire(request in request()) {
            prop_assert_eq!(Request::from_message(request.clone().into_message()), Ok(request));
        }
    }

    fn read(
        content_type: &'static str,
        encoding: Option<&'static str>,
    ) -> Result<Request, UnreadableRequest> {
        let mut message = Message::default();
        message.properties.content_type = Some(ShortStr::from_static(content_type));
        message.properties.content_encoding = encoding.map(ShortStr::from_static);
        Request::from_message(message)
    }

    #[test]
    fn a_request_without_properties_is_plain_text_for_the_default_method() {
        let request = Request::from_message(Message::default()).unwrap();
        assert_eq!((request.method, request.codec), (None, Codec::Text));
    }

    #[test]
    fn an_unknown_content_type_is_a_fault() {
        let unreadable = read("image/png", None).unwrap_err();
        assert_eq!(unreadable.fault.code, FaultCode::UnsupportedContentType);
        assert_eq!(unreadable.codec, Codec::Text);
    }

    #[test]
    fn a_compressed_body_is_a_fault_in_the_codec_of_the_request() {
        let unreadable = read("application/json", Some("gzip")).unwrap_err();
        assert_eq!(unreadable.codec, Codec::Json);
        assert_eq!(
            unreadable.fault.to_string(),
            "unsupported_content_type: unsupported content encoding \"gzip\": send the body unencoded"
        );
    }

    #[test]
    fn a_request_of_octet_stream_is_plain_text() {
        assert_eq!(read("application/octet-stream", None).unwrap().codec, Codec::Text);
    }

    #[test]
    fn a_long_time_to_live_is_clamped_to_the_longest_that_is_sent() {
        let mut request = Request::from_message(Message::default()).unwrap();
        request.time_to_live = Some(Duration::from_secs(1 << 40));
        assert_eq!(
            request.into_message().properties.expiration,
            Some(MAX_TIME_TO_LIVE)
        );
    }
}
