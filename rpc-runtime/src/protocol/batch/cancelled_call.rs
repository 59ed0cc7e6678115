//! A call that its caller has cancelled. Several of them share a message, which is written like a
//! batch:
//!
//! ```text
//! [[id, time left, ...], ...]
//! ```

use std::time::Duration;

use rmp::encode;
use uuid::Uuid;

use super::message::{Part, ReadPart, Reader, UnreadableBatch, assert_ok};

/// The `type` of a message that cancels calls.
pub(crate) const CANCEL_TYPE: &str = "rpc.cancel";

/// A call whose caller no longer waits for its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CancelledCall {
    /// The correlation id of its request.
    pub(crate) id: Uuid,
    /// How long its request can still wait in a queue, in whole milliseconds.
    pub(crate) time_left: Duration,
}

impl Part for CancelledCall {
    fn size(&self) -> usize {
        // The array, the id with its length, and a number.
        1 + 18 + 9
    }

    fn write(&self, body: &mut Vec<u8>) {
        let millis = u64::try_from(self.time_left.as_millis()).unwrap_or(u64::MAX);
        assert_ok(encode::write_array_len(body, 2));
        assert_ok(encode::write_bin(body, self.id.as_bytes()));
        assert_ok(encode::write_uint(body, millis));
    }
}

impl ReadPart for CancelledCall {
    fn read(reader: &mut Reader<'_>) -> Result<Self, UnreadableBatch> {
        let unknown = reader.array_beyond(2, UnreadableBatch("a cancelled call has too few elements"))?;
        let call = Self {
            id: reader.id()?,
            time_left: Duration::from_millis(reader.uint()?),
        };
        reader.skip(unknown)?;
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::message::{read_batch, write_batch};
    use super::*;

    prop_compose! {
        fn cancelled_call()(id: u128, millis: u64) -> CancelledCall {
            CancelledCall {
                id: Uuid::from_u128(id),
                time_left: Duration::from_millis(millis),
            }
        }
    }

    proptest! {
        #[test]
        fn cancelled_calls_survive_the_wire(calls in prop::collection::vec(cancelled_call(), 0..20)) {
            prop_assert_eq!(read_batch(&write_batch(&calls)), Ok(calls));
        }

        #[test]
        fn reading_cancelled_calls_never_panics(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_batch::<CancelledCall>(&Bytes::from(body));
        }
    }

    #[test]
    fn further_elements_are_skipped() {
        let body = [b"\x91\x93\xc4\x10".as_slice(), &[7; 16], b"\x05\xa1x"].concat();
        let call = CancelledCall {
            id: Uuid::from_bytes([7; 16]),
            time_left: Duration::from_millis(5),
        };
        assert_eq!(read_batch(&Bytes::from(body)), Ok(vec![call]));
    }
}
