//! Passes on the bytes that lapin writes, without the frames of [closed](super::channels) channels,
//! and [restores](super::ids) escaped correlation ids. Pure: no I/O.
//!
//! The only messages that lapin writes are copies of dead letters: the transport encodes all others
//! itself. Content headers are checked for the ids of those copies.

use super::channels::{ClosedChannels, FrameStart};
use super::frames::{FRAME_END, HEADER, PREFIX_LEN};
use super::ids;

/// The size of the protocol header, which a client sends before its first frame.
const PROTOCOL_HEADER: usize = 8;

/// Finds the frames in the bytes that lapin writes. Stores the content headers that may have to be
/// changed, and leaves out frames of closed channels.
#[derive(Debug)]
pub(in super::super) struct OutgoingFilter {
    position: FramePosition,
    closed: ClosedChannels,
    /// The front of a frame that is not passed on as it is: a content header that may have an
    /// escaped id, a frame of a closed channel, or a start too short to tell. It is stored until it
    /// is complete.
    held: Vec<u8>,
    /// Bytes to write before any others. The first `written` of them were written.
    pending: Vec<u8>,
    written: usize,
}

/// What to do with the bytes that lapin writes.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Next {
    /// Write this many bytes at the front, in one step or in several, and
    /// [record](OutgoingFilter::wrote) them.
    Write(usize),
    /// Treat this many bytes at the front as written. The filter has stored them or left them out.
    /// Some bytes may be [pending](OutgoingFilter::pending) now.
    Consumed(usize),
}

/// A position in a stream of frames.
#[derive(Debug, Clone, Copy)]
struct FramePosition {
    /// How many more bytes of the current frame, or of the protocol header, follow.
    left: usize,
    /// The first bytes of the current frame, until its start is complete. Empty otherwise.
    start: FrameStart,
}

impl FramePosition {
    /// Advances by these bytes, and calls `show` for each start of a frame that they complete.
    fn advance(&mut self, mut bytes: &[u8], mut show: impl FnMut(&FrameStart)) {
        loop {
            let rest = self.left.min(bytes.len());
            self.left -= rest;
            bytes = &bytes[rest..];
            if bytes.is_empty() {
                return;
            }
            bytes = &bytes[self.start.take(bytes)..];
            if self.start.is_complete() {
                let start = std::mem::take(&mut self.start);
                show(&start);
                self.left = start.left();
            }
        }
    }
}

impl OutgoingFilter {
    pub(in super::super) fn new() -> Self {
        Self {
            position: FramePosition {
                left: PROTOCOL_HEADER,
                start: FrameStart::default(),
            },
            closed: ClosedChannels::default(),
            held: Vec::new(),
            pending: Vec::new(),
            written: 0,
        }
    }

    /// The bytes to write before any others.
    pub(in super::super) fn pending(&self) -> &[u8] {
        &self.pending[self.written..]
    }

    /// Records that this many pending bytes were written.
    pub(in super::super) fn wrote_pending(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.pending.len() {
            self.pending.clear();
            self.written = 0;
        }
    }

    /// Records that these bytes were written unchanged.
    pub(in super::super) fn wrote(&mut self, bytes: &[u8]) {
        let closed = &mut self.closed;
        self.position.advance(bytes, |start| closed.record(start));
    }

    /// Returns what to do with the front of these bytes. Must not be called while bytes are
    /// pending: write those first.
    pub(in super::super) fn next(&mut self, bytes: &[u8]) -> Next {
        if self.held.is_empty() {
            let passable = self.passable_len(bytes);
            if passable > 0 || bytes.is_empty() {
                return Next::Write(passable);
            }
        }
        // The frame at the front cannot pass as it is.
        let missing = match self.held_start() {
            Some(start) => start.frame_len() - self.held.len(),
            // The prefix, which tells the frame's size.
            None => PREFIX_LEN - self.held.len(),
        };
        let taken = missing.min(bytes.len());
        self.held.extend_from_slice(&bytes[..taken]);
        if let Some(start) = self.held_start()
            && self.held.len() == start.frame_len()
        {
            self.release(&start);
        }
        Next::Consumed(taken)
    }

    /// The start of the held frame. `None` if not even its prefix is complete.
    fn held_start(&self) -> Option<FrameStart> {
        let mut start = FrameStart::default();
        start.take(&self.held);
        (self.held.len() >= PREFIX_LEN).then_some(start)
    }

    /// Makes the held frame pending, with its id restored, unless the frame must not be sent.
    fn release(&mut self, start: &FrameStart) {
        let held = std::mem::take(&mut self.held);
        if !self.closed.allows(start) {
            return;
        }
        self.closed.record(start);
        if start.kind() != HEADER {
            return self.pending.extend(held);
        }
        let restored = ids::restore_in_header(&held[PREFIX_LEN..held.len() - 1]);
        let size = u32::try_from(restored.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.pending.extend_from_slice(&held[..3]);
        self.pending.extend_from_slice(&size);
        self.pending.extend_from_slice(&restored);
        self.pending.push(FRAME_END);
    }

    /// How many bytes at the front can be written unchanged. They end before the first frame that
    /// does not [pass](Self::passes), and after a frame that closes its channel, because
    /// [`wrote`](Self::wrote) has to record that before the next frame is checked.
    fn passable_len(&self, bytes: &[u8]) -> usize {
        let mut end = self.position.left.min(bytes.len());
        let mut start = self.position.start;
        // A frame whose front was written has passed already.
        let mut has_passed = !start.is_empty();
        while end < bytes.len() {
            let frame = &bytes[end..];
            let taken = start.take(frame);
            if !has_passed && !self.passes(&start, frame) {
                return end;
            }
            if !start.is_complete() {
                return bytes.len();
            }
            end = end
                .saturating_add(taken.saturating_add(start.left()))
                .min(bytes.len());
            if start.closes_channel() {
                return end;
            }
            start = FrameStart::default();
            has_passed = false;
        }
        end
    }

    /// Whether the frame at the front of these bytes, which has this start, can be written as it
    /// is. `false` if that is not known before more of the frame arrives.
    fn passes(&self, start: &FrameStart, bytes: &[u8]) -> bool {
        if !start.is_complete() || !self.closed.allows(start) {
            return false;
        }
        if start.kind() != HEADER || !ids::was_any_escaped() {
            return true;
        }
        let whole = bytes.get(..start.frame_len());
        whole.is_some_and(|frame| !ids::has_escaped_id(&frame[PREFIX_LEN..frame.len() - 1]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::channels::{CLOSE, CLOSE_OK, OPEN};
    use super::super::frames::{BODY, METHOD};
    use super::super::samples::{EncodedProperties, content_header, frame, message, method, short_string};
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

        #[test]
        fn frames_of_closed_channels_are_left_out_in_any_parts(
            sent in prop::collection::vec((1..4_u16, 0..8_u8, 0..30_usize), 0..40),
            parts in prop::collection::vec(1..60_usize, 0..30),
            at_once in 1..100_usize,
        ) {
            let (mut input, mut expected) = (PROTOCOL.to_vec(), PROTOCOL.to_vec());
            let mut is_closed = [false; 4];
            for (channel, what, len) in sent {
                let is_closed = &mut is_closed[usize::from(channel)];
                let (payload, passes) = match what {
                    0 => (method(OPEN, &[0]), true),
                    1 => (method(CLOSE, &[0; 7]), !*is_closed),
                    2 => (method(CLOSE_OK, &[]), true),
                    3..6 => (vec![7; len], !*is_closed),
                    _ => (method((60, 40), &vec![0; len]), !*is_closed),
                };
                let kind = if (3..6).contains(&what) { BODY } else { METHOD };
                *is_closed = (*is_closed || matches!(what, 1 | 2)) && what != 0;
                let frame = frame(kind, channel, &payload);
                input.extend(&frame);
                if passes {
                    expected.extend(frame);
                }
            }
            prop_assert_eq!(written(&input, &parts, at_once), expected);
        }
    }
}
