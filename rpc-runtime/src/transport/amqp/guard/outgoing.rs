//! Passes on the bytes that lapin writes, and [restores](super::ids) escaped correlation ids. Pure:
//! no I/O.

use super::frames::{FRAME_END, HEADER, OVERHEAD, PREFIX_LEN};
use super::ids;

/// The size of the protocol header, which a client sends before its first frame.
const PROTOCOL_HEADER: usize = 8;

/// Finds the frames in the bytes that lapin writes, and stores the content headers that may have to
/// be changed.
#[derive(Debug)]
pub(super) struct OutgoingFilter {
    position: FramePosition,
    /// An incomplete content header.
    held: Vec<u8>,
    /// Bytes to write before any others. The first `written` of them were written.
    pending: Vec<u8>,
    written: usize,
}

/// What to do with the bytes that lapin writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write this many bytes at the front, in one step or in several.
    Write(usize),
    /// Treat this many bytes at the front as written. The filter stores them.
    Consumed(usize),
}

/// A position in a stream of frames.
#[derive(Debug, Clone, Copy)]
struct FramePosition {
    /// How many bytes of the current frame are to come.
    left: usize,
    /// The first `prefix_len` bytes of a frame whose size is not known yet.
    prefix: [u8; PREFIX_LEN],
    prefix_len: usize,
}

impl FramePosition {
    /// Advances to the end of the current frame, or of `bytes` if they end first. Returns the
    /// number of bytes advanced, which is zero between two frames.
    fn finish_frame(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        if self.prefix_len > 0 {
            done = (PREFIX_LEN - self.prefix_len).min(bytes.len());
            self.prefix[self.prefix_len..self.prefix_len + done].copy_from_slice(&bytes[..done]);
            self.prefix_len += done;
            if self.prefix_len == PREFIX_LEN {
                self.prefix_len = 0;
                // With the end marker.
                self.left = payload_len(&self.prefix) + 1;
            }
        }
        let rest = self.left.min(bytes.len() - done);
        self.left -= rest;
        done + rest
    }

    /// Advances by all these bytes.
    fn advance(&mut self, mut bytes: &[u8]) {
        loop {
            bytes = &bytes[self.finish_frame(bytes)..];
            let Some(first) = bytes.first() else { return };
            self.prefix[0] = *first;
            self.prefix_len = 1;
            bytes = &bytes[1..];
        }
    }
}

/// The size of a frame's payload.
fn payload_len(prefix: &[u8; PREFIX_LEN]) -> usize {
    let [_, _, _, a, b, c, d] = *prefix;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX - OVERHEAD)
}

impl OutgoingFilter {
    pub(super) fn new() -> Self {
        Self {
            position: FramePosition {
                left: PROTOCOL_HEADER,
                prefix: [0; PREFIX_LEN],
                prefix_len: 0,
            },
            held: Vec::new(),
            pending: Vec::new(),
            written: 0,
        }
    }

    /// The bytes to write before any others.
    pub(super) fn pending(&self) -> &[u8] {
        &self.pending[self.written..]
    }

    /// Records that this many pending bytes were written.
    pub(super) fn wrote_pending(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.pending.len() {
            self.pending.clear();
            self.written = 0;
        }
    }

    /// Records that these bytes were written unchanged.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        self.position.advance(bytes);
    }

    /// Returns what to do with the front of these bytes. No bytes may be pending.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Next {
        if self.held.is_empty() {
            let passable = self.passable_len(bytes);
            if passable > 0 || bytes.is_empty() {
                return Next::Write(passable);
            }
        }
        let missing = match self.held.first_chunk() {
            Some(prefix) => payload_len(prefix).saturating_add(OVERHEAD) - self.held.len(),
            None => PREFIX_LEN - self.held.len(),
        };
        let taken = missing.min(bytes.len());
        self.held.extend_from_slice(&bytes[..taken]);
        if let Some(prefix) = self.held.first_chunk()
            && self.held.len() == payload_len(prefix).saturating_add(OVERHEAD)
        {
            let restored = ids::restore(&self.held[PREFIX_LEN..self.held.len() - 1]);
            let size = u32::try_from(restored.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.pending.extend_from_slice(&self.held[..3]);
            self.pending.extend_from_slice(&size);
            self.pending.extend_from_slice(&restored);
            self.pending.push(FRAME_END);
            self.held.clear();
        }
        Next::Consumed(taken)
    }

    /// How many bytes can be written unchanged: up to a content header that is incomplete or has an
    /// escaped id.
    fn passable_len(&self, bytes: &[u8]) -> usize {
        let mut position = self.position;
        let mut at = position.finish_frame(bytes);
        loop {
            let rest = &bytes[at..];
            let whole = match rest.first_chunk() {
                Some(prefix) => payload_len(prefix).saturating_add(OVERHEAD),
                None => usize::MAX,
            };
            match (rest.first(), rest.get(..whole)) {
                (None, _) => return at,
                (Some(&HEADER), None) => return at,
                (Some(&HEADER), Some(frame)) if ids::is_escaped(&frame[PREFIX_LEN..whole - 1]) => return at,
                (Some(_), Some(_)) => at += whole,
                (Some(_), None) => return bytes.len(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{EncodedProperties, content_header, frame, message, short_string};
    use super::*;
    use crate::protocol::Property;

    const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";

    /// The bytes that are written for an input in these parts, with at most `at_once` bytes in each
    /// write.
    fn written(input: &[u8], parts: &[usize], at_once: usize) -> Vec<u8> {
        let mut outgoing = OutgoingFilter::new();
        let mut output = Vec::new();
        let mut rest = input;
        let mut parts = parts.iter().cycle();
        loop {
            let pending = outgoing.pending().len().min(at_once);
            if pending > 0 {
                output.extend_from_slice(&outgoing.pending()[..pending]);
                outgoing.wrote_pending(pending);
                continue;
            }
            if rest.is_empty() {
                return output;
            }
            let part = parts
                .next()
                .map_or(rest.len(), |part| (*part).clamp(1, rest.len()));
            let done = match outgoing.next(&rest[..part]) {
                Next::Write(bytes) => {
                    let bytes = bytes.min(at_once);
                    output.extend_from_slice(&rest[..bytes]);
                    outgoing.wrote(&rest[..bytes]);
                    bytes
                }
                Next::Consumed(bytes) => bytes,
            };
            assert!(done > 0);
            rest = &rest[done..];
        }
    }

    fn answer(id: Vec<u8>) -> Vec<u8> {
        let mut properties = EncodedProperties::default();
        properties.set(Property::CorrelationId, id);
        properties.set(Property::Type, short_string(b"fault"));
        frame(HEADER, 1, &content_header(3, &properties))
    }

    proptest! {
        #[test]
        fn escaped_ids_are_restored_in_any_parts(
            messages in prop::collection::vec(message(), 0..4),
            id in prop::collection::vec(any::<u8>(), 1..60),
            parts in prop::collection::vec(1..300_usize, 0..30),
            at_once in 1..400_usize,
        ) {
            let (mut input, mut expected) = (PROTOCOL.to_vec(), PROTOCOL.to_vec());
            for message in messages {
                input.extend(&message);
                expected.extend(message);
                input.extend(answer(ids::escape(&id).unwrap()));
                expected.extend(answer(short_string(&id)));
            }
            prop_assert_eq!(written(&input, &parts, at_once), expected);
        }
    }
}
