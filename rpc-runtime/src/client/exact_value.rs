//! A JSON value that keeps all digits of numbers. `serde_json::Value` rounds large integers.

use std::fmt::{self, Write};

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use crate::codec::{Codec, DecodeError};

/// A JSON value. Numbers are stored as text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ExactValue {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<ExactValue>),
    Object(Vec<(String, ExactValue)>),
}

impl ExactValue {
    /// Parses JSON. All digits of numbers are kept.
    pub(super) fn from_json(text: &[u8]) -> Result<Self, DecodeError> {
        // The parser below does not check the syntax.
        Codec::Json.decode::<IgnoredAny>(text)?;
        Parser { rest: text, depth: 0 }
            .value()
            .map_err(|error| DecodeError::new(Codec::Json, error.into()))
    }

    /// Decodes a result, an error or an item that a worker sent.
    pub(super) fn from_reply(codec: Codec, body: &[u8]) -> Result<Self, DecodeError> {
        match codec {
            Codec::Json if !body.is_empty() => Self::from_json(body),
            // An empty body is null.
            codec => codec.decode_reply(body),
        }
    }

    /// Converts the value to a [`Value`].
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] for a number outside the range of a `Value`: an integer of more than 64 bits,
    /// or a float beyond `f64`. Other floats are rounded to `f64`.
    pub(super) fn into_value(self) -> Result<Value, OutOfRange> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Number(text) => match parse_number(&text) {
                Some(number) => Value::Number(number),
                None => return Err(OutOfRange(text)),
            },
            Self::String(text) => Value::String(text),
            Self::Array(values) => {
                let values = values.into_iter().map(Self::into_value);
                Value::Array(values.collect::<Result<_, _>>()?)
            }
            Self::Object(entries) => {
                let entries = entries
                    .into_iter()
                    .map(|(key, value)| Ok((key, value.into_value()?)));
                Value::Object(entries.collect::<Result<Map<_, _>, _>>()?)
            }
        })
    }

    pub(super) fn to_json(&self) -> Bytes {
        Bytes::from(self.to_string())
    }
}

/// Parses a number. Rounds a float to `f64`. Returns `None` if the number is outside the range of a
/// [`Number`].
fn parse_number(text: &str) -> Option<Number> {
    if is_float(text) {
        return Number::from_f64(text.parse().ok()?);
    }
    let unsigned = text.parse::<u64>().map(Number::from);
    unsigned.or_else(|_| text.parse::<i64>().map(Number::from)).ok()
}

/// Returns whether a number in JSON counts as a float, and not as an integer.
fn is_float(number: &str) -> bool {
    // No integer is a negative zero.
    number == "-0" || number.contains(['.', 'e', 'E'])
}

/// A number outside the range of [`serde_json::Value`].
#[derive(Debug, thiserror::Error)]
#[error(
    "the number {0} is outside the range of `serde_json::Value`: `DynamicClient::call_json` returns the \
     result as JSON text with all digits"
)]
pub(super) struct OutOfRange(String);

/// Writes compact JSON.
impl fmt::Display for ExactValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(text) => f.write_str(text),
            Self::String(text) => write_string(f, text),
            Self::Array(values) => {
                f.write_char('[')?;
                for (index, value) in values.iter().enumerate() {
                    separate(f, index)?;
                    value.fmt(f)?;
                }
                f.write_char(']')
            }
            Self::Object(entries) => {
                f.write_char('{')?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    separate(f, index)?;
                    write_string(f, key)?;
                    f.write_char(':')?;
                    value.fmt(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Writes a comma before each element but the first.
fn separate(f: &mut fmt::Formatter<'_>, index: usize) -> fmt::Result {
    match index {
        0 => Ok(()),
        _ => f.write_char(','),
    }
}

/// Writes a string with its quotes and escapes.
fn write_string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

/// Serializes the value with a codec other than JSON. For JSON, see [`ExactValue::to_json`].
impl Serialize for ExactValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(text) => serialize_number(text, serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(values) => serializer.collect_seq(values),
            Self::Object(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

/// Serializes an integer exactly, and a float as `f64`. Fails if the integer has more than 128
/// bits, or if the float is beyond `f64`.
fn serialize_number<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if is_float(text) {
        // A number that is too large for `f64` is parsed as infinity.
        if let Some(float) = text.parse().ok().filter(|float: &f64| float.is_finite()) {
            return serializer.serialize_f64(float);
        }
    } else if let Ok(unsigned) = text.parse() {
        return serializer.serialize_u128(unsigned);
    } else if let Ok(signed) = text.parse() {
        return serializer.serialize_i128(signed);
    }
    Err(S::Error::custom(format_args!(
        "the number {text} is out of range"
    )))
}

/// Reads a value of any type. Types that JSON lacks become what `serde_json` writes for them: bytes
/// become an array of numbers. Non-string keys become their JSON text. NaN, infinities and
/// MessagePack extensions are errors.
impl<'de> Deserialize<'de> for ExactValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Builds an [`ExactValue`] from what a deserializer finds.
struct AnyValue;

/// Implements the methods of [`Visitor`] for integers.
macro_rules! integers {
    ($($visit:ident($type:ty);)*) => {$(
        fn $visit<E>(self, value: $type) -> Result<ExactValue, E> {
            Ok(ExactValue::Number(value.to_string()))
        }
    )*};
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = ExactValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    integers! {
        visit_i64(i64);
        visit_u64(u64);
        visit_i128(i128);
        visit_u128(u128);
    }

    fn visit_bool<E>(self, value: bool) -> Result<ExactValue, E> {
        Ok(ExactValue::Bool(value))
    }

    fn visit_f32<E: serde::de::Error>(self, value: f32) -> Result<ExactValue, E> {
        exact_float(value, value.is_finite())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<ExactValue, E> {
        exact_float(value, value.is_finite())
    }

    fn visit_str<E>(self, text: &str) -> Result<ExactValue, E> {
        Ok(ExactValue::String(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<ExactValue, E> {
        let numbers = bytes.iter().map(|byte| ExactValue::Number(byte.to_string()));
        Ok(ExactValue::Array(numbers.collect()))
    }

    fn visit_unit<E>(self) -> Result<ExactValue, E> {
        Ok(ExactValue::Null)
    }

    fn visit_none<E>(self) -> Result<ExactValue, E> {
        Ok(ExactValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<ExactValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ExactValue, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(ExactValue::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExactValue, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<ExactValue, ExactValue>()? {
            let key = match key {
                ExactValue::String(key) => key,
                other => other.to_string(),
            };
            entries.push((key, value));
        }
        Ok(ExactValue::Object(entries))
    }
}

/// Formats a float like `serde_json`. NaN and infinities are errors.
fn exact_float<E: serde::de::Error>(
    value: impl Serialize + fmt::Display,
    is_finite: bool,
) -> Result<ExactValue, E> {
    if is_finite {
        serde_json::to_string(&value)
            .map(ExactValue::Number)
            .map_err(E::custom)
    } else {
        Err(E::custom(format_args!("JSON has no number {value}")))
    }
}

/// How deeply arrays and objects may be nested, as in `serde_json`.
const MAX_DEPTH: usize = 127;

/// Reads JSON whose syntax is known to be valid. For other input the result is unspecified.
struct Parser<'a> {
    rest: &'a [u8],
    /// How many arrays and objects are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Reads a value of any type.
    fn value(&mut self) -> serde_json::Result<ExactValue> {
        Ok(match self.peek() {
            Some(b'{') => ExactValue::Object(self.items(b'}', |parser| {
                let key = parser.string()?;
                parser.skip(b':');
                Ok((key, parser.value()?))
            })?),
            Some(b'[') => ExactValue::Array(self.items(b']', Self::value)?),
            Some(b'"') => ExactValue::String(self.string()?),
            _ => match self.word() {
                "true" => ExactValue::Bool(true),
                "false" => ExactValue::Bool(false),
                // Valid JSON has no empty word, so it does not matter what that becomes.
                "null" | "" => ExactValue::Null,
                number => ExactValue::Number(number.to_owned()),
            },
        })
    }

    /// Reads the items between brackets or braces, separated by commas.
    fn items<T>(
        &mut self,
        end: u8,
        read: impl Fn(&mut Self) -> serde_json::Result<T>,
    ) -> serde_json::Result<Vec<T>> {
        if self.depth == MAX_DEPTH {
            let reason = format_args!("the value is nested more than {MAX_DEPTH} levels deep");
            return Err(serde::de::Error::custom(reason));
        }
        self.depth += 1;
        let mut items = Vec::new();
        self.take(1);
        while self.peek().is_some_and(|byte| byte != end) {
            items.push(read(self)?);
            self.skip(b',');
        }
        self.skip(end);
        self.depth -= 1;
        Ok(items)
    }

    /// Reads a string. Fails if it contains bytes that are not UTF-8, or half of a surrogate pair.
    fn string(&mut self) -> serde_json::Result<String> {
        // Skips whitespace before the string.
        self.peek();
        // The opening quote counts as escaped, so that it does not end the string.
        let mut is_escaped = true;
        let end = self.rest.iter().position(|byte| {
            let is_end = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            is_end
        });
        let text = self.take(end.map_or(self.rest.len(), |end| end + 1));
        serde_json::from_slice(text)
    }

    /// Reads a number, or one of the three literals of JSON.
    fn word(&mut self) -> &'a str {
        let is_end =
            |byte: &u8| matches!(byte, b',' | b']' | b'}' | b':' | b'"') || byte.is_ascii_whitespace();
        let end = self.rest.iter().position(is_end).unwrap_or(self.rest.len());
        // Takes at least one byte: otherwise `items` would loop forever at a stray delimiter. Valid
        // JSON has none here.
        let word = self.take(end.max(1));
        std::str::from_utf8(word).unwrap_or_default()
    }

    /// Skips whitespace, and returns the next byte without taking it.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    /// Skips whitespace, and then this byte if it is the next one.
    fn skip(&mut self, byte: u8) {
        if self.peek() == Some(byte) {
            self.take(1);
        }
    }

    /// Takes this many bytes, or all if fewer are left.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Everything {
        text: &'static str,
        numbers: (u64, i64, f64, f32),
        nothing: Option<u8>,
        something: Option<u8>,
        unit: (),
        variant: Variant,
        by_number: BTreeMap<u8, bool>,
    }

    #[derive(Serialize)]
    enum Variant {
        Named { x: u8 },
    }

    #[test]
    fn both_codecs_yield_the_same_value() {
        let everything = Everything {
            text: "a\n\"\\é",
            numbers: (u64::MAX, i64::MIN, 1.5, 0.1),
            nothing: None,
            something: Some(7),
            unit: (),
            variant: Variant::Named { x: 1 },
            by_number: [(3, true)].into(),
        };
        let expected = json!({
            "text": "a\n\"\\é",
            "numbers": [u64::MAX, i64::MIN, 1.5, 0.1],
            "nothing": null,
            "something": 7,
            "unit": null,
            "variant": {"Named": {"x": 1}},
            "by_number": {"3": true},
        });
        for codec in [Codec::Json, Codec::MessagePack] {
            let body = codec.encode(&everything).unwrap();
            let read = ExactValue::from_reply(codec, &body).unwrap();
            assert_eq!(read.into_value().unwrap(), expected, "{codec}");
        }
    }

    #[test]
    fn bytes_are_numbers() {
        let body = Codec::MessagePack.encode_result(&vec![1u8, 255]).unwrap();
        let read = ExactValue::from_reply(Codec::MessagePack, &body).unwrap();
        assert_eq!(read.to_string(), "[1,255]");
    }

    #[test]
    fn an_empty_reply_is_null() {
        for codec in [Codec::Json, Codec::MessagePack] {
            assert_eq!(ExactValue::from_reply(codec, b"").unwrap(), ExactValue::Null);
        }
    }

    #[test]
    fn integers_stay_exact_or_are_refused() {
        for text in [
            "340282366920938463463374607431768211455",
            "-170141183460469231731687303715884105728",
            "18446744073709551616",
            "1e400",
        ] {
            let number = ExactValue::from_json(text.as_bytes()).unwrap();
            assert_eq!(number.to_string(), text);
            let error = number.into_value().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        for float in [f64::NAN, f64::INFINITY] {
            let body = Codec::MessagePack.encode(&[float]).unwrap();
            assert!(ExactValue::from_reply(Codec::MessagePack, &body).is_err());
        }
    }

    #[test]
    fn a_number_is_written_exactly_or_refused() {
        let written = |text: &str| {
            let number = ExactValue::from_json(text.as_bytes()).unwrap();
            Codec::MessagePack.encode(&number)
        };
        let body = written("340282366920938463463374607431768211455").unwrap();
        assert_eq!(Codec::MessagePack.decode::<u128>(&body).unwrap(), u128::MAX);
        let body = written("-170141183460469231731687303715884105728").unwrap();
        assert_eq!(Codec::MessagePack.decode::<i128>(&body).unwrap(), i128::MIN);
        assert_eq!(&written("7").unwrap()[..], b"\x07");
        assert_eq!(&written("1.0").unwrap()[..], b"\xcb\x3f\xf0\0\0\0\0\0\0");
        assert_eq!(&written("1e400").map_err(drop), &Err(()));
        assert!(written(&"9".repeat(40)).is_err());
    }

    #[test]
    fn a_value_that_is_nested_too_deeply_is_an_error() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |levels| {
                let text = [open.repeat(levels), "1".to_owned(), close.repeat(levels)].concat();
                ExactValue::from_json(text.as_bytes())
            };
            assert!(nested(MAX_DEPTH).is_ok());
            assert!(nested(MAX_DEPTH + 1).is_err());
            assert!(nested(500_000).is_err());
        }
    }

    #[test]
    fn a_string_that_is_not_unicode_is_an_error() {
        for text in [
            &b"\"a\\ud800\""[..],
            b"\"\xff\"",
            b"{\"\xff\":1}",
            b"[\"\\udc00\"]",
        ] {
            assert!(ExactValue::from_json(text).is_err(), "{text:?}");
        }
        assert_eq!(
            ExactValue::from_json(b"\"\\ud83d\\ude00\"").unwrap(),
            ExactValue::String("\u{1f600}".into())
        );
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (prop::num::f64::NORMAL | prop::num::f64::ZERO).prop_map(Value::from),
            "(?s:.{0,6}|[\"\\\\,:\\[\\]{}]{0,6})".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("(?s:.{0,4}|[\"\\\\]{0,4})", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_read_as_serde_json_reads_it(value in json_value()) {
            for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
                let exact = ExactValue::from_json(text.as_bytes()).unwrap();
                prop_assert_eq!(exact.clone().into_value().unwrap(), value.clone());
                prop_assert_eq!(exact.to_string(), serde_json::to_string(&value).unwrap());
            }
            let body = Codec::MessagePack.encode(&value).unwrap();
            let exact = ExactValue::from_reply(Codec::MessagePack, &body).unwrap();
            prop_assert_eq!(exact.into_value().unwrap(), value);
        }

        #[test]
        fn the_parser_ends_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Parser { rest: &bytes, depth: 0 }.value();
            let _ = ExactValue::from_json(&bytes);
        }
    }
}
