//! `text/plain`: one scalar as RabbitMQ's tutorials send it, without quotes or type.
//!
//! The expected type decides whether a body is text, a number, a boolean, a character, a unit
//! variant or raw bytes. Structured values are refused, with an error that says to use another
//! content type. So is `Option`, because an empty body would be both `None` and `Some("")`. Only
//! `Codec::decode_reply` reads an empty body as `None`.

use serde::Serialize;
use serde::de::DeserializeSeed;

use super::error::BoxError;

mod de;
mod error;
mod ser;

pub(crate) use error::ARGUMENTS_STRUCT;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
    Ok(value.serialize(ser::ScalarSerializer)?)
}

pub(super) fn decode<'de, S: DeserializeSeed<'de>>(seed: S, body: &'de [u8]) -> Result<S::Value, BoxError> {
    Ok(seed.deserialize(de::ScalarDeserializer::new(body))?)
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};

    use crate::codec::Codec;

    fn refusal(error: impl std::error::Error) -> String {
        error
            .source()
            .expect("the codec's own error is the source")
            .to_string()
    }

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T, text: &str) {
        assert_eq!(Codec::Text.encode(&value).unwrap(), text.as_bytes());
        assert_eq!(Codec::Text.decode::<T>(text.as_bytes()).unwrap(), value);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Colour {
        Red,
        Mixed(u8),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct UserId(String);

    #[test]
    fn scalars_survive_a_round_trip() {
        round_trip("user:12345".to_owned(), "user:12345");
        round_trip(String::new(), "");
        round_trip(-3i64, "-3");
        round_trip(u128::MAX, &u128::MAX.to_string());
        round_trip(1.5f64, "1.5");
        round_trip(true, "true");
        round_trip('é', "é");
        round_trip((), "");
        round_trip(Colour::Red, "Red");
        round_trip(UserId("user:1".into()), "user:1");
    }

    #[test]
    fn whitespace_around_a_number_is_ignored() {
        assert_eq!(Codec::Text.decode::<u32>(b" 30\n").unwrap(), 30);
    }

    #[test]
    fn the_error_for_a_structured_value_names_other_content_types() {
        let refused = Codec::Text.encode(&vec![1, 2]).unwrap_err();
        assert_eq!(
            refusal(refused),
            "text/plain cannot carry a sequence: use application/msgpack or application/json"
        );
        assert!(Codec::Text.encode(&Some(1)).is_err());
        assert!(Codec::Text.encode(&Colour::Mixed(1)).is_err());
        assert!(Codec::Text.decode::<Vec<u8>>(b"x").is_err());
        assert!(Codec::Text.decode::<Option<String>>(b"").is_err());
        assert!(Codec::Text.decode::<Colour>(b"Mixed").is_err());
    }

    #[test]
    fn wrong_text_says_what_was_expected() {
        let refused = Codec::Text.decode::<u8>(b"300").unwrap_err();
        assert!(refusal(refused).contains("u8"));
        assert!(Codec::Text.decode::<String>(b"\xff").is_err());
    }
}
