//! Encodes the frames of content. Pure: no I/O.
//!
//! The layout is that of AMQP 0-9-1, sections 2.3.5 and 4.2.

use std::io::Write;
use std::time::Duration;

use super::super::guard::{self, BODY, FRAME_END, HEADER, METHOD, OVERHEAD, PREFIX_LEN, property_flag};
use super::outbox::Outbox;
use crate::error::BrokerError;
use crate::protocol::{Headers, Message, Properties, Property, ShortStr};

/// The class `basic`: that of all methods here, and of all content headers.
pub(super) const BASIC: u16 = 60;

const PUBLISH: u16 = 40;
const ACK: u16 = 80;
const REJECT: u16 = 90;

/// AMQP's `delivery_mode` of a message that the broker keeps on disk.
pub(super) const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// What to tell the broker about deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Acknowledgement {
    /// Acknowledges this delivery or, with `multiple`, all deliveries up to it.
    Ack { tag: u64, multiple: bool },
    /// Rejects this delivery. It does not return to its queue.
    Reject { tag: u64 },
}

/// Appends the frames of a published message: its method, its properties and its body, in frames of
/// at most `max_frame` bytes.
///
/// # Errors
///
/// Fails if the properties do not fit into a frame. Nothing is appended then.
pub(super) fn publish(
    outbox: &mut Outbox,
    channel: u16,
    max_frame: usize,
    (exchange, routing_key): (&str, &ShortStr),
    mandatory: bool,
    message: &Message,
) -> Result<(), BrokerError> {
    let out = outbox.end();
    let begin = out.len();
    frame(out, METHOD, channel, |out| {
        method(out, PUBLISH);
        // Reserved by AMQP.
        out.extend_from_slice(&[0, 0]);
        short(out, exchange.as_bytes());
        short(out, routing_key.as_str().as_bytes());
        out.push(u8::from(mandatory));
    });
    let frame_len = frame(out, HEADER, channel, |out| {
        content_header(out, &message.properties, message.body.len());
    });
    if frame_len > max_frame {
        out.truncate(begin);
        return Err(BrokerError::Unsendable {
            reason: "the headers do not fit into a frame",
        });
    }
    let max_part = max_frame - OVERHEAD;
    for start in (0..message.body.len()).step_by(max_part) {
        let part = start..message.body.len().min(start + max_part);
        prefix(outbox.end(), BODY, channel, part.len());
        outbox.append_body(&message.body, part);
        outbox.end().push(FRAME_END);
    }
    Ok(())
}

/// Appends the frame of an acknowledgement.
pub(super) fn acknowledge(out: &mut Vec<u8>, channel: u16, acknowledgement: Acknowledgement) {
    frame(out, METHOD, channel, |out| match acknowledgement {
        Acknowledgement::Ack { tag, multiple } => {
            method(out, ACK);
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(u8::from(multiple));
        }
        Acknowledgement::Reject { tag } => {
            method(out, REJECT);
            out.extend_from_slice(&tag.to_be_bytes());
            // `requeue`: no.
            out.push(0);
        }
    });
}

/// Appends a frame with the payload that `payload` appends. Returns the length of the frame.
fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) -> usize {
    let begin = out.len();
    // The size is set once it is known.
    prefix(out, kind, channel, 0);
    payload(out);
    let size = payload_size(out.len() - begin - PREFIX_LEN);
    out[begin + 3..begin + PREFIX_LEN].copy_from_slice(&size);
    out.push(FRAME_END);
    out.len() - begin
}

/// Appends what precedes the payload of a frame, which has `len` bytes.
fn prefix(out: &mut Vec<u8>, kind: u8, channel: u16, len: usize) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&payload_size(len));
}

/// The size of a payload in the prefix of its frame.
fn payload_size(len: usize) -> [u8; 4] {
    // It always fits: bodies are split, and the limits of messages bound their headers.
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

fn method(out: &mut Vec<u8>, method: u16) {
    out.extend_from_slice(&BASIC.to_be_bytes());
    out.extend_from_slice(&method.to_be_bytes());
}

/// Appends a short string. Names have at most 255 bytes: see [`ShortStr`].
fn short(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() <= usize::from(u8::MAX));
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn long(out: &mut Vec<u8>, bytes: &[u8]) {
    // The limits of messages bound their headers.
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends the payload of a content header.
fn content_header(out: &mut Vec<u8>, properties: &Properties, body_size: usize) {
    let Properties {
        kind,
        content_type,
        content_encoding,
        correlation_id,
        reply_to,
        expiration,
        persistent,
        priority,
        app_id,
        user_id,
        headers,
        // Only the broker writes the headers for this.
        dead_lettered: _,
    } = properties;
    out.extend_from_slice(&BASIC.to_be_bytes());
    // The weight, which is not used.
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(body_size as u64).to_be_bytes());
    let flags_at = out.len();
    out.extend_from_slice(&[0, 0]);

    // In the order of the specification.
    let mut encoder = PropertyEncoder { out, flags: 0 };
    encoder.text(Property::ContentType, content_type.as_ref());
    encoder.text(Property::ContentEncoding, content_encoding.as_ref());
    encoder.headers(headers);
    let delivery_mode = if *persistent { PERSISTENT } else { TRANSIENT };
    encoder.byte(Property::DeliveryMode, Some(delivery_mode));
    encoder.byte(Property::Priority, *priority);
    encoder.correlation_id(correlation_id.as_ref());
    encoder.text(Property::ReplyTo, reply_to.as_ref());
    encoder.expiration(*expiration);
    encoder.text(Property::Type, kind.as_ref());
    encoder.text(Property::UserId, user_id.as_ref());
    encoder.text(Property::AppId, app_id.as_ref());
    let flags = encoder.flags.to_be_bytes();
    out[flags_at..flags_at + 2].copy_from_slice(&flags);
}

/// Appends properties, and collects their flags.
struct PropertyEncoder<'a> {
    out: &'a mut Vec<u8>,
    flags: u16,
}

impl PropertyEncoder<'_> {
    /// Appends a property that is a short string.
    fn bytes(&mut self, property: Property, bytes: &[u8]) {
        self.flags |= property_flag(property);
        short(self.out, bytes);
    }

    fn text(&mut self, property: Property, text: Option<&ShortStr>) {
        if let Some(text) = text {
            self.bytes(property, text.as_str().as_bytes());
        }
    }

    fn byte(&mut self, property: Property, byte: Option<u8>) {
        if let Some(byte) = byte {
            self.flags |= property_flag(property);
            self.out.push(byte);
        }
    }

    /// Writes the id. The guard has escaped one that is not UTF-8: its bytes are
    /// [restored](guard::restore_id) here, because our frames do not pass the guard's
    /// [`OutgoingFilter`](guard::OutgoingFilter).
    fn correlation_id(&mut self, id: Option<&ShortStr>) {
        match id.and_then(|id| guard::restore_id(id.as_str())) {
            Some(id) => self.bytes(Property::CorrelationId, &id),
            None => self.text(Property::CorrelationId, id),
        }
    }

    /// Appends the expiration as AMQP has it: a number of milliseconds, as text.
    fn expiration(&mut self, expiration: Option<Duration>) {
        if let Some(expiration) = expiration {
            self.flags |= property_flag(Property::Expiration);
            let len_at = self.out.len();
            self.out.push(0);
            // Writing to a `Vec` cannot fail.
            let _ = write!(self.out, "{}", expiration.as_millis());
            self.out[len_at] = (self.out.len() - len_at - 1) as u8;
        }
    }

    fn headers(&mut self, headers: &Headers) {
        if headers.is_empty() {
            return;
        }
        self.flags |= property_flag(Property::Headers);
        let table_at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        for (name, value) in headers {
            short(self.out, name.as_bytes());
            self.out.push(b'S');
            long(self.out, value.as_bytes());
        }
        let size = (self.out.len() - table_at - 4) as u32;
        self.out[table_at..table_at + 4].copy_from_slice(&size.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::protocol::basic::{AMQPMethod, Ack, Reject, parse_properties};
    use lapin::protocol::{AMQPClass, parse_class};
    use proptest::prelude::*;

    use super::super::properties;
    use super::*;

    /// A frame: its type, its channel and its payload.
    type Frame<'a> = (u8, u16, &'a [u8]);

    fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
        let mut frames = Vec::new();
        while let Some(&[kind, high, low, a, b, c, d]) = bytes.first_chunk() {
            let (frame, rest) = bytes.split_at(u32::from_be_bytes([a, b, c, d]) as usize + OVERHEAD);
            assert_eq!(frame.last(), Some(&FRAME_END));
            let payload = &frame[PREFIX_LEN..frame.len() - 1];
            frames.push((kind, u16::from_be_bytes([high, low]), payload));
            bytes = rest;
        }
        assert!(bytes.is_empty());
        frames
    }

    fn basic_method(payload: &[u8]) -> AMQPMethod {
        match parse_class(payload) {
            Ok((b"", AMQPClass::Basic(method))) => method,
            other => panic!("{other:?}"),
        }
    }

    fn name() -> impl Strategy<Value = ShortStr> {
        "[a-zé.-]{0,60}".prop_map(|text| ShortStr::new(text).unwrap())
    }

    fn some_properties() -> impl Strategy<Value = Properties> {
        let texts = prop::collection::vec(prop::option::of(name()), 7);
        let headers = prop::collection::vec((name(), ".{0,40}"), 0..3);
        let expiration = prop::option::of(any::<u32>());
        let priority = prop::option::of(any::<u8>());
        (texts, headers, expiration, priority, any::<bool>()).prop_map(
            |(texts, headers, expiration, priority, persistent)| {
                let mut texts = texts.into_iter();
                let mut text = || texts.next().flatten();
                let mut properties = Properties {
                    kind: text(),
                    content_type: text(),
                    content_encoding: text(),
                    correlation_id: text(),
                    reply_to: text(),
                    app_id: text(),
                    user_id: text(),
                    expiration: expiration.map(|millis| Duration::from_millis(millis.into())),
                    persistent,
                    priority,
                    ..Properties::default()
                };
                for (name, value) in headers {
                    properties.headers.insert(name, value);
                }
                properties
            },
        )
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_published(
            properties in some_properties(),
            key in name(),
            mandatory: bool,
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            const MAX_FRAME: usize = 4096;
            let message = Message { properties, body: Bytes::from(body) };
            let mut out = Outbox::default();
            out.end().extend(b"before");
            publish(&mut out, 7, MAX_FRAME, ("events", &key), mandatory, &message).unwrap();
            let out = out.to_vec();
            let frames = frames(out.strip_prefix(b"before").unwrap());
            prop_assert!(frames.iter().all(|(_, channel, _)| *channel == 7));

            let (kind, _, payload) = frames[0];
            prop_assert_eq!(kind, METHOD);
            let AMQPMethod::Publish(method) = basic_method(payload) else { panic!("{payload:?}") };
            prop_assert_eq!(method.exchange.as_str(), "events");
            prop_assert_eq!(method.routing_key.as_str(), key.as_str());
            prop_assert_eq!((method.mandatory, method.immediate), (mandatory, false));

            let (kind, _, payload) = frames[1];
            prop_assert_eq!(kind, HEADER);
            prop_assert!(parse_properties(&payload[12..]).is_ok_and(|(rest, _)| rest.is_empty()));
            let header = properties::content_header(payload, &mut properties::RecentAddresses::default()).unwrap();
            prop_assert_eq!(header.body_size, message.body.len() as u64);
            prop_assert_eq!(header.properties, message.properties);

            let body: Vec<u8> = frames[2..].iter().flat_map(|(kind, _, part)| {
                assert_eq!(*kind, BODY);
                part.to_vec()
            }).collect();
            prop_assert_eq!(body, message.body);
        }
    }

    #[test]
    fn a_body_is_split_into_frames() {
        let message = Message {
            body: Bytes::from(vec![7; 100]),
            ..Message::default()
        };
        let mut out = Outbox::default();
        publish(&mut out, 1, 50, ("", &ShortStr::from_static("q")), true, &message).unwrap();
        let sizes: Vec<_> = frames(&out.to_vec())[2..]
            .iter()
            .map(|(_, _, part)| part.len())
            .collect();
        assert_eq!(sizes, [42, 42, 16]);
    }

    #[test]
    fn properties_that_fit_into_no_frame_are_refused() {
        let mut message = Message::default();
        let header = ShortStr::from_static("long");
        message.properties.headers.insert(header, "x".repeat(5000));
        let mut out = Outbox::default();
        out.end().extend(b"before");
        let refused = publish(
            &mut out,
            1,
            4096,
            ("", &ShortStr::from_static("q")),
            true,
            &message,
        );
        assert!(matches!(refused, Err(BrokerError::Unsendable { .. })));
        assert_eq!(out.to_vec(), b"before");
    }

    #[test]
    fn acknowledgements_are_those_of_the_specification() {
        let mut out = Vec::new();
        for (tag, multiple) in [(1, false), (u64::MAX, true)] {
            acknowledge(&mut out, 3, Acknowledgement::Ack { tag, multiple });
        }
        acknowledge(&mut out, 3, Acknowledgement::Reject { tag: 2 });
        let methods = frames(&out)
            .into_iter()
            .map(|(_, _, payload)| basic_method(payload));
        let ack = |delivery_tag, multiple| {
            AMQPMethod::Ack(Ack {
                delivery_tag,
                multiple,
            })
        };
        let reject = AMQPMethod::Reject(Reject {
            delivery_tag: 2,
            requeue: false,
        });
        assert_eq!(
            methods.collect::<Vec<_>>(),
            [ack(1, false), ack(u64::MAX, true), reject]
        );
    }
}
