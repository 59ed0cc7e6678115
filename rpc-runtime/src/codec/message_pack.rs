//! `application/msgpack`.

use std::io::ErrorKind;

use rmp_serde::decode::Error as DecodeError;
use rmp_serde::{Deserializer, Serializer};
use serde::de::{DeserializeSeed, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::{Cause, TrailingBytes};

/// How deep values may nest: as deep as `serde_json` allows, and shallow enough for the stack of a worker thread.
const MAX_DEPTH: usize = 128;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Cause> {
    let mut body = Vec::with_capacity(64);
    value.serialize(&mut Serializer::new(&mut body).with_struct_map())?;
    Ok(body)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, Cause> {
    let mut deserializer = Deserializer::from_read_ref(body);
    deserializer.set_max_depth(MAX_DEPTH);
    let value = seed.deserialize(&mut deserializer)?;
    match IgnoredAny::deserialize(&mut deserializer) {
        Err(DecodeError::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof => Ok(value),
        _ => Err(TrailingBytes.into()),
    }
}
