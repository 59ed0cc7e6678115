//! Encoded items, one after the other as in a message: each is a MessagePack binary.

use std::fmt;

use bytes::{Buf, Bytes};
use rmp::encode::{write_array_len, write_uint};

use super::batch::{Reader, UnreadableBatch, assert_ok, to_u32};
use super::message::body_of;
use super::volume::{Volume, elements_of, write_volume};

/// The number of bytes that may come before the items of a message: the length of an array, the
/// number of the first item, and the length of the array of items.
const MAX_HEAD: usize = 1 + 9 + 5;

/// The number of bytes that may come after them: the credit.
const MAX_TAIL: usize = 2 * 9;

/// Items that follow one another. They share the memory of their message.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ItemList {
    encoded: Bytes,
    volume: Volume,
}

impl ItemList {
    /// Reads this many items of a message.
    pub(super) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self, UnreadableBatch> {
        let mut volume = Volume::default();
        let encoded = reader.bytes_read_by(|reader| {
            for _ in 0..count {
                volume = volume.plus(Volume::of(reader.bin()?));
            }
            Ok(())
        })?;
        Ok(Self { encoded, volume })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.volume.items).unwrap_or(usize::MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.volume.items == 0
    }

    pub(crate) fn volume(&self) -> Volume {
        self.volume
    }

    /// The length of the items with the header of each, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        iter(&self.encoded)
    }

    /// Returns the first item.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        iter(&self.encoded).next()
    }

    /// Removes the first item. Cheaper than [`split_first`](Self::split_first), which makes a
    /// second owner of the message's memory.
    pub(crate) fn drop_first(&mut self) {
        if let Some((header_len, item_len)) = first_lengths(&self.encoded) {
            let end = header_len + item_len;
            let first = Volume::of(&self.encoded[header_len..end]);
            self.volume = self.volume.minus(first);
            self.encoded.advance(end);
        }
    }

    /// Removes the first item, and returns it as a list of its own.
    pub(crate) fn split_first(&mut self) -> Option<Self> {
        let (header_len, item_len) = first_lengths(&self.encoded)?;
        let encoded = self.encoded.split_to(header_len + item_len);
        let volume = Volume::of(&encoded[header_len..]);
        self.volume = self.volume.minus(volume);
        Some(Self { encoded, volume })
    }

    /// Copies the items out of their message, so that they do not keep the rest of it in memory.
    pub(crate) fn detach(&mut self) {
        detach(&mut self.encoded);
    }

    /// Whether an item shares the memory of these.
    #[cfg(test)]
    pub(crate) fn holds(&self, item: &[u8]) -> bool {
        self.encoded.as_ptr_range().contains(&item.as_ptr())
    }
}

/// Takes the items.
impl Iterator for ItemList {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut first = self.split_first()?.encoded;
        let (header_len, _) = first_lengths(&first)?;
        first.advance(header_len);
        Some(first)
    }
}

#[cfg(test)]
impl<B: AsRef<[u8]>> FromIterator<B> for ItemList {
    fn from_iter<I: IntoIterator<Item = B>>(items: I) -> Self {
        let mut writer = ItemWriter::default();
        items.into_iter().for_each(|item| writer.push(item.as_ref()));
        writer.finish()
    }
}

impl fmt::Debug for ItemList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items, {} bytes", self.volume.items, self.encoded.len())
    }
}

/// Copies bytes out of their message, so that they do not keep it in memory.
pub(crate) fn detach(bytes: &mut Bytes) {
    *bytes = Bytes::copy_from_slice(bytes);
}

/// Writes items into the body of their message, after room for what comes before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemWriter {
    /// The items with their headers, after [`MAX_HEAD`] bytes. Empty until the first item begins.
    body: Vec<u8>,
    volume: Volume,
    /// How long the body is likely to become, to reserve memory for it.
    expected_len: usize,
    /// Where the header of the item that was added last begins, or began before it was moved.
    last_start: usize,
    /// The expected length of the next item's header: that of the last one, unless
    /// [`push`](Self::push) knows it.
    header_len: usize,
}

impl ItemWriter {
    /// Returns a writer for items that have about this many bytes together.
    pub(crate) fn expecting(bytes: usize) -> Self {
        Self {
            expected_len: MAX_HEAD + bytes,
            ..Self::default()
        }
    }

    /// Gives back memory that is reserved for further items.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.body.shrink_to_fit();
    }

    /// Returns a writer for items that have about as many bytes together as those of another one.
    pub(crate) fn sized_like(other: &Self) -> Self {
        Self {
            expected_len: other.body.len(),
            header_len: other.header_len,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.volume.items).unwrap_or(usize::MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.volume.items == 0
    }

    pub(crate) fn volume(&self) -> Volume {
        self.volume
    }

    /// The length of the items with the header of each, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        self.body.len().saturating_sub(MAX_HEAD)
    }

    /// The length of the item that was added last with its header, in bytes. Zero after
    /// [`split_last`](Self::split_last) has moved it.
    pub(crate) fn last_len(&self) -> usize {
        self.body.len().saturating_sub(self.last_start)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        iter(self.body.get(MAX_HEAD..).unwrap_or_default())
    }

    pub(crate) fn push(&mut self, item: &[u8]) {
        self.header_len = Header::of(item.len()).bytes().len();
        let _ = self.push_with(|body| {
            body.extend_from_slice(item);
            Ok::<_, ()>(())
        });
    }

    /// Adds the item that `write_item` appends. If that fails, nothing is added.
    ///
    /// The header comes before the item and depends on its length, which is known only afterwards.
    /// This leaves room for a header of the expected length, and moves the item if that was wrong.
    pub(crate) fn push_with<E>(
        &mut self,
        write_item: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin();
        let start = self.body.len();
        let item_start = start + self.header_len;
        self.body.resize(item_start, 0);
        if let Err(error) = write_item(&mut self.body) {
            self.body.truncate(start);
            return Err(error);
        }
        let item = &self.body[item_start..];
        let header = Header::of(item.len());
        self.volume = self.volume.plus(Volume::of(item));
        self.header_len = header.bytes().len();
        if start + self.header_len == item_start {
            self.body[start..item_start].copy_from_slice(header.bytes());
        } else {
            self.body
                .splice(start..item_start, header.bytes().iter().copied());
        }
        self.last_start = start;
        Ok(())
    }

    /// Moves the item that was added last to a writer of its own. That writer is empty if there are
    /// no items, or if the last item was already moved.
    pub(crate) fn split_last(&mut self) -> Self {
        let mut split = Self::sized_like(self);
        if !self.is_empty() {
            split.begin();
            split.body.extend(self.body.drain(self.last_start..));
        }
        let moved = split.iter().next().map(Volume::of).unwrap_or_default();
        self.volume = self.volume.minus(moved);
        split.volume = moved;
        split
    }

    /// Returns the items without their message.
    pub(crate) fn finish(self) -> ItemList {
        let encoded = if self.body.is_empty() {
            Bytes::new()
        } else {
            body_of(self.body).slice(MAX_HEAD..)
        };
        ItemList {
            encoded,
            volume: self.volume,
        }
    }

    /// Returns the body of a message with these items. `first` is the number of the first item in
    /// its stream, and `credit` is what the sender knows that it may send in total.
    pub(crate) fn write(mut self, first: u64, credit: Volume) -> Bytes {
        self.begin();
        let mut head = Vec::with_capacity(MAX_HEAD);
        assert_ok(write_array_len(&mut head, 2 + elements_of(credit)));
        assert_ok(write_uint(&mut head, first));
        assert_ok(write_array_len(&mut head, to_u32(self.len())));
        // The head ends where the items begin. What is before it is not sent.
        let start = MAX_HEAD - head.len();
        self.body[start..MAX_HEAD].copy_from_slice(&head);
        write_volume(&mut self.body, credit);
        body_of(self.body).slice(start..)
    }

    /// Before the first item, reserves the memory of the message and leaves room for its head.
    fn begin(&mut self) {
        if self.body.is_empty() {
            // At least so much that a few small items need no second allocation.
            self.body.reserve((self.expected_len + MAX_TAIL).max(128));
            self.body.resize(MAX_HEAD, 0);
        }
    }
}

impl Default for ItemWriter {
    fn default() -> Self {
        Self {
            body: Vec::new(),
            volume: Volume::default(),
            expected_len: 0,
            last_start: MAX_HEAD,
            header_len: 2,
        }
    }
}

#[cfg(any(test, fuzzing))]
impl From<&ItemList> for ItemWriter {
    fn from(items: &ItemList) -> Self {
        let mut writer = Self {
            volume: items.volume,
            expected_len: MAX_HEAD + items.encoded.len(),
            ..Self::default()
        };
        if !items.is_empty() {
            writer.begin();
            writer.body.extend_from_slice(&items.encoded);
        }
        writer
    }
}

/// What is before an item: the marker of a binary, and its length.
enum Header {
    Short([u8; 2]),
    Medium([u8; 3]),
    Long([u8; 5]),
}

impl Header {
    fn of(length: usize) -> Self {
        if let Ok(length) = u8::try_from(length) {
            return Self::Short([0xc4, length]);
        }
        if let Ok(length) = u16::try_from(length) {
            let [a, b] = length.to_be_bytes();
            return Self::Medium([0xc5, a, b]);
        }
        let [a, b, c, d] = to_u32(length).to_be_bytes();
        Self::Long([0xc6, a, b, c, d])
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Medium(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

/// Returns the length of the first item's header, and that of the item itself. `None` if there is
/// no item.
fn first_lengths(encoded: &[u8]) -> Option<(usize, usize)> {
    Some(match encoded {
        [0xc4, length, ..] => (2, usize::from(*length)),
        [0xc5, a, b, ..] => (3, usize::from(u16::from_be_bytes([*a, *b]))),
        [0xc6, a, b, c, d, ..] => (5, usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?),
        _ => return None,
    })
}

fn iter(mut encoded: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header_len, item_len) = first_lengths(encoded)?;
        let (item, rest) = encoded.get(header_len..)?.split_at_checked(item_len)?;
        encoded = rest;
        Some(item)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(items: &ItemList) -> Vec<Vec<u8>> {
        items.iter().map(<[u8]>::to_vec).collect()
    }

    fn item() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![0..300usize, 65_530..65_545usize];
        (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length])
    }

    proptest! {
        #[test]
        fn items_are_read_as_they_were_written(items in prop::collection::vec(item(), 0..8)) {
            let list: ItemList = items.iter().collect();
            prop_assert_eq!(list.len(), items.len());
            let volume = items.iter().map(|item| Volume::of(item)).fold(Volume::default(), Volume::plus);
            prop_assert_eq!(list.volume(), volume);
            prop_assert_eq!(&all(&list), &items);
            let mut split = list.clone();
            let firsts: Vec<_> = std::iter::from_fn(|| split.split_first()).map(|first| all(&first)).collect();
            prop_assert_eq!(firsts.concat(), &*items);
            prop_assert!(split.is_empty() && split.volume() == Volume::default());
            let mut read = list.clone();
            for item in &items {
                prop_assert_eq!(read.first(), Some(&item[..]));
                read.drop_first();
            }
            prop_assert!(read.first().is_none() && read == split);
            prop_assert_eq!(list.map(Vec::from).collect::<Vec<_>>(), items);
        }

        #[test]
        fn the_last_item_is_moved(items in prop::collection::vec(item(), 1..8)) {
            let mut writer = ItemWriter::default();
            items.iter().for_each(|item| writer.push(item));
            let last = writer.split_last().finish();
            let (expected, before) = items.split_last().unwrap();
            prop_assert_eq!(all(&last), [expected.clone()]);
            prop_assert_eq!(last.volume(), Volume::of(expected));
            let rest = writer.finish();
            prop_assert_eq!(all(&rest), before);
            prop_assert_eq!(rest.len(), before.len());
        }
    }

    #[test]
    fn an_item_that_cannot_be_written_leaves_nothing() {
        let mut writer = ItemWriter::default();
        writer.push(b"before");
        let failed = writer.push_with(|body| {
            body.extend(b"half an item");
            Err("it fails")
        });
        assert_eq!(failed, Err("it fails"));
        writer.push(&[7; 300]);
        assert_eq!(all(&writer.finish()), [b"before".to_vec(), vec![7; 300]]);
    }

    #[test]
    fn a_message_does_not_keep_room_for_a_larger_one() {
        let mut large = ItemWriter::default();
        large.push(&[0; 10_000]);
        let mut small = ItemWriter::sized_like(&large);
        small.push(b"1");
        let list = small.clone().finish().encoded.try_into_mut().unwrap();
        assert!(list.capacity() < 100);
        let body = small.clone().write(0, Volume::MAX).try_into_mut().unwrap();
        assert!(body.capacity() < 100);
        assert!(small.body.capacity() > 10_000);
        small.shrink_to_fit();
        assert!(small.body.capacity() < 100);
    }

    /// A peer need not use the shortest form.
    #[test]
    fn each_form_of_a_binary_is_an_item() {
        let body = Bytes::from_static(b"\xc6\0\0\0\x01\x07\xc5\0\0\xc4\x01\x08");
        let items = ItemList::read(&mut Reader::new(&body), 3).unwrap();
        assert_eq!(all(&items), [&b"\x07"[..], b"", b"\x08"]);
        assert!(items.eq([&b"\x07"[..], b"", b"\x08"]));
    }
}
