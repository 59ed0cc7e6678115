//! Text and bytes in arguments and results. A handler can borrow its arguments from the delivery,
//! unless the codec can only copy them, or a parameter has `#[serde(..)]`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// Outgoing bytes, serialized as bytes: MessagePack's `bin`, or the body itself in plain text. In
/// JSON they are an array of numbers.
#[derive(Debug, Clone, Copy)]
pub struct ByteSlice<'a>(pub &'a [u8]);

impl Serialize for ByteSlice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Incoming text. A JSON string with escapes is copied, all other text is borrowed.
#[derive(Debug, Clone)]
pub struct CowStr<'de>(pub Cow<'de, str>);

impl Deref for CowStr<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for CowStr<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }
}

/// Incoming bytes. MessagePack's `bin` and plain text are borrowed; a sequence of numbers, as in
/// JSON, is collected. A string is accepted too, as its UTF-8 bytes.
#[derive(Debug, Clone)]
pub struct CowBytes<'de>(pub Cow<'de, [u8]>);

impl Deref for CowBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for CowBytes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor).map(Self)
    }
}

/// The maximum capacity to reserve for the length that a peer announces.
const MAX_TRUSTED_LENGTH: usize = 4096;

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes.to_owned()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text.as_bytes()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.as_bytes().to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Self::Value, A::Error> {
        let mut bytes = Vec::with_capacity(numbers.size_hint().unwrap_or(0).min(MAX_TRUSTED_LENGTH));
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(Cow::Owned(bytes))
    }
}

/// Converts an argument whose type has the name of a standard type of text or bytes.
///
/// The macro sees only the name. Generated code calls `<ArgumentConversion<Vec<u8>>>::sent` with
/// [`NoConversion`] in scope. For the standard type, the inherent functions below take precedence.
/// For a user's own type of the same name, only the trait's functions exist.
#[derive(Debug)]
pub struct ArgumentConversion<T>(PhantomData<T>);

impl ArgumentConversion<Vec<u8>> {
    /// Converts an argument to what the client serializes.
    #[must_use]
    pub fn sent(bytes: &[u8]) -> ByteSlice<'_> {
        ByteSlice(bytes)
    }

    /// Converts a deserialized value to the method's argument.
    #[must_use]
    pub fn received(bytes: CowBytes<'_>) -> Vec<u8> {
        bytes.0.into_owned()
    }
}

impl<'a> ArgumentConversion<Cow<'a, [u8]>> {
    /// Converts an argument to what the client serializes.
    #[must_use]
    pub fn sent(bytes: &[u8]) -> ByteSlice<'_> {
        ByteSlice(bytes)
    }

    /// Converts a deserialized value to the method's argument.
    #[must_use]
    pub fn received(bytes: CowBytes<'a>) -> Cow<'a, [u8]> {
        bytes.0
    }

    /// Converts a deserialized value to an argument of type `Cow<'static, [u8]>`, which must not
    /// borrow from the request.
    #[must_use]
    pub fn received_owned(bytes: CowBytes<'_>) -> Cow<'a, [u8]> {
        Cow::Owned(bytes.0.into_owned())
    }
}

impl<'a> ArgumentConversion<Cow<'a, str>> {
    /// Converts an argument to what the client serializes.
    #[must_use]
    pub fn sent(text: &str) -> &str {
        text
    }

    /// Converts a deserialized value to the method's argument.
    #[must_use]
    pub fn received(text: CowStr<'a>) -> Cow<'a, str> {
        text.0
    }
}

/// Passes a user's own type that has the name of a standard one through unchanged. See
/// [`ArgumentConversion`].
pub trait NoConversion {
    /// The user's type.
    type Type;

    /// Returns the argument, which the client serializes as it is.
    fn sent(argument: &Self::Type) -> &Self::Type {
        argument
    }

    /// Returns the deserialized value, which is the method's argument.
    fn received(argument: Self::Type) -> Self::Type
    where
        Self::Type: Sized,
    {
        argument
    }

    /// Returns the deserialized value, which is the method's argument. Called for a user's own type
    /// that is named like `Cow<'static, [u8]>`.
    fn received_owned(argument: Self::Type) -> Self::Type
    where
        Self::Type: Sized,
    {
        argument
    }
}

impl<T> NoConversion for ArgumentConversion<T> {
    type Type = T;
}

/// For arguments of bytes in the structs that are generated for a method with `#[serde(..)]` on a
/// parameter: `#[serde(serialize_with = ..)]` and `#[serde(deserialize_with = ..)]`.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{ByteSlice, CowBytes};

    /// Serializes bytes as a [`ByteSlice`].
    ///
    /// # Errors
    ///
    /// If the serializer fails.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        ByteSlice(bytes).serialize(serializer)
    }

    /// Deserializes bytes, a sequence of numbers from 0 to 255, or a string (as its UTF-8 bytes),
    /// as a `Vec` or a `Cow`. Copies them.
    ///
    /// # Errors
    ///
    /// If the value is none of these.
    pub fn deserialize<'de, D: Deserializer<'de>, B: From<Vec<u8>>>(deserializer: D) -> Result<B, D::Error> {
        CowBytes::deserialize(deserializer).map(|bytes| bytes.0.into_owned().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn text_is_borrowed_unless_it_is_escaped() {
        let plain = Codec::Json.decode::<CowStr<'_>>(br#""abc""#).unwrap();
        assert!(matches!(plain.0, Cow::Borrowed("abc")));
        let escaped = Codec::Json.decode::<CowStr<'_>>(br#""a\nc""#).unwrap();
        assert!(matches!(escaped.0, Cow::Owned(ref text) if text == "a\nc"));
        let packed = Codec::MessagePack.decode::<CowStr<'_>>(b"\xa3abc").unwrap();
        assert!(matches!(packed.0, Cow::Borrowed("abc")));
    }

    #[test]
    fn bytes_are_written_as_bin_and_borrowed() {
        let body = Codec::MessagePack.encode(&ByteSlice(&[0, 255])).unwrap();
        assert_eq!(&body[..], b"\xc4\x02\x00\xff");
        let bytes = Codec::MessagePack.decode::<CowBytes<'_>>(&body).unwrap();
        assert!(matches!(bytes.0, Cow::Borrowed(&[0, 255])));
        assert_eq!(
            &*Codec::Json.decode::<CowBytes<'_>>(b"[0,255]").unwrap(),
            [0, 255]
        );
    }
}
