//! Frames of a broker as the fuzzer makes them, and what must hold for all of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::super::guard::{BODY, FRAME_END, Filter, HEADER, HEARTBEAT, METHOD, ProtocolViolation};
use super::decode::Confirm;
use super::demux::{Demux, Receiver};
use super::model::{self, ReadProperties, Received};
use crate::error::BrokerError;
use crate::protocol::{CONTROL_EXCHANGE, ShortStr};
use crate::transport::Delivery;

const MAX_FRAME: usize = 4096;

/// The channels whose content is not lapin's. Frames that are [made](made_frames) are of these, of
/// channel 0 and of 3.
const OURS: [u16; 2] = [1, 2];

/// Reads frames in several ways, and checks that all have the same result, and that it is the one
/// that lapin's parsers lead to.
///
/// The first byte says how the bytes are split. If it is even, the other bytes are what a broker
/// sends. Otherwise they are [instructions](made_frames) to make frames.
pub(crate) fn check_any_frames(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let made;
    let bytes = match first.is_multiple_of(2) {
        true => rest,
        false => {
            made = made_frames(rest);
            &made
        }
    };
    let whole = receive(bytes, [bytes.len().max(1)], Bodies::Scanned);
    // Any sizes will do, if they vary.
    let parts = std::iter::successors(Some(usize::from(first)), |part| Some((part * 7 + 3) % 61));
    let parts = parts.map(|part| part + 1);
    let in_parts = receive(bytes, parts.clone(), Bodies::Scanned);
    let appended = receive(bytes, parts, Bodies::Appended);
    let bytewise = receive(bytes, std::iter::repeat(1), Bodies::Scanned);
    for other in [&whole, &in_parts, &appended] {
        assert_eq!(bytewise.violation.is_some(), other.violation.is_some());
        match bytewise.violation {
            None => assert_eq!(&bytewise, other),
            // What arrives together with a violation may be lost.
            Some(_) => assert!(bytewise.begins_with(other), "{bytewise:?}\n{other:?}"),
        }
    }

    let expected = model::meaning(&bytewise.guarded, &OURS);
    assert_eq!(bytewise.received, expected.received);
    assert_eq!(bytewise.to_lapin, expected.to_lapin);
    match bytewise.violation {
        Some(ProtocolViolation::UnexpectedContent) => assert!(expected.is_violation),
        _ => assert!(!expected.is_violation),
    }
}

/// What became of the bytes of a connection.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    received: HashMap<u16, Vec<Received>>,
    to_lapin: Vec<u8>,
    violation: Option<ProtocolViolation>,
    /// What passed the guard. Bytes that arrived after a violation did not.
    guarded: Vec<u8>,
}

impl Outcome {
    fn begins_with(&self, other: &Self) -> bool {
        let mut channels = OURS
            .iter()
            .map(|channel| (&self.received[channel], &other.received[channel]));
        self.to_lapin.starts_with(&other.to_lapin) && channels.all(|(long, short)| long.starts_with(short))
    }
}

/// What happens to the parts of our bodies.
#[derive(Clone, Copy, PartialEq)]
enum Bodies {
    /// They are scanned like everything else.
    Scanned,
    /// Those in the middle of a frame are appended to their body, as the driver does if they are
    /// large.
    Appended,
}

/// Reads bytes in parts of these sizes, as the driver does.
fn receive(bytes: &[u8], parts: impl IntoIterator<Item = usize>, bodies: Bodies) -> Outcome {
    let mut filter = Filter::new(MAX_FRAME);
    let mut demux = Demux::new();
    let channels = OURS.map(|channel| (channel, Log::default()));
    for (channel, log) in &channels {
        demux.attach(*channel, log.clone());
    }
    let mut outcome = Outcome::default();
    let mut rest = bytes;
    for part in parts {
        if rest.is_empty() {
            break;
        }
        let part = part.min(rest.len());
        if bodies == Bodies::Appended
            && let Some((body, left)) = demux.arriving_body()
            && filter.unchecked() == left + 1
        {
            let (now, later) = rest.split_at(part.min(left));
            rest = later;
            body.extend_from_slice(now);
            demux.record_body(now.len());
            filter.skip(now.len());
            outcome.guarded.extend_from_slice(now);
            continue;
        }
        let (now, later) = rest.split_at(part);
        rest = later;
        if let Err(violation) = receive_part(now, &mut filter, &mut demux, &mut outcome) {
            outcome.violation = Some(violation);
            break;
        }
    }
    outcome.received = channels.map(|(channel, Log(log))| (channel, log.take())).into();
    outcome
}

fn receive_part(
    part: &[u8],
    filter: &mut Filter,
    demux: &mut Demux<Log>,
    outcome: &mut Outcome,
) -> Result<(), ProtocolViolation> {
    let mut buffer = vec![0; filter.held()];
    buffer.extend_from_slice(part);
    let passed = filter.scan(&mut buffer)?;
    assert!(filter.held() <= MAX_FRAME);
    for bytes in [&buffer[..passed], &filter.take_ready()] {
        outcome.guarded.extend_from_slice(bytes);
        demux.process(bytes, &mut outcome.to_lapin)?;
    }
    Ok(())
}

/// What a channel gets, in its order.
#[derive(Debug, Clone, Default)]
struct Log(Rc<RefCell<Vec<Received>>>);

impl Receiver for Log {
    fn delivered(&self, delivery: Delivery) {
        let properties = delivery.message.properties;
        let texts = [
            properties.content_type,
            properties.content_encoding,
            properties.correlation_id,
            properties.reply_to,
            properties.kind,
            properties.user_id,
            properties.app_id,
        ];
        self.0.borrow_mut().push(Received::Message {
            tag: delivery.tag,
            redelivered: delivery.redelivered,
            control_key: delivery.control_key.map(|key| key.to_string()),
            properties: Box::new(ReadProperties {
                texts: texts.map(|text| text.map(|text| text.to_string())),
                priority: properties.priority,
                is_persistent: properties.persistent,
            }),
            body: delivery.message.body.to_vec(),
        });
    }

    fn returned(&self, routing_key: &ShortStr, _: Option<&ShortStr>) {
        let key = routing_key.to_string();
        self.0.borrow_mut().push(Received::Returned(key));
    }

    fn confirmed(&self, confirm: Confirm) {
        self.0.borrow_mut().push(Received::Confirmed(confirm));
    }

    fn closed(&self, _: BrokerError) {
        self.0.borrow_mut().push(Received::Closed);
    }
}

/// Instructions to make frames, which are read from the front.
struct Instructions<'a>(&'a [u8]);

impl<'a> Instructions<'a> {
    /// The next byte, or zero at the end.
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// The next bytes, or fewer at the end.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A short string with at most 15 bytes.
    fn short_string(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte() % 16);
        short_string(self.bytes(len))
    }
}

fn short_string(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, channel][..], &size, payload, &[FRAME_END]].concat()
}

fn method(channel: u8, class: u8, number: u8, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&[0, class, 0, number], arguments].concat())
}

fn header(channel: u8, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let payload = [&[0, 60, 0, 0][..], &body_size.to_be_bytes(), properties].concat();
    frame(HEADER, channel, &payload)
}

/// Makes frames: those of whole messages, their parts in any order, other methods, and any bytes.
/// The fuzzer's bytes themselves are seldom frames that fit together.
fn made_frames(instructions: &[u8]) -> Vec<u8> {
    let mut from = Instructions(instructions);
    let mut made = Vec::new();
    while !from.0.is_empty() {
        let instruction = from.byte();
        let channel = instruction >> 6;
        let frames = match instruction % 16 {
            0..3 => message(channel, &mut from),
            3 => deliver(channel, &mut from),
            4 => returned(channel, &mut from),
            5 => {
                let properties = properties(&mut from);
                header(channel, from.byte().into(), &properties)
            }
            6 => {
                let len = usize::from(from.byte());
                frame(BODY, channel, from.bytes(len))
            }
            // basic.ack and basic.nack.
            7 => {
                let number = if from.byte().is_multiple_of(2) { 80 } else { 120 };
                method(
                    channel,
                    60,
                    number,
                    &[0, 0, 0, 0, 0, 0, 0, from.byte(), from.byte()],
                )
            }
            // channel.close and channel.close-ok.
            8 => {
                let arguments = [&[1, 0x94][..], &from.short_string(), &[0; 4]].concat();
                method(channel, 20, 40, &arguments)
            }
            9 => method(channel, 20, 41, &[]),
            // queue.purge-ok.
            10 => method(channel, 50, 31, &[0, 0, 0, from.byte()]),
            11 => frame(HEARTBEAT, channel, &[]),
            // A body whose size says nothing about the bytes that follow.
            12 => {
                let size = u64::from_be_bytes([from.byte(), 0, 0, 0, 0, from.byte(), from.byte(), 0]);
                header(channel, size, &[0, 0])
            }
            // Any frame.
            13 => {
                let (kind, len) = (from.byte(), usize::from(from.byte()));
                frame(kind, channel, from.bytes(len))
            }
            // Any bytes.
            14 => {
                let len = usize::from(from.byte() % 16);
                from.bytes(len).to_vec()
            }
            // A change of a byte among the last ones.
            _ => {
                let back = usize::from(from.byte());
                let change = from.byte();
                if let Some(byte) = made.iter_mut().rev().nth(back) {
                    *byte ^= change;
                }
                Vec::new()
            }
        };
        made.extend(frames);
    }
    made
}

fn deliver(channel: u8, from: &mut Instructions<'_>) -> Vec<u8> {
    let flags = from.byte();
    let exchange = match flags & 2 {
        0 => from.short_string(),
        _ => short_string(CONTROL_EXCHANGE.as_bytes()),
    };
    let arguments = [
        &short_string(b"ctag")[..],
        &[0, 0, 0, 0, 0, 0, 0, from.byte(), flags & 1],
        &exchange,
        &from.short_string(),
    ];
    method(channel, 60, 60, &arguments.concat())
}

fn returned(channel: u8, from: &mut Instructions<'_>) -> Vec<u8> {
    let strings = [from.short_string(), from.short_string(), from.short_string()];
    method(channel, 60, 50, &[&[1, 0x38], &strings.concat()[..]].concat())
}

/// Some short properties with their flags: content type, priority, correlation id, reply address.
fn properties(from: &mut Instructions<'_>) -> Vec<u8> {
    const PRIORITY: u16 = 1 << 11;
    let which = from.byte();
    let mut flags = 0_u16;
    let mut encoded = Vec::new();
    for (bit, flag) in [(1, 1 << 15), (2, PRIORITY), (4, 1 << 10), (8, 1 << 9)] {
        if which & bit == 0 {
            continue;
        }
        flags |= flag;
        match flag {
            PRIORITY => encoded.push(from.byte()),
            _ => encoded.extend(from.short_string()),
        }
    }
    [&flags.to_be_bytes()[..], &encoded].concat()
}

/// A message in frames that fit together.
fn message(channel: u8, from: &mut Instructions<'_>) -> Vec<u8> {
    let start = match from.byte().is_multiple_of(4) {
        true => returned(channel, from),
        false => deliver(channel, from),
    };
    let properties = properties(from);
    let len = usize::from(from.byte());
    let body = from.bytes(len);
    let mut frames = [start, header(channel, body.len() as u64, &properties)].concat();
    for part in body.chunks(usize::from(from.byte()) + 1) {
        frames.extend(frame(BODY, channel, part));
    }
    frames
}
