//! Writes one scalar as text.

use serde::ser::{Impossible, SerializeStruct};
use serde::{Serialize, Serializer};

use super::error::{ARGUMENTS_STRUCT, TextError};

/// Writes a scalar, or the arguments of a method that takes at most one. Refuses everything else.
pub(super) struct ScalarSerializer;

type Refused = Impossible<Vec<u8>, TextError>;

/// Writes a scalar with its `Display`.
macro_rules! written {
    ($($method:ident $type:ty;)*) => {$(
        fn $method(self, value: $type) -> Result<Vec<u8>, TextError> {
            Ok(value.to_string().into_bytes())
        }
    )*};
}

/// Types that are no scalars.
macro_rules! refused {
    ($($method:ident($($argument:ty),*) -> $output:ty, $what:literal;)*) => {$(
        fn $method(self, $(_: $argument),*) -> Result<$output, TextError> {
            Err(TextError::NotScalar($what))
        }
    )*};
}

impl Serializer for ScalarSerializer {
    type Ok = Vec<u8>;
    type Error = TextError;
    type SerializeSeq = Refused;
    type SerializeTuple = Refused;
    type SerializeTupleStruct = Refused;
    type SerializeTupleVariant = Refused;
    type SerializeMap = Refused;
    type SerializeStruct = ArgumentSerializer;
    type SerializeStructVariant = Refused;

    written! {
        serialize_bool bool;
        serialize_i8 i8;
        serialize_i16 i16;
        serialize_i32 i32;
        serialize_i64 i64;
        serialize_i128 i128;
        serialize_u8 u8;
        serialize_u16 u16;
        serialize_u32 u32;
        serialize_u64 u64;
        serialize_u128 u128;
        serialize_f32 f32;
        serialize_f64 f64;
        serialize_char char;
        serialize_str &str;
    }

    refused! {
        serialize_none() -> Vec<u8>, "an optional value";
        serialize_seq(Option<usize>) -> Refused, "a sequence";
        serialize_tuple(usize) -> Refused, "a tuple";
        serialize_tuple_struct(&'static str, usize) -> Refused, "a tuple";
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Refused, "an enum variant with content";
        serialize_map(Option<usize>) -> Refused, "a map";
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Refused, "an enum variant with content";
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Vec<u8>, TextError> {
        Ok(value.to_vec())
    }
    fn serialize_unit(self) -> Result<Vec<u8>, TextError> {
        Ok(Vec::new())
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<Vec<u8>, TextError> {
        Ok(Vec::new())
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Vec<u8>, TextError> {
        Ok(variant.as_bytes().to_vec())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<Vec<u8>, TextError> {
        value.serialize(self)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _value: &T) -> Result<Vec<u8>, TextError> {
        Err(TextError::NotScalar("an optional value"))
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Vec<u8>, TextError> {
        Err(TextError::NotScalar("an enum variant with content"))
    }
    /// Accepts only the arguments of a method, and at most one.
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<ArgumentSerializer, TextError> {
        match (name, len) {
            (ARGUMENTS_STRUCT, 0 | 1) => Ok(ArgumentSerializer(Vec::new())),
            (ARGUMENTS_STRUCT, count) => Err(TextError::ArgumentCount(count)),
            _ => Err(TextError::NotScalar("a struct")),
        }
    }
}

/// Writes the arguments of a method that takes at most one.
pub(super) struct ArgumentSerializer(Vec<u8>);

impl SerializeStruct for ArgumentSerializer {
    type Ok = Vec<u8>;
    type Error = TextError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _key: &'static str,
        value: &T,
    ) -> Result<(), TextError> {
        self.0 = value.serialize(ScalarSerializer)?;
        Ok(())
    }

    fn end(self) -> Result<Vec<u8>, TextError> {
        Ok(self.0)
    }
}
