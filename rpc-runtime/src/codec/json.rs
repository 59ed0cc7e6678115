//! `application/json`.

use serde::Serialize;
use serde::de::DeserializeSeed;

use super::error::BoxError;
use super::numbers::{ARBITRARY_PRECISION, Json, ReadNumbers, WriteNumbers};

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, body: &mut Vec<u8>) -> Result<(), BoxError> {
    let mut serializer = serde_json::Serializer::new(body);
    Ok(value.serialize(WriteNumbers::<_, Json>::new(&mut serializer))?)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, BoxError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // Without the feature, `serde_json` reads all numbers correctly.
    let value = match ARBITRARY_PRECISION {
        true => seed.deserialize(ReadNumbers::<_, Json>::new(&mut deserializer))?,
        false => seed.deserialize(&mut deserializer)?,
    };
    deserializer.end()?;
    Ok(value)
}
