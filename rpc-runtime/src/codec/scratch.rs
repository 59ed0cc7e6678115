//! A reusable buffer for each thread, so that writing a body rarely allocates more than once, and
//! writing a small one rarely at all.

use std::cell::{Cell, RefCell};

use bytes::Bytes;

use super::small_bodies::SmallBodies;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static BODIES: RefCell<SmallBodies> = RefCell::default();
}

/// A body of up to this many bytes is copied out of the buffer. A larger one takes over the buffer,
/// unless it fills less than half of it.
const MAX_COPIED: usize = 4096;

/// The maximum capacity of the buffer that a thread keeps.
const MAX_KEPT: usize = 1024 * 1024;

/// Returns the body that `write` writes into this thread's buffer.
pub(super) fn write_body<E>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    // Takes the buffer, because a `Serialize` implementation may write another body meanwhile. A
    // thread that is ending has no buffer.
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    scratch.clear();
    let body = write(&mut scratch).map(|()| match scratch.len() {
        0..=MAX_COPIED => copy(&scratch),
        length if scratch.capacity() > 2 * length => Bytes::copy_from_slice(&scratch),
        // The next body is likely to be about as large.
        length => {
            let next = Vec::with_capacity(length.min(MAX_KEPT));
            Bytes::from(std::mem::replace(&mut scratch, next))
        }
    });
    if scratch.capacity() <= MAX_KEPT {
        let _ = SCRATCH.try_with(|kept| kept.set(scratch));
    }
    body
}

fn copy(body: &[u8]) -> Bytes {
    let copied = BODIES.try_with(|bodies| bodies.borrow_mut().copy(body));
    // A thread that is ending has no memory to share.
    copied.unwrap_or_else(|_| Bytes::copy_from_slice(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeat(byte: u8, length: usize) -> Result<Bytes, &'static str> {
        write_body(|body| {
            body.resize(length, byte);
            Ok(())
        })
    }

    #[test]
    fn earlier_bodies_do_not_affect_later_ones() {
        let lengths = [3, 0, MAX_COPIED, MAX_COPIED + 1, 5, 2 * MAX_KEPT, 7];
        let bodies: Vec<_> = (0..)
            .zip(lengths)
            .map(|(n, length)| repeat(n, length).unwrap())
            .collect();
        for ((n, length), body) in (0..).zip(lengths).zip(bodies) {
            assert_eq!(body, vec![n; length]);
        }
    }

    #[test]
    fn a_body_takes_at_most_twice_its_length() {
        // Leaves a large buffer.
        repeat(1, MAX_KEPT).unwrap();
        let small = repeat(2, MAX_COPIED + 1).unwrap();
        assert!(Vec::from(small).capacity() <= 2 * (MAX_COPIED + 1));
    }

    #[test]
    fn a_failed_write_leaves_nothing_in_the_buffer() {
        let failed = write_body(|body| {
            body.push(1);
            Err("broken")
        });
        assert_eq!(failed, Err("broken"));
        assert_eq!(repeat(2, 1).unwrap(), &[2][..]);
    }

    #[test]
    fn one_body_may_be_written_within_another() {
        let outer = write_body(|body| {
            body.extend(b"(");
            body.extend(repeat(b'x', 2)?);
            body.extend(b")");
            Ok::<_, &str>(())
        });
        assert_eq!(outer.unwrap(), "(xx)");
    }

    #[test]
    fn a_thread_keeps_no_large_buffer() {
        repeat(0, 3 * MAX_KEPT).unwrap();
        assert!(SCRATCH.take().capacity() <= MAX_KEPT);
    }
}
