//! The messages of a stream: items, and the credit for them.
//!
//! ```text
//! items:  [number of the first item, [item, ...], credit]
//! credit: [[id, credit], ...]
//! ```
//!
//! Items and ids are MessagePack binaries. The id of a stream consists of the sixteen bytes of the
//! UUID that is the correlation id of its request. Items are numbered from zero. The credit is the
//! number of items that the sender may send in total. A message of items repeats the credit that
//! its sender knows, so that the receiver grants again what was lost. The reader skips further
//! elements, so that more can be added later.

use bytes::Bytes;
use rmp::encode;
use uuid::Uuid;

use super::batch::{Reader, UnreadableBatch};

/// The header of a request with the number of items that the caller accepts at first. Without it,
/// the worker replies with an array of all items.
pub(crate) const CREDIT_HEADER: &str = "rpc-credit";

/// The header of the reply that ends a stream, with the number of items before it.
pub(crate) const ITEMS_HEADER: &str = "rpc-items";

/// The `type` of a message with items.
pub(crate) const ITEMS_TYPE: &str = "rpc.items";

/// The `type` of a control message that grants credit to streams.
pub(crate) const CREDIT_TYPE: &str = "rpc.credit";

/// The largest credit beyond the items that were consumed.
pub(crate) const MAX_CREDIT: u64 = 1 << 20;

/// The largest number of items in a message.
pub(crate) const MAX_ITEMS: usize = 1024;

/// The size from which on a message gets no further item, in bytes.
pub(crate) const MAX_ITEMS_BYTES: usize = 64 * 1024;

/// The largest number of grants in a control message.
pub(crate) const MAX_GRANTS: usize = 1024;

/// A message of a stream. Without items, it says that the worker is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Items {
    /// The number of the first item.
    pub(crate) first: u64,
    pub(crate) items: Vec<Bytes>,
    /// How many items the sender may send in total, as far as it knows.
    pub(crate) credit: u64,
}

/// How many items a stream may send in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: Uuid,
    pub(crate) credit: u64,
}

impl Items {
    pub(crate) fn write(&self) -> Bytes {
        // Markers, numbers and lengths have at most nine bytes each.
        let size = self.items.iter().map(|item| 5 + item.len()).sum::<usize>();
        let mut body = Vec::with_capacity(24 + size);
        write(encode::write_array_len(&mut body, 3));
        write(encode::write_uint(&mut body, self.first));
        write(encode::write_array_len(&mut body, length(self.items.len())));
        for item in &self.items {
            write(encode::write_bin(&mut body, item));
        }
        write(encode::write_uint(&mut body, self.credit));
        Bytes::from(body)
    }

    /// Decodes a message. The items are slices of `body` and keep it in memory.
    ///
    /// # Errors
    ///
    /// If it is malformed, or has more items than any sender of this protocol puts into a message.
    pub(crate) fn read(body: &Bytes) -> Result<Self, UnreadableBatch> {
        let mut reader = Reader::new(body);
        let elements = reader.array_len()?;
        let first = reader.uint()?;
        let count = reader.array_len()?;
        if count > MAX_ITEMS {
            return Err(UnreadableBatch("it has too many items"));
        }
        // A peer announces `count`. An item has at least two bytes.
        let mut items = Vec::with_capacity(count.min(body.len() / 2));
        for _ in 0..count {
            items.push(reader.bin()?);
        }
        let credit = if elements > 2 { reader.uint()? } else { u64::MAX };
        reader.skip(elements.saturating_sub(3))?;
        reader.end()?;
        Ok(Self { first, items, credit })
    }
}

pub(crate) fn write_grants(grants: &[Grant]) -> Bytes {
    let mut body = Vec::with_capacity(5 + 28 * grants.len());
    write(encode::write_array_len(&mut body, length(grants.len())));
    for Grant { id, credit } in grants {
        write(encode::write_array_len(&mut body, 2));
        write(encode::write_bin(&mut body, id.as_bytes()));
        write(encode::write_uint(&mut body, *credit));
    }
    Bytes::from(body)
}

/// Decodes the grants of a control message.
///
/// # Errors
///
/// If they are malformed or too many.
pub(crate) fn read_grants(body: &Bytes) -> Result<Vec<Grant>, UnreadableBatch> {
    let mut reader = Reader::new(body);
    let count = reader.array_len()?;
    if count > MAX_GRANTS {
        return Err(UnreadableBatch("it has too many grants"));
    }
    let mut grants = Vec::with_capacity(count.min(body.len() / 8));
    for _ in 0..count {
        let elements = reader.array_len()?;
        let id = reader.id()?;
        let credit = reader.uint()?;
        reader.skip(elements.saturating_sub(2))?;
        grants.push(Grant { id, credit });
    }
    reader.end()?;
    Ok(grants)
}

/// Writing to a vector does not fail.
fn write<T, E>(written: Result<T, E>) {
    debug_assert!(written.is_ok());
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_survive_the_wire(
            first: u64,
            credit: u64,
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let items = items.into_iter().map(Bytes::from).collect();
            let message = Items { first, items, credit };
            prop_assert_eq!(Items::read(&message.write()).unwrap(), message);
        }

        #[test]
        fn grants_survive_the_wire(grants in prop::collection::vec(any::<(u128, u64)>(), 0..20)) {
            let grant = |(id, credit)| Grant { id: Uuid::from_u128(id), credit };
            let grants: Vec<_> = grants.into_iter().map(grant).collect();
            prop_assert_eq!(read_grants(&write_grants(&grants)).unwrap(), grants);
        }

        #[test]
        fn reading_any_bytes_does_not_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let body = Bytes::from(body);
            let _ = Items::read(&body);
            let _ = read_grants(&body);
        }
    }

    #[test]
    fn later_elements_are_skipped_and_the_credit_is_optional() {
        let with_more = Bytes::from_static(&[0x94, 7, 0x91, 0xc4, 1, 0xff, 9, 0xa1, b'x']);
        let items = Items {
            first: 7,
            items: vec![Bytes::from_static(&[0xff])],
            credit: 9,
        };
        assert_eq!(Items::read(&with_more).unwrap(), items);
        let without_credit = Bytes::from_static(&[0x92, 7, 0x91, 0xc4, 1, 0xff]);
        let items = Items {
            credit: u64::MAX,
            ..items
        };
        assert_eq!(Items::read(&without_credit).unwrap(), items);
    }
}
