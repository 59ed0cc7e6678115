//! What lapin writes: passed on, with escaped correlation ids [restored](super::ids). Pure: no I/O.

use super::frames::{FRAME_END, HEAD, HEADER, OVERHEAD};
use super::ids;

/// What a client sends before its first frame.
const PROTOCOL_HEADER: usize = 8;

/// Where the frames begin and end in what is written, and what of it waits to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    place: Place,
    /// A content header that has not come whole.
    held: Vec<u8>,
    /// To be written before anything else. The first `written` bytes of it were.
    pending: Vec<u8>,
    written: usize,
}

/// What to do with what is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many bytes at its front are to be written, in one step or in several.
    Write(usize),
    /// So many bytes at its front need not be written any more.
    Taken(usize),
}

/// A place in a stream of frames.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// How much of the current frame is to come.
    left: usize,
    /// The front of a frame whose size is not known.
    head: [u8; HEAD],
    known: usize,
}

impl Place {
    /// Goes on by as many bytes as belong to the frame that has begun, and returns how many that
    /// are.
    fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        if self.known > 0 {
            done = (HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + done].copy_from_slice(&bytes[..done]);
            self.known += done;
            if self.known == HEAD {
                self.known = 0;
                self.left = size_of(&self.head) + 1;
            }
        }
        let rest = self.left.min(bytes.len() - done);
        self.left -= rest;
        done + rest
    }

    /// Goes on by all these bytes.
    fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            bytes = &bytes[self.finish(bytes)..];
            let Some(first) = bytes.first() else { return };
            self.head[0] = *first;
            self.known = 1;
            bytes = &bytes[1..];
        }
    }
}

/// The size of a frame's payload.
fn size_of(head: &[u8; HEAD]) -> usize {
    let [_, _, _, a, b, c, d] = *head;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX - OVERHEAD)
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            place: Place {
                left: PROTOCOL_HEADER,
                head: [0; HEAD],
                known: 0,
            },
            held: Vec::new(),
            pending: Vec::new(),
            written: 0,
        }
    }

    /// What has to be written before anything else.
    pub(super) fn pending(&self) -> &[u8] {
        &self.pending[self.written..]
    }

    /// So much of what is pending was written.
    pub(super) fn wrote_pending(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.pending.len() {
            self.pending.clear();
            self.written = 0;
        }
    }

    /// These bytes were written as they are.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        self.place.pass(bytes);
    }

    /// Tells what to do with the front of these bytes. Nothing may be pending.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Next {
        if self.held.is_empty() {
            let passable = self.passable(bytes);
            if passable > 0 || bytes.is_empty() {
                return Next::Write(passable);
            }
        }
        let missing = match self.held.first_chunk() {
            Some(head) => size_of(head).saturating_add(OVERHEAD) - self.held.len(),
            None => HEAD - self.held.len(),
        };
        let taken = missing.min(bytes.len());
        self.held.extend_from_slice(&bytes[..taken]);
        if let Some(head) = self.held.first_chunk()
            && self.held.len() == size_of(head).saturating_add(OVERHEAD)
        {
            let restored = ids::restore(&self.held[HEAD..self.held.len() - 1]);
            let size = u32::try_from(restored.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.pending.extend_from_slice(&self.held[..3]);
            self.pending.extend_from_slice(&size);
            self.pending.extend_from_slice(&restored);
            self.pending.push(FRAME_END);
            self.held.clear();
        }
        Next::Taken(taken)
    }

    /// How many bytes can be written as they are: up to a content header with an escaped id, or one
    /// of which that cannot be told.
    fn passable(&self, bytes: &[u8]) -> usize {
        let mut place = self.place;
        let mut at = place.finish(bytes);
        loop {
            let rest = &bytes[at..];
            let whole = match rest.first_chunk() {
                Some(head) => size_of(head).saturating_add(OVERHEAD),
                None => usize::MAX,
            };
            match (rest.first(), rest.get(..whole)) {
                (None, _) => return at,
                (Some(&HEADER), None) => return at,
                (Some(&HEADER), Some(frame)) if ids::is_escaped(&frame[HEAD..whole - 1]) => return at,
                (Some(_), Some(_)) => at += whole,
                (Some(_), None) => return bytes.len(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{Props, frame, header, message, short};
    use super::*;
    use crate::protocol::Property;

    const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";

    /// What is written of this input, if it is offered in these parts and so much at once is taken.
    fn written(input: &[u8], parts: &[usize], at_once: usize) -> Vec<u8> {
        let mut outgoing = Outgoing::new();
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
                Next::Taken(bytes) => bytes,
            };
            assert!(done > 0);
            rest = &rest[done..];
        }
    }

    fn answer(id: Vec<u8>) -> Vec<u8> {
        let mut properties = Props::default();
        properties.set(Property::CorrelationId, id);
        properties.set(Property::Type, short(b"fault"));
        frame(HEADER, 1, &header(3, &properties))
    }

    proptest! {
        #[test]
        fn escaped_ids_are_restored_however_it_is_written(
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
                expected.extend(answer(short(&id)));
            }
            prop_assert_eq!(written(&input, &parts, at_once), expected);
        }
    }
}
