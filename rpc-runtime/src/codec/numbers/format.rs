//! How each format writes and reads numbers.

use serde::de::Visitor;
use serde::ser::{Error as _, SerializeStruct};
use serde::{Deserializer, Serializer};

use super::text;

/// How a format writes and reads the numbers that its serializer and deserializer handle wrongly.
pub(in crate::codec) trait NumberFormat {
    /// Whether a map from the deserializer may be a [`serde_json::Number`] in its private form.
    const MAPS_MAY_BE_NUMBERS: bool = false;

    fn write_f32<S: Serializer>(serializer: S, value: f32) -> Result<S::Ok, S::Error> {
        serializer.serialize_f32(value)
    }

    fn write_f64<S: Serializer>(serializer: S, value: f64) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(value)
    }

    fn write_i128<S: Serializer>(serializer: S, value: i128) -> Result<S::Ok, S::Error> {
        serializer.serialize_i128(value)
    }

    fn write_u128<S: Serializer>(serializer: S, value: u128) -> Result<S::Ok, S::Error> {
        serializer.serialize_u128(value)
    }

    /// Writes a [`serde_json::Number`] of which only the text is exact; see
    /// [`Number::Precise`](text::Number::Precise).
    fn write_precise<S: Serializer>(serializer: S, number: &str) -> Result<S::Ok, S::Error>;

    fn read_i128<'de, D: Deserializer<'de>, V: Visitor<'de>>(
        deserializer: D,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        deserializer.deserialize_i128(visitor)
    }

    fn read_u128<'de, D: Deserializer<'de>, V: Visitor<'de>>(
        deserializer: D,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        deserializer.deserialize_u128(visitor)
    }
}

/// JSON: floats must be finite. A number of which only the text is exact is written as that text.
pub(in crate::codec) struct Json;

impl NumberFormat for Json {
    const MAPS_MAY_BE_NUMBERS: bool = true;

    fn write_f32<S: Serializer>(serializer: S, value: f32) -> Result<S::Ok, S::Error> {
        match value.is_finite() {
            true => serializer.serialize_f32(value),
            false => Err(not_finite(value)),
        }
    }

    fn write_f64<S: Serializer>(serializer: S, value: f64) -> Result<S::Ok, S::Error> {
        match value.is_finite() {
            true => serializer.serialize_f64(value),
            false => Err(not_finite(value)),
        }
    }

    fn write_precise<S: Serializer>(serializer: S, number: &str) -> Result<S::Ok, S::Error> {
        // `serde_json` writes this struct as the number alone.
        let mut number_struct = serializer.serialize_struct(PRIVATE_NUMBER, 1)?;
        number_struct.serialize_field(PRIVATE_NUMBER, number)?;
        number_struct.end()
    }
}

#[cold]
fn not_finite<E: serde::ser::Error>(value: impl std::fmt::Display) -> E {
    E::custom(format_args!(
        "JSON has no number {value}: use application/msgpack, or an Option for a number that may be missing"
    ))
}

/// MessagePack: integers of up to 64 bits are integers, and larger ones are written as decimal
/// text. Any number of which only the text is exact is refused.
pub(in crate::codec) struct MessagePack;

impl NumberFormat for MessagePack {
    fn write_i128<S: Serializer>(serializer: S, value: i128) -> Result<S::Ok, S::Error> {
        match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => serializer.serialize_u64(value),
            (_, Ok(value)) => serializer.serialize_i64(value),
            _ => serializer.collect_str(&value),
        }
    }

    fn write_u128<S: Serializer>(serializer: S, value: u128) -> Result<S::Ok, S::Error> {
        match u64::try_from(value) {
            Ok(value) => serializer.serialize_u64(value),
            Err(_) => serializer.collect_str(&value),
        }
    }

    fn write_precise<S: Serializer>(_: S, number: &str) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom(format_args!(
            "MessagePack cannot hold the number {number} exactly: use application/json, or a text"
        )))
    }

    fn read_i128<'de, D: Deserializer<'de>, V: Visitor<'de>>(
        deserializer: D,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(text::IntegerVisitor::<V, i128>::new(visitor))
    }

    fn read_u128<'de, D: Deserializer<'de>, V: Visitor<'de>>(
        deserializer: D,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(text::IntegerVisitor::<V, u128>::new(visitor))
    }
}

/// Whether this build of `serde_json` has the feature `arbitrary_precision`. With it, a
/// [`serde_json::Number`] holds only a `String`.
pub(in crate::codec) const ARBITRARY_PRECISION: bool = size_of::<serde_json::Number>() == size_of::<String>();

/// The name of the private form of a [`serde_json::Number`], and of its one field.
pub(super) const PRIVATE_NUMBER: &str = "$serde_json::private::Number";
