//! Memory that small bodies share, so that few of them need an allocation of their own.

use bytes::{Bytes, BytesMut};

/// The largest body that shares memory with others, in bytes.
pub(crate) const MAX_SMALL_BODY: usize = 128;

/// The size of a chunk of memory that bodies share. A body keeps its whole chunk for as long as it
/// exists. So bodies that wait in a buffer must not share memory if the buffer counts their bytes.
const CHUNK_SIZE: usize = 1024;

/// Copies bodies, small ones into chunks that they share.
#[derive(Debug, Default)]
pub(crate) struct SmallBodies {
    /// The rest of the current chunk.
    chunk: BytesMut,
}

impl SmallBodies {
    /// Returns a body with these bytes. It takes up at most [`CHUNK_SIZE`] bytes more than it has.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() > MAX_SMALL_BODY {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            // Takes the same memory again if none of the bodies in it exists any more.
            self.chunk.reserve(CHUNK_SIZE);
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_keep_their_bytes() {
        let mut bodies = SmallBodies::default();
        let lengths = (0..300).chain([MAX_SMALL_BODY, MAX_SMALL_BODY + 1, 5000, 3]);
        let made: Vec<_> = lengths
            .clone()
            .map(|length| bodies.copy(&vec![length as u8; length]))
            .collect();
        for (length, body) in lengths.zip(made) {
            assert_eq!(body, vec![length as u8; length]);
        }
    }

    #[test]
    fn small_bodies_share_memory_and_others_do_not() {
        let mut bodies = SmallBodies::default();
        let (first, second) = (bodies.copy(b"first"), bodies.copy(b"second"));
        assert_eq!(first.as_ptr().wrapping_add(5), second.as_ptr());
        assert!(!first.is_unique());
        let large = bodies.copy(&[7; MAX_SMALL_BODY + 1]);
        assert!(large.is_unique());
    }

    #[test]
    fn memory_is_used_again_once_its_bodies_are_gone() {
        let mut bodies = SmallBodies::default();
        let first = bodies.copy(b"x").as_ptr();
        let starts = (0..10 * CHUNK_SIZE).map(|_| bodies.copy(b"x").as_ptr());
        assert!(starts.max() < Some(first.wrapping_add(CHUNK_SIZE)));
    }
}
