//! Correlation ids that are not UTF-8.
//!
//! lapin requires short strings to be UTF-8, but some callers use the raw bytes of a UUID, for
//! example. Such an id is escaped before anything reads it, and restored when it is written: by
//! `wire::encode` in our messages, and by [`OutgoingFilter`](super::outgoing::OutgoingFilter) in
//! those that lapin writes. So the reply reaches its call, even if only to report that the request
//! is malformed. An id that is too long to be escaped is left out.

use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::cursor::{Cursor, FIXED_LEN, flag, split_flags};
use crate::protocol::Property;

/// The prefix of all escaped ids. It has a random part, so no other id begins with it.
static PREFIX: LazyLock<String> = LazyLock::new(|| {
    let (token, _) = Uuid::new_v4().as_u64_pair();
    format!("rpc-bytes-{token:016x}-")
});

/// Whether any id was escaped in this process.
static WAS_ANY_ESCAPED: AtomicBool = AtomicBool::new(false);

/// Whether a message that is sent may have an escaped id.
pub(in super::super) fn was_any_escaped() -> bool {
    WAS_ANY_ESCAPED.load(Ordering::Relaxed)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Escapes an id. Returns it as an AMQP short string: a byte with its length, then the text. `None`
/// if the id is too long: a short string has room for 114 escaped bytes.
pub(in super::super) fn escape(id: &[u8]) -> Option<Vec<u8>> {
    let size = u8::try_from(PREFIX.len() + 2 * id.len()).ok()?;
    let mut escaped = vec![size];
    escaped.extend_from_slice(PREFIX.as_bytes());
    for byte in id {
        escaped.push(HEX[usize::from(byte >> 4)]);
        escaped.push(HEX[usize::from(byte & 0xf)]);
    }
    WAS_ANY_ESCAPED.store(true, Ordering::Relaxed);
    Some(escaped)
}

/// The original bytes of an escaped id. `None` if the id is not the [`PREFIX`] and then pairs of
/// hexadecimal digits.
fn unescape(id: &[u8]) -> Option<Vec<u8>> {
    let digits = id.strip_prefix(PREFIX.as_bytes())?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

/// The original bytes of an escaped id. `None` if the id is not escaped. Cheap as long as none was
/// escaped in this process.
pub(in super::super) fn restore_id(id: &str) -> Option<Vec<u8>> {
    was_any_escaped().then(|| unescape(id.as_bytes())).flatten()
}

/// Whether the id in a content header has the prefix of escaped ids.
pub(in super::super) fn has_escaped_id(payload: &[u8]) -> bool {
    id_range(payload).is_some_and(|range| payload[range].starts_with(PREFIX.as_bytes()))
}

/// Restores the id in a content header. Returns the payload unchanged if it has no escaped id.
pub(in super::super) fn restore_in_header(payload: &[u8]) -> Vec<u8> {
    if let Some(range) = id_range(payload)
        && let Some(id) = unescape(&payload[range.clone()])
    {
        let size = u8::try_from(id.len()).unwrap_or(u8::MAX);
        // The byte before the id is its size.
        return [&payload[..range.start - 1], &[size], &id, &payload[range.end..]].concat();
    }
    payload.to_vec()
}

/// The range of the correlation id in a content header, without the byte with its length. `None` if
/// there is no id, or the header is malformed.
fn id_range(payload: &[u8]) -> Option<Range<usize>> {
    let (flags, properties) = split_flags(payload)?;
    let has = |property| flags & flag(property) != 0;
    if !has(Property::CorrelationId) {
        return None;
    }
    let mut cursor = Cursor::new(properties);
    let before_id = &Property::ALL[..Property::CorrelationId as usize];
    for skipped in before_id.iter().filter(|property| has(**property)) {
        match skipped {
            Property::Headers => drop(cursor.long()?),
            Property::DeliveryMode | Property::Priority => drop(cursor.take(1)?),
            // The content type and the content encoding.
            _ => drop(cursor.short()?),
        }
    }
    let id = cursor.short()?;
    let end = FIXED_LEN + cursor.position();
    Some(end - id.len()..end)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{EncodedProperties, content_header, short_string, table};
    use super::*;

    fn with_id(id: Vec<u8>) -> Vec<u8> {
        let mut properties = EncodedProperties::default();
        properties.set(Property::ContentType, short_string(b"text/plain"));
        properties.set(Property::Headers, table(b"\x01aV"));
        properties.set(Property::DeliveryMode, vec![1]);
        properties.set(Property::CorrelationId, id);
        properties.set(Property::Type, short_string(b"fault"));
        content_header(3, &properties)
    }

    #[test]
    fn an_escaped_id_is_restored() {
        for id in [&b"\xff\xfe"[..], &[0x80; 16], &[0xff; 114]] {
            let escaped = escape(id).unwrap();
            assert!(std::str::from_utf8(&escaped[1..]).is_ok());
            let payload = with_id(escaped);
            assert!(has_escaped_id(&payload));
            assert_eq!(restore_in_header(&payload), with_id(short_string(id)));
        }
        assert_eq!(escape(&[0xff; 115]), None);
    }

    #[test]
    fn other_ids_are_not_changed() {
        for id in [&b""[..], b"7", b"rpc-bytes-0000000000000000-ff"] {
            let payload = with_id(short_string(id));
            assert!(!has_escaped_id(&payload));
            assert_eq!(restore_in_header(&payload), payload);
        }
        for odd in ["f", "xy"] {
            let payload = with_id(short_string(format!("{}{odd}", *PREFIX).as_bytes()));
            assert_eq!(restore_in_header(&payload), payload);
        }
        assert!(!has_escaped_id(&content_header(0, &EncodedProperties::default())));
        assert!(!has_escaped_id(b""));
    }
}
