//! Codecs: values to bytes and back, one file a content type.
//!
//! A request's `content_type` names its codec, and the worker answers in the same one.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Serialize};

use crate::protocol::{ByteSlice, CowBytes};

mod json;
mod message_pack;
mod nothing;
mod numbers;
#[cfg(test)]
mod round_trips;
mod scratch;
mod text;

/// How arguments and answers are written: the `content_type` of a message.
///
/// The caller chooses (see [`ClientBuilder::codec`](crate::ClientBuilder::codec)); the worker answers in the codec
/// of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// `application/msgpack`: compact, and the default. Structs are maps by name, bytes are `bin`.
    #[default]
    MessagePack,
    /// `application/json`.
    Json,
    /// `text/plain`: one scalar (text, number, boolean, bytes as they are) in UTF-8, as RabbitMQ's tutorials send it.
    ///
    /// It works for methods with at most one argument whose argument and result are scalars. A service error
    /// arrives as text.
    Text,
}

impl Codec {
    /// The content type as it stands in a message's `content_type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::MessagePack => "application/msgpack",
            Self::Json => "application/json",
            Self::Text => "text/plain",
        }
    }

    /// The codec that a content type names; `None` if it names none.
    ///
    /// Case does not count, nor do parameters, except for a charset: text is UTF-8.
    pub(crate) fn named(content_type: &str) -> Result<Option<Self>, UnsupportedContentType> {
        let all = [Self::MessagePack, Self::Json, Self::Text];
        if let Some(codec) = all.iter().find(|codec| codec.content_type() == content_type) {
            return Ok(Some(*codec));
        }
        let content_type = content_type.to_ascii_lowercase();
        let mut parts = content_type.split(';').map(str::trim);
        let codec = match parts.next().unwrap_or_default() {
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
                Some(Self::MessagePack)
            }
            "application/json" | "application/x-json" | "text/json" => Some(Self::Json),
            "text/plain" => Some(Self::Text),
            // What some clients send when nobody told them anything.
            "" | "application/octet-stream" => None,
            _ => return Err(UnsupportedContentType::Type(content_type)),
        };
        match parts.all(is_utf8) {
            true => Ok(codec),
            false => Err(UnsupportedContentType::Charset(content_type)),
        }
    }

    /// Writes a value that may be borrowed.
    pub(crate) fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Bytes, EncodeError> {
        let written = match self {
            Self::MessagePack => scratch::written(|body| message_pack::encode(value, body)),
            Self::Json => scratch::written(|body| json::encode(value, body)),
            Self::Text => text::encode(value).map(Bytes::from),
        };
        written.map_err(|source| EncodeError { codec: self, source })
    }

    /// Writes a method's answer: like [`encode`](Self::encode), and a `Vec<u8>` or `Cow<[u8]>` is bytes and not a sequence
    /// of numbers.
    pub(crate) fn encode_answer<T: Serialize + 'static>(self, value: &T) -> Result<Bytes, EncodeError> {
        match bytes_of(value) {
            Some(bytes) => self.encode(&ByteSlice(bytes)),
            None => self.encode(value),
        }
    }

    /// Reads a value, which may borrow from the body.
    pub(crate) fn decode<'de, T: Deserialize<'de>>(self, body: &'de [u8]) -> Result<T, DecodeError> {
        self.decode_seed(std::marker::PhantomData, body)
    }

    /// Reads what a seed describes. Bytes left over behind it are an error.
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
        .map_err(|source| DecodeError { codec: self, source })
    }

    /// Reads what [`encode_answer`](Self::encode_answer) wrote.
    pub(crate) fn decode_answer<T: DeserializeOwned + 'static>(self, body: &[u8]) -> Result<T, DecodeError> {
        let mut answer = None::<T>;
        // Where `T` is bytes, its slot is one for bytes: they are read in one piece.
        let slot = &mut answer as &mut dyn Any;
        if let Some(slot) = slot.downcast_mut::<Option<Vec<u8>>>() {
            *slot = Some(self.decode_bytes(body)?);
        } else if let Some(slot) = slot.downcast_mut::<Option<Cow<'static, [u8]>>>() {
            *slot = Some(self.decode_bytes(body)?.into());
        }
        answer.map_or_else(|| self.decode_reply(body), Ok)
    }

    /// Reads the body of a reply. An empty one is read as none, as some workers send it.
    pub(crate) fn decode_reply<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, DecodeError> {
        match self.decode(body) {
            Err(error) if body.is_empty() => nothing::decode().map_err(|_| error),
            decoded => decoded,
        }
    }

    fn decode_bytes(self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        Ok(self.decode::<CowBytes<'_>>(body)?.0.into_owned())
    }
}

/// Whether a parameter of a content type leaves its text UTF-8.
fn is_utf8(parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((name, charset)) if name.trim() == "charset" => {
            let charset = charset.trim().trim_matches('"');
            matches!(charset, "utf-8" | "utf8" | "us-ascii" | "ascii")
        }
        _ => true,
    }
}

/// The bytes that a value is, if it is no more than that.
fn bytes_of(value: &dyn Any) -> Option<&[u8]> {
    let vec = value.downcast_ref::<Vec<u8>>().map(Vec::as_slice);
    vec.or_else(|| value.downcast_ref::<Cow<'static, [u8]>>().map(AsRef::as_ref))
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content_type())
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A value cannot be written in this content type.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the value as {codec}")]
pub struct EncodeError {
    codec: Codec,
    source: Cause,
}

/// A message's body is not what was expected in its content type.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the body as {codec}")]
pub struct DecodeError {
    codec: Codec,
    source: Cause,
}

impl EncodeError {
    pub(crate) fn new(codec: Codec, source: Cause) -> Self {
        Self { codec, source }
    }

    /// The content type that could not be written.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }
}

impl DecodeError {
    pub(crate) fn new(codec: Codec, source: Cause) -> Self {
        Self { codec, source }
    }

    /// The content type that could not be read.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }
}

/// A content type that this library does not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnsupportedContentType {
    #[error("unsupported content type {0:?}: use application/msgpack, application/json or text/plain")]
    Type(String),
    #[error("unsupported charset in the content type {0:?}: use utf-8")]
    Charset(String),
}

/// Bytes stand behind the value.
#[derive(Debug, thiserror::Error)]
#[error("bytes are left over behind the value")]
struct TrailingBytes;

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
            assert_eq!(Codec::named(name), Ok(Some(codec)), "{name}");
        }
        for none in [
            "",
            " ",
            "application/octet-stream",
            "application/octet-stream; x=y",
        ] {
            assert_eq!(Codec::named(none), Ok(None), "{none:?}");
        }
        for unsupported in [
            "application/pdf",
            "/",
            "é",
            "text/plain; charset=latin-1",
            "text/json;charset=",
        ] {
            assert!(Codec::named(unsupported).is_err(), "{unsupported}");
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
    fn bytes_are_bin_in_message_pack_as_an_answer() {
        let body = Codec::MessagePack.encode_answer(&vec![1u8, 2, 3]).unwrap();
        assert_eq!(&body[..], b"\xc4\x03\x01\x02\x03");
        assert_eq!(
            Codec::MessagePack.decode_answer::<Vec<u8>>(&body).unwrap(),
            [1, 2, 3]
        );
        // A peer that sends an array of numbers is understood too.
        assert_eq!(
            Codec::MessagePack
                .decode_answer::<Vec<u8>>(b"\x93\x01\x02\x03")
                .unwrap(),
            [1, 2, 3]
        );
        assert_eq!(
            Codec::Text.decode_answer::<Vec<u8>>(b"\xff\x00").unwrap(),
            [255, 0]
        );
        assert_eq!(
            Codec::Json.decode_answer::<Vec<u8>>(b"[255, 0]").unwrap(),
            [255, 0]
        );
    }

    #[test]
    fn a_cow_of_bytes_is_bin_in_message_pack_as_an_answer() {
        let cow = Cow::Borrowed(&[1u8, 2, 3][..]);
        let body = Codec::MessagePack.encode_answer(&cow).unwrap();
        assert_eq!(&body[..], b"\xc4\x03\x01\x02\x03");
        let answer = Codec::MessagePack.decode_answer::<Cow<'static, [u8]>>(&body);
        assert_eq!(answer.unwrap(), cow);
    }

    #[test]
    fn an_empty_reply_is_none_if_the_method_may_return_that() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Done;
        #[derive(Debug, PartialEq, Deserialize)]
        struct Found(Option<String>);

        for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
            assert!(codec.decode_answer::<()>(b"").is_ok());
            assert_eq!(codec.decode_answer::<Option<Point>>(b"").unwrap(), None);
            assert_eq!(codec.decode_answer::<Option<Vec<u8>>>(b"").unwrap(), None);
            assert_eq!(codec.decode_answer::<Done>(b"").unwrap(), Done);
            assert_eq!(codec.decode_answer::<Found>(b"").unwrap(), Found(None));
            assert!(codec.decode_answer::<u8>(b"").is_err());
            assert!(codec.decode_answer::<Point>(b"").is_err());
            assert!(codec.decode_answer::<Vec<u32>>(b"").is_err());
        }
        assert!(Codec::Json.decode_answer::<String>(b"").is_err());
        assert!(Codec::Json.decode_answer::<Vec<u8>>(b"").is_err());
        assert_eq!(Codec::Text.decode_answer::<Option<String>>(b"").unwrap(), None);
        assert_eq!(Codec::Text.decode_answer::<String>(b"").unwrap(), "");
    }

    #[test]
    fn left_over_bytes_are_refused() {
        assert!(Codec::MessagePack.decode::<u8>(b"\x01\x02").is_err());
        assert!(Codec::MessagePack.decode::<u8>(b"\x01\xc1").is_err());
        assert!(Codec::Json.decode::<u8>(b"1 2").is_err());
        assert_eq!(Codec::Json.decode::<u8>(b" 1 ").unwrap(), 1);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let deep = vec![0x91; 100_000];
        assert!(Codec::MessagePack.decode::<serde::de::IgnoredAny>(&deep).is_err());
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(Codec::Json.decode::<serde_json::Value>(&deep).is_err());
        // What is skipped takes no stack.
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
    fn deep_nesting_of_nothing_but_variants_is_no_stack_overflow_either() {
        assert!(Codec::MessagePack.decode::<Nested>(&variants(100)).is_ok());
        let refused = Codec::MessagePack
            .decode::<Nested>(&variants(100_000))
            .unwrap_err();
        assert!(refused.source.to_string().contains("depth"), "{}", refused.source);
    }

    #[test]
    fn a_header_that_announces_too_much_is_refused_before_anything_is_read() {
        #[derive(Debug)]
        struct Unread;

        impl<'de> Deserialize<'de> for Unread {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("a visitor would set space aside for what is announced")
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
