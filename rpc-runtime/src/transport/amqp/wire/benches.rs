//! What the task that owns the socket does with bytes, for benchmarks.

use std::cell::Cell;
use std::rc::Rc;

use super::super::guard::{FRAME_END, Filter, METHOD};
use super::Acknowledgement;
use super::decode::Confirm;
use super::demux::{Demux, Receiver};
use super::encode;
use super::outbox::Outbox;
use crate::error::BrokerError;
use crate::protocol::{Message, ShortStr};
use crate::transport::Delivery;

const CHANNEL: u16 = 1;
const MAX_FRAME: usize = 128 * 1024;

/// How many bytes are read at once, and the smallest rest of a part of a body that is read into the
/// body itself. The driver does the same after a large body.
const LARGE_PART: usize = 4 * 1024;

/// Frames to a broker.
pub(crate) struct Outgoing(Outbox);

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self(Outbox::default())
    }

    /// Encodes a message to a queue. Returns how many bytes that are.
    pub(crate) fn publish(&mut self, queue: &ShortStr, message: &Message) -> Result<usize, BrokerError> {
        self.0.clear();
        encode::publish(&mut self.0, CHANNEL, MAX_FRAME, ("", queue), true, message)?;
        Ok(self.0.len())
    }

    /// Encodes an acknowledgement of a delivery. Returns how many bytes that are.
    pub(crate) fn acknowledge(&mut self, tag: u64) -> usize {
        self.0.clear();
        let multiple = false;
        encode::acknowledge(self.0.end(), CHANNEL, Acknowledgement::Ack { tag, multiple });
        self.0.len()
    }
}

/// Frames from a broker, on a connection with one channel.
pub(crate) struct Incoming {
    filter: Filter,
    demux: Demux<Counter>,
    received: Counter,
    to_lapin: Vec<u8>,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        let received = Counter::default();
        let mut demux = Demux::new();
        demux.attach(CHANNEL, received.clone());
        Self {
            filter: Filter::new(MAX_FRAME),
            demux,
            received,
            to_lapin: Vec::new(),
        }
    }

    /// Receives whole frames. Returns how many messages and confirms they are, or `None` if they
    /// cannot be [received in parts](Self::receive_part).
    pub(crate) fn receive(&mut self, mut frames: &mut [u8]) -> Option<u64> {
        while !frames.is_empty() {
            let received = match self.receive_body(frames) {
                Some(len) => len,
                None => self.receive_part(frames)?,
            };
            frames = &mut frames[received..];
        }
        Some(self.received.0.take())
    }

    /// Appends the rest of a large part of a body to that body, like the driver. Returns how many
    /// bytes that are, or `None` if something else follows.
    fn receive_body(&mut self, bytes: &[u8]) -> Option<usize> {
        let (body, left) = self.demux.arriving_body()?;
        // As in the driver, the filter counts the end marker too.
        if left < LARGE_PART || self.filter.unchecked() != left + 1 {
            return None;
        }
        let len = left.min(bytes.len());
        body.extend_from_slice(&bytes[..len]);
        self.demux.record_body(len);
        self.filter.skip(len);
        Some(len)
    }

    /// Scans what one read returns, and passes it on. Returns how many bytes that are. `None` if
    /// they violate the protocol, or if the filter holds back bytes of the previous read. A frame
    /// that the filter replaces is lost, with what follows it in the read.
    fn receive_part(&mut self, bytes: &mut [u8]) -> Option<usize> {
        // Unlike the driver's buffer, `bytes` has no room for them at its front.
        if self.filter.held() > 0 {
            return None;
        }
        let len = bytes.len().min(LARGE_PART);
        let part = &mut bytes[..len];
        let passed = self.filter.scan(part).ok()?;
        self.demux.process(&part[..passed], &mut self.to_lapin).ok()?;
        Some(len)
    }
}

/// Returns the frames of a message that a broker delivers.
pub(crate) fn delivery(message: &Message) -> Result<Vec<u8>, BrokerError> {
    let mut published = Outbox::default();
    let queue = ShortStr::from_static("q");
    encode::publish(&mut published, CHANNEL, MAX_FRAME, ("", &queue), true, message)?;
    let published = published.to_vec();
    // The class and the number of `basic.deliver`, a consumer's name, the tag and the flag, an
    // empty exchange and the routing key.
    let deliver = b"\0\x3c\0\x3c\x04ctag\0\0\0\0\0\0\0\x07\0\0\x01q";
    // What follows the frame of `basic.publish`.
    let after = published.iter().position(|byte| *byte == FRAME_END);
    let content = &published[after.map_or(0, |at| at + 1)..];
    Ok([&frame(deliver)[..], content].concat())
}

/// Returns the frame of a broker's confirm.
pub(crate) fn confirm(tag: u64) -> Vec<u8> {
    // The class and the number of `basic.ack`, the tag, and the flag for several messages.
    frame(&[&b"\0\x3c\0\x50"[..], &tag.to_be_bytes(), b"\0"].concat())
}

fn frame(method: &[u8]) -> Vec<u8> {
    let mut frame = vec![METHOD];
    frame.extend_from_slice(&CHANNEL.to_be_bytes());
    frame.extend_from_slice(&(method.len() as u32).to_be_bytes());
    frame.extend_from_slice(method);
    frame.push(FRAME_END);
    frame
}

/// Counts what a channel receives.
#[derive(Clone, Default)]
struct Counter(Rc<Cell<u64>>);

impl Counter {
    fn add(&self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Receiver for Counter {
    fn delivered(&self, _: Delivery) {
        self.add();
    }

    fn returned(&self, _: &ShortStr, _: Option<&ShortStr>) {
        self.add();
    }

    fn confirmed(&self, _: Confirm) {
        self.add();
    }

    fn closed(&self, _: BrokerError) {}
}
