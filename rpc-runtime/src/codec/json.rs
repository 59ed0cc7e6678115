//! `application/json`.

use serde::Serialize;
use serde::de::DeserializeSeed;

use super::Cause;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, body: &mut Vec<u8>) -> Result<(), Cause> {
    Ok(serde_json::to_writer(body, value)?)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, Cause> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}
