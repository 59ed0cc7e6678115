//! Encodes and decodes a method's arguments as a map by name.
//!
//! Arguments travel as a map so that more can be added later: the reader skips names that it does
//! not know, and a missing `Option` reads as `None`. The reader also accepts a positional array,
//! for peers that send one.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer, forward_to_deserialize_any};

use crate::codec::ARGUMENTS_STRUCT;

/// A caller's arguments: a tuple of values that can be encoded.
///
/// Implemented for tuples of up to 16 values and for [`Derived`]; only generated code uses it.
pub trait EncodeArguments {
    /// Serializes the values under these names, one for each value. [`Derived`] has names of its
    /// own, and ignores these.
    fn serialize<S: Serializer>(
        &self,
        names: &'static [&'static str],
        serializer: S,
    ) -> Result<S::Ok, S::Error>;
}

/// A worker's arguments: a tuple of values that can be decoded.
///
/// Implemented for tuples of up to 16 values and for [`Derived`]; only generated code uses it.
pub trait DecodeArguments<'de>: Sized {
    /// Reads the values from a map by name. [`Derived`] has names of its own, and ignores `names`.
    fn from_map<A: MapAccess<'de>>(names: &'static [&'static str], map: A) -> Result<Self, A::Error>;

    /// Reads the values from an array by position.
    fn from_seq<A: SeqAccess<'de>>(names: &'static [&'static str], seq: A) -> Result<Self, A::Error>;
}

/// Arguments as a struct with derived serde implementations, for a method with `#[serde(..)]` on a
/// parameter. The struct is named `$rpc_runtime::arguments`, by which the codec for plain text
/// recognizes it, and its fields name the arguments.
#[derive(Debug)]
pub struct Derived<T>(pub T);

impl<T: Serialize> EncodeArguments for Derived<T> {
    fn serialize<S: Serializer>(&self, _: &'static [&'static str], serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> DecodeArguments<'de> for Derived<T> {
    fn from_map<A: MapAccess<'de>>(_: &'static [&'static str], map: A) -> Result<Self, A::Error> {
        let name = Cow::Borrowed("");
        T::deserialize(MapAccessDeserializer::new(NamingMap { map, name })).map(Self)
    }

    fn from_seq<A: SeqAccess<'de>>(_: &'static [&'static str], mut seq: A) -> Result<Self, A::Error> {
        let arguments = T::deserialize(SeqAccessDeserializer::new(&mut seq))?;
        skip_the_rest(&mut seq)?;
        Ok(Self(arguments))
    }
}

/// A map of arguments. The error of a value that cannot be read names its argument.
struct NamingMap<'de, M> {
    map: M,
    /// The last key.
    name: Cow<'de, str>,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for NamingMap<'de, M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        let Some(name) = self.map.next_key_seed(Name)? else {
            return Ok(None);
        };
        self.name = name;
        seed.deserialize(self.name.as_ref().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        let name = &self.name;
        self.map
            .next_value_seed(seed)
            .map_err(|error| add_name(name, error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.map.size_hint()
    }
}

/// Reads a key as the name of an argument.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an argument's name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Arguments with their names, ready to be serialized.
pub(crate) struct NamedArguments<'a, A> {
    pub(crate) names: &'static [&'static str],
    pub(crate) values: &'a A,
}

impl<A: EncodeArguments> Serialize for NamedArguments<'_, A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(self.names, serializer)
    }
}

/// Deserializes arguments with these names.
pub(crate) struct ArgumentsSeed<A> {
    names: &'static [&'static str],
    arguments: PhantomData<A>,
}

impl<A> ArgumentsSeed<A> {
    pub(crate) fn new(names: &'static [&'static str]) -> Self {
        Self {
            names,
            arguments: PhantomData,
        }
    }
}

impl<'de, A: DecodeArguments<'de>> DeserializeSeed<'de> for ArgumentsSeed<A> {
    type Value = A;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<A, D::Error> {
        deserializer.deserialize_struct(ARGUMENTS_STRUCT, self.names, self)
    }
}

impl<'de, A: DecodeArguments<'de>> Visitor<'de> for ArgumentsSeed<A> {
    type Value = A;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names {
            [] => f.write_str("an empty map, as the method has no arguments"),
            names => write!(f, "a map of the arguments {}", names.join(", ")),
        }
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<A, M::Error> {
        A::from_map(self.names, map)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<A, S::Error> {
        A::from_seq(self.names, seq)
    }
}

/// Decodes an empty body: every argument is missing.
pub(crate) fn decode_empty_body<'de, A: DecodeArguments<'de>>(
    names: &'static [&'static str],
) -> Result<A, serde::de::value::Error> {
    A::from_map(
        names,
        serde::de::value::MapDeserializer::new(std::iter::empty::<((), ())>()),
    )
}

/// Deserializes a key as the position of the argument with that name, or `None` if the method has
/// no such argument.
struct Position(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Position {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de> Visitor<'de> for Position {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an argument's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|known| *known == name))
    }
}

/// Decodes an argument that was not sent: `None` if it is an `Option`, otherwise an error with its
/// name.
fn decode_missing<'de, T: Deserialize<'de>, E: Error>(name: &'static str) -> Result<T, E> {
    struct Missing<E>(&'static str, PhantomData<E>);

    impl<'de, E: Error> Deserializer<'de> for Missing<E> {
        type Error = E;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, E> {
            Err(E::custom(format_args!("missing argument `{}`", self.0)))
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            visitor.visit_none()
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
            newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    T::deserialize(Missing(name, PhantomData))
}

/// Adds the argument's name to an error.
#[cold]
fn add_name<E: Error>(name: &str, error: E) -> E {
    E::custom(format_args!("argument `{name}`: {error}"))
}

/// Puts a value into its slot. Fails if the slot is already filled.
fn fill<T, E: Error>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format_args!("argument `{name}` was sent twice"))),
    }
}

/// Skips further arguments, which this version does not know.
fn skip_the_rest<'de, S: SeqAccess<'de>>(seq: &mut S) -> Result<(), S::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

macro_rules! tuples {
    ($($count:literal: ($($type:ident $index:tt),*);)*) => {$(
        impl<$($type: Serialize),*> EncodeArguments for ($($type,)*) {
            fn serialize<S: Serializer>(
                &self,
                names: &'static [&'static str],
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                debug_assert_eq!(names.len(), $count);
                #[allow(unused_mut)]
                let mut map = serializer.serialize_struct(ARGUMENTS_STRUCT, $count)?;
                $(map.serialize_field(names[$index], &self.$index)?;)*
                map.end()
            }
        }

        impl<'de, $($type: Deserialize<'de>),*> DecodeArguments<'de> for ($($type,)*) {
            #[allow(unused_variables, clippy::unused_unit)]
            fn from_map<M: MapAccess<'de>>(names: &'static [&'static str], mut map: M) -> Result<Self, M::Error> {
                debug_assert_eq!(names.len(), $count);
                #[allow(unused_mut)]
                let mut slots = ($(None::<$type>,)*);
                while let Some(position) = map.next_key_seed(Position(names))? {
                    match position {
                        $(Some($index) => {
                            let value = map.next_value().map_err(|error| add_name(names[$index], error))?;
                            fill(&mut slots.$index, names[$index], value)?;
                        })*
                        _ => { map.next_value::<IgnoredAny>()?; }
                    }
                }
                Ok(($(match slots.$index { Some(value) => value, None => decode_missing(names[$index])? },)*))
            }

            fn from_seq<S: SeqAccess<'de>>(names: &'static [&'static str], mut seq: S) -> Result<Self, S::Error> {
                debug_assert_eq!(names.len(), $count);
                let arguments = ($(match seq.next_element::<$type>().map_err(|error| add_name(names[$index], error))? {
                    Some(value) => value,
                    None => decode_missing(names[$index])?,
                },)*);
                skip_the_rest(&mut seq)?;
                Ok(arguments)
            }
        }
    )*};
}

// `M` is left out: it is a type parameter of `from_map`.
tuples! {
    0: ();
    1: (A 0);
    2: (A 0, B 1);
    3: (A 0, B 1, C 2);
    4: (A 0, B 1, C 2, D 3);
    5: (A 0, B 1, C 2, D 3, E 4);
    6: (A 0, B 1, C 2, D 3, E 4, F 5);
    7: (A 0, B 1, C 2, D 3, E 4, F 5, G 6);
    8: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
    9: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
    10: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
    11: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
    12: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
    13: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, N 12);
    14: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, N 12, O 13);
    15: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, N 12, O 13, P 14);
    16: (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, N 12, O 13, P 14, Q 15);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    const NAMES: &[&str] = &["id", "limit"];

    fn encode<A: EncodeArguments>(codec: Codec, names: &'static [&'static str], values: A) -> Vec<u8> {
        codec
            .encode(&NamedArguments {
                names,
                values: &values,
            })
            .unwrap()
            .to_vec()
    }

    fn decode<'de, A: DecodeArguments<'de>>(
        codec: Codec,
        names: &'static [&'static str],
        body: &'de [u8],
    ) -> Result<A, String> {
        codec
            .decode_seed(ArgumentsSeed::<A>::new(names), body)
            .map_err(|error| std::error::Error::source(&error).unwrap().to_string())
    }

    #[test]
    fn arguments_are_a_map_by_name() {
        assert_eq!(encode(Codec::Json, NAMES, ("a", 3)), br#"{"id":"a","limit":3}"#);
        assert_eq!(
            encode(Codec::MessagePack, NAMES, ("a", 3)),
            b"\x82\xa2id\xa1a\xa5limit\x03"
        );
        assert_eq!(encode(Codec::MessagePack, &[], ()), b"\x80");
    }

    #[test]
    fn arguments_are_read_by_name_in_any_order_or_by_position_and_others_are_skipped() {
        for (codec, body) in [
            (
                Codec::Json,
                &br#"{"later": [1, {"x": 2}], "limit": 3, "id": "a"}"#[..],
            ),
            (Codec::MessagePack, b"\x82\xa2id\xa1a\xa5limit\x03"),
            (Codec::Json, br#"["a", 3]"#),
            (Codec::Json, br#"["a", 3, 4]"#),
            (Codec::MessagePack, b"\x92\xa1a\x03"),
        ] {
            assert_eq!(decode::<(String, u32)>(codec, NAMES, body), Ok(("a".into(), 3)));
        }
    }

    #[test]
    fn only_optional_arguments_may_be_missing() {
        assert_eq!(
            decode::<(String, Option<u32>)>(Codec::Json, NAMES, br#"{"id":"a"}"#),
            Ok(("a".into(), None))
        );
        let error = decode::<(String, u32)>(Codec::Json, NAMES, br#"{"id":"a"}"#).unwrap_err();
        assert!(error.starts_with("missing argument `limit`"), "{error}");
        let error = decode::<(String, u32)>(Codec::MessagePack, NAMES, b"\x91\xa1a").unwrap_err();
        assert!(error.starts_with("missing argument `limit`"), "{error}");
        assert_eq!(decode_empty_body::<(Option<u32>,)>(&["limit"]), Ok((None,)));
        assert!(decode_empty_body::<(u32,)>(&["limit"]).is_err());
    }

    #[test]
    fn the_error_names_the_argument_that_cannot_be_read() {
        for body in [&br#"{"limit": 3, "id": 7}"#[..], br#"[7]"#] {
            let error = decode::<(String, u32)>(Codec::Json, NAMES, body).unwrap_err();
            assert!(
                error.starts_with("argument `id`: invalid type: integer `7`, expected a string at line 1"),
                "{error}"
            );
            assert_eq!(error.matches("line").count(), 1, "{error}");
        }
        let error = decode::<(String, u32)>(Codec::MessagePack, NAMES, b"\x81\xa5limit\xa1x").unwrap_err();
        assert!(error.starts_with("argument `limit`: "), "{error}");
    }

    #[test]
    fn the_same_argument_twice_is_refused() {
        let error =
            decode::<(String, u32)>(Codec::Json, NAMES, br#"{"id":"a","id":"b","limit":1}"#).unwrap_err();
        assert!(error.starts_with("argument `id` was sent twice"), "{error}");
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(rename = "$rpc_runtime::arguments")]
    struct Search {
        id: String,
        #[serde(default)]
        limit: u32,
    }

    #[test]
    fn a_derived_struct_is_read_like_a_tuple() {
        for codec in [Codec::Json, Codec::MessagePack] {
            let derived = Derived(Search {
                id: "a".into(),
                limit: 3,
            });
            assert_eq!(
                encode(codec, NAMES, derived),
                encode(codec, NAMES, ("a".to_owned(), 3))
            );
        }
        for (body, limit) in [
            (&br#"{"later": [1], "id": "a", "limit": 3}"#[..], 3),
            (br#"{"id": "a"}"#, 0),
            (br#"["a"]"#, 0),
            (br#"["a", 3, {"x": 2}]"#, 3),
        ] {
            let Derived(search) = decode::<Derived<Search>>(Codec::Json, NAMES, body).unwrap();
            let id = "a".to_owned();
            assert_eq!(search, Search { id, limit });
        }
        assert!(decode::<Derived<Search>>(Codec::Json, NAMES, b"[]").is_err());
    }

    #[test]
    fn an_argument_of_a_derived_struct_that_cannot_be_read_is_named() {
        let body = br#"{"id": "a", "limit": "many"}"#;
        let error = decode::<Derived<Search>>(Codec::Json, NAMES, body)
            .map(drop)
            .unwrap_err();
        assert!(error.starts_with("argument `limit`: invalid type"), "{error}");
    }

    #[test]
    fn plain_text_is_a_single_argument() {
        assert_eq!(encode(Codec::Text, &["id"], ("user:1",)), b"user:1");
        assert_eq!(
            decode::<(String,)>(Codec::Text, &["id"], b"user:1"),
            Ok(("user:1".into(),))
        );
        assert_eq!(decode::<(u32,)>(Codec::Text, &["n"], b"30"), Ok((30,)));
        assert_eq!(decode::<()>(Codec::Text, &[], b"anything"), Ok(()));
        let error = decode::<(String, u32)>(Codec::Text, NAMES, b"user:1").unwrap_err();
        assert!(error.contains("the method takes 2"), "{error}");
    }
}
