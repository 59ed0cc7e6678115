//! The credit for items that a caller sends while a method runs.
//!
//! ```text
//! [credit, taken, asks]
//! ```
//!
//! `credit` is how many items the caller may send in total, and `taken` how many of them the method
//! has taken: the caller need not keep these. `asks` is 0, or what the worker asks for: 1 to send
//! again the items that the method has not taken, 2 to send no more. The reader skips further
//! elements, so that more can be added later. The items travel in messages of
//! [`Items`](super::Items), like those of a stream to the caller.

use bytes::Bytes;
use rmp::encode;

use super::batch::{Reader, UnreadableBatch, assert_ok};

/// The header of a request whose caller sends items.
pub(crate) const INCOMING_HEADER: &str = "rpc-incoming";

/// The value of [`INCOMING_HEADER`].
pub(crate) const INCOMING_VERSION: &str = "1";

/// What follows a worker's id in the routing key of messages with items.
pub(crate) const INCOMING_SUFFIX: &str = ".items";

/// The largest size of the items of a message to a worker, in bytes. A single item may be larger.
pub(crate) const MAX_INCOMING_BYTES: usize = 64 * 1024;

/// Once the items that the method has not taken have at least this size together, in bytes, the
/// caller sends no further one.
pub(crate) const MAX_UNTAKEN_BYTES: usize = 4 * 1024 * 1024;

/// What a worker tells the caller about its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IncomingGrant {
    /// How many items the caller may send in total.
    pub(crate) credit: u64,
    /// How many items the method has taken.
    pub(crate) taken: u64,
    pub(crate) asks: Asks,
}

/// What a worker asks the caller for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Nothing,
    /// Send the items again that the method has not taken.
    Again,
    /// Send no more items: the method takes no more, or all have arrived.
    Enough,
}

impl IncomingGrant {
    pub(crate) fn write(self) -> Bytes {
        let asks = match self.asks {
            Asks::Nothing => 0,
            Asks::Again => 1,
            Asks::Enough => 2,
        };
        let mut body = Vec::with_capacity(20);
        assert_ok(encode::write_array_len(&mut body, 3));
        assert_ok(encode::write_uint(&mut body, self.credit));
        assert_ok(encode::write_uint(&mut body, self.taken));
        assert_ok(encode::write_uint(&mut body, asks));
        Bytes::from(body)
    }

    /// Reads a grant. An unknown number in place of `asks` counts as [`Asks::Nothing`].
    ///
    /// # Errors
    ///
    /// If the body is malformed.
    pub(crate) fn read(body: &Bytes) -> Result<Self, UnreadableBatch> {
        let mut reader = Reader::new(body);
        let unknown = reader.array_beyond(3, UnreadableBatch("a grant has too few elements"))?;
        let credit = reader.uint()?;
        let taken = reader.uint()?;
        let asks = match reader.uint()? {
            1 => Asks::Again,
            2 => Asks::Enough,
            _ => Asks::Nothing,
        };
        reader.skip(unknown)?;
        reader.end()?;
        Ok(Self { credit, taken, asks })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_grant_survives_the_wire(credit: u64, taken: u64, asks in 0..3) {
            let asks = [Asks::Nothing, Asks::Again, Asks::Enough][asks as usize];
            let grant = IncomingGrant { credit, taken, asks };
            prop_assert_eq!(IncomingGrant::read(&grant.write()).unwrap(), grant);
        }

        #[test]
        fn reading_any_bytes_does_not_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = IncomingGrant::read(&Bytes::from(body));
        }
    }

    #[test]
    fn an_array_that_is_too_short_is_malformed() {
        for length in 0..3 {
            let body = [0x90 + length, 7, 3, 2];
            IncomingGrant::read(&Bytes::copy_from_slice(&body)).unwrap_err();
        }
    }

    #[test]
    fn later_elements_and_unknown_wishes_are_skipped() {
        let grant = IncomingGrant::read(&Bytes::from_static(&[0x94, 7, 3, 9, 0xa1, b'x'])).unwrap();
        let asks = Asks::Nothing;
        assert_eq!(
            grant,
            IncomingGrant {
                credit: 7,
                taken: 3,
                asks
            }
        );
    }

    /// The worked example of `docs/protocol.md`.
    #[test]
    fn the_documented_grants_are_what_is_written() {
        let grant = |credit, taken, asks| IncomingGrant { credit, taken, asks }.write();
        assert_eq!(grant(1024, 0, Asks::Nothing)[..], *b"\x93\xcd\x04\0\0\0");
        assert_eq!(grant(1026, 2, Asks::Enough)[..], *b"\x93\xcd\x04\x02\x02\x02");
    }
}
