//! Where bodies are written: a buffer of the thread's own, so that none has to grow from nothing.

use std::cell::Cell;

use bytes::Bytes;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A body of up to this many bytes is copied out of the buffer; what is larger takes the buffer
/// along, unless it would be mostly empty.
const COPIED: usize = 4096;

/// How large a buffer a thread keeps at the most.
const KEPT: usize = 1024 * 1024;

/// What `write` wrote.
pub(super) fn written<E>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    // Taken, and not borrowed: what is written may itself write something in its `Serialize`. Where
    // the thread is at its end, there is none.
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    scratch.clear();
    let body = write(&mut scratch).map(|()| match scratch.len() {
        0..=COPIED => Bytes::copy_from_slice(&scratch),
        length if scratch.capacity() > 2 * length => Bytes::copy_from_slice(&scratch),
        // The next body is likely to be about as large.
        length => {
            let next = Vec::with_capacity(length.min(KEPT));
            Bytes::from(std::mem::replace(&mut scratch, next))
        }
    });
    if scratch.capacity() <= KEPT {
        let _ = SCRATCH.try_with(|kept| kept.set(scratch));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeat(byte: u8, length: usize) -> Result<Bytes, &'static str> {
        written(|body| {
            body.resize(length, byte);
            Ok(())
        })
    }

    #[test]
    fn bodies_are_what_was_written_whatever_was_before() {
        let lengths = [3, 0, COPIED, COPIED + 1, 5, 2 * KEPT, 7];
        let bodies: Vec<_> = (0..)
            .zip(lengths)
            .map(|(n, length)| repeat(n, length).unwrap())
            .collect();
        for ((n, length), body) in (0..).zip(lengths).zip(bodies) {
            assert_eq!(body, vec![n; length]);
        }
    }

    #[test]
    fn no_body_takes_much_more_than_it_is_long() {
        let large = repeat(1, KEPT).unwrap();
        let small = repeat(2, COPIED + 1).unwrap();
        assert!(Vec::from(small).capacity() <= 2 * (COPIED + 1));
        drop(large);
    }

    #[test]
    fn what_fails_leaves_nothing_behind() {
        let failed = written(|body| {
            body.push(1);
            Err("broken")
        });
        assert_eq!(failed, Err("broken"));
        assert_eq!(repeat(2, 1).unwrap(), &[2][..]);
    }

    #[test]
    fn one_body_may_be_written_within_another() {
        let outer = written(|body| {
            body.extend(b"(");
            body.extend(repeat(b'x', 2)?);
            body.extend(b")");
            Ok::<_, &str>(())
        });
        assert_eq!(outer.unwrap(), "(xx)");
    }

    #[test]
    fn no_thread_keeps_more_than_it_may() {
        repeat(0, 3 * KEPT).unwrap();
        assert!(SCRATCH.take().capacity() <= KEPT);
    }
}
