//! Tests that every codec returns values unchanged or refuses them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Codec;
use crate::protocol::{ArgumentsSeed, NamedArguments};

const STRUCTURED: [Codec; 2] = [Codec::MessagePack, Codec::Json];

/// Encodes and decodes a value, both as a result and as an argument.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug + Clone + 'static>(value: T) {
    for codec in STRUCTURED {
        let body = codec.encode_result(&value).unwrap();
        let result = codec.decode_result::<T>(&body);
        assert_eq!(
            result.as_ref().ok(),
            Some(&value),
            "{codec}: {result:?}, {body:?}"
        );

        const NAMES: &[&str] = &["value", "last"];
        let values = (value.clone(), true);
        let arguments = codec.encode(&NamedArguments {
            names: NAMES,
            values: &values,
        });
        let seed = ArgumentsSeed::<(T, bool)>::new(NAMES);
        assert_eq!(
            codec.decode_seed(seed, &arguments.unwrap()).unwrap(),
            values,
            "{codec}"
        );
    }
}

/// A type with a compact form, like those of `uuid` and `time`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp(u32);

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(&self.0),
            false => serializer.serialize_bytes(&self.0.to_be_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => {
                let text = String::deserialize(deserializer)?;
                text.parse().map(Self).map_err(serde::de::Error::custom)
            }
            false => <[u8; 4]>::deserialize(deserializer).map(|bytes| Self(u32::from_be_bytes(bytes))),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Node {
    addr: IpAddr,
    at: Option<SocketAddr>,
    stamps: Vec<Stamp>,
    ttl: Duration,
    load: f64,
    share: f32,
    level: char,
    count: (u64, i64),
    unit: (),
    by_name: BTreeMap<String, Stamp>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum State {
    Up,
    Since(Stamp),
    Pair(Stamp, IpAddr),
    Moved { to: IpAddr },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Internal {
    Host { addr: IpAddr, load: f64 },
    Node(Box<Node>),
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data")]
enum Adjacent {
    Host { addr: IpAddr, load: f64 },
    Node(Box<Node>),
    Addr(IpAddr),
    Pair(Stamp, IpAddr),
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Node(Box<Node>),
    Host { addr: IpAddr, load: f64 },
    Addr(IpAddr),
    Pair(Stamp, IpAddr),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u64,
    #[serde(flatten)]
    node: Node,
    #[serde(flatten)]
    rest: HashMap<String, Untagged>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FlatEnum {
    id: u64,
    #[serde(flatten)]
    internal: Internal,
}

fn addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

fn load() -> impl Strategy<Value = f64> {
    prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<u32>().prop_map(Stamp)
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Up),
        stamp().prop_map(State::Since),
        (stamp(), addr()).prop_map(|(stamp, addr)| State::Pair(stamp, addr)),
        addr().prop_map(|to| State::Moved { to }),
    ]
}

prop_compose! {
    fn node()(
        addr in addr(),
        port in prop::option::of(any::<u16>()),
        stamps in prop::collection::vec(stamp(), 0..3),
        (secs, nanos) in (any::<u32>(), 0..1_000_000_000u32),
        load in load(),
        share in prop::num::f32::NORMAL | prop::num::f32::ZERO,
        level: char,
        count: (u64, i64),
        by_name in prop::collection::btree_map(".{0,5}", stamp(), 0..3),
        state in state(),
    ) -> Node {
        Node {
            addr,
            at: port.map(|port| (addr, port).into()),
            stamps,
            ttl: Duration::new(secs.into(), nanos),
            load,
            share,
            level,
            count,
            unit: (),
            by_name,
            state,
        }
    }
}

fn internal() -> impl Strategy<Value = Internal> {
    prop_oneof![
        (addr(), load()).prop_map(|(addr, load)| Internal::Host { addr, load }),
        node().prop_map(|node| Internal::Node(node.into())),
        Just(Internal::Nothing),
    ]
}

fn adjacent() -> impl Strategy<Value = Adjacent> {
    prop_oneof![
        (addr(), load()).prop_map(|(addr, load)| Adjacent::Host { addr, load }),
        node().prop_map(|node| Adjacent::Node(node.into())),
        addr().prop_map(Adjacent::Addr),
        (stamp(), addr()).prop_map(|(stamp, addr)| Adjacent::Pair(stamp, addr)),
        Just(Adjacent::Nothing),
    ]
}

fn untagged() -> impl Strategy<Value = Untagged> {
    prop_oneof![
        node().prop_map(|node| Untagged::Node(node.into())),
        (addr(), load()).prop_map(|(addr, load)| Untagged::Host { addr, load }),
        addr().prop_map(Untagged::Addr),
        (stamp(), addr()).prop_map(|(stamp, addr)| Untagged::Pair(stamp, addr)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn types_with_a_compact_form(node in node()) {
        round_trip(node);
    }

    #[test]
    fn internally_tagged_enums(value in internal()) {
        round_trip(value);
    }

    #[test]
    fn adjacently_tagged_enums(value in adjacent()) {
        round_trip(value);
    }

    #[test]
    fn untagged_enums(value in untagged()) {
        round_trip(value);
    }

    #[test]
    fn flattened_fields(
        id: u64,
        node in node(),
        internal in internal(),
        rest in prop::collection::hash_map("x-[a-z]{1,5}", untagged(), 0..3),
    ) {
        round_trip(Flat { id, node, rest });
        round_trip(FlatEnum { id, internal });
    }

    #[test]
    fn integers_of_128_bits(unsigned: u128, signed: i128, shift in 0..128u32) {
        round_trip(unsigned >> shift);
        round_trip(signed >> shift);
        round_trip(vec![(Some(unsigned >> shift), [signed >> shift])]);
    }
}

/// A float anywhere in a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading<T> {
    value: Option<T>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind")]
enum Report<T> {
    Struct { value: T },
    Newtype(Reading<T>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Any<T> {
    Newtype(T),
    Tuple(u8, T),
}

#[derive(Serialize)]
struct FlatReading<T> {
    #[serde(flatten)]
    reading: Reading<T>,
    #[serde(flatten)]
    by_name: BTreeMap<&'static str, T>,
}

#[derive(Serialize)]
enum Plain<T> {
    Newtype(T),
    Tuple(T, T),
    Struct { value: T },
}

/// Checks that JSON refuses the value, and that MessagePack does not.
fn assert_refused<T: Serialize>(value: T) {
    let error = Codec::Json.encode(&value).unwrap_err();
    let error = crate::Chain(&error).to_string();
    assert!(error.contains("JSON has no number"), "{error}");
    assert!(Codec::MessagePack.encode(&value).is_ok());
}

fn assert_refused_everywhere<T: Serialize + Copy>(value: T) {
    assert_refused(value);
    assert_refused(Some(value));
    assert_refused(Some(Some(value)));
    assert_refused([value]);
    assert_refused(vec![(1, value)]);
    assert_refused(Reading { value: Some(value) });
    assert_refused(BTreeMap::from([("a", value)]));
    assert_refused(Ok::<_, ()>(value));
    assert_refused(Report::Struct { value });
    assert_refused(Report::Newtype(Reading { value: Some(value) }));
    assert_refused(Any::Newtype(value));
    assert_refused(Any::Tuple(1, value));
    assert_refused(Plain::Newtype(value));
    assert_refused(Plain::Tuple(value, value));
    assert_refused(Plain::Struct { value });
    for by_name in [BTreeMap::new(), BTreeMap::from([("a", value)])] {
        let value = Some(value).filter(|_| by_name.is_empty());
        let reading = Reading { value };
        assert_refused(FlatReading { reading, by_name });
    }
}

#[test]
fn json_refuses_floats_that_are_not_finite() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_refused_everywhere(value);
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_refused_everywhere(value);
    }
    // A map with this key.
    struct MapWithKey(f64);

    impl Serialize for MapWithKey {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([(self.0, 1)])
        }
    }

    assert_refused(MapWithKey(f64::NAN));
    assert_eq!(&Codec::Json.encode(&Some(1.5)).unwrap()[..], b"1.5");
}

#[test]
fn floats_that_are_not_finite_survive_the_other_codecs() {
    for codec in [Codec::MessagePack, Codec::Text] {
        for value in [f64::INFINITY, f64::NEG_INFINITY] {
            let body = codec.encode(&value).unwrap();
            assert_eq!(codec.decode::<f64>(&body).unwrap(), value, "{codec}");
        }
        let body = codec.encode(&f64::NAN).unwrap();
        assert!(codec.decode::<f64>(&body).unwrap().is_nan());
    }
}

#[test]
fn integers_of_128_bits_are_integers_or_text_in_message_pack() {
    let encode = |value: u128| Codec::MessagePack.encode(&value).unwrap().to_vec();
    assert_eq!(encode(7), b"\x07");
    assert_eq!(encode(u64::MAX.into()), b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
    assert_eq!(encode(1 << 64), b"\xb418446744073709551616");
    let encode = |value: i128| Codec::MessagePack.encode(&value).unwrap().to_vec();
    assert_eq!(encode(-7), b"\xf9");
    assert_eq!(encode(i64::MIN.into()), b"\xd3\x80\0\0\0\0\0\0\0");
    assert_eq!(
        encode(i128::MIN),
        [&b"\xd9\x28"[..], i128::MIN.to_string().as_bytes()].concat()
    );
}

#[test]
fn an_integer_that_does_not_fit_is_refused() {
    for (codec, body) in [
        (Codec::MessagePack, &b"\xff"[..]),
        (Codec::MessagePack, b"\xa2-1"),
        (Codec::MessagePack, b"\xca\x3f\x80\0\0"),
        (Codec::MessagePack, b"\xa3abc"),
        (Codec::MessagePack, b"\xc4\x01\x07"),
        (Codec::Json, b"-1"),
        (Codec::Json, b"340282366920938463463374607431768211456"),
        (Codec::Text, b"-1"),
    ] {
        assert!(codec.decode::<u128>(body).is_err(), "{codec} {body:?}");
        assert!(codec.decode::<Option<u128>>(body).is_err(), "{codec} {body:?}");
    }
    let too_large = u128::MAX.to_string();
    for codec in STRUCTURED {
        let body = codec.encode(&u128::MAX).unwrap();
        assert!(codec.decode::<i128>(&body).is_err());
        assert!(codec.decode::<u64>(&body).is_err());
    }
    assert!(Codec::Text.decode::<i128>(too_large.as_bytes()).is_err());
    // A peer that uses plain rmp-serde sends an integer of 128 bits as bytes.
    let body = [&b"\xc4\x10"[..], &u128::MAX.to_be_bytes()].concat();
    assert_eq!(Codec::MessagePack.decode::<u128>(&body).unwrap(), u128::MAX);
}

#[test]
fn a_type_with_a_compact_form_is_text() {
    let addr = IpAddr::from([127, 0, 0, 1]);
    assert_eq!(&Codec::MessagePack.encode(&addr).unwrap()[..], b"\xa9127.0.0.1");
    assert_eq!(&Codec::Json.encode(&addr).unwrap()[..], b"\"127.0.0.1\"");
}

/// Numbers of `serde_json` are structs of a private form if an application enables its feature
/// `arbitrary_precision`.
mod numbers_of_serde_json {
    use serde_json::{Number, Value, json};

    use super::*;
    use crate::codec::numbers::ARBITRARY_PRECISION;

    #[test]
    fn the_feature_is_recognised() {
        let number: Number = serde_json::from_str("1.10").unwrap();
        assert_eq!(number.to_string() == "1.10", ARBITRARY_PRECISION);
    }

    #[test]
    fn are_numbers_on_the_wire() {
        let value = json!({"n": [0, -1, u64::MAX, i64::MIN, 0.5, 1e300, -0.0]});
        assert_eq!(
            &Codec::Json.encode(&value).unwrap()[..],
            br#"{"n":[0,-1,18446744073709551615,-9223372036854775808,0.5,1e+300,-0.0]}"#
        );
        assert_eq!(
            &Codec::MessagePack.encode(&value).unwrap()[..],
            b"\x81\xa1n\x97\x00\xff\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xd3\x80\0\0\0\0\0\0\0\
              \xcb\x3f\xe0\0\0\0\0\0\0\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c\xcb\x80\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn come_back_as_they_were() {
        round_trip(json!({"n": [0, -1, u64::MAX, i64::MIN, 0.5, 1e300, -0.0], "deep": {"x": [[1.5]]}}));
        // Only the value of a float comes back: no zeros at its end, nor the form of its exponent.
        let sent: Value = serde_json::from_str("[1.10, 1e2, 0.0, 12E-1]").unwrap();
        let body = Codec::Json.encode(&sent).unwrap();
        assert_eq!(&body[..], b"[1.1,100.0,0.0,1.2]");
        assert_eq!(
            Codec::Json.decode::<Value>(b"[1.10, 1e2, 0.0, 12E-1]").unwrap(),
            json!([1.1, 100.0, 0.0, 1.2])
        );
    }

    #[test]
    fn are_numbers_to_types_that_serde_buffers() {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Any {
            Number(f64),
            Value(Value),
        }

        let read = |text: &str| Codec::Json.decode::<Any>(text.as_bytes()).unwrap();
        assert_eq!(read("1.5"), Any::Number(1.5));
        assert_eq!(read("7"), Any::Number(7.0));
        assert_eq!(
            read(r#"{"x": 1.5, "y": 2}"#),
            Any::Value(json!({"x": 1.5, "y": 2}))
        );
        assert_eq!(read("{}"), Any::Value(json!({})));
        let body = Codec::MessagePack.encode(&json!(1.5)).unwrap();
        assert_eq!(Codec::MessagePack.decode::<Any>(&body).unwrap(), Any::Number(1.5));
    }

    #[test]
    fn with_more_digits_than_a_float_has_are_exact_or_refused() {
        let text = "123456789.123456789123456789";
        let number: Value = serde_json::from_str(text).unwrap();
        let in_json = Codec::Json.encode(&number).unwrap();
        match ARBITRARY_PRECISION {
            true => {
                assert_eq!(&in_json[..], text.as_bytes());
                assert_eq!(Codec::Json.decode::<Value>(&in_json).unwrap(), number);
                assert!(Codec::MessagePack.encode(&number).is_err());
            }
            // The number was rounded when it was parsed.
            false => assert_eq!(&in_json[..], b"123456789.12345679"),
        }
    }
}
