//! The messages of a stream: items, and the credit for them.
//!
//! ```text
//! items:  [number of the first item, [item, ...], items, bytes]
//! credit: [[id, items, bytes], ...]
//! ```
//!
//! Items and ids are MessagePack binaries. The id of a stream consists of the sixteen bytes of the
//! UUID that is the correlation id of its request. Items are numbered from zero. `items, bytes` is
//! the credit: how many items, and how many bytes of items, the sender may send in total; without
//! bytes, they are not limited. A message of items repeats the credit that its sender knows, so
//! that the receiver grants again what was lost. The reader skips further elements, so that more
//! can be added later.

use bytes::Bytes;
use rmp::encode;
use uuid::Uuid;

use super::batch::{Reader, UnreadableBatch, assert_ok, to_u32};
use super::item_list::ItemList;
use super::volume::{Volume, elements_of, read_volume, write_volume};

/// The header of a request with the number of items that the caller accepts at first. Without it,
/// the worker replies with an array of all items.
pub(crate) const CREDIT_HEADER: &str = "rpc-credit";

/// The header of a request with the number of bytes of items that the caller accepts at first.
/// Without it, they are not limited.
pub(crate) const CREDIT_BYTES_HEADER: &str = "rpc-credit-bytes";

/// The header of the message that ends a stream, with the number of all its items: of the reply, or
/// of the last message of a caller that sends items.
pub(crate) const ITEMS_HEADER: &str = "rpc-items";

/// The `type` of a message with items.
pub(crate) const ITEMS_TYPE: &str = "rpc.items";

/// The `type` of a message that grants credit: to the streams of a worker, as a control message
/// with [`Grant`]s, or to a caller that sends items, as an [`IncomingGrant`](super::IncomingGrant).
pub(crate) const CREDIT_TYPE: &str = "rpc.credit";

/// How many items beyond those that were consumed may be granted at most.
pub(crate) const MAX_CREDIT: u64 = 1 << 20;

/// The largest number of items in a message.
pub(crate) const MAX_ITEMS: usize = 16 * 1024;

/// The largest size of the items of a message from a worker, in bytes. A single item may be larger.
/// Eight items of 64 KiB fit, with what is before each of them.
pub(crate) const MAX_ITEMS_BYTES: usize = 513 * 1024;

/// The largest number of bytes of a message of one item beside the item.
pub(crate) const MAX_ITEM_FRAME_BYTES: usize = 40;

/// The largest number of grants in a control message.
pub(crate) const MAX_GRANTS: usize = 1024;

/// A message of a stream. Without items, it says that its sender is still there. Without items but
/// with [`ITEMS_HEADER`], it says that the stream of a caller has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Items {
    /// The number of the first item, or without items, of the next one.
    pub(crate) first: u64,
    pub(crate) items: ItemList,
    /// What the sender may send in total, as far as it knows.
    pub(crate) credit: Volume,
}

/// What a stream may send in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: Uuid,
    pub(crate) credit: Volume,
}

impl Items {
    /// Creates a message without items from a sender that has sent none and needs no credit.
    pub(crate) fn keep_alive() -> Self {
        Self {
            first: 0,
            items: ItemList::default(),
            credit: Volume::MAX,
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn write(&self) -> Bytes {
        super::item_list::ItemWriter::from(&self.items).write(self.first, self.credit)
    }

    /// Decodes a message. The items share the memory of `body`, unless they are less than about
    /// half of it.
    ///
    /// # Errors
    ///
    /// If it is malformed, or has more items than any sender of this protocol puts into a message.
    pub(crate) fn read(body: &Bytes) -> Result<Self, UnreadableBatch> {
        let mut reader = Reader::new(body);
        let credit_elements = reader.array_beyond(2, UnreadableBatch("it has too few elements"))?;
        let first = reader.uint()?;
        let count = reader.array_len()?;
        if count > MAX_ITEMS {
            return Err(UnreadableBatch("it has too many items"));
        }
        let mut items = ItemList::read(&mut reader, count)?;
        let credit = read_volume(&mut reader, credit_elements)?;
        reader.end()?;
        let other_bytes = body.len() - items.encoded_len();
        if other_bytes > items.encoded_len() + MAX_ITEM_FRAME_BYTES {
            items.detach();
        }
        Ok(Self { first, items, credit })
    }
}

pub(crate) fn write_grants(grants: &[Grant]) -> Bytes {
    // A grant is an array (1 byte) of an id (18 bytes) and at most two numbers (9 bytes each).
    let mut body = Vec::with_capacity(5 + (1 + 18 + 2 * 9) * grants.len());
    assert_ok(encode::write_array_len(&mut body, to_u32(grants.len())));
    for Grant { id, credit } in grants {
        assert_ok(encode::write_array_len(&mut body, 1 + elements_of(*credit)));
        assert_ok(encode::write_bin(&mut body, id.as_bytes()));
        write_volume(&mut body, *credit);
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
    // A grant has more than eight bytes, so a forged count reserves little memory.
    let mut grants = Vec::with_capacity(count.min(body.len() / 8));
    for _ in 0..count {
        // An id and a number of items are required. The credit begins with that number.
        let optional = reader.array_beyond(2, UnreadableBatch("a grant has too few elements"))?;
        let id = reader.id()?;
        let credit = read_volume(&mut reader, 1 + optional)?;
        grants.push(Grant { id, credit });
    }
    reader.end()?;
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn volume() -> impl Strategy<Value = Volume> {
        any::<(u64, u64)>().prop_map(|(items, bytes)| Volume { items, bytes })
    }

    proptest! {
        #[test]
        fn items_survive_the_wire(
            first: u64,
            credit in volume(),
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let items = items.iter().collect();
            let message = Items { first, items, credit };
            prop_assert_eq!(Items::read(&message.write()).unwrap(), message);
        }

        #[test]
        fn grants_survive_the_wire(grants in prop::collection::vec((any::<u128>(), volume()), 0..20)) {
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
        let items = |items, bytes| Items {
            first: 7,
            items: [[0xff]].iter().collect(),
            credit: Volume { items, bytes },
        };
        let with_more = Bytes::from_static(&[0x95, 7, 0x91, 0xc4, 1, 0xff, 9, 8, 0xa1, b'x']);
        assert_eq!(Items::read(&with_more).unwrap(), items(9, 8));
        let without_bytes = Bytes::from_static(&[0x93, 7, 0x91, 0xc4, 1, 0xff, 9]);
        assert_eq!(Items::read(&without_bytes).unwrap(), items(9, u64::MAX));
        let without_credit = Bytes::from_static(&[0x92, 7, 0x91, 0xc4, 1, 0xff]);
        assert_eq!(Items::read(&without_credit).unwrap(), items(u64::MAX, u64::MAX));
    }

    #[test]
    fn arrays_that_are_too_short_are_malformed() {
        let id = Uuid::from_u128(1);
        for length in 0..2 {
            let items = [&[0x90 + length, 7][..], b"\x91\xc4\x01\xff"].concat();
            Items::read(&Bytes::from(items)).unwrap_err();
            let grants = [&[0x91, 0x90 + length][..], b"\xc4\x10", id.as_bytes(), b"\x03"].concat();
            read_grants(&Bytes::from(grants)).unwrap_err();
        }
    }

    #[test]
    fn a_message_of_one_item_has_a_frame_of_limited_size() {
        let items = Items {
            first: u64::MAX,
            items: [[0; MAX_ITEMS_BYTES]].iter().collect(),
            credit: Volume {
                items: u64::MAX,
                bytes: u64::MAX - 1,
            },
        };
        assert!(items.write().len() <= MAX_ITEMS_BYTES + MAX_ITEM_FRAME_BYTES);
    }

    #[test]
    fn an_item_does_not_keep_a_large_message_in_memory() {
        let is_in = |item: &[u8], body: &Bytes| body.as_ptr_range().contains(&item.as_ptr());
        let message = |items: &[&[u8]]| Items {
            first: 0,
            items: items.iter().collect(),
            credit: Volume::MAX,
        };
        let body = message(&[&[7; 100], b"8"]).write();
        let read = Items::read(&body).unwrap();
        assert!(read.items.iter().all(|item| is_in(item, &body)));
        // A peer fills the message with something else.
        let mut padded = message(&[b"8"]).write().to_vec();
        padded[0] = 0x95;
        padded.extend([1, 0xc5, 1, 0]);
        padded.extend([0; 256]);
        let padded = Bytes::from(padded);
        let read = Items::read(&padded).unwrap();
        assert!(read.items.iter().all(|item| !is_in(item, &padded)));
    }

    /// The worked example of `docs/protocol.md`.
    #[test]
    fn the_documented_messages_are_what_is_written() {
        let message = |first, items: &[&'static [u8]], credit| {
            let items = items.iter().collect();
            let credit = Volume {
                items: credit,
                bytes: u64::MAX,
            };
            Items { first, items, credit }.write()
        };
        assert_eq!(
            message(0, &[b"99", b"101"], 2)[..],
            *b"\x93\0\x92\xc4\x0299\xc4\x03101\x02"
        );
        assert_eq!(message(2, &[b"100"], 3)[..], *b"\x93\x02\x91\xc4\x03100\x03");
        let id = Uuid::from_u128(0x0011_2233_4455_4677_8899_aabb_ccdd_eeff);
        let credit = Volume {
            items: 3,
            bytes: u64::MAX,
        };
        let grant = [b"\x91\x92\xc4\x10", &id.as_bytes()[..], b"\x03"].concat();
        assert_eq!(write_grants(&[Grant { id, credit }])[..], grant);
        // What a caller sends needs no credit.
        for (body, first, count) in [
            (&b"\x92\0\x92\xc4\x011\xc4\x012"[..], 0, 2),
            (b"\x92\x02\x90", 2, 0),
        ] {
            let items = Items::read(&Bytes::from_static(body)).unwrap();
            assert_eq!(
                (items.first, items.items.len(), items.credit),
                (first, count, Volume::MAX)
            );
        }
    }
}
