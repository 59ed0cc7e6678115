//! `application/msgpack`.

use std::io::ErrorKind;

use rmp_serde::config::{DefaultConfig, HumanReadableConfig};
use rmp_serde::decode::{Error as DecodeError, ReadRefReader};
use rmp_serde::{Deserializer, Serializer};
use serde::de::{DeserializeSeed, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::error::{Cause, TrailingBytes};
use super::numbers::{self, ReadNumbers, WriteNumbers};

/// How deep values may nest: as deep as `serde_json` allows, and shallow enough for the stack of a
/// worker thread.
const MAX_DEPTH: usize = 128;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, body: &mut Vec<u8>) -> Result<(), Cause> {
    // Compact forms of types such as `IpAddr` could not be read back through serde's buffers
    // (flattened fields, tagged and untagged enums), which are always human-readable.
    let mut serializer = Serializer::new(body).with_struct_map().with_human_readable();
    Ok(value.serialize(WriteNumbers::<_, numbers::MessagePack>::new(&mut serializer))?)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, Cause> {
    check(body)?;
    let mut deserializer = deserializer(body);
    Ok(seed.deserialize(ReadNumbers::<_, numbers::MessagePack>::new(&mut deserializer))?)
}

/// Walks over the body before a value is built from it: it has to be one value, all there, and
/// nested no deeper than [`MAX_DEPTH`].
///
/// Two holes of `rmp-serde` are closed here. It does not count the levels of enum variants, at two
/// bytes each, so that a peer could end the process by a stack overflow. And it passes on the
/// length that a header announces, for which serde then sets aside up to 1 MiB a level, whatever
/// follows.
fn check(body: &[u8]) -> Result<(), Cause> {
    let mut deserializer = deserializer(body);
    IgnoredAny::deserialize(&mut deserializer)?;
    match IgnoredAny::deserialize(&mut deserializer) {
        Err(DecodeError::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(TrailingBytes.into()),
    }
}

fn deserializer(body: &[u8]) -> Deserializer<ReadRefReader<'_, [u8]>, HumanReadableConfig<DefaultConfig>> {
    let mut deserializer = Deserializer::from_read_ref(body).with_human_readable();
    deserializer.set_max_depth(MAX_DEPTH);
    deserializer
}
