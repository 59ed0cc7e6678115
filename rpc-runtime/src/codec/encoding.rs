//! Encodes and decodes values with a [`Codec`].

use std::any::{Any, TypeId};
use std::borrow::Cow;

use bytes::Bytes;
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Serialize};

use super::borrowed::{ByteSlice, CowBytes};
use super::content_type::Codec;
use super::error::{DecodeError, EncodeError};
use super::{empty_body, json, message_pack, scratch, text};

impl Codec {
    pub(crate) fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Bytes, EncodeError> {
        match self {
            Self::MessagePack | Self::Json => scratch::write_body(|body| self.append(value, body)),
            Self::Text => match text::encode(value) {
                Ok(text) => Ok(Bytes::from(text)),
                Err(source) => Err(EncodeError::new(self, source)),
            },
        }
    }

    /// Appends an encoded value to what `body` has. If that fails, a part of the value may have
    /// been appended.
    fn append<T: Serialize + ?Sized>(self, value: &T, body: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::MessagePack => message_pack::encode(value, body),
            Self::Json => json::encode(value, body),
            Self::Text => text::encode(value).map(|text| body.extend_from_slice(&text)),
        }
        .map_err(|source| EncodeError::new(self, source))
    }

    /// Encodes a method's result, or an item of a stream, as [`encode`](Self::encode) does, except
    /// that a `Vec<u8>` or a `Cow<[u8]>` is encoded as bytes: MessagePack's `bin`, or the body
    /// itself in plain text. In JSON it remains an array of numbers.
    pub(crate) fn encode_result<T: Serialize + 'static>(self, value: &T) -> Result<Bytes, EncodeError> {
        match bytes_of(value) {
            Some(bytes) => self.encode(&ByteSlice(bytes)),
            None => self.encode(value),
        }
    }

    /// Appends what [`encode_result`](Self::encode_result) returns to what `body` has. If that
    /// fails, a part of the value may have been appended.
    pub(crate) fn append_result<T: Serialize + 'static>(
        self,
        value: &T,
        body: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        match bytes_of(value) {
            Some(bytes) => self.append(&ByteSlice(bytes), body),
            None => self.append(value, body),
        }
    }

    /// Decodes a value, which may borrow from the body.
    pub(crate) fn decode<'de, T: Deserialize<'de>>(self, body: &'de [u8]) -> Result<T, DecodeError> {
        self.decode_seed(std::marker::PhantomData, body)
    }

    /// Decodes with a seed. Bytes after the value are an error, except for whitespace after JSON.
    pub(crate) fn decode_seed<'de, S: DeserializeSeed<'de>>(
        self,
        seed: S,
        body: &'de [u8],
    ) -> Result<S::Value, DecodeError> {
        match self {
            Self::MessagePack => message_pack::decode(seed, body),
            Self::Json => json::decode(seed, body),
            Self::Text => text::decode(seed, body),
        }
        .map_err(|source| DecodeError::new(self, source))
    }

    /// Decodes what [`encode_result`](Self::encode_result) encoded, and an empty body as
    /// [`decode_reply`](Self::decode_reply) does.
    pub(crate) fn decode_result<T: DeserializeOwned + 'static>(self, body: &[u8]) -> Result<T, DecodeError> {
        // Filled here if `T` is one of the two types that `encode_result` encodes as bytes.
        let mut result = None::<T>;
        let slot = &mut result as &mut dyn Any;
        if let Some(vec) = slot.downcast_mut::<Option<Vec<u8>>>() {
            *vec = Some(self.decode_bytes(body)?);
        } else if let Some(cow) = slot.downcast_mut::<Option<Cow<'static, [u8]>>>() {
            *cow = Some(self.decode_bytes(body)?.into());
        }
        result.map_or_else(|| self.decode_reply(body), Ok)
    }

    /// Decodes the body of a reply as [`decode`](Self::decode) does, without the special form that
    /// bytes have as a result. An empty body that is no value of the type in this codec is decoded
    /// as `()` or `None` if the type allows it, because some workers send one.
    pub(crate) fn decode_reply<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, DecodeError> {
        match self.decode(body) {
            Err(error) if body.is_empty() => empty_body::decode().map_err(|_| error),
            decoded => decoded,
        }
    }

    /// Converts an encoded result of the type `T` to an encoded argument of the type `Option<T>`,
    /// to call a method again with the last item of its stream.
    ///
    /// Only bytes differ: they have a special form as a result, and none within an `Option`. `None`
    /// if bytes cannot be decoded or encoded. A result of any other type is not checked.
    pub(crate) fn argument_of_result<T: 'static>(self, result: &Bytes) -> Option<Bytes> {
        let types_of_bytes = [TypeId::of::<Vec<u8>>(), TypeId::of::<Cow<'static, [u8]>>()];
        if !types_of_bytes.contains(&TypeId::of::<T>()) {
            return Some(result.clone());
        }
        let bytes = self.decode_bytes(result).ok()?;
        self.encode(&bytes).ok()
    }

    /// Decodes bytes, an array of numbers, or a string as its UTF-8 bytes.
    fn decode_bytes(self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        // The form that `encode_result` writes needs no deserializer.
        if self == Self::MessagePack
            && let Some(bytes) = message_pack::binary(body)
        {
            return Ok(bytes.to_vec());
        }
        Ok(self.decode::<CowBytes<'_>>(body)?.0.into_owned())
    }
}

/// The bytes of a value that is a `Vec<u8>` or a `Cow<[u8]>`. `None` for all other types.
fn bytes_of(value: &dyn Any) -> Option<&[u8]> {
    let vec = value.downcast_ref::<Vec<u8>>().map(Vec::as_slice);
    vec.or_else(|| value.downcast_ref::<Cow<'static, [u8]>>().map(AsRef::as_ref))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Point {
        x: i32,
        y: Option<i32>,
    }

    #[test]
    fn content_types_ignore_case_and_parameters() {
        for (name, codec) in [
            ("application/msgpack", Codec::MessagePack),
            ("application/x-msgpack", Codec::MessagePack),
            ("application/vnd.msgpack", Codec::MessagePack),
            ("application/json", Codec::Json),
            ("Application/JSON; charset=UTF-8", Codec::Json),
            ("text/json; profile=x; Charset=\"utf-8\"", Codec::Json),
            ("text/plain", Codec::Text),
            (" text/plain ;charset=us-ascii", Codec::Text),
        ] {
            assert_eq!(Codec::from_content_type(name), Ok(Some(codec)), "{name}");
        }
        for none in [
            "",
            " ",
            "application/octet-stream",
            "application/octet-stream; x=y",
        ] {
            assert_eq!(Codec::from_content_type(none), Ok(None), "{none:?}");
        }
        for unsupported in [
            "application/pdf",
            "/",
            "é",
            "text/plain; charset=latin-1",
            "text/json;charset=",
        ] {
            assert!(Codec::from_content_type(unsupported).is_err(), "{unsupported}");
        }
    }

    #[test]
    fn structs_are_named_maps_in_message_pack() {
        let body = Codec::MessagePack.encode(&Point { x: 1, y: None }).unwrap();
        assert_eq!(&body[..], b"\x82\xa1x\x01\xa1y\xc0");
        assert_eq!(
            Codec::MessagePack.decode::<Point>(&body).unwrap(),
            Point { x: 1, y: None }
        );
    }

    #[test]
    fn bytes_are_bin_in_message_pack_as_a_result() {
        let body = Codec::MessagePack.encode_result(&vec![1u8, 2, 3]).unwrap();
        assert_eq!(&body[..], b"\xc4\x03\x01\x02\x03");
        assert_eq!(
            Codec::MessagePack.decode_result::<Vec<u8>>(&body).unwrap(),
            [1, 2, 3]
        );
        // Some peers send an array of numbers.
        assert_eq!(
            Codec::MessagePack
                .decode_result::<Vec<u8>>(b"\x93\x01\x02\x03")
                .unwrap(),
            [1, 2, 3]
        );
        assert_eq!(
            Codec::Text.decode_result::<Vec<u8>>(b"\xff\x00").unwrap(),
            [255, 0]
        );
        assert_eq!(
            Codec::Json.decode_result::<Vec<u8>>(b"[255, 0]").unwrap(),
            [255, 0]
        );
    }

    #[test]
    fn a_cow_of_bytes_is_bin_in_message_pack_as_a_result() {
        let cow = Cow::Borrowed(&[1u8, 2, 3][..]);
        let body = Codec::MessagePack.encode_result(&cow).unwrap();
        assert_eq!(&body[..], b"\xc4\x03\x01\x02\x03");
        let result = Codec::MessagePack.decode_result::<Cow<'static, [u8]>>(&body);
        assert_eq!(result.unwrap(), cow);
    }

    #[test]
    fn an_empty_reply_is_decoded_as_unit_or_none() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Done;
        #[derive(Debug, PartialEq, Deserialize)]
        struct Found(Option<String>);

        for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
            assert!(codec.decode_result::<()>(b"").is_ok());
            assert_eq!(codec.decode_result::<Option<Point>>(b"").unwrap(), None);
            assert_eq!(codec.decode_result::<Option<Vec<u8>>>(b"").unwrap(), None);
            assert_eq!(codec.decode_result::<Done>(b"").unwrap(), Done);
            assert_eq!(codec.decode_result::<Found>(b"").unwrap(), Found(None));
            assert!(codec.decode_result::<u8>(b"").is_err());
            assert!(codec.decode_result::<Point>(b"").is_err());
            assert!(codec.decode_result::<Vec<u32>>(b"").is_err());
        }
        assert!(Codec::Json.decode_result::<String>(b"").is_err());
        assert!(Codec::Json.decode_result::<Vec<u8>>(b"").is_err());
        assert_eq!(Codec::Text.decode_result::<Option<String>>(b"").unwrap(), None);
        assert_eq!(Codec::Text.decode_result::<String>(b"").unwrap(), "");
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        assert!(Codec::MessagePack.decode::<u8>(b"\x01\x02").is_err());
        assert!(Codec::MessagePack.decode::<u8>(b"\x01\xc1").is_err());
        assert!(Codec::Json.decode::<u8>(b"1 2").is_err());
        assert_eq!(Codec::Json.decode::<u8>(b" 1 ").unwrap(), 1);
    }

    #[test]
    fn both_structured_codecs_allow_127_levels() {
        for (levels, is_allowed) in [(127, true), (128, false)] {
            let message_pack = [vec![0x91; levels], vec![0xc0]].concat();
            let json = [vec![b'['; levels], vec![b']'; levels]].concat();
            for (codec, body) in [(Codec::MessagePack, message_pack), (Codec::Json, json)] {
                let decoded = codec.decode::<serde_json::Value>(&body);
                assert_eq!(decoded.is_ok(), is_allowed, "{codec}, {levels} levels");
            }
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let deep = vec![0x91; 100_000];
        assert!(Codec::MessagePack.decode::<serde::de::IgnoredAny>(&deep).is_err());
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(Codec::Json.decode::<serde_json::Value>(&deep).is_err());
        // Skipping a value takes no stack.
        assert!(Codec::Json.decode::<serde::de::IgnoredAny>(&deep).is_ok());
    }

    #[derive(Debug, Serialize, Deserialize)]
    enum Nested {
        Leaf,
        Next(Box<Nested>),
    }

    /// `levels` variants around a leaf.
    fn variants(levels: usize) -> Vec<u8> {
        let mut body = b"\x81\xa4Next".repeat(levels);
        body.extend(b"\xa4Leaf");
        body
    }

    #[test]
    fn deeply_nested_variants_are_an_error_and_not_a_stack_overflow() {
        assert!(Codec::MessagePack.decode::<Nested>(&variants(100)).is_ok());
        let refused = Codec::MessagePack
            .decode::<Nested>(&variants(100_000))
            .unwrap_err();
        let source = std::error::Error::source(&refused).unwrap();
        assert!(source.to_string().contains("depth"), "{source}");
    }

    #[test]
    fn a_length_beyond_the_end_of_the_body_is_refused_before_anything_is_reserved() {
        #[derive(Debug)]
        struct Unread;

        impl<'de> Deserialize<'de> for Unread {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("a visitor would reserve the announced length")
            }
        }

        for body in [
            &b"\xdd\xff\xff\xff\xff\x00"[..],
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff\x00",
        ] {
            assert!(Codec::MessagePack.decode::<Unread>(body).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn floats_survive_every_codec(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
                let body = codec.encode(&value).unwrap();
                proptest::prop_assert_eq!(codec.decode::<f64>(&body).unwrap(), value);
            }
        }
    }
}
