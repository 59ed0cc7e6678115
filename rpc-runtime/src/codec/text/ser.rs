//! Writes one scalar as text.

use std::fmt::Display;

use serde::ser::{Impossible, SerializeStruct};
use serde::{Serialize, Serializer};

use super::error::{ARGUMENTS_STRUCT, TextError};

/// Writes a scalar; refuses everything else.
pub(super) struct ScalarSerializer;

fn text(value: impl Display) -> Result<Vec<u8>, TextError> {
    Ok(value.to_string().into_bytes())
}

type Refused = Impossible<Vec<u8>, TextError>;

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

    fn serialize_bool(self, value: bool) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_i8(self, value: i8) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_i16(self, value: i16) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_i32(self, value: i32) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_i64(self, value: i64) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_i128(self, value: i128) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_u8(self, value: u8) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_u16(self, value: u16) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_u32(self, value: u32) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_u64(self, value: u64) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_u128(self, value: u128) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_f32(self, value: f32) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_f64(self, value: f64) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_char(self, value: char) -> Result<Vec<u8>, TextError> {
        text(value)
    }
    fn serialize_str(self, value: &str) -> Result<Vec<u8>, TextError> {
        Ok(value.as_bytes().to_vec())
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
        text(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<Vec<u8>, TextError> {
        value.serialize(self)
    }
    fn serialize_none(self) -> Result<Vec<u8>, TextError> {
        Err(TextError::NotScalar("an optional value"))
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
    fn serialize_seq(self, _len: Option<usize>) -> Result<Refused, TextError> {
        Err(TextError::NotScalar("a sequence"))
    }
    fn serialize_tuple(self, _len: usize) -> Result<Refused, TextError> {
        Err(TextError::NotScalar("a tuple"))
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Refused, TextError> {
        Err(TextError::NotScalar("a tuple"))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Refused, TextError> {
        Err(TextError::NotScalar("an enum variant with content"))
    }
    fn serialize_map(self, _len: Option<usize>) -> Result<Refused, TextError> {
        Err(TextError::NotScalar("a map"))
    }
    /// Accepts only the arguments of a method, and at most one.
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<ArgumentSerializer, TextError> {
        match (name, len) {
            (ARGUMENTS_STRUCT, 0 | 1) => Ok(ArgumentSerializer(Vec::new())),
            (ARGUMENTS_STRUCT, count) => Err(TextError::ArgumentCount(count)),
            _ => Err(TextError::NotScalar("a struct")),
        }
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Refused, TextError> {
        Err(TextError::NotScalar("an enum variant with content"))
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
