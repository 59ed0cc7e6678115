//! Bytes on their way to the socket. Does no I/O.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::{Buf, Bytes};

/// The smallest part of a body that is not copied. A smaller one is copied faster than the kernel
/// handles another piece.
const MIN_SHARED: usize = 8 * 1024;

/// The largest buffer to keep while it is empty.
const MAX_KEPT: usize = 1024 * 1024;

/// How many pieces are written at once, at most.
pub(super) const MAX_PIECES: usize = 32;

/// Bytes in order: those of a buffer, and between them large bodies, which are not copied.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    buffer: Vec<u8>,
    /// How many bytes of the buffer were removed by [`advance`](Self::advance). It still has them.
    taken: usize,
    /// The large bodies, each with its position in the buffer.
    bodies: VecDeque<(usize, Bytes)>,
    /// How many bytes the large bodies have.
    body_bytes: usize,
}

impl Outbox {
    /// The buffer, only to append to. It also has the bytes that were removed, and not the large
    /// bodies, so its length is not that of the outbox.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends a part of a body.
    pub(super) fn append_body(&mut self, body: &Bytes, part: Range<usize>) {
        if part.len() < MIN_SHARED {
            self.buffer.extend_from_slice(&body[part]);
        } else {
            self.body_bytes += part.len();
            self.bodies.push_back((self.buffer.len(), body.slice(part)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.taken + self.body_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties it, and gives back the memory of an unusually large buffer.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(MAX_KEPT);
        self.taken = 0;
        self.bodies.clear();
        self.bodies.shrink_to(MAX_PIECES);
        self.body_bytes = 0;
    }

    /// Fills `pieces` with the first bytes, at most `max` of them. Returns how many pieces and how
    /// many bytes these are.
    pub(super) fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>; MAX_PIECES], max: usize) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for piece in self.all_pieces() {
            let room = max - bytes;
            if count == MAX_PIECES || room == 0 {
                break;
            }
            let piece = &piece[..piece.len().min(room)];
            pieces[count] = IoSlice::new(piece);
            count += 1;
            bytes += piece.len();
        }
        (count, bytes)
    }

    /// The bytes in order. No piece is empty.
    fn all_pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = self.taken;
        let up_to_last_body = self.bodies.iter().flat_map(move |(position, body)| {
            let before = &self.buffer[begin..*position];
            begin = *position;
            [before, body]
        });
        let last_body = self.bodies.back().map_or(self.taken, |(position, _)| *position);
        up_to_last_body
            .chain([&self.buffer[last_body..]])
            .filter(|piece| !piece.is_empty())
    }

    /// Removes the first `len` bytes. There must be that many.
    pub(super) fn advance(&mut self, mut len: usize) {
        while len > 0 {
            let next_body = self.bodies.front().map(|(position, _)| *position);
            let buffered = next_body.unwrap_or(self.buffer.len()) - self.taken;
            if buffered > 0 {
                let taken = len.min(buffered);
                self.taken += taken;
                len -= taken;
            } else if let Some((_, body)) = self.bodies.front_mut() {
                let taken = len.min(body.len());
                body.advance(taken);
                self.body_bytes -= taken;
                len -= taken;
                if body.is_empty() {
                    self.bodies.pop_front();
                }
            } else {
                debug_assert!(false, "more bytes were written than there are");
                return;
            }
        }
    }

    #[cfg(any(test, fuzzing, feature = "__bench"))]
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.all_pieces().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_were_appended(
            appended in prop::collection::vec((any::<bool>(), any::<u8>(), 0..2 * MIN_SHARED), 0..100),
            writes in prop::collection::vec((1..3 * MIN_SHARED, 1..3 * MIN_SHARED), 0..100),
        ) {
            let (mut outbox, mut expected) = (Outbox::default(), Vec::new());
            for (is_body, byte, len) in appended {
                let bytes = vec![byte; len];
                expected.extend_from_slice(&bytes);
                match is_body {
                    true => outbox.append_body(&Bytes::from(bytes), 0..len),
                    false => outbox.end().extend(bytes),
                }
            }
            prop_assert_eq!(outbox.to_vec(), &expected[..]);
            let mut left = &expected[..];
            for (max, written) in writes.into_iter().chain(std::iter::repeat((usize::MAX, usize::MAX))) {
                let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
                let (count, offered) = outbox.pieces(&mut pieces, max);
                let pieces: Vec<u8> = pieces[..count].iter().flat_map(|piece| piece.to_vec()).collect();
                prop_assert_eq!(pieces.len(), offered);
                prop_assert!(offered <= max && left.starts_with(&pieces));
                prop_assert_eq!(offered == 0, left.is_empty());
                if left.is_empty() {
                    break;
                }
                let written = written.min(offered);
                outbox.advance(written);
                left = &left[written..];
                prop_assert_eq!(outbox.len(), left.len());
            }
            prop_assert!(outbox.is_empty());
        }
    }

    #[test]
    fn only_small_bodies_are_copied() {
        let mut outbox = Outbox::default();
        let body = Bytes::from(vec![7; 3 * MIN_SHARED]);
        outbox.append_body(&body, 0..MIN_SHARED - 1);
        assert_eq!((outbox.buffer.len(), outbox.bodies.len()), (MIN_SHARED - 1, 0));
        outbox.append_body(&body, MIN_SHARED..body.len());
        assert_eq!(outbox.bodies[0].1.as_ptr(), body[MIN_SHARED..].as_ptr());
        outbox.clear();
        assert!(outbox.is_empty() && body.is_unique());
    }
}
