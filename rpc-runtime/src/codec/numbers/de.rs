//! The wrapper around a deserializer.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use super::format::{NumberFormat, PRIVATE_NUMBER};
use super::text::Number;

/// A deserializer that reads numbers by its format's rules, at every level of a value. This type
/// also wraps the seeds, visitors and accesses with which a value is read.
pub(in crate::codec) struct ReadNumbers<T, F> {
    inner: T,
    /// For a visitor: whether the deserializer chooses the type of the value, so that a map may be
    /// a number in its private form.
    may_be_number: bool,
    format: PhantomData<F>,
}

impl<T, F> ReadNumbers<T, F> {
    #[inline]
    pub(in crate::codec) fn new(inner: T) -> Self {
        Self {
            inner,
            may_be_number: false,
            format: PhantomData,
        }
    }
}

impl<'de, S: DeserializeSeed<'de>, F: NumberFormat> DeserializeSeed<'de> for ReadNumbers<S, F> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(ReadNumbers::<D, F>::new(deserializer))
    }
}

/// Methods for values that may contain other values, as bytes do if they are a sequence of numbers.
/// Their visitor is wrapped too. `deserialize_unit_struct` is here only because it takes a name.
macro_rules! forward_wrapped {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($argument,)* ReadNumbers::<V, F>::new(visitor))
        }
    )*};
}

/// Methods for values that contain no others, and that the format reads correctly.
macro_rules! forward {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>, F: NumberFormat> Deserializer<'de> for ReadNumbers<D, F> {
    type Error = D::Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    // With `arbitrary_precision`, the `deserialize_any` of `serde_json` passes a number to the
    // visitor as a map with the one key `PRIVATE_NUMBER`. Its other methods do not: a type that
    // asks for a map or a struct gets a map.
    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(ReadNumbers::<V, F> {
            inner: visitor,
            may_be_number: true,
            format: PhantomData,
        })
    }

    forward_wrapped! {
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(length: usize);
        deserialize_tuple_struct(name: &'static str, length: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    #[inline]
    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        F::read_i128(self.inner, visitor)
    }

    #[inline]
    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        F::read_u128(self.inner, visitor)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visits {
    ($($method:ident($type:ty);)*) => {$(
        #[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>, F: NumberFormat> Visitor<'de> for ReadNumbers<V, F> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visits! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_borrowed_str(&'de str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(ReadNumbers::<D, F>::new(deserializer))
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner
            .visit_newtype_struct(ReadNumbers::<D, F>::new(deserializer))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(ReadNumbers::<A, F>::new(seq))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        if F::MAPS_MAY_BE_NUMBERS && self.may_be_number {
            visit_map_or_number::<V, A, F>(self.inner, map)
        } else {
            self.inner.visit_map(ReadNumbers::<A, F>::new(map))
        }
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(ReadNumbers::<A, F>::new(data))
    }
}

/// Visits a map. If the map is the private form of a number, visits the number instead, or the
/// private form again if the number is [`Precise`](Number::Precise).
fn visit_map_or_number<'de, V, A, F>(visitor: V, mut map: A) -> Result<V::Value, A::Error>
where
    V: Visitor<'de>,
    A: MapAccess<'de>,
    F: NumberFormat,
{
    let first = map.next_key::<String>()?;
    if first.as_deref() != Some(PRIVATE_NUMBER) {
        return visitor.visit_map(MapWithFirstKey::<A, F> {
            first,
            rest: ReadNumbers::new(map),
        });
    }
    let text = map.next_value::<String>()?;
    match Number::new(&text) {
        Number::Unsigned(value) => visitor.visit_u64(value),
        Number::Signed(value) => visitor.visit_i64(value),
        Number::Float(value) => visitor.visit_f64(value),
        Number::Precise => {
            let private = std::iter::once((PRIVATE_NUMBER, text));
            visitor.visit_map(MapDeserializer::new(private))
        }
    }
}

/// A map whose first key has already been read.
struct MapWithFirstKey<A, F> {
    /// `None` if the map is empty, or once this key was passed on.
    first: Option<String>,
    rest: ReadNumbers<A, F>,
}

impl<'de, A: MapAccess<'de>, F: NumberFormat> MapAccess<'de> for MapWithFirstKey<A, F> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first.into_deserializer()).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.rest.next_value_seed(seed)
    }
}

impl<'de, A: SeqAccess<'de>, F: NumberFormat> SeqAccess<'de> for ReadNumbers<A, F> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(ReadNumbers::<S, F>::new(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>, F: NumberFormat> MapAccess<'de> for ReadNumbers<A, F> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(ReadNumbers::<S, F>::new(seed))
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(ReadNumbers::<S, F>::new(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>, F: NumberFormat> EnumAccess<'de> for ReadNumbers<A, F> {
    type Error = A::Error;
    type Variant = ReadNumbers<A::Variant, F>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(ReadNumbers::<S, F>::new(seed))?;
        Ok((value, ReadNumbers::new(variant)))
    }
}

impl<'de, A: VariantAccess<'de>, F: NumberFormat> VariantAccess<'de> for ReadNumbers<A, F> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(ReadNumbers::<S, F>::new(seed))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner
            .tuple_variant(length, ReadNumbers::<V, F>::new(visitor))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, ReadNumbers::<V, F>::new(visitor))
    }
}
