//! What may be the one argument, and the result, of a method that plain-text callers call.
#![allow(clippy::clone_on_copy)] // the form does not know what it is of

use std::borrow::Cow;

use rpc_runtime::{CallError, ClientBuilder, Codec, service};
use serde::{Deserialize, Serialize};

use crate::wire::{Tap, Written};

/// Sends a value to the default method, and sees it written as this text both ways.
macro_rules! is_written {
    ([$($ty:tt)+], $value:expr, $text:expr) => {
        is_written!([$($ty)+] -> [$($ty)+] by clone, $value, $text)
    };
    ([$($argument:tt)+] -> [$($result:tt)+] by $by:ident, $value:expr, $text:expr) => {
        #[service]
        trait Form {
            #[rpc(default)]
            async fn echo(&self, value: $($argument)+) -> $($result)+;
        }

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

        let (tap, sent) = Tap::new(FormServer::new(Echo));
        let form: FormClient = ClientBuilder::in_process(tap).codec(Codec::Text).build();
        let value: $($argument)+ = $value;
        let expected: $($result)+ = value.$by();
        assert_eq!(form.echo($value).await.unwrap(), expected);
        assert_eq!(sent.take(), format!(r#"{{"value":"{}"}}"#, $text));

        let answer: AnswerClient = ClientBuilder::in_process(FormServer::new(Echo))
            .codec(Codec::Text)
            .build();
        assert_eq!(answer.echo($value).await.unwrap(), format!("{:?}", $text).as_str());
    };
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UserId(String);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Colour {
    Red,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Marker;

#[tokio::test]
async fn text() {
    is_written!([String], "user:1".to_owned(), "user:1");
}

#[tokio::test]
async fn lent_text() {
    is_written!([&str] -> [String] by to_owned, "user:1", "user:1");
}

#[tokio::test]
async fn a_cow_of_text() {
    is_written!([Cow<'_, str>] -> [String] by into_owned, Cow::Borrowed("user:1"), "user:1");
}

#[tokio::test]
async fn a_number() {
    is_written!([i64], -7_i64, "-7");
}

#[tokio::test]
async fn a_lent_number() {
    is_written!([&u64] -> [u64] by to_owned, &7, "7");
}

#[tokio::test]
async fn a_fraction() {
    is_written!([f64], 1.5_f64, "1.5");
}

#[tokio::test]
async fn a_truth() {
    is_written!([bool], true, "true");
}

#[tokio::test]
async fn a_character() {
    is_written!([char], 'é', "é");
}

#[tokio::test]
async fn a_newtype() {
    is_written!([UserId], UserId("user:1".to_owned()), "user:1");
}

#[tokio::test]
async fn an_enum_without_content() {
    is_written!([Colour], Colour::Red, "Red");
}

#[tokio::test]
async fn unit() {
    is_written!([()], (), "");
}

#[tokio::test]
async fn a_unit_struct() {
    is_written!([Marker], Marker, "");
}

#[tokio::test]
async fn a_byte_vector() {
    is_written!([Vec<u8>], b"as it is".to_vec(), "as it is");
}

#[tokio::test]
async fn lent_bytes() {
    is_written!([&[u8]] -> [Vec<u8>] by to_owned, &b"as it is"[..], "as it is");
}

#[tokio::test]
async fn a_cow_of_bytes() {
    is_written!([Cow<'_, [u8]>] -> [Vec<u8>] by into_owned, Cow::Borrowed(&b"as it is"[..]), "as it is");
}

#[tokio::test]
async fn structure_is_refused_before_it_is_sent() {
    #[service]
    trait Sum {
        #[rpc(default)]
        async fn sum(&self, numbers: Vec<u32>) -> u32;
    }

    struct Adder;

    impl Sum for Adder {
        async fn sum(&self, numbers: Vec<u32>) -> u32 {
            numbers.into_iter().sum()
        }
    }

    let sum: SumClient = ClientBuilder::in_process(SumServer::new(Adder))
        .codec(Codec::Text)
        .build();
    assert!(matches!(sum.sum(vec![1]).await, Err(CallError::Encode(_))));
}
