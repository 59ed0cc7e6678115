//! What frames of a broker mean, by lapin's parsers and frame by frame: a second opinion on the
//! [`demux`](super::demux), for the fuzzer. It takes no care of memory or time.

use std::collections::HashMap;

use lapin::BasicProperties;
use lapin::protocol::basic::{AMQPMethod as Basic, Deliver, parse_properties};
use lapin::protocol::{AMQPClass, parse_class};

use super::super::guard::{BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD, PREFIX_LEN};
use super::decode::Confirm;
use crate::protocol::CONTROL_EXCHANGE;

/// What a channel gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Received {
    Message {
        tag: u64,
        redelivered: bool,
        control_key: Option<String>,
        properties: Box<ReadProperties>,
        body: Vec<u8>,
    },
    Returned(String),
    Confirmed(Confirm),
    Closed,
}

/// The properties that are read the same way by everyone.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ReadProperties {
    /// The content type and encoding, the correlation id, the reply address, the type, the user and
    /// the application.
    pub(super) texts: [Option<String>; 7],
    pub(super) priority: Option<u8>,
    pub(super) is_persistent: bool,
}

impl From<&BasicProperties> for ReadProperties {
    fn from(properties: &BasicProperties) -> Self {
        let texts = [
            properties.content_type(),
            properties.content_encoding(),
            properties.correlation_id(),
            properties.reply_to(),
            properties.kind(),
            properties.user_id(),
            properties.app_id(),
        ];
        Self {
            texts: texts.map(|text| text.as_ref().map(ToString::to_string)),
            priority: *properties.priority(),
            is_persistent: *properties.delivery_mode() == Some(2),
        }
    }
}

/// What all the bytes of a connection mean.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Meaning {
    /// What the channels get, by their numbers.
    pub(super) received: HashMap<u16, Vec<Received>>,
    pub(super) to_lapin: Vec<u8>,
    /// Whether frames do not fit together. Nothing follows then.
    pub(super) is_violation: bool,
}

/// A message of which not everything has arrived.
struct Arriving {
    method: Basic,
    /// The size of the body, and the properties.
    header: Option<(u64, BasicProperties)>,
    body: Vec<u8>,
}

/// The frames do not fit together.
struct Violation;

/// Reads bytes that have passed the guard on a connection whose channels with these numbers are
/// ours.
pub(super) fn meaning(bytes: &[u8], channels: &[u16]) -> Meaning {
    let mut reader = Reader {
        open: channels.iter().map(|channel| (*channel, None)).collect(),
        meaning: Meaning::default(),
    };
    reader.meaning.received = channels.iter().map(|channel| (*channel, Vec::new())).collect();
    reader.meaning.is_violation = reader.read(bytes).is_err();
    reader.meaning
}

struct Reader {
    /// Our open channels, each with the message that is arriving.
    open: HashMap<u16, Option<Arriving>>,
    meaning: Meaning,
}

impl Reader {
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some(&[kind, high, low, a, b, c, d]) = bytes.first_chunk::<PREFIX_LEN>() {
            let channel = u16::from_be_bytes([high, low]);
            let size = u32::from_be_bytes([a, b, c, d]) as usize;
            let len = (size + OVERHEAD).min(bytes.len());
            let (frame, rest) = bytes.split_at(len);
            let is_whole = len == size + OVERHEAD;
            let has_end_marker = frame.last() == Some(&FRAME_END);
            let payload = &frame[PREFIX_LEN..len.min(PREFIX_LEN + size)];
            let is_ours = self.open.contains_key(&channel);
            match kind {
                METHOD | HEADER if !(is_whole && has_end_marker) => break,
                METHOD if is_ours => self.method(channel, frame, payload)?,
                HEADER if is_ours => self.header(channel, payload)?,
                BODY if is_ours => {
                    self.body(channel, payload)?;
                    if is_whole {
                        if !has_end_marker {
                            return Err(Violation);
                        }
                        self.deliver_if_complete(channel);
                    }
                }
                METHOD | HEADER | BODY | HEARTBEAT => self.meaning.to_lapin.extend_from_slice(frame),
                _ => break,
            }
            bytes = rest;
        }
        // These are no frames, so lapin reports the error.
        self.meaning.to_lapin.extend_from_slice(bytes);
        Ok(())
    }

    fn receive(&mut self, channel: u16, received: Received) {
        self.meaning.received.entry(channel).or_default().push(received);
    }

    fn method(&mut self, channel: u16, frame: &[u8], payload: &[u8]) -> Result<(), Violation> {
        // Like lapin, which wants nothing after the arguments.
        let method = parse_class(payload).ok().filter(|(rest, _)| rest.is_empty());
        let confirm = |tag, multiple, is_ack| {
            Received::Confirmed(Confirm {
                tag,
                multiple,
                is_ack,
            })
        };
        match method.map(|(_, method)| method) {
            Some(AMQPClass::Basic(method @ (Basic::Deliver(_) | Basic::Return(_)))) => {
                let arriving = Arriving {
                    method,
                    header: None,
                    body: Vec::new(),
                };
                match self.open.insert(channel, Some(arriving)) {
                    Some(Some(_)) => return Err(Violation),
                    _ => return Ok(()),
                }
            }
            Some(AMQPClass::Basic(Basic::Ack(ack))) => {
                self.receive(channel, confirm(ack.delivery_tag, ack.multiple, true));
                return Ok(());
            }
            Some(AMQPClass::Basic(Basic::Nack(nack))) => {
                self.receive(channel, confirm(nack.delivery_tag, nack.multiple, false));
                return Ok(());
            }
            // `channel.close` or `channel.close-ok`. It closes the channel even if lapin cannot
            // read it and therefore ends the connection.
            _ if matches!(payload, [0, 20, 0, 40 | 41, ..]) => {
                self.open.remove(&channel);
                self.receive(channel, Received::Closed);
            }
            _ => {}
        }
        self.meaning.to_lapin.extend_from_slice(frame);
        Ok(())
    }

    fn header(&mut self, channel: u16, payload: &[u8]) -> Result<(), Violation> {
        let Some(Some(Arriving { header, .. })) = self.open.get_mut(&channel) else {
            return Err(Violation);
        };
        let Some((&[0, 60, _, _, a, b, c, d, e, f, g, h], properties)) = payload.split_first_chunk() else {
            return Err(Violation);
        };
        let body_size = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        match parse_properties(properties) {
            Ok((b"", properties)) if header.is_none() => *header = Some((body_size, properties)),
            _ => return Err(Violation),
        }
        self.deliver_if_complete(channel);
        Ok(())
    }

    /// Reads the payload of a frame with a part of a body, or as much of it as has arrived.
    fn body(&mut self, channel: u16, part: &[u8]) -> Result<(), Violation> {
        let Some(Some(arriving)) = self.open.get_mut(&channel) else {
            return Err(Violation);
        };
        let (size, _) = arriving.header.as_ref().ok_or(Violation)?;
        arriving.body.extend_from_slice(part);
        match arriving.body.len() as u64 > *size {
            true => Err(Violation),
            false => Ok(()),
        }
    }

    fn deliver_if_complete(&mut self, channel: u16) {
        let Some(arriving) = self.open.get_mut(&channel) else {
            return;
        };
        let is_complete = |arriving: &mut Arriving| {
            let size = arriving.header.as_ref().map(|(size, _)| *size);
            size == Some(arriving.body.len() as u64)
        };
        let Some(Arriving {
            method,
            header: Some((_, properties)),
            body,
        }) = arriving.take_if(is_complete)
        else {
            return;
        };
        let received = match method {
            Basic::Deliver(Deliver {
                delivery_tag: tag,
                redelivered,
                exchange,
                routing_key,
                ..
            }) => Received::Message {
                tag,
                redelivered,
                control_key: (exchange.as_str() == CONTROL_EXCHANGE).then(|| routing_key.to_string()),
                properties: Box::new((&properties).into()),
                body,
            },
            Basic::Return(returned) => Received::Returned(returned.routing_key.to_string()),
            _ => unreachable!("no other method has content"),
        };
        self.receive(channel, received);
    }
}
