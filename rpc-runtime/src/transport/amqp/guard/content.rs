//! Content headers: the properties of a message.
//!
//! A publisher chooses the properties, and RabbitMQ passes them on almost unchanged. It does not
//! check that short strings are UTF-8, and does not limit how deep tables are nested. lapin closes
//! the connection because of an invalid string, and overflows its stack because of a deep table.
//! lapin can read every content header that passes the check of this module and is long enough.

use std::borrow::Cow;

use super::cursor::{Cursor, FIXED_LEN, flag, split_flags};
use super::{ids, mark};
use crate::protocol::{DEATHS_HEADER, FIRST_DEATH_REASON_HEADER, MAX_HEADER_DEPTH, Malformed, Property};

/// Checks a content header: see [`check_table`] for its headers. A payload that is too short for
/// one passes, and what reads it next reports the error.
///
/// # Errors
///
/// The first reason why it is malformed.
pub(in super::super) fn check(payload: &[u8]) -> Result<(), Malformed> {
    let mut found = Ok(());
    for_each_property(payload, |_, _, read| {
        found = read;
        found.is_ok()
    });
    found
}

/// Appends the payload of a content header that replaces a malformed one. It has the body's size,
/// the properties that can be read, and a mark instead of the headers. A correlation id that is not
/// UTF-8 is [escaped](ids), unless it is too long.
///
/// The broker's entries about dead-lettering, such as `x-death`, are kept after the mark. If there
/// are headers, but these entries are unknown or too long, the message counts as [rejected too
/// often](REJECTED_TOO_OFTEN).
///
/// The result has less than 4 KiB, so it fits into any frame.
pub(in super::super) fn append_replacement(payload: &[u8], malformed: Malformed, out: &mut Vec<u8>) {
    // The bytes of each property, in wire order.
    let mut kept = [const { None::<Cow<'_, [u8]>> }; Property::ALL.len()];
    let mark = mark::table(malformed, &death_entries(payload, malformed));
    kept[Property::Headers as usize] = Some(Cow::Owned(mark));
    let mut flags = flag(Property::Headers);
    for_each_property(payload, |property, bytes, read| {
        let kept_as = match (property, read) {
            // The mark replaces the headers. A truncated property and trailing bytes are left out.
            (Property::Headers, _) | (_, Err(Malformed::Truncated(_) | Malformed::TrailingBytes)) => None,
            (_, Ok(())) => Some(Cow::Borrowed(bytes)),
            // The first byte is the size.
            (Property::CorrelationId, Err(_)) => ids::escape(&bytes[1..]).map(Cow::Owned),
            (_, Err(_)) => None,
        };
        if kept_as.is_some() {
            flags |= flag(property);
            kept[property as usize] = kept_as;
        }
        true
    });
    // The class, the weight and the body's size. Every content header has them.
    let fixed = payload.get(..FIXED_LEN - 2).unwrap_or_default();
    out.extend_from_slice(fixed);
    out.extend_from_slice(&flags.to_be_bytes());
    for bytes in kept.iter().flatten() {
        out.extend_from_slice(bytes);
    }
}

/// The maximum size of the entries about dead-lettering. RabbitMQ adds about 200 bytes for each
/// queue and reason.
const MAX_DEATH_BYTES: usize = 1024;

/// An `x-death` entry with the maximum count of rejections. It replaces entries that cannot be
/// read: the true count is unknown, and a message that is rejected again and again must not
/// circulate forever.
pub(in super::super) const REJECTED_TOO_OFTEN: &[u8] = b"\x07x-deathA\0\0\0\x28F\0\0\0\x23\
    \x06reasonS\0\0\0\x08rejected\
    \x05countl\x7f\xff\xff\xff\xff\xff\xff\xff";

/// The entries about dead-lettering in the headers of a malformed content header, as they are sent.
/// Empty if it has no headers, and [`REJECTED_TOO_OFTEN`] if its entries are unknown or too long.
fn death_entries(payload: &[u8], malformed: Malformed) -> Cow<'_, [u8]> {
    const UNKNOWN: Cow<'static, [u8]> = Cow::Borrowed(REJECTED_TOO_OFTEN);
    let has_headers = split_flags(payload).is_some_and(|(flags, _)| flags & flag(Property::Headers) != 0);
    if !has_headers {
        return Cow::Borrowed(b"");
    }
    // `LargeHeaderReader` has skipped the headers, so their entries are unknown.
    if malformed == Malformed::TooLarge {
        return UNKNOWN;
    }
    let mut deaths = None;
    for_each_property(payload, |property, bytes, _| {
        if property == Property::Headers {
            // The first four bytes are the table's size.
            deaths = bytes.get(4..).and_then(death_entries_in);
        }
        true
    });
    deaths.map_or(UNKNOWN, Cow::Owned)
}

/// The entries about dead-lettering in a table, whose other entries may be malformed. `None` if the
/// size or the type of an entry is not valid, so that the entries cannot be told apart, or if those
/// about dead-lettering are malformed or too long.
fn death_entries_in(table: &[u8]) -> Option<Vec<u8>> {
    let mut deaths = Vec::new();
    let mut cursor = Cursor::new(table);
    while !cursor.is_at_end() {
        let from = cursor.position();
        let name = cursor.short()?;
        read_value(&mut cursor)?;
        if [DEATHS_HEADER, FIRST_DEATH_REASON_HEADER]
            .map(str::as_bytes)
            .contains(&name)
        {
            deaths.extend_from_slice(&table[from..cursor.position()]);
        }
    }
    let is_readable = deaths.len() <= MAX_DEATH_BYTES && check_table(&deaths).is_ok();
    is_readable.then_some(deaths)
}

/// Calls `each` for the properties of a content header in their order, until it returns `false`.
/// Does nothing if the payload is too short for a content header.
///
/// The arguments of `each` are the property, its bytes, and whether they can be read. A property
/// that does not end within the payload is reported without its bytes, and no more can be found
/// after it. Bytes after the last property are reported as an unreadable `ClusterId`, which is the
/// last one that there can be.
fn for_each_property<'a>(
    payload: &'a [u8],
    mut each: impl FnMut(Property, &'a [u8], Result<(), Malformed>) -> bool,
) {
    let Some((flags, properties)) = split_flags(payload) else {
        return;
    };
    let mut cursor = Cursor::new(properties);
    for property in Property::ALL {
        if flags & flag(property) == 0 {
            continue;
        }
        let from = cursor.position();
        let Some(checked) = read_property(property, &mut cursor) else {
            each(property, &[], Err(Malformed::Truncated(property)));
            return;
        };
        if !each(property, &properties[from..cursor.position()], checked) {
            return;
        }
    }
    if !cursor.is_at_end() {
        each(Property::ClusterId, &[], Err(Malformed::TrailingBytes));
    }
}

/// Reads and checks a property. `None` if it does not end within the payload.
fn read_property(property: Property, cursor: &mut Cursor<'_>) -> Option<Result<(), Malformed>> {
    Some(match property {
        Property::Headers => check_table(cursor.long()?),
        Property::DeliveryMode | Property::Priority => cursor.take(1).map(|_| Ok(()))?,
        Property::Timestamp => cursor.take(8).map(|_| Ok(()))?,
        text => match std::str::from_utf8(cursor.short()?) {
            Ok(_) => Ok(()),
            Err(_) => Err(Malformed::NotUtf8(text)),
        },
    })
}

/// A table or an array that is being checked.
#[derive(Clone, Copy, Default)]
struct Level {
    end: usize,
    is_table: bool,
}

/// Checks that lapin can read the content of a table: all sizes fit, all types are known, all names
/// are UTF-8, and nothing is nested deeper than [`MAX_HEADER_DEPTH`]. Also refuses a second
/// `x-death` entry. Does not recurse.
pub(in super::super) fn check_table(table: &[u8]) -> Result<(), Malformed> {
    const INVALID: Malformed = Malformed::InvalidHeaders;
    // The table itself, and what is nested at the current position.
    let mut levels = [Level::default(); MAX_HEADER_DEPTH + 1];
    levels[0] = Level {
        end: table.len(),
        is_table: true,
    };
    let mut depth = 0;
    let mut at = 0;
    let mut has_deaths = false;
    loop {
        let Level { end, is_table } = levels[depth];
        if at == end {
            if depth == 0 {
                return Ok(());
            }
            depth -= 1;
            continue;
        }
        // Nothing in the table or array may reach beyond its end.
        let mut cursor = Cursor::at(table.get(..end).ok_or(INVALID)?, at);
        if is_table {
            let name = cursor.short().ok_or(INVALID)?;
            std::str::from_utf8(name).map_err(|_| Malformed::HeaderName)?;
            // With two entries of this name, RabbitMQ 3 counts in the first one, but lapin and this
            // crate read the last one.
            if depth == 0 && name == DEATHS_HEADER.as_bytes() && std::mem::replace(&mut has_deaths, true) {
                return Err(INVALID);
            }
        }
        let (kind, content) = read_value(&mut cursor).ok_or(INVALID)?;
        at = cursor.position();
        if matches!(kind, b'F' | b'A') {
            depth += 1;
            *levels.get_mut(depth).ok_or(Malformed::DeepHeaders)? = Level {
                end: at,
                is_table: kind == b'F',
            };
            // Goes back to the start of the content, which is read as the next level.
            at -= content.len();
        }
    }
}

/// Reads a value of a table or an array. Returns the letter of its type and its content, without
/// the size before it. `None` if the value reaches beyond the end of the bytes, or if lapin does
/// not know its type.
///
/// The types are those of lapin's `AMQPType::from_id`: the types of AMQP 0-9-1, and RabbitMQ's byte
/// array. `s`, `l` and `L` [mean what they mean to
/// RabbitMQ](https://www.rabbitmq.com/amqp-0-9-1-errata): signed integers.
pub(in super::super) fn read_value<'a>(cursor: &mut Cursor<'a>) -> Option<(u8, &'a [u8])> {
    let [kind] = cursor.chunk()?;
    let content = match kind {
        // Boolean, and integers of 8 bits.
        b't' | b'b' | b'B' => cursor.take(1),
        // Integers of 16 bits.
        b's' | b'U' | b'u' => cursor.take(2),
        // Integers of 32 bits, and float.
        b'I' | b'i' | b'f' => cursor.take(4),
        // Decimal: the number of its decimal places, and an integer of 32 bits.
        b'D' => cursor.take(5),
        // Integers of 64 bits, double, and timestamp.
        b'L' | b'l' | b'd' | b'T' => cursor.take(8),
        // Void.
        b'V' => cursor.take(0),
        // Long string, byte array, table and array. Their size comes first.
        b'S' | b'x' | b'F' | b'A' => cursor.long(),
        _ => None,
    };
    Some((kind, content?))
}

/// Reads a content header that is larger than the maximum size of a frame, and keeps everything but
/// its headers.
///
/// RabbitMQ can send such a content header. It splits a body into frames of the size negotiated
/// with this connection, but not the properties. Those were sent on another connection, which may
/// allow larger frames, and RabbitMQ adds headers of its own.
#[derive(Debug)]
pub(in super::super) struct LargeHeaderReader {
    /// The kept payload, with its headers emptied.
    kept: Vec<u8>,
    /// How many of the next bytes to skip.
    skip: usize,
    /// Whether the size of the headers was read. All bytes before it are kept.
    has_table_size: bool,
}

impl LargeHeaderReader {
    /// More than the size of all properties without the headers.
    const MAX_KEPT: usize = 4096;

    /// Makes a reader that skips a prefix of this length before the payload.
    pub(in super::super) fn new(prefix_len: usize) -> Self {
        Self {
            kept: Vec::new(),
            skip: prefix_len,
            has_table_size: false,
        }
    }

    /// Reads the next bytes.
    pub(in super::super) fn feed(&mut self, mut bytes: &[u8]) {
        // No properties are longer than the maximum, so what follows it is not needed.
        while !bytes.is_empty() && self.kept.len() < Self::MAX_KEPT {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            // Reads byte by byte until the size of the headers is known. The headers begin within
            // the first 600 bytes.
            let max_taken = if self.has_table_size {
                Self::MAX_KEPT - self.kept.len()
            } else {
                1
            };
            let (taken, rest) = bytes.split_at(max_taken.min(bytes.len()));
            self.kept.extend_from_slice(taken);
            bytes = rest;
            if !self.has_table_size
                && let Some(size) = table_size_at_end(&self.kept)
            {
                self.has_table_size = true;
                self.skip = size;
                // Overwrites the size by that of empty headers.
                let from = self.kept.len() - 4;
                self.kept[from..].fill(0);
            }
        }
    }

    /// The payload with its headers emptied.
    pub(in super::super) fn into_payload(self) -> Vec<u8> {
        self.kept
    }
}

/// The size of a content header's headers, if the payload ends directly after that size. `None` if
/// it ends elsewhere, or has no headers.
fn table_size_at_end(payload: &[u8]) -> Option<usize> {
    let (flags, properties) = split_flags(payload)?;
    if flags & flag(Property::Headers) == 0 {
        return None;
    }
    let mut cursor = Cursor::new(properties);
    for property in [Property::ContentType, Property::ContentEncoding] {
        if flags & flag(property) != 0 {
            cursor.short()?;
        }
    }
    let size = u32::from_be_bytes(cursor.chunk()?);
    cursor
        .is_at_end()
        .then(|| usize::try_from(size).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{EncodedProperties, content_header, nested, props, short_string, table};
    use super::*;

    fn error(properties: &EncodedProperties) -> Option<Malformed> {
        check(&content_header(7, properties)).err()
    }

    /// A message's content header with a mark in place of what is malformed.
    fn replaced(properties: &EncodedProperties, malformed: Malformed) -> Vec<u8> {
        let mut replaced = Vec::new();
        append_replacement(&content_header(9, properties), malformed, &mut replaced);
        replaced
    }

    #[test]
    fn short_strings_must_be_utf8() {
        use Property::{DeliveryMode, Headers, Priority, Timestamp};
        let is_text =
            |property: &Property| !matches!(property, Headers | DeliveryMode | Priority | Timestamp);
        for property in Property::ALL.into_iter().filter(is_text) {
            let mut properties = EncodedProperties::default();
            properties.set(property, short_string("käse".as_bytes()));
            assert_eq!(error(&properties), None);
            properties.set(property, short_string(b"\xff\xfe"));
            assert_eq!(error(&properties), Some(Malformed::NotUtf8(property)));
            properties.set(property, b"\x09short".to_vec());
            assert_eq!(error(&properties), Some(Malformed::Truncated(property)));
        }
    }

    #[test]
    fn two_x_death_entries_are_invalid() {
        let entry = [&short_string(DEATHS_HEADER.as_bytes())[..], b"A\0\0\0\0"].concat();
        assert_eq!(check_table(&entry), Ok(()));
        assert_eq!(check_table(&entry.repeat(2)), Err(Malformed::InvalidHeaders));
        assert_eq!(death_entries_in(&entry.repeat(2)), None);
    }

    #[test]
    fn names_of_headers_must_be_utf8_at_any_depth() {
        for name in [&b"\xff"[..], b"\xc3"] {
            let entry = [&short_string(name)[..], b"V"].concat();
            assert_eq!(check_table(&entry), Err(Malformed::HeaderName));
            for within in [b'F', b'A'] {
                let deep = match within {
                    b'F' => nested(b'F', 3, &entry),
                    _ => nested(b'A', 3, &[b"F", &table(&entry)[..]].concat()),
                };
                assert_eq!(check_table(&deep), Err(Malformed::HeaderName));
            }
        }
    }

    #[test]
    fn tables_and_arrays_may_be_nested_up_to_a_limit() {
        for kind in [b'F', b'A'] {
            assert_eq!(check_table(&nested(kind, MAX_HEADER_DEPTH, b"")), Ok(()));
            for levels in [MAX_HEADER_DEPTH + 1, 200, 1200, 20_000] {
                let error = Err(Malformed::DeepHeaders);
                assert_eq!(check_table(&nested(kind, levels, b"")), error, "{levels}");
            }
        }
    }

    #[test]
    fn a_table_with_wrong_sizes_is_invalid() {
        for bytes in [
            &b"\x01"[..],
            b"\x01a",
            b"\x01a?",
            b"\x01aI\0\0",
            b"\x01aS\0\0\0\x02x",
            b"\x01aF\0\0\0\x01",
            // The inner value ends after its table.
            b"\x01aF\0\0\0\x03\x01bI\0\0\0\0",
            b"\x01aA\xff\xff\xff\xff",
        ] {
            assert_eq!(check_table(bytes), Err(Malformed::InvalidHeaders), "{bytes:?}");
        }
    }

    #[test]
    fn bytes_after_the_properties_are_an_error() {
        let mut payload = content_header(7, &EncodedProperties::default());
        payload.push(0);
        assert_eq!(check(&payload), Err(Malformed::TrailingBytes));
    }

    #[test]
    fn readable_properties_are_kept_with_a_mark() {
        let mut properties = EncodedProperties::default();
        properties.set(Property::ContentType, short_string(b"text/plain"));
        properties.set(Property::Headers, table(b"\x01aV"));
        properties.set(Property::Priority, vec![3]);
        properties.set(Property::CorrelationId, short_string(b"7"));
        properties.set(Property::MessageId, short_string(b"\xff"));
        properties.set(Property::Timestamp, vec![0; 8]);
        let malformed = error(&properties).unwrap();
        let replaced = replaced(&properties, malformed);

        let mut expected = properties.clone();
        expected.set(Property::Headers, mark::table(malformed, b""));
        expected.unset(Property::MessageId);
        assert_eq!(replaced, content_header(9, &expected));
        assert_eq!(check(&replaced), Ok(()));
    }

    #[test]
    fn properties_before_a_truncated_one_are_kept() {
        let mut properties = EncodedProperties::default();
        properties.set(Property::CorrelationId, short_string(b"7"));
        properties.set(Property::ReplyTo, b"\xffamq.gen-1".to_vec());
        let malformed = Malformed::Truncated(Property::ReplyTo);
        assert_eq!(error(&properties), Some(malformed));
        let replaced = replaced(&properties, malformed);
        properties.set(Property::Headers, mark::table(malformed, b""));
        properties.unset(Property::ReplyTo);
        assert_eq!(replaced, content_header(9, &properties));
    }

    #[test]
    fn an_id_that_is_not_utf8_is_escaped_unless_it_is_too_long() {
        for (id, escaped) in [(&[0xff; 16][..], ids::escape(&[0xff; 16])), (&[0xff; 200], None)] {
            let mut properties = EncodedProperties::default();
            properties.set(Property::CorrelationId, short_string(id));
            let malformed = error(&properties).unwrap();
            let replaced = replaced(&properties, malformed);
            properties.unset(Property::CorrelationId);
            properties.set(Property::Headers, mark::table(malformed, b""));
            if let Some(escaped) = escaped {
                properties.set(Property::CorrelationId, escaped);
            }
            assert_eq!(replaced, content_header(9, &properties));
        }
    }

    proptest! {
        #[test]
        fn valid_properties_pass_the_check(properties in props()) {
            prop_assert_eq!(error(&properties), None);
        }

        /// All properties but the headers are kept, in whatever parts the payload arrives.
        #[test]
        fn a_large_header_reader_keeps_everything_but_the_headers(
            properties in props(),
            size in 5_000_usize..200_000,
            parts in prop::collection::vec(1_usize..3_000, 1..100),
        ) {
            let mut properties = properties;
            let large = [&short_string(b"large")[..], b"S", &table(&vec![0xff; size])].concat();
            properties.set(Property::Headers, table(&large));
            let payload = content_header(5, &properties);
            let mut reader = LargeHeaderReader::new(7);
            reader.feed(&[0xaa; 7]);
            let mut rest = &payload[..];
            for part in parts.iter().cycle() {
                let (now, later) = rest.split_at((*part).min(rest.len()));
                reader.feed(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            properties.set(Property::Headers, table(b""));
            prop_assert_eq!(reader.into_payload(), content_header(5, &properties));
        }

        #[test]
        fn a_large_header_reader_keeps_a_limited_number_of_bytes(payload in prop::collection::vec(any::<u8>(), FIXED_LEN..10_000)) {
            let mut reader = LargeHeaderReader::new(0);
            reader.feed(&payload);
            let kept = reader.into_payload();
            prop_assert!(kept.len() <= LargeHeaderReader::MAX_KEPT);
            let mut replaced = Vec::new();
            append_replacement(&kept, Malformed::TooLarge, &mut replaced);
            prop_assert!(replaced.len() < LargeHeaderReader::MAX_KEPT);
            prop_assert_eq!(check(&replaced), Ok(()));
        }
    }
}
