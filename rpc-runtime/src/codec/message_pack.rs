//! `application/msgpack`.

use std::io::ErrorKind;
use std::ops::Range;

use rmp_serde::config::{DefaultConfig, HumanReadableConfig};
use rmp_serde::decode::{Error as RmpError, ReadRefReader};
use rmp_serde::{Deserializer, Serializer};
use serde::de::{DeserializeSeed, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::error::{BoxError, TrailingBytes};
use super::numbers::{self, ReadNumbers, WriteNumbers};

/// Values must be nested less deeply than this: 127 levels are allowed, as in `serde_json`. The
/// stack of one of tokio's threads is large enough for them.
const MAX_DEPTH: usize = 128;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, body: &mut Vec<u8>) -> Result<(), BoxError> {
    // Compact forms of types such as `IpAddr` could not be read back through serde's buffers
    // (flattened fields, tagged and untagged enums), which are always human-readable.
    let mut serializer = Serializer::new(body).with_struct_map().with_human_readable();
    Ok(value.serialize(WriteNumbers::<_, numbers::MessagePack>::new(&mut serializer))?)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, BoxError> {
    check_structure(body)?;
    let mut deserializer = deserializer_of(body);
    Ok(seed.deserialize(ReadNumbers::<_, numbers::MessagePack>::new(&mut deserializer))?)
}

/// Returns the content of a body that is one binary: `bin 8`, `bin 16` or `bin 32`. `None` for any
/// other body.
pub(super) fn binary(body: &[u8]) -> Option<&[u8]> {
    let (length, content) = match body {
        [0xc4, length, content @ ..] => (u32::from(*length), content),
        [0xc5, a, b, content @ ..] => (u16::from_be_bytes([*a, *b]).into(), content),
        [0xc6, a, b, c, d, content @ ..] => (u32::from_be_bytes([*a, *b, *c, *d]), content),
        _ => return None,
    };
    (usize::try_from(length) == Ok(content.len())).then_some(content)
}

/// Returns where the value under this key is in a map that [`encode`] has written. `None` if the
/// map has no such key.
pub(super) fn find_value(map: &[u8], key: &str) -> Option<Range<usize>> {
    let mut rest = map;
    for _ in 0..rmp::decode::read_map_len(&mut rest).ok()? {
        let name = String::deserialize(&mut Deserializer::new(&mut rest)).ok()?;
        let start = map.len() - rest.len();
        IgnoredAny::deserialize(&mut Deserializer::new(&mut rest)).ok()?;
        if name == key {
            return Some(start..map.len() - rest.len());
        }
    }
    None
}

/// Checks, before a value is built from the body, that it holds exactly one complete value that is
/// nested less deeply than [`MAX_DEPTH`].
///
/// `rmp-serde` does not check enough. It does not count enum variants as levels, and a variant
/// takes only two bytes, so a peer could overflow the stack. Read as [`IgnoredAny`], a variant is a
/// map, which counts. `rmp-serde` also gives serde the length that an array, a map or bytes
/// announce, as a size hint, even if the body ends before that, and serde then reserves up to 1 MiB
/// for each level.
fn check_structure(body: &[u8]) -> Result<(), BoxError> {
    let mut deserializer = deserializer_of(body);
    IgnoredAny::deserialize(&mut deserializer)?;
    // A second value must fail, because the body ends. It is read as a `bool`, which has no items
    // whose end could be taken for that of the body.
    match bool::deserialize(&mut deserializer) {
        Err(RmpError::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(TrailingBytes.into()),
    }
}

fn deserializer_of(body: &[u8]) -> Deserializer<ReadRefReader<'_, [u8]>, HumanReadableConfig<DefaultConfig>> {
    let mut deserializer = Deserializer::from_read_ref(body).with_human_readable();
    deserializer.set_max_depth(MAX_DEPTH);
    deserializer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_complete_value() {
        for complete in [
            &b"\x01"[..],
            b"\xc0",
            b"\xc3",
            b"\x90",
            b"\x91\x01",
            b"\x82\x01\x02\x03\x90",
            b"\xc7\x01\x05\x00",
        ] {
            check_structure(complete).unwrap();
        }
        for value in [&b"\x01"[..], b"\xc0", b"\x91\x01", b"\x81\x01\x02", b"\xa1x"] {
            // Complete values, and the beginning of others: arrays, maps, text, bytes, a number, an
            // extension, and the byte that MessagePack never uses.
            for trailing in [
                &b"\x01"[..],
                b"\xc0",
                b"\xc3",
                b"\x90",
                b"\x91",
                b"\x92\x01",
                b"\x81",
                b"\x81\x01",
                b"\x91\x91",
                b"\xdc",
                b"\xdd\x00",
                b"\xde\x00\x01",
                b"\xdf",
                b"\xa2x",
                b"\xc4\x02x",
                b"\xcd\x01",
                b"\xc7\x01",
                b"\xc1",
            ] {
                let body = [value, trailing].concat();
                let error = check_structure(&body).unwrap_err();
                assert!(error.is::<TrailingBytes>(), "{body:02x?}: {error}");
            }
        }
        for incomplete in [&b""[..], b"\x91", b"\x81\x01", b"\xa1", b"\xcd\x01"] {
            let error = check_structure(incomplete).unwrap_err();
            assert!(!error.is::<TrailingBytes>(), "{incomplete:02x?}: {error}");
        }
    }

    #[test]
    fn a_binary_is_its_content() {
        assert_eq!(binary(b"\xc4\x02ab"), Some(&b"ab"[..]));
        assert_eq!(binary(b"\xc5\x00\x02ab"), Some(&b"ab"[..]));
        assert_eq!(binary(b"\xc6\x00\x00\x00\x02ab"), Some(&b"ab"[..]));
        for other in [
            &b""[..],
            b"\xc4",
            b"\xc4\x03ab",
            b"\xc4\x01ab",
            b"\xa2ab",
            b"\xc5\x00",
        ] {
            assert_eq!(binary(other), None, "{other:?}");
        }
    }
}
