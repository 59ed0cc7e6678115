//! Text and bytes that a worker lends to a handler: borrowed from the delivery where the codec can, copied where not.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// Bytes on their way out: written as bytes (MessagePack's `bin`) and not as a sequence of numbers.
#[derive(Debug, Clone, Copy)]
pub struct ByteSlice<'a>(pub &'a [u8]);

impl Serialize for ByteSlice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Text of a request: a JSON string with escapes has to be copied, all else is borrowed.
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

/// Bytes of a request: `bin` is borrowed; a sequence of numbers, which JSON must use, is collected.
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

/// The most that is set aside on a peer's word about how long a sequence is.
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

/// How an argument travels whose type is named like one that text or bytes are taken for: `<Named<Vec<u8>>>::sent`, with
/// [`NamedAlike`] in scope. The functions below are found first, and only for the type that is meant.
#[derive(Debug)]
pub struct Named<T>(PhantomData<T>);

impl Named<Vec<u8>> {
    /// What the client writes.
    #[must_use]
    pub fn sent(bytes: &[u8]) -> ByteSlice<'_> {
        ByteSlice(bytes)
    }

    /// What the method gets.
    #[must_use]
    pub fn received(bytes: CowBytes<'_>) -> Vec<u8> {
        bytes.0.into_owned()
    }
}

impl<'a> Named<Cow<'a, [u8]>> {
    /// What the client writes.
    #[must_use]
    pub fn sent(bytes: &[u8]) -> ByteSlice<'_> {
        ByteSlice(bytes)
    }

    /// What the method gets.
    #[must_use]
    pub fn received(bytes: CowBytes<'a>) -> Cow<'a, [u8]> {
        bytes.0
    }

    /// What a method gets that may keep it for longer than the request.
    #[must_use]
    pub fn received_to_keep(bytes: CowBytes<'_>) -> Cow<'a, [u8]> {
        Cow::Owned(bytes.0.into_owned())
    }
}

impl<'a> Named<Cow<'a, str>> {
    /// What the client writes.
    #[must_use]
    pub fn sent(text: &str) -> &str {
        text
    }

    /// What the method gets.
    #[must_use]
    pub fn received(text: CowStr<'a>) -> Cow<'a, str> {
        text.0
    }
}

/// How types travel that are the user's and only go by the name: as they are.
pub trait NamedAlike {
    /// The user's type.
    type Type;

    /// What the client writes.
    fn sent(argument: &Self::Type) -> &Self::Type {
        argument
    }

    /// What the method gets.
    fn received(argument: Self::Type) -> Self::Type
    where
        Self::Type: Sized,
    {
        argument
    }

    /// The same of a type that is `'static`.
    fn received_to_keep(argument: Self::Type) -> Self::Type
    where
        Self::Type: Sized,
    {
        argument
    }
}

impl<T> NamedAlike for Named<T> {
    type Type = T;
}

/// Bytes that are a field of a struct: for `#[serde(serialize_with = .., deserialize_with = ..)]`.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{ByteSlice, CowBytes};

    /// Writes bytes as bytes.
    ///
    /// # Errors
    ///
    /// Where the serializer fails.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        ByteSlice(bytes).serialize(serializer)
    }

    /// Reads bytes, or a sequence of numbers, as a `Vec` or a `Cow`.
    ///
    /// # Errors
    ///
    /// Where there is something else.
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
        let batched = Codec::MessagePack.decode::<CowStr<'_>>(b"\xa3abc").unwrap();
        assert!(matches!(batched.0, Cow::Borrowed("abc")));
    }

    #[test]
    fn bytes_are_bin_and_borrowed() {
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
