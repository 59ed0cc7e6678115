//! What arguments and results may be: each form goes there and comes back, in both codecs, and is
//! on the wire what the test says.
#![allow(clippy::clone_on_copy)] // the form does not know what it is of

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use rpc_runtime::{ClientBuilder, Codec, service};
use serde::{Deserialize, Serialize};

use crate::wire::{Tap, Written};

const CODECS: [Codec; 2] = [Codec::MessagePack, Codec::Json];

/// Sends a value as an argument of type `$argument` to a method that returns it as a `$result`.
macro_rules! travels {
    ([$($ty:tt)+], $value:expr, $($written:expr),+) => {
        travels!([$($ty)+] -> [$($ty)+] by clone, $value, $($written),+)
    };
    ([$($argument:tt)+] -> [$($result:tt)+] by $by:ident, $value:expr, $written:expr) => {
        travels!([$($argument)+] -> [$($result)+] by $by, $value, $written, $written)
    };
    ([$($argument:tt)+] -> [$($result:tt)+] by $by:ident, $value:expr, $message_pack:expr, $json:expr) => {
        #[service]
        trait Form {
            async fn echo(&self, value: $($argument)+) -> $($result)+;
        }

        // The same to a caller that takes any answer.
        #[service]
        trait Answer {
            async fn echo(&self, value: $($argument)+) -> Written;
        }

        struct Echo;

        impl Form for Echo {
            async fn echo(&self, value: $($argument)+) -> $($result)+ {
                value.$by()
            }
        }

        for (codec, written) in CODECS.into_iter().zip([$message_pack, $json]) {
            let (tap, sent) = Tap::new(FormServer::new(Echo));
            let form: FormClient = ClientBuilder::in_process(tap).codec(codec).build();
            let value: $($argument)+ = $value;
            let expected: $($result)+ = value.$by();
            assert_eq!(form.echo($value).await.unwrap(), expected, "{codec}");
            assert_eq!(sent.take(), format!(r#"{{"value":{written}}}"#), "{codec}");

            let answer: AnswerClient = ClientBuilder::in_process(FormServer::new(Echo)).codec(codec).build();
            assert_eq!(answer.echo($value).await.unwrap(), written, "{codec}");
        }
    };
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UserId(u64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Empty,
    Circle(u8),
    Line(u8, u8),
    Box { width: u8 },
}

fn page() -> Page<UserId> {
    Page {
        items: vec![UserId(1), UserId(2)],
        next: None,
    }
}

#[tokio::test]
async fn unit() {
    travels!([()], (), "null");
}

#[tokio::test]
async fn a_unit_struct() {
    // rmp-serde writes it as an empty array.
    travels!([Marker], Marker, "[]", "null");
}

#[tokio::test]
async fn a_newtype() {
    travels!([UserId], UserId(7), "7");
}

#[tokio::test]
async fn an_enum_without_content() {
    travels!([Shape], Shape::Empty, r#""Empty""#);
}

#[tokio::test]
async fn an_enum_with_a_value() {
    travels!([Shape], Shape::Circle(3), r#"{"Circle":3}"#);
}

#[tokio::test]
async fn an_enum_with_several_values() {
    travels!([Shape], Shape::Line(1, 2), r#"{"Line":[1,2]}"#);
}

#[tokio::test]
async fn an_enum_with_fields() {
    travels!([Shape], Shape::Box { width: 4 }, r#"{"Box":{"width":4}}"#);
}

#[tokio::test]
async fn a_generic_struct() {
    travels!([Page<UserId>], page(), r#"{"items":[1,2],"next":null}"#);
}

#[tokio::test]
async fn a_generic_struct_of_a_generic_struct() {
    let pages = || Page {
        items: vec![page()],
        next: Some(2),
    };
    let written = r#"{"items":[{"items":[1,2],"next":null}],"next":2}"#;
    travels!([Page<Page<UserId>>], pages(), written);
}

#[tokio::test]
async fn nested_collections() {
    let value = || {
        vec![
            HashMap::from([("a".to_owned(), Some(UserId(1)))]),
            HashMap::from([("b".to_owned(), None)]),
        ]
    };
    travels!(
        [Vec<HashMap<String, Option<UserId>>>],
        value(),
        r#"[{"a":1},{"b":null}]"#
    );
}

#[tokio::test]
async fn a_tuple() {
    travels!([(u8, String, bool)], (1, "a".to_owned(), true), r#"[1,"a",true]"#);
}

#[tokio::test]
async fn a_tuple_of_one() {
    travels!([(u8,)], (1,), "[1]");
}

#[tokio::test]
async fn an_array_of_bytes() {
    travels!([[u8; 4]], [0, 1, 2, 255], "[0,1,2,255]");
}

#[tokio::test]
async fn an_array_of_anything() {
    travels!([[UserId; 2]], [UserId(1), UserId(2)], "[1,2]");
}

#[tokio::test]
async fn an_array_of_arrays() {
    travels!([[[i16; 2]; 2]], [[1, -2], [3, 4]], "[[1,-2],[3,4]]");
}

#[tokio::test]
async fn an_option_that_is_there() {
    travels!([Option<u8>], Some(1), "1");
}

#[tokio::test]
async fn an_option_that_is_not() {
    travels!([Option<u8>], None, "null");
}

#[tokio::test]
async fn a_hash_map() {
    let value = || HashMap::from([("a".to_owned(), 0.5)]);
    travels!([HashMap<String, f64>], value(), r#"{"a":0.5}"#);
}

#[tokio::test]
async fn a_map_by_number() {
    // JSON's keys are texts.
    let value = || BTreeMap::from([(1, true), (2, false)]);
    travels!(
        [BTreeMap<u8, bool>],
        value(),
        "{1:true,2:false}",
        r#"{"1":true,"2":false}"#
    );
}

#[tokio::test]
async fn text() {
    travels!([String], "a\n\"é\"".to_owned(), r#""a\n\"é\"""#);
}

#[tokio::test]
async fn a_character() {
    travels!([char], 'é', r#""é""#);
}

#[tokio::test]
async fn a_byte_vector_is_bytes() {
    travels!([Vec<u8>], vec![0, 255], "h'00ff'", "[0,255]");
}

#[tokio::test]
async fn shared_bytes_are_bytes() {
    travels!([Bytes], Bytes::from_static(&[0, 255]), "h'00ff'", "[0,255]");
}

#[tokio::test]
async fn a_vector_of_anything() {
    travels!([Vec<UserId>], vec![UserId(1)], "[1]");
}

#[tokio::test]
async fn a_boxed_text() {
    travels!([Box<str>], Box::<str>::from("a"), r#""a""#);
}

#[tokio::test]
async fn a_cow_of_text() {
    travels!([Cow<'_, str>] -> [String] by into_owned, Cow::Borrowed("a"), r#""a""#);
}

#[tokio::test]
async fn a_cow_of_text_with_its_lifetime_left_out() {
    #[service]
    #[allow(elided_lifetimes_in_paths)]
    trait Form {
        async fn echo(&self, value: Cow<str>) -> String;
    }

    struct Echo;

    impl Form for Echo {
        async fn echo(&self, value: Cow<'_, str>) -> String {
            value.into_owned()
        }
    }

    let form = FormClient::in_process(Echo);
    assert_eq!(form.echo("a".into()).await.unwrap(), "a");
}

#[tokio::test]
async fn a_static_cow_of_text_comes_back_too() {
    travels!([Cow<'static, str>], Cow::Borrowed("a"), r#""a""#);
}

#[tokio::test]
async fn a_cow_of_bytes_is_bytes() {
    travels!([Cow<'_, [u8]>] -> [Vec<u8>] by into_owned, Cow::Borrowed(&[0, 255][..]), "h'00ff'", "[0,255]");
}

#[tokio::test]
async fn a_static_cow_of_bytes_comes_back_too() {
    travels!([Cow<'static, [u8]>] -> [Cow<'static, [u8]>] by clone, Cow::Borrowed(&[0, 255][..]), "h'00ff'", "[0,255]");
}

#[tokio::test]
async fn cows_within_other_types() {
    #[service]
    trait Form {
        async fn concat(&self, values: Vec<Cow<'_, str>>, last: Option<Cow<'_, str>>) -> String;
    }

    struct Echo;

    impl Form for Echo {
        async fn concat(&self, values: Vec<Cow<'_, str>>, last: Option<Cow<'_, str>>) -> String {
            values.concat() + &last.unwrap_or_default()
        }
    }

    let form = FormClient::in_process(Echo);
    let concatenated = form.concat(vec!["a".into(), "b".into()], Some("c".into())).await;
    assert_eq!(concatenated.unwrap(), "abc");
}

#[tokio::test]
async fn lent_text() {
    travels!([&str] -> [String] by to_owned, "a\n", r#""a\n""#);
}

#[tokio::test]
async fn lent_bytes_are_bytes() {
    travels!([&[u8]] -> [Vec<u8>] by to_owned, &[0, 255][..], "h'00ff'", "[0,255]");
}

#[tokio::test]
async fn a_reference() {
    travels!([&Page<UserId>] -> [Page<UserId>] by clone, &page(), r#"{"items":[1,2],"next":null}"#);
}

#[tokio::test]
async fn a_reference_to_a_scalar() {
    travels!([&u64] -> [u64] by to_owned, &7, "7");
}

#[tokio::test]
async fn a_reference_to_an_option() {
    travels!([&Option<String>] -> [Option<String>] by clone, &Some("a".to_owned()), r#""a""#);
}

#[tokio::test]
async fn a_reference_to_an_array() {
    travels!([&[u8; 2]] -> [[u8; 2]] by to_owned, &[0, 255], "[0,255]");
}

#[tokio::test]
async fn a_reference_to_a_tuple() {
    travels!([&(u8, bool)] -> [(u8, bool)] by to_owned, &(1, true), "[1,true]");
}

#[tokio::test]
async fn a_slice() {
    travels!([&[UserId]] -> [Vec<UserId>] by to_owned, &[UserId(1), UserId(2)][..], "[1,2]");
}

#[tokio::test]
async fn a_slice_of_text() {
    travels!([&[String]] -> [Vec<String>] by to_owned, &["a".to_owned()][..], r#"["a"]"#);
}
