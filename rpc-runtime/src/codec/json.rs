//! `application/json`.

use std::ops::Range;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, IgnoredAny};

use super::error::BoxError;
use super::numbers::{ARBITRARY_PRECISION, Json, ReadNumbers, WriteNumbers};

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, body: &mut Vec<u8>) -> Result<(), BoxError> {
    let mut serializer = serde_json::Serializer::new(body);
    Ok(value.serialize(WriteNumbers::<_, Json>::new(&mut serializer))?)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, BoxError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // Without its feature `arbitrary_precision`, `serde_json` reads all numbers correctly.
    let value = match ARBITRARY_PRECISION {
        true => seed.deserialize(ReadNumbers::<_, Json>::new(&mut deserializer))?,
        false => seed.deserialize(&mut deserializer)?,
    };
    deserializer.end()?;
    Ok(value)
}

/// Returns where the value under this key is in a map that [`encode`] has written, which has no
/// whitespace between its tokens. `None` if the map has no such key.
pub(super) fn find_value(map: &[u8], key: &str) -> Option<Range<usize>> {
    let mut at = 0;
    loop {
        // Skips `{` or `,`.
        at += 1;
        let name: String = read(map, &mut at)?;
        // Skips `:`.
        at += 1;
        let start = at;
        read::<IgnoredAny>(map, &mut at)?;
        if name == key {
            return Some(start..at);
        }
    }
}

/// Reads the value that begins at `at`, and moves `at` to the end of the value.
fn read<'de, T: Deserialize<'de>>(json: &'de [u8], at: &mut usize) -> Option<T> {
    let mut values = serde_json::Deserializer::from_slice(json.get(*at..)?).into_iter();
    let value = values.next()?.ok()?;
    *at += values.byte_offset();
    Some(value)
}
