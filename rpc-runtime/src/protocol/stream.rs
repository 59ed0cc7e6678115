//! The messages of a stream: items, and the credit for them.
//!
//! ```text
//! items:  [number of the first item, [item, ...], items, bytes]
//! credit: [[id, items, bytes], ...]
//! ```
//!
//! Items and ids are MessagePack binaries. The id of a stream consists of the sixteen bytes of the
//! UUID that is the correlation id of its request. Items are numbered from zero. The credit is how
//! many items, and how many bytes of items, the sender may send in total; without bytes, they are
//! not limited. A message of items repeats the credit that its sender knows, so that the receiver
//! grants again what was lost. The reader skips further elements, so that more can be added later.

use bytes::Bytes;
use rmp::encode;
use uuid::Uuid;

use super::batch::{Reader, UnreadableBatch};

/// The header of a request with the number of items that the caller accepts at first. Without it,
/// the worker replies with an array of all items.
pub(crate) const CREDIT_HEADER: &str = "rpc-credit";

/// The header of a request with the number of bytes of items that the caller accepts at first.
/// Without it, they are not limited.
pub(crate) const CREDIT_BYTES_HEADER: &str = "rpc-credit-bytes";

/// The header of the reply that ends a stream, with the number of items before it.
pub(crate) const ITEMS_HEADER: &str = "rpc-items";

/// The `type` of a message with items.
pub(crate) const ITEMS_TYPE: &str = "rpc.items";

/// The `type` of a control message that grants credit to streams.
pub(crate) const CREDIT_TYPE: &str = "rpc.credit";

/// The largest credit beyond the items that were consumed.
pub(crate) const MAX_CREDIT: u64 = 1 << 20;

/// The largest number of items in a message.
pub(crate) const MAX_ITEMS: usize = 4096;

/// The largest size of the items of a message, in bytes. A single item may be larger.
pub(crate) const MAX_ITEMS_BYTES: usize = 64 * 1024;

/// The largest number of bytes before an item in a message.
pub(crate) const MAX_ITEM_HEADER_BYTES: usize = 5;

/// The largest number of bytes of a message of one item beside the item.
pub(crate) const MAX_ITEM_FRAME_BYTES: usize = 40;

/// How many bytes an item counts beside its length, for what it takes to keep it in memory. HPACK
/// counts its entries like this too (RFC 7541, section 4.1).
const ITEM_OVERHEAD: u64 = 32;

/// The largest number of grants in a control message.
pub(crate) const MAX_GRANTS: usize = 1024;

/// Items, and their bytes, counted from the begin of a stream: those that were sent or consumed, or
/// that may be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) items: u64,
    /// The lengths of the items, and [`ITEM_OVERHEAD`] for each.
    pub(crate) bytes: u64,
}

impl Volume {
    pub(crate) const MAX: Self = Self {
        items: u64::MAX,
        bytes: u64::MAX,
    };

    /// The volume of one item.
    pub(crate) fn of(item: &[u8]) -> Self {
        Self {
            items: 1,
            bytes: item.len() as u64 + ITEM_OVERHEAD,
        }
    }

    /// Whether a sender with this credit may send another item after these.
    pub(crate) fn allows_more_than(self, sent: Self) -> bool {
        self.items > sent.items && self.bytes > sent.bytes
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            items: self.items.saturating_add(other.items),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            items: self.items.saturating_sub(other.items),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// The larger number of items, and the larger number of bytes.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            items: self.items.max(other.items),
            bytes: self.bytes.max(other.bytes),
        }
    }

    pub(crate) fn half(self) -> Self {
        Self {
            items: self.items / 2,
            bytes: self.bytes / 2,
        }
    }
}

/// A message of a stream. Without items, it says that the worker is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Items {
    /// The number of the first item.
    pub(crate) first: u64,
    pub(crate) items: Vec<Bytes>,
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
    /// A message without items from a sender that needs no credit.
    pub(crate) fn keep_alive() -> Self {
        Self {
            first: 0,
            items: Vec::new(),
            credit: Volume::MAX,
        }
    }

    pub(crate) fn write(&self) -> Bytes {
        let size = self
            .items
            .iter()
            .map(|item| MAX_ITEM_HEADER_BYTES + item.len())
            .sum::<usize>();
        let mut body = Vec::with_capacity(MAX_ITEM_FRAME_BYTES + size);
        write(encode::write_array_len(&mut body, 2 + elements_of(self.credit)));
        write(encode::write_uint(&mut body, self.first));
        write(encode::write_array_len(&mut body, length(self.items.len())));
        for item in &self.items {
            write(encode::write_bin(&mut body, item));
        }
        write_volume(&mut body, self.credit);
        Bytes::from(body)
    }

    /// Decodes a message. The items are slices of `body` and keep it in memory, unless they are
    /// only a small part of it.
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
        let credit = read_volume(&mut reader, elements.saturating_sub(2))?;
        reader.end()?;
        let size = items
            .iter()
            .map(|item| item.len() + MAX_ITEM_HEADER_BYTES)
            .sum::<usize>();
        if body.len() > 2 * size + MAX_ITEM_FRAME_BYTES {
            items.iter_mut().for_each(detach);
        }
        Ok(Self { first, items, credit })
    }
}

/// Copies an item out of its message, so that it does not keep the message in memory.
pub(crate) fn detach(item: &mut Bytes) {
    *item = Bytes::copy_from_slice(item);
}

pub(crate) fn write_grants(grants: &[Grant]) -> Bytes {
    let mut body = Vec::with_capacity(5 + 37 * grants.len());
    write(encode::write_array_len(&mut body, length(grants.len())));
    for Grant { id, credit } in grants {
        write(encode::write_array_len(&mut body, 1 + elements_of(*credit)));
        write(encode::write_bin(&mut body, id.as_bytes()));
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
    let mut grants = Vec::with_capacity(count.min(body.len() / 8));
    for _ in 0..count {
        let elements = reader.array_len()?;
        let id = reader.id()?;
        let credit = read_volume(&mut reader, elements.saturating_sub(1).max(1))?;
        grants.push(Grant { id, credit });
    }
    reader.end()?;
    Ok(grants)
}

/// How many elements [`write_volume`] writes.
fn elements_of(credit: Volume) -> u32 {
    if credit.bytes == u64::MAX { 1 } else { 2 }
}

/// Writes a credit. Bytes that are not limited are left out.
fn write_volume(body: &mut Vec<u8>, credit: Volume) {
    write(encode::write_uint(body, credit.items));
    if credit.bytes < u64::MAX {
        write(encode::write_uint(body, credit.bytes));
    }
}

/// Reads a credit from the last elements of an array, and skips those after it. What is missing is
/// not limited.
fn read_volume(reader: &mut Reader<'_>, elements: usize) -> Result<Volume, UnreadableBatch> {
    let items = if elements > 0 { reader.uint()? } else { u64::MAX };
    let bytes = if elements > 1 { reader.uint()? } else { u64::MAX };
    reader.skip(elements.saturating_sub(2))?;
    Ok(Volume { items, bytes })
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
            let items = items.into_iter().map(Bytes::from).collect();
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
            items: vec![Bytes::from_static(&[0xff])],
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
    fn a_message_of_one_item_has_a_frame_of_limited_size() {
        let items = Items {
            first: u64::MAX,
            items: vec![vec![0; MAX_ITEMS_BYTES].into()],
            credit: Volume {
                items: u64::MAX,
                bytes: u64::MAX - 1,
            },
        };
        assert!(items.write().len() <= MAX_ITEMS_BYTES + MAX_ITEM_FRAME_BYTES);
    }

    #[test]
    fn a_credit_limits_items_and_bytes() {
        let credit = Volume { items: 2, bytes: 100 };
        let one = Volume::of(&[0; 60]);
        assert_eq!(one, Volume { items: 1, bytes: 92 });
        assert!(credit.allows_more_than(Volume::default()) && credit.allows_more_than(one));
        assert!(!credit.allows_more_than(one.plus(Volume::of(&[]))));
        assert!(!credit.allows_more_than(Volume { items: 1, bytes: 100 }));
    }

    #[test]
    fn an_item_does_not_keep_a_large_message_in_memory() {
        let is_in = |item: &Bytes, body: &Bytes| body.as_ptr_range().contains(&item.as_ptr());
        let message = |items: &[&[u8]]| Items {
            first: 0,
            items: items.iter().map(|item| Bytes::copy_from_slice(item)).collect(),
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
        assert!(!is_in(&read.items[0], &padded));
    }

    /// The worked example of `docs/protocol.md`.
    #[test]
    fn the_documented_messages_are_what_is_written() {
        let message = |first, items: &[&'static [u8]], credit| {
            let items = items.iter().copied().map(Bytes::from_static).collect();
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
