//! A value of whatever type, as JSON has it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// As [`Value`] reads itself; and what JSON does not know is read as `serde_json` would have written it: bytes as an array of numbers, a
/// map's keys as text.
pub(super) struct Untyped(pub(super) Value);

impl<'de> Deserialize<'de> for Untyped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

macro_rules! plain {
    ($($visit:ident($type:ty);)*) => {$(
        fn $visit<E>(self, value: $type) -> Result<Value, E> {
            Ok(value.into())
        }
    )*};
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    plain! {
        visit_bool(bool);
        visit_i64(i64);
        visit_u64(u64);
        // Infinite, or no number at all: null, as in JSON.
        visit_f64(f64);
        visit_str(&str);
        visit_string(String);
        visit_bytes(&[u8]);
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Untyped(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((Untyped(key), Untyped(value))) = map.next_entry()? {
            let key = match key {
                Value::String(key) => key,
                other => other.to_string(),
            };
            values.insert(key, value);
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde_json::json;

    use super::*;
    use crate::codec::Codec;

    #[derive(Serialize)]
    struct Everything {
        text: &'static str,
        numbers: (u64, i64, f64),
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
    fn both_codecs_are_read_alike() {
        let everything = Everything {
            text: "a",
            numbers: (u64::MAX, i64::MIN, 1.5),
            nothing: None,
            something: Some(7),
            unit: (),
            variant: Variant::Named { x: 1 },
            by_number: [(3, true)].into(),
        };
        let expected = json!({
            "text": "a",
            "numbers": [u64::MAX, i64::MIN, 1.5],
            "nothing": null,
            "something": 7,
            "unit": null,
            "variant": {"Named": {"x": 1}},
            "by_number": {"3": true},
        });
        for codec in [Codec::Json, Codec::MessagePack] {
            let body = codec.encode(&everything).unwrap();
            assert_eq!(codec.decode::<Untyped>(&body).unwrap().0, expected, "{codec}");
        }
    }

    #[test]
    fn bytes_are_numbers() {
        let body = Codec::MessagePack.encode_answer(&vec![1u8, 255]).unwrap();
        let read = Codec::MessagePack.decode::<Untyped>(&body).unwrap().0;
        assert_eq!(read, json!([1, 255]));
    }
}
