//! The mark on a content header that was replaced: a header with the reason as its value. It takes
//! the place of the message's headers, except for those about dead-lettering.
//!
//! The value begins with random bytes that no peer knows, so no peer can forge a mark. A
//! mark never leaves this process.

use std::sync::LazyLock;

use uuid::Uuid;

use crate::protocol::{Malformed, Property};

/// The name of the header. A peer's own header of this name is dropped.
pub(crate) const NAME: &str = "rpc-malformed";

static TOKEN: LazyLock<[u8; 16]> = LazyLock::new(|| *Uuid::new_v4().as_bytes());

/// Encodes a reason as two bytes.
fn code(malformed: Malformed) -> [u8; 2] {
    match malformed {
        Malformed::NotUtf8(property) => [0, property as u8],
        Malformed::Truncated(property) => [1, property as u8],
        Malformed::HeaderName => [2, 0],
        Malformed::InvalidHeaders => [3, 0],
        Malformed::DeepHeaders => [4, 0],
        Malformed::TooLarge => [5, 0],
        Malformed::TrailingBytes => [6, 0],
    }
}

/// Decodes what [`code`] encodes. `None` if it is something else.
fn from_code([kind, property]: [u8; 2]) -> Option<Malformed> {
    let property = || Property::ALL.get(usize::from(property)).copied();
    Some(match kind {
        0 => Malformed::NotUtf8(property()?),
        1 => Malformed::Truncated(property()?),
        2 => Malformed::HeaderName,
        3 => Malformed::InvalidHeaders,
        4 => Malformed::DeepHeaders,
        5 => Malformed::TooLarge,
        6 => Malformed::TrailingBytes,
        _ => return None,
    })
}

/// Encodes a table with a mark. `others` are encoded entries that follow the mark.
pub(super) fn table(malformed: Malformed, others: &[u8]) -> Vec<u8> {
    let value = [&TOKEN[..], &code(malformed)].concat();
    let mut entries = Vec::with_capacity(64 + others.len());
    entries.push(NAME.len() as u8);
    entries.extend_from_slice(NAME.as_bytes());
    entries.push(b'S');
    entries.extend_from_slice(&(value.len() as u32).to_be_bytes());
    entries.extend_from_slice(&value);
    entries.extend_from_slice(others);
    [&(entries.len() as u32).to_be_bytes()[..], &entries].concat()
}

/// Why the properties of a message were replaced. `None` if they were not.
#[cfg(any(test, fuzzing, feature = "__tools"))]
pub(crate) fn read(properties: &lapin::BasicProperties) -> Option<Malformed> {
    use lapin::types::AMQPValue;

    let headers = properties.headers().as_ref()?;
    match headers.inner().get(NAME)? {
        AMQPValue::LongString(value) => read_value(value.as_bytes()),
        _ => None,
    }
}

/// The reason in the value of a header with this [`NAME`]. `None` if the header is a peer's own.
pub(crate) fn read_value(value: &[u8]) -> Option<Malformed> {
    let code = value.strip_prefix(&TOKEN[..])?;
    from_code(code.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::parsing::parse_field_table;
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;

    fn with(headers: FieldTable) -> Option<Malformed> {
        read(&BasicProperties::default().with_headers(headers))
    }

    #[test]
    fn each_reason_is_read_from_its_mark() {
        let of_property = [Malformed::NotUtf8, Malformed::Truncated];
        let of_property = of_property
            .into_iter()
            .flat_map(|malformed| Property::ALL.map(malformed));
        let others = [
            Malformed::HeaderName,
            Malformed::InvalidHeaders,
            Malformed::DeepHeaders,
            Malformed::TooLarge,
            Malformed::TrailingBytes,
        ];
        for malformed in of_property.chain(others) {
            let mark = table(malformed, b"");
            let (rest, headers) = parse_field_table(&mark[..]).unwrap();
            assert!(rest.is_empty());
            assert_eq!(with(headers), Some(malformed));
        }
    }

    #[test]
    fn a_peers_header_of_that_name_is_not_a_mark() {
        for value in [&b""[..], &[0; 18], b"\x02\0", &[&TOKEN[..], b"\x09\0"].concat()] {
            let mut headers = FieldTable::default();
            headers.insert(NAME.into(), AMQPValue::LongString(value.to_vec().into()));
            assert_eq!(with(headers), None);
        }
        assert_eq!(read(&BasicProperties::default()), None);
    }
}
