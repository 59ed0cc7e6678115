//! Separates the content of our channels from everything else that a broker sends. Does no I/O.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::super::guard::{
    BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD, PREFIX_LEN, ProtocolViolation,
};
use super::decode::{self, Confirm, Deliver, Method};
use super::properties::{ContentHeader, RecentAddresses, content_header};
use crate::codec::{MAX_SMALL_BODY, SmallBodies};
use crate::error::BrokerError;
use crate::protocol::{COPY_HEADER, ITEMS_TYPE, Message, ShortStr, body_of};
use crate::transport::Delivery;

/// What a channel gets from the broker.
pub(super) trait Receiver {
    fn delivered(&self, delivery: Delivery);

    /// A published message could not be routed. Its confirm follows. The id is that of
    /// [`return_id`].
    fn returned(&self, routing_key: &ShortStr, id: Option<&ShortStr>);

    fn confirmed(&self, confirm: Confirm);

    /// The channel is closed.
    fn closed(&self, reason: BrokerError);
}

/// The most memory that is reserved for a body before it arrives.
const MAX_RESERVED: u64 = 1024 * 1024;

/// Reads the frames of a connection behind the guard, and knows which channels are ours.
#[derive(Debug)]
pub(super) struct Demux<R> {
    channels: HashMap<u16, Channel<R>, RandomState>,
    position: Position,
    /// The size of the body that was announced last. The driver chooses how much to read by it.
    last_body_size: u64,
    recent_addresses: RecentAddresses,
    small_bodies: SmallBodies,
}

#[derive(Debug)]
struct Channel<R> {
    receiver: R,
    /// The message that is arriving.
    arriving: Option<Arriving>,
    /// The buffer in which the next small body arrives. Taken while one is arriving.
    buffer: Vec<u8>,
}

/// A message of which not everything has arrived.
#[derive(Debug)]
struct Arriving {
    method: ContentMethod,
    /// `None` until it has arrived.
    header: Option<ContentHeader>,
    body: Vec<u8>,
}

#[derive(Debug)]
enum ContentMethod {
    Deliver(Deliver),
    Return { routing_key: ShortStr },
}

#[derive(Debug, Clone, Copy)]
enum Position {
    FrameStart,
    /// In a frame for lapin, of which this many bytes are left, with its prefix and end marker.
    Lapin {
        left: usize,
    },
    /// In a frame with a part of a body of ours. This many bytes of the part are left, and the
    /// frame's end marker.
    Body {
        channel: u16,
        left: usize,
    },
    /// In bytes that are no frames. lapin reports the error.
    Unknown,
}

impl<R: Receiver> Demux<R> {
    pub(super) fn new() -> Self {
        Self {
            channels: HashMap::default(),
            position: Position::FrameStart,
            last_body_size: 0,
            recent_addresses: RecentAddresses::default(),
            small_bodies: SmallBodies::default(),
        }
    }

    /// Takes over the content of a channel that was opened. The content of an earlier channel with
    /// this number is no longer received.
    pub(super) fn attach(&mut self, number: u16, receiver: R) {
        let channel = Channel {
            receiver,
            arriving: None,
            buffer: Vec::new(),
        };
        self.channels.insert(number, channel);
    }

    pub(super) fn has_channels(&self) -> bool {
        !self.channels.is_empty()
    }

    /// The size of the body of ours that was announced last.
    pub(super) fn last_body_size(&self) -> u64 {
        self.last_body_size
    }

    /// The body that is arriving, and how many of the next bytes belong to it: the rest of a frame
    /// without its end marker. `None` if the next bytes are something else, or the body would get
    /// too long. A caller that appends bytes to the body must [record](Self::record_body) that.
    pub(super) fn arriving_body(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let Position::Body {
            channel,
            left: left @ 1..,
        } = self.position
        else {
            return None;
        };
        let arriving = self.channels.get_mut(&channel)?.arriving.as_mut()?;
        let missing = arriving.header.as_ref()?.body_size - arriving.body.len() as u64;
        // If the body would get too long, `process` fails.
        (left as u64 <= missing).then_some((&mut arriving.body, left))
    }

    /// Records that so many bytes were appended to the [arriving body](Self::arriving_body).
    pub(super) fn record_body(&mut self, len: usize) {
        if let Position::Body { left, .. } = &mut self.position {
            *left -= len;
        }
    }

    /// Passes on the next bytes: content to the receiver of its channel, and everything else to
    /// `lapin`. The receiver also learns when its channel is closed. Frames with methods or content
    /// headers must not be split, nor the prefixes of other frames.
    ///
    /// # Errors
    ///
    /// Fails if the frames of a message do not fit together, or its content header cannot be read.
    pub(super) fn process(&mut self, mut bytes: &[u8], lapin: &mut Vec<u8>) -> Result<(), ProtocolViolation> {
        while !bytes.is_empty() {
            let taken = match self.position {
                Position::FrameStart => self.begin_frame(bytes, lapin)?,
                Position::Lapin { left } => {
                    let taken = left.min(bytes.len());
                    lapin.extend_from_slice(&bytes[..taken]);
                    self.position = match left - taken {
                        0 => Position::FrameStart,
                        left => Position::Lapin { left },
                    };
                    taken
                }
                Position::Body { channel, left: 0 } => {
                    if bytes[0] != FRAME_END {
                        return Err(ProtocolViolation::UnexpectedContent);
                    }
                    self.position = Position::FrameStart;
                    self.deliver_if_complete(channel);
                    1
                }
                Position::Body { channel, left } => {
                    let taken = left.min(bytes.len());
                    self.append_body(channel, &bytes[..taken])?;
                    self.position = Position::Body {
                        channel,
                        left: left - taken,
                    };
                    taken
                }
                Position::Unknown => {
                    lapin.extend_from_slice(bytes);
                    bytes.len()
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Begins a frame, and returns how many bytes it took. Takes the whole frame of a method or a
    /// content header, and the prefix of a frame with a part of a body of ours. Of other bytes, it
    /// takes none: the new position says where they go.
    fn begin_frame(&mut self, bytes: &[u8], lapin: &mut Vec<u8>) -> Result<usize, ProtocolViolation> {
        let Some(&[kind, high, low, a, b, c, d]) = bytes.first_chunk::<PREFIX_LEN>() else {
            self.position = Position::Unknown;
            return Ok(0);
        };
        let number = u16::from_be_bytes([high, low]);
        let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let len = size.saturating_add(OVERHEAD);
        self.position = match kind {
            BODY if self.channels.contains_key(&number) => {
                // Also an empty part must belong to a message.
                self.append_body(number, &[])?;
                self.position = Position::Body {
                    channel: number,
                    left: size,
                };
                return Ok(PREFIX_LEN);
            }
            METHOD | HEADER => {
                let Some(frame) = bytes.get(..len).filter(|frame| frame.ends_with(&[FRAME_END])) else {
                    self.position = Position::Unknown;
                    return Ok(0);
                };
                let payload = &frame[PREFIX_LEN..len - 1];
                let is_for_lapin = match kind {
                    METHOD => self.handle_method(number, payload)?,
                    _ => self.handle_header(number, payload)?,
                };
                if is_for_lapin {
                    lapin.extend_from_slice(frame);
                }
                return Ok(len);
            }
            BODY | HEARTBEAT => Position::Lapin { left: len },
            _ => Position::Unknown,
        };
        Ok(0)
    }

    /// Handles a method. Returns whether lapin must see it.
    fn handle_method(&mut self, number: u16, payload: &[u8]) -> Result<bool, ProtocolViolation> {
        let Some(channel) = self.channels.get_mut(&number) else {
            return Ok(true);
        };
        let content = match decode::method(payload) {
            Some(Method::Deliver(deliver)) => ContentMethod::Deliver(deliver),
            Some(Method::Return { routing_key }) => ContentMethod::Return { routing_key },
            Some(Method::Confirm(confirm)) => {
                channel.receiver.confirmed(confirm);
                return Ok(false);
            }
            Some(Method::Closed(reason)) => {
                if let Some(channel) = self.channels.remove(&number) {
                    channel.receiver.closed(reason);
                }
                return Ok(true);
            }
            // lapin reports the error of a method that cannot be decoded.
            Some(Method::Other) | None => return Ok(true),
        };
        let arriving = Arriving {
            method: content,
            header: None,
            body: Vec::new(),
        };
        match channel.arriving.replace(arriving) {
            Some(_) => Err(ProtocolViolation::UnexpectedContent),
            None => Ok(false),
        }
    }

    /// Handles a content header. Returns whether lapin must see it.
    fn handle_header(&mut self, number: u16, payload: &[u8]) -> Result<bool, ProtocolViolation> {
        let Some(channel) = self.channels.get_mut(&number) else {
            return Ok(true);
        };
        let Some(arriving) = &mut channel.arriving else {
            return Err(ProtocolViolation::UnexpectedContent);
        };
        let header = content_header(payload, &mut self.recent_addresses);
        let header = header.ok_or(ProtocolViolation::UnexpectedContent)?;
        self.last_body_size = header.body_size;
        if shares_memory(&header) {
            arriving.body = std::mem::take(&mut channel.buffer);
        } else {
            let reserved = header.body_size.min(MAX_RESERVED);
            arriving.body = Vec::with_capacity(usize::try_from(reserved).unwrap_or(0));
        }
        if arriving.header.replace(header).is_some() {
            return Err(ProtocolViolation::UnexpectedContent);
        }
        // A message without a body is complete.
        self.deliver_if_complete(number);
        Ok(false)
    }

    /// Appends a part to the body that is arriving. Fails if there is none, or the body gets too
    /// long.
    fn append_body(&mut self, number: u16, part: &[u8]) -> Result<(), ProtocolViolation> {
        let channel = self.channels.get_mut(&number);
        let arriving = channel.and_then(|channel| channel.arriving.as_mut());
        let Some(Arriving {
            header: Some(header),
            body,
            ..
        }) = arriving
        else {
            return Err(ProtocolViolation::UnexpectedContent);
        };
        if (body.len() + part.len()) as u64 > header.body_size {
            return Err(ProtocolViolation::UnexpectedContent);
        }
        body.extend_from_slice(part);
        Ok(())
    }

    /// Passes on the message that is arriving, a delivery or a returned message, if it is complete.
    fn deliver_if_complete(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let is_complete = |arriving: &mut Arriving| {
            let header = arriving.header.as_ref();
            header.is_some_and(|header| header.body_size == arriving.body.len() as u64)
        };
        let Some(Arriving {
            method,
            header: Some(header),
            mut body,
        }) = channel.arriving.take_if(is_complete)
        else {
            return;
        };
        let body = if shares_memory(&header) {
            let copied = self.small_bodies.copy(&body);
            body.clear();
            channel.buffer = body;
            copied
        } else {
            body_of(body)
        };
        match method {
            ContentMethod::Deliver(deliver) => channel.receiver.delivered(Delivery {
                message: Message {
                    properties: header.properties,
                    body,
                },
                redelivered: deliver.redelivered,
                tag: deliver.tag,
                malformed: header.malformed,
                control_key: deliver.control_key,
            }),
            ContentMethod::Return { routing_key } => {
                let id = return_id(&header.properties);
                channel.receiver.returned(&routing_key, id.as_ref());
            }
        }
    }
}

/// Whether a body is small enough to share memory with others. Items of streams never share: many
/// may wait to be taken, and only their own bytes are counted then.
fn shares_memory(header: &ContentHeader) -> bool {
    const ITEMS: ShortStr = ShortStr::from_static(ITEMS_TYPE);
    header.body_size <= MAX_SMALL_BODY as u64 && header.properties.kind != Some(ITEMS)
}

/// Identifies a message among those with the same routing key: the token in the [`COPY_HEADER`],
/// which copies of requests and messages with a caller's items have, or else the correlation id.
/// `None` if it has neither.
pub(in super::super) fn return_id(properties: &crate::protocol::Properties) -> Option<ShortStr> {
    let token = properties.headers.get(COPY_HEADER);
    let token = token.and_then(|token| ShortStr::new(token).ok());
    token.or_else(|| properties.correlation_id.clone())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::super::super::guard::Filter;
    use super::super::super::guard::samples::{
        EncodedProperties, content_header as encoded_header, deliver, frame, frames, method, mutated, props,
    };
    use super::*;
    use crate::protocol::Properties;

    /// What a channel received.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Received {
        bodies: Vec<Vec<u8>>,
        returned: Vec<String>,
        confirmed: Vec<Confirm>,
        closed: usize,
    }

    impl Receiver for Rc<RefCell<Received>> {
        fn delivered(&self, delivery: Delivery) {
            self.borrow_mut().bodies.push(delivery.message.body.to_vec());
        }

        fn returned(&self, routing_key: &ShortStr, _: Option<&ShortStr>) {
            self.borrow_mut().returned.push(routing_key.to_string());
        }

        fn confirmed(&self, confirm: Confirm) {
            self.borrow_mut().confirmed.push(confirm);
        }

        fn closed(&self, _: BrokerError) {
            self.borrow_mut().closed += 1;
        }
    }

    /// Passes bytes in parts through the guard and a demux to which channels 1 and 2 belong.
    /// Returns what these received and what lapin gets.
    fn demux(bytes: &[u8], parts: &[usize]) -> Result<([Received; 2], Vec<u8>), ProtocolViolation> {
        let mut filter = Filter::new(4096);
        let mut demux = Demux::new();
        let channels: [Rc<RefCell<Received>>; 2] = Default::default();
        for (number, channel) in (1..).zip(&channels) {
            demux.attach(number, Rc::clone(channel));
        }
        let mut lapin = Vec::new();
        let mut rest = bytes;
        let mut parts = parts.iter();
        while !rest.is_empty() {
            let part = parts
                .next()
                .map_or(rest.len(), |part| (*part).clamp(1, rest.len()));
            // As the driver does with large parts of bodies.
            if part.is_multiple_of(2)
                && let Some((body, left)) = demux.arriving_body()
                && filter.unchecked() == left + 1
            {
                let part = part.min(left);
                body.extend_from_slice(&rest[..part]);
                demux.record_body(part);
                filter.skip(part);
                rest = &rest[part..];
                continue;
            }
            let mut buffer = vec![0; filter.held()];
            buffer.extend_from_slice(&rest[..part]);
            let passed = filter.scan(&mut buffer)?;
            demux.process(&buffer[..passed], &mut lapin)?;
            demux.process(&filter.take_ready(), &mut lapin)?;
            rest = &rest[part..];
        }
        Ok((channels.map(|channel| channel.borrow().clone()), lapin))
    }

    #[test]
    fn small_bodies_share_memory_unless_they_are_items() {
        let shares_memory = |body_size, kind: Option<&str>| {
            let kind = kind.map(|kind| ShortStr::new(kind).unwrap());
            let properties = Properties {
                kind,
                ..Properties::default()
            };
            super::shares_memory(&ContentHeader {
                body_size,
                properties,
                malformed: None,
            })
        };
        assert!(shares_memory(0, None) && shares_memory(128, Some("get_email")));
        assert!(!shares_memory(129, None) && !shares_memory(5, Some(ITEMS_TYPE)));
    }

    /// A message for a channel, as its frames.
    fn message(channel: u16, start: &[u8], properties: &EncodedProperties, body: &[u8]) -> Vec<Vec<u8>> {
        let header = encoded_header(body.len() as u64, properties);
        let mut frames = vec![frame(METHOD, channel, start), frame(HEADER, channel, &header)];
        frames.extend(body.chunks(100).map(|part| frame(BODY, channel, part)));
        frames
    }

    fn confirm_frame(channel: u16, tag: u64) -> Vec<u8> {
        let arguments = [&tag.to_be_bytes()[..], &[0]].concat();
        frame(METHOD, channel, &method((60, 80), &arguments))
    }

    proptest! {
        /// Frames of the channels are interleaved, and arrive in any parts.
        #[test]
        fn each_channel_gets_its_content_and_lapin_everything_else(
            messages in prop::collection::vec((1..4_u16, props(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            turns in prop::collection::vec(1..4_u16, 0..60),
            parts in prop::collection::vec(1..300_usize, 0..40),
        ) {
            let mut expected: [Received; 2] = Default::default();
            let mut queued: [Vec<Vec<u8>>; 3] = Default::default();
            for (number, (channel, properties, body)) in (1..).zip(messages) {
                let index = usize::from(channel) - 1;
                queued[index].extend(message(channel, &deliver(b"c", b"", b"q"), &properties, &body));
                queued[index].push(confirm_frame(channel, number));
                // Not content, so it is lapin's: queue.purge-ok.
                queued[index].push(frame(METHOD, channel, &method((50, 31), &[0, 0, 0, channel as u8])));
                if let Some(expected) = expected.get_mut(index) {
                    expected.bodies.push(body);
                    expected.confirmed.push(Confirm { tag: number, multiple: false, is_ack: true });
                }
            }
            let mut queues = queued.map(Vec::into_iter);
            let (mut bytes, mut lapins) = (Vec::new(), Vec::new());
            let turns = turns.into_iter().chain((0..60).flat_map(|_| 1..4));
            for (channel, frame) in turns.filter_map(|channel| {
                Some((channel, queues[usize::from(channel) - 1].next()?))
            }) {
                bytes.extend_from_slice(&frame);
                if channel == 3 || (frame[0] == METHOD && frame[PREFIX_LEN..].starts_with(&[0, 50])) {
                    lapins.extend(frame);
                }
            }
            prop_assert_eq!(demux(&bytes, &parts), Ok((expected, lapins)));
        }

        #[test]
        fn what_arrives_does_not_depend_on_the_parts(
            bytes in prop_oneof![frames(), mutated()],
            parts in prop::collection::vec(1..100_usize, 0..40),
        ) {
            let whole = demux(&bytes, &[]);
            let in_parts = demux(&bytes, &parts);
            // After an error, more or less may have passed.
            prop_assert_eq!(in_parts.is_err(), whole.is_err());
            if whole.is_ok() {
                prop_assert_eq!(in_parts, whole);
            }
        }
    }

    #[test]
    fn a_returned_message_is_no_delivery() {
        let start = method((60, 50), b"\x01\x38\x08NO_ROUTE\0\x01q");
        let bytes = message(1, &start, &EncodedProperties::default(), b"body").concat();
        let ([first, _], lapin) = demux(&bytes, &[]).unwrap();
        let expected = Received {
            returned: vec!["q".to_owned()],
            ..Received::default()
        };
        assert_eq!((first, lapin), (expected, Vec::new()));
    }

    #[test]
    fn a_closed_channel_drops_what_was_arriving_and_receives_nothing_more() {
        let properties = EncodedProperties::default();
        let mut bytes = message(1, &deliver(b"", b"", b""), &properties, &[7; 150]);
        bytes.pop();
        let close = frame(METHOD, 1, &method((20, 41), b""));
        // The next channel with this number may be lapin's.
        let later = message(1, &deliver(b"", b"", b""), &properties, b"x").concat();
        bytes.extend([close.clone(), later.clone()]);
        let ([first, _], lapin) = demux(&bytes.concat(), &[]).unwrap();
        assert_eq!((first.closed, first.bodies), (1, Vec::new()));
        assert_eq!(lapin, [close, later].concat());
    }

    #[test]
    fn frames_that_do_not_fit_together_are_an_error() {
        let start = || frame(METHOD, 1, &deliver(b"", b"", b""));
        let header = || frame(HEADER, 1, &encoded_header(5, &EncodedProperties::default()));
        let body = |len| frame(BODY, 1, &vec![7; len]);
        let mut of_another_class = encoded_header(5, &EncodedProperties::default());
        of_another_class[1] = 50;
        let of_another_class = frame(HEADER, 1, &of_another_class);
        for frames in [
            vec![body(0)],
            vec![body(1)],
            vec![header()],
            vec![start(), start()],
            vec![start(), body(5)],
            vec![start(), header(), header()],
            vec![start(), header(), body(6)],
            vec![start(), frame(HEADER, 1, &[0; 3])],
            vec![start(), of_another_class],
        ] {
            let ended = demux(&frames.concat(), &[]);
            assert_eq!(ended, Err(ProtocolViolation::UnexpectedContent), "{frames:?}");
        }
        let parts = [start(), header(), body(0), body(2), body(3)];
        let ([first, _], _) = demux(&parts.concat(), &[]).unwrap();
        assert_eq!(first.bodies, [[7; 5]]);
    }

    /// As `basic.get` does, which lapin uses on channels of its own.
    #[test]
    fn content_of_another_channel_passes_unchanged() {
        let bytes = message(
            3,
            &deliver(b"", b"", b""),
            &EncodedProperties::default(),
            &[7; 300],
        )
        .concat();
        assert_eq!(demux(&bytes, &[10; 5]).unwrap(), (Default::default(), bytes));
    }
}
