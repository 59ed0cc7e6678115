//! How much of a stream was sent or may be sent.

use rmp::encode;

use super::batch::{Reader, UnreadableBatch, assert_ok};

/// How many bytes an item counts beside its length. That is more than the up to five bytes of its
/// MessagePack header, so items never take more bytes in a message than they count.
const ITEM_OVERHEAD: u64 = 8;

/// A number of items and of their bytes: of some items, or counted from the beginning of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) items: u64,
    /// The lengths of the items, and [`ITEM_OVERHEAD`] for each.
    pub(crate) bytes: u64,
}

impl Volume {
    /// Not limited.
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

    /// Whether a sender with this credit may send another item after `sent`. That item may exceed
    /// the bytes of the credit.
    pub(crate) fn allows_more_than(self, sent: Self) -> bool {
        self.items > sent.items && self.bytes > sent.bytes
    }

    /// Whether the bytes of this credit are limited.
    pub(super) fn limits_bytes(self) -> bool {
        self.bytes < u64::MAX
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

/// How many elements [`write_volume`] writes.
pub(super) fn elements_of(credit: Volume) -> u32 {
    if credit.limits_bytes() { 2 } else { 1 }
}

/// Writes a credit. Bytes that are not limited are left out.
pub(super) fn write_volume(body: &mut Vec<u8>, credit: Volume) {
    assert_ok(encode::write_uint(body, credit.items));
    if credit.limits_bytes() {
        assert_ok(encode::write_uint(body, credit.bytes));
    }
}

/// Reads a credit from the last `elements` elements of an array, and skips those that this version
/// does not know. Items and bytes that are missing are not limited.
pub(super) fn read_volume(reader: &mut Reader<'_>, elements: usize) -> Result<Volume, UnreadableBatch> {
    let items = if elements > 0 { reader.uint()? } else { u64::MAX };
    let bytes = if elements > 1 { reader.uint()? } else { u64::MAX };
    reader.skip(elements.saturating_sub(2))?;
    Ok(Volume { items, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credit_limits_items_and_bytes() {
        let credit = Volume { items: 2, bytes: 70 };
        let one = Volume::of(&[0; 60]);
        assert_eq!(one, Volume { items: 1, bytes: 68 });
        assert!(credit.allows_more_than(Volume::default()) && credit.allows_more_than(one));
        assert!(!credit.allows_more_than(one.plus(Volume::of(&[]))));
        assert!(!credit.allows_more_than(Volume { items: 1, bytes: 70 }));
    }
}
