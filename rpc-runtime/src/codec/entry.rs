//! Replaces one value of an encoded map.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::content_type::Codec;
use super::{json, message_pack};

impl Codec {
    /// Returns a map that [`encode`](Self::encode) has written, with another encoded value under
    /// this key. `None` if the map has no such entry, and always for plain text.
    pub(crate) fn with_value(self, map: &[u8], key: &str, value: &[u8]) -> Option<Bytes> {
        let Range { start, end } = match self {
            Self::MessagePack => message_pack::find_value(map, key),
            Self::Json => json::find_value(map, key),
            Self::Text => None,
        }?;
        let mut replaced = BytesMut::with_capacity(map.len() - (end - start) + value.len());
        replaced.extend_from_slice(map.get(..start)?);
        replaced.extend_from_slice(value);
        replaced.extend_from_slice(map.get(end..)?);
        Some(replaced.freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn replace(codec: Codec, map: &Value, key: &str, value: &Value) -> Option<Value> {
        let [map, value] = [map, value].map(|value| codec.encode(value).unwrap());
        let replaced = codec.with_value(&map, key, &value)?;
        Some(codec.decode(&replaced).unwrap())
    }

    #[test]
    fn a_value_of_any_kind_is_replaced() {
        let map = json!({
            "a": [1, {"after": 2}, "after"], "after": null, "k\"\n": true, "n": -1.5, "z": "},"
        });
        for codec in [Codec::MessagePack, Codec::Json] {
            for key in map.as_object().unwrap().keys() {
                for value in [json!(null), json!(7), json!({"a": ["}"]}), json!("x")] {
                    let mut expected = map.clone();
                    expected[key] = value.clone();
                    assert_eq!(replace(codec, &map, key, &value), Some(expected));
                }
            }
        }
    }

    #[test]
    fn what_is_no_map_or_lacks_the_key_has_no_such_value() {
        for codec in [Codec::MessagePack, Codec::Json] {
            for map in [
                json!({}),
                json!({"a": 1}),
                json!([1]),
                json!("after"),
                json!(null),
            ] {
                assert_eq!(replace(codec, &map, "after", &json!(1)), None, "{codec:?}: {map}");
            }
        }
        assert_eq!(Codec::Text.with_value(b"after", "after", b"1"), None);
    }

    fn maps() -> impl Strategy<Value = BTreeMap<String, Vec<Option<String>>>> {
        let text = || ".{0,8}";
        let value = prop::collection::vec(prop::option::of(text()), 0..4);
        prop::collection::btree_map(text(), value, 1..6)
    }

    proptest! {
        #[test]
        fn damaged_maps_are_no_panic(map: Vec<u8>, key in ".{0,4}") {
            for codec in [Codec::MessagePack, Codec::Json] {
                let _ = codec.with_value(&map, &key, b"1");
            }
        }

        #[test]
        fn other_entries_stay(map in maps(), at: prop::sample::Index, value: u32) {
            let (map, value) = (json!(map), json!(value));
            let object = map.as_object().unwrap();
            let key = object.keys().nth(at.index(object.len())).unwrap();
            for codec in [Codec::MessagePack, Codec::Json] {
                let mut expected = map.clone();
                expected[key] = value.clone();
                prop_assert_eq!(replace(codec, &map, key, &value), Some(expected));
            }
        }
    }
}
