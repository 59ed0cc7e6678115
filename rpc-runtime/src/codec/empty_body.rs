//! Decodes a reply with an empty body, which some workers send instead of `()` or `None`.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// Decodes an empty body as a value that a unit can stand for, such as `()`, a unit struct or
/// `None`, or as a newtype of one. Fails for all other types.
pub(super) fn decode<T: DeserializeOwned>() -> Result<T, Error> {
    T::deserialize(EmptyBody)
}

struct EmptyBody;

impl<'de> Deserializer<'de> for EmptyBody {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
