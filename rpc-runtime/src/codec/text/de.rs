//! Reads one scalar from text.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::error::{ARGUMENTS_STRUCT, TextError};

/// Reads the scalar that the expected type asks for.
#[derive(Clone, Copy)]
pub(super) struct ScalarDeserializer<'de> {
    body: &'de [u8],
}

impl<'de> ScalarDeserializer<'de> {
    pub(super) fn new(body: &'de [u8]) -> Self {
        Self { body }
    }

    fn text(self) -> Result<&'de str, TextError> {
        std::str::from_utf8(self.body).map_err(|_| TextError::Custom("the text is not UTF-8".into()))
    }
}

/// Numbers and booleans are parsed by their `FromStr`. Whitespace around them is ignored.
macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
            let text = self.text()?;
            match text.trim().parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(TextError::invalid_value(Unexpected::Other("text"), &stringify!($type))),
            }
        }
    )*};
}

/// Types that are no scalars.
macro_rules! refused {
    ($($method:ident($($argument:ty),*) $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $(_: $argument,)* _visitor: V) -> Result<V::Value, TextError> {
            Err(TextError::NotScalar($what))
        }
    )*};
}

impl<'de> Deserializer<'de> for ScalarDeserializer<'de> {
    type Error = TextError;

    parsed! {
        deserialize_bool visit_bool bool;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
    }

    refused! {
        deserialize_option() "an optional value";
        deserialize_seq() "a sequence";
        deserialize_tuple(usize) "a tuple";
        deserialize_tuple_struct(&'static str, usize) "a tuple";
        deserialize_map() "a map";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    forward_to_deserialize_any! { char str string identifier }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_borrowed_bytes(self.body)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_borrowed_bytes(self.body)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        match self.body {
            [] => visitor.visit_unit(),
            _ => Err(TextError::invalid_type(
                Unexpected::Other("text"),
                &"an empty body",
            )),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TextError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TextError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TextError> {
        visitor.visit_enum(BorrowedStrDeserializer::new(self.text()?))
    }

    /// Accepts only the arguments of a method, and at most one: the body.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TextError> {
        match (name, fields) {
            (ARGUMENTS_STRUCT, [] | [_]) => visitor.visit_map(ArgumentMap {
                name: fields.first().copied(),
                value: self,
            }),
            (ARGUMENTS_STRUCT, many) => Err(TextError::ArgumentCount(many.len())),
            _ => Err(TextError::NotScalar("a struct")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_unit()
    }
}

/// Presents the body as a map of arguments: one argument, or none if the method takes none. In that
/// case, the body is ignored.
struct ArgumentMap<'de> {
    name: Option<&'static str>,
    value: ScalarDeserializer<'de>,
}

impl<'de> MapAccess<'de> for ArgumentMap<'de> {
    type Error = TextError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TextError> {
        self.name
            .take()
            .map(|name| seed.deserialize(name.into_deserializer()))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TextError> {
        seed.deserialize(self.value)
    }
}
