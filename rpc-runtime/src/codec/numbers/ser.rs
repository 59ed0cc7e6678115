//! The wrapper around a serializer.

use std::fmt::{self, Display, Write};
use std::marker::PhantomData;

use serde::ser::{
    Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};
use serde::{Serialize, Serializer};

use super::format::{ARBITRARY_PRECISION, NumberFormat, PRIVATE_NUMBER};
use super::text::Number;

/// A serializer that writes numbers by its format's rules, at every level of a value.
pub(in crate::codec) struct WriteNumbers<S, F> {
    inner: S,
    format: PhantomData<F>,
}

impl<S, F> WriteNumbers<S, F> {
    #[inline]
    pub(in crate::codec) fn new(inner: S) -> Self {
        Self {
            inner,
            format: PhantomData,
        }
    }
}

/// A value within another value. Its numbers are written by the same rules.
struct Nested<T, F>(T, PhantomData<F>);

impl<T: Serialize, F: NumberFormat> Serialize for Nested<T, F> {
    #[inline(always)]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(WriteNumbers::<S, F>::new(serializer))
    }
}

#[inline]
fn nested<T, F>(value: T) -> Nested<T, F> {
    Nested(value, PhantomData)
}

macro_rules! forward {
    ($($method:ident $type:ty;)*) => {$(
        #[inline(always)]
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<S: Serializer, F: NumberFormat> Serializer for WriteNumbers<S, F> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = WriteNumbers<S::SerializeSeq, F>;
    type SerializeTuple = WriteNumbers<S::SerializeTuple, F>;
    type SerializeTupleStruct = WriteNumbers<S::SerializeTupleStruct, F>;
    type SerializeTupleVariant = WriteNumbers<S::SerializeTupleVariant, F>;
    type SerializeMap = WriteNumbers<S::SerializeMap, F>;
    type SerializeStruct = StructOrNumber<S, F>;
    type SerializeStructVariant = WriteNumbers<S::SerializeStructVariant, F>;

    forward! {
        serialize_bool bool;
        serialize_i8 i8;
        serialize_i16 i16;
        serialize_i32 i32;
        serialize_i64 i64;
        serialize_u8 u8;
        serialize_u16 u16;
        serialize_u32 u32;
        serialize_u64 u64;
        serialize_char char;
        serialize_str &str;
        serialize_bytes &[u8];
        serialize_unit_struct &'static str;
    }

    #[inline]
    fn serialize_i128(self, value: i128) -> Result<S::Ok, S::Error> {
        F::write_i128(self.inner, value)
    }

    #[inline]
    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        F::write_u128(self.inner, value)
    }

    #[inline(always)]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        F::write_f32(self.inner, value)
    }

    #[inline(always)]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        F::write_f64(self.inner, value)
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&nested::<_, F>(value))
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &nested::<_, F>(value))
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner
            .serialize_newtype_variant(name, index, variant, &nested::<_, F>(value))
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.inner.serialize_seq(length).map(WriteNumbers::new)
    }

    #[inline]
    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.inner.serialize_tuple(length).map(WriteNumbers::new)
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.inner
            .serialize_tuple_struct(name, length)
            .map(WriteNumbers::new)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.inner
            .serialize_tuple_variant(name, index, variant, length)
            .map(WriteNumbers::new)
    }

    #[inline]
    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.inner.serialize_map(length).map(WriteNumbers::new)
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        match ARBITRARY_PRECISION && name == PRIVATE_NUMBER {
            true => Ok(StructOrNumber::Number(NumberWriter::Begun(self.inner))),
            false => self
                .inner
                .serialize_struct(name, length)
                .map(|inner| StructOrNumber::Struct(inner, PhantomData)),
        }
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.inner
            .serialize_struct_variant(name, index, variant, length)
            .map(WriteNumbers::new)
    }

    /// Forwards whole sequences, in case the inner serializer has a faster way.
    #[inline]
    fn collect_seq<I>(self, items: I) -> Result<S::Ok, S::Error>
    where
        I: IntoIterator<Item: Serialize>,
    {
        let items = items.into_iter().map(nested::<_, F>);
        self.inner.collect_seq(items)
    }

    #[inline]
    fn collect_map<K, V, I>(self, entries: I) -> Result<S::Ok, S::Error>
    where
        K: Serialize,
        V: Serialize,
        I: IntoIterator<Item = (K, V)>,
    {
        let entries = entries
            .into_iter()
            .map(|(key, value)| (nested::<_, F>(key), nested::<_, F>(value)));
        self.inner.collect_map(entries)
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! elements {
    ($($trait:ident $method:ident;)*) => {$(
        impl<S: $trait, F: NumberFormat> $trait for WriteNumbers<S, F> {
            type Ok = S::Ok;
            type Error = S::Error;

            #[inline(always)]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.inner.$method(&nested::<_, F>(value))
            }

            #[inline]
            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        }
    )*};
}

elements! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

impl<S: SerializeMap, F: NumberFormat> SerializeMap for WriteNumbers<S, F> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.inner.serialize_key(&nested::<_, F>(key))
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.inner.serialize_value(&nested::<_, F>(value))
    }

    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), S::Error> {
        self.inner
            .serialize_entry(&nested::<_, F>(key), &nested::<_, F>(value))
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

impl<S: SerializeStructVariant, F: NumberFormat> SerializeStructVariant for WriteNumbers<S, F> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        self.inner.serialize_field(key, &nested::<_, F>(value))
    }

    #[inline]
    fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
        self.inner.skip_field(key)
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

/// A struct, or a [`serde_json::Number`] in its private form.
pub(in crate::codec) enum StructOrNumber<S: Serializer, F> {
    Struct(S::SerializeStruct, PhantomData<F>),
    Number(NumberWriter<S>),
}

/// Writes the one field of a private number in place of the struct.
pub(in crate::codec) enum NumberWriter<S: Serializer> {
    Begun(S),
    Written(S::Ok),
    /// Writing failed, or there was a second field.
    Failed,
}

impl<S: Serializer> NumberWriter<S> {
    /// Writes the number, which is the field's text.
    fn write<F: NumberFormat, T: Serialize + ?Sized>(&mut self, number: &T) -> Result<(), S::Error> {
        let Self::Begun(serializer) = std::mem::replace(self, Self::Failed) else {
            return Err(S::Error::custom("a private number must have exactly one field"));
        };
        let mut text = String::new();
        write!(text, "{}", DisplayText(number)).map_err(S::Error::custom)?;
        let written = match Number::new(&text) {
            Number::Unsigned(value) => serializer.serialize_u64(value),
            Number::Signed(value) => serializer.serialize_i64(value),
            Number::Float(value) => F::write_f64(serializer, value),
            Number::Precise => F::write_precise(serializer, &text),
        };
        *self = Self::Written(written?);
        Ok(())
    }
}

impl<S: Serializer, F: NumberFormat> SerializeStruct for StructOrNumber<S, F> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        match self {
            Self::Struct(inner, _) => inner.serialize_field(key, &nested::<_, F>(value)),
            Self::Number(number) => number.write::<F, T>(value),
        }
    }

    #[inline]
    fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
        match self {
            Self::Struct(inner, _) => inner.skip_field(key),
            Self::Number(_) => Ok(()),
        }
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        match self {
            Self::Struct(inner, _) => inner.end(),
            Self::Number(NumberWriter::Written(written)) => Ok(written),
            Self::Number(_) => Err(S::Error::custom("a private number must have exactly one field")),
        }
    }
}

/// Displays a value that serializes as text.
struct DisplayText<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> fmt::Display for DisplayText<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}
