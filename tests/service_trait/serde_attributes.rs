//! `#[serde(..)]` on arguments, each alone and on the wire. What they are for is in `evolution`.

use std::borrow::Cow;
use std::time::Duration;

use rpc_runtime::{CallError, ClientBuilder, Codec, FaultCode, ServiceClient, service};

use crate::wire::Tap;

const CODECS: [Codec; 2] = [Codec::MessagePack, Codec::Json];

/// What an older caller knows of the services below.
#[service]
trait Older {
    async fn find(&self) -> String;
}

/// Joins what it was given, so that a test sees all of it.
macro_rules! joins {
    ($(#[$serde:meta])* [$($ty:tt)+]) => {
        #[service]
        trait Join {
            async fn find(&self, $(#[$serde])* value: $($ty)+) -> String;
        }

        struct Joined;

        impl Join for Joined {
            async fn find(&self, value: $($ty)+) -> String {
                format!("{value:?}")
            }
        }
    };
}

/// Calls `find` with what `$value` is in each codec, and looks at what was sent and what the method
/// got.
macro_rules! finds {
    ($value:expr, sends $sent:expr, gets $got:expr) => {
        for codec in CODECS {
            let (tap, sent) = Tap::new(JoinServer::new(Joined));
            let join: JoinClient = ClientBuilder::in_process(tap).codec(codec).build();
            assert_eq!(join.find($value).await.unwrap(), $got, "{codec}");
            assert_eq!(sent.take(), $sent, "{codec}");
        }
    };
}

/// What the method gets from a caller that sends no arguments.
macro_rules! gets_without_arguments {
    ($got:expr) => {
        for codec in CODECS {
            let older: OlderClient = ClientBuilder::in_process(JoinServer::new(Joined))
                .codec(codec)
                .build();
            assert_eq!(older.find().await.unwrap(), $got, "{codec}");
        }
    };
}

#[tokio::test]
async fn default() {
    joins!(
        #[serde(default)]
        [u32]
    );
    finds!(3, sends r#"{"value":3}"#, gets "3");
    gets_without_arguments!("0");
}

#[tokio::test]
async fn default_of_a_function() {
    fn ten() -> u32 {
        10
    }
    joins!(
        #[serde(default = "ten")]
        [u32]
    );
    finds!(3, sends r#"{"value":3}"#, gets "3");
    gets_without_arguments!("10");
}

#[tokio::test]
async fn default_of_lent_text() {
    fn any() -> String {
        "any".to_owned()
    }
    joins!(
        #[serde(default = "any")]
        [&str]
    );
    finds!("a", sends r#"{"value":"a"}"#, gets r#""a""#);
    gets_without_arguments!(r#""any""#);
}

#[tokio::test]
async fn default_of_a_slice() {
    fn both() -> Vec<u16> {
        vec![1, 2]
    }
    joins!(
        #[serde(default = "both")]
        [&[u16]]
    );
    finds!(&[3], sends r#"{"value":[3]}"#, gets "[3]");
    gets_without_arguments!("[1, 2]");
}

#[tokio::test]
async fn default_of_a_reference() {
    joins!(#[serde(default)] [&Option<Duration>]);
    finds!(&None, sends r#"{"value":null}"#, gets "None");
    gets_without_arguments!("None");
}

#[tokio::test]
async fn without_a_default_an_argument_has_to_be_sent() {
    joins!([u32]);
    let older: OlderClient = ClientBuilder::in_process(JoinServer::new(Joined)).build();
    match older.find().await {
        Err(CallError::Fault(fault)) => assert_eq!(fault.code, FaultCode::BadRequest),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_default_an_option_need_not_be_sent() {
    joins!([Option<u32>]);
    finds!(Some(3), sends r#"{"value":3}"#, gets "Some(3)");
    gets_without_arguments!("None");
}

#[tokio::test]
async fn rename() {
    joins!(
        #[serde(rename = "query")]
        [&str]
    );
    finds!("a", sends r#"{"query":"a"}"#, gets r#""a""#);
    assert_eq!(JoinClient::SERVICE.methods[0].arguments, ["query"]);
}

#[tokio::test]
async fn rename_to_something_that_is_not_an_identifier() {
    joins!(
        #[serde(rename = "the-query.v2")]
        [u8]
    );
    finds!(1, sends r#"{"the-query.v2":1}"#, gets "1");
}

#[tokio::test]
async fn rename_under_plain_text() {
    joins!(
        #[serde(rename = "query")]
        [&str]
    );
    let (tap, sent) = Tap::new(JoinServer::new(Joined));
    let join: JoinClient = ClientBuilder::in_process(tap).codec(Codec::Text).build();
    assert_eq!(join.find("a").await.unwrap(), r#""a""#);
    assert_eq!(sent.take(), r#"{"query":"a"}"#);
}

#[tokio::test]
async fn alias() {
    joins!(
        #[serde(alias = "text", alias = "words")]
        [&str]
    );
    finds!("a", sends r#"{"value":"a"}"#, gets r#""a""#);

    #[service]
    trait Texting {
        async fn find(&self, text: &str) -> String;
    }

    #[service]
    trait Wording {
        async fn find(&self, words: &str) -> String;
    }

    for codec in CODECS {
        let texting: TextingClient = ClientBuilder::in_process(JoinServer::new(Joined))
            .codec(codec)
            .build();
        assert_eq!(texting.find("b").await.unwrap(), r#""b""#);
        let wording: WordingClient = ClientBuilder::in_process(JoinServer::new(Joined))
            .codec(codec)
            .build();
        assert_eq!(wording.find("c").await.unwrap(), r#""c""#);
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(time.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[tokio::test]
async fn with() {
    joins!(
        #[serde(with = "seconds")]
        [Duration]
    );
    finds!(Duration::from_secs(3), sends r#"{"value":3}"#, gets "3s");
}

#[tokio::test]
async fn with_of_a_reference() {
    joins!(
        #[serde(with = "seconds")]
        [&Duration]
    );
    finds!(&Duration::from_secs(3), sends r#"{"value":3}"#, gets "3s");
}

/// Serde knows nothing of it.
#[derive(Debug)]
struct Celsius(i8);

mod degrees {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Celsius;

    pub(super) fn serialize<S: Serializer>(it: &Celsius, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i8(it.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Celsius, D::Error> {
        i8::deserialize(deserializer).map(Celsius)
    }
}

#[tokio::test]
async fn with_of_a_type_that_serde_does_not_know() {
    joins!(
        #[serde(with = "degrees")]
        [Celsius]
    );
    finds!(Celsius(-4), sends r#"{"value":-4}"#, gets "Celsius(-4)");
}

#[tokio::test]
async fn with_of_lent_bytes() {
    mod reversed {
        use serde::{Deserialize, Deserializer, Serializer};

        pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(bytes.iter().rev())
        }

        pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
            let mut bytes = Vec::deserialize(deserializer)?;
            bytes.reverse();
            Ok(bytes)
        }
    }

    joins!(
        #[serde(with = "reversed")]
        [&[u8]]
    );
    finds!(&[1, 2, 3], sends r#"{"value":[3,2,1]}"#, gets "[1, 2, 3]");
}

#[tokio::test]
async fn serialize_with_alone() {
    fn doubled<S: serde::Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(number * 2)
    }
    joins!(
        #[serde(serialize_with = "doubled")]
        [u8]
    );
    finds!(2, sends r#"{"value":4}"#, gets "4");
}

#[tokio::test]
async fn deserialize_with_alone() {
    fn doubled<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
        <u8 as serde::Deserialize>::deserialize(deserializer).map(|number| number * 2)
    }
    joins!(
        #[serde(deserialize_with = "doubled")]
        [u8]
    );
    finds!(2, sends r#"{"value":2}"#, gets "4");
}

#[tokio::test]
async fn skip_serializing_if() {
    joins!(#[serde(skip_serializing_if = "Option::is_none")] [Option<u8>]);
    finds!(Some(3), sends r#"{"value":3}"#, gets "Some(3)");
    finds!(None, sends "{}", gets "None");
}

#[tokio::test]
async fn skip_serializing_if_of_a_lent_option() {
    joins!(#[serde(skip_serializing_if = "Option::is_none")] [&Option<u8>]);
    finds!(&Some(3), sends r#"{"value":3}"#, gets "Some(3)");
    finds!(&None, sends "{}", gets "None");
}

#[tokio::test]
async fn skip_serializing_if_with_a_default() {
    joins!(
        #[serde(default, skip_serializing_if = "str::is_empty")]
        [&str]
    );
    finds!("a", sends r#"{"value":"a"}"#, gets r#""a""#);
    finds!("", sends "{}", gets r#""""#);
}

#[tokio::test]
async fn several_in_one_attribute_or_in_many() {
    joins!(
        #[serde(rename = "v", default)]
        #[serde(alias = "w")]
        [u8]
    );
    finds!(3, sends r#"{"v":3}"#, gets "3");
    gets_without_arguments!("0");
}

/// One attribute makes serde derive the arguments beside it too: they are on the wire what they are
/// without it.
#[tokio::test]
async fn arguments_beside_one_with_an_attribute() {
    #[service]
    #[allow(clippy::too_many_arguments)]
    trait Mixed {
        async fn mix(
            &self,
            #[serde(rename = "r")] renamed: u8,
            r#type: &str,
            lent: &[u8],
            cow: Cow<'_, str>,
            cow_bytes: Cow<'_, [u8]>,
            owned: Vec<u8>,
            cows: Vec<Cow<'_, str>>,
        ) -> String;
    }

    struct Mixer;

    #[allow(clippy::too_many_arguments)]
    impl Mixed for Mixer {
        async fn mix(
            &self,
            renamed: u8,
            r#type: &str,
            lent: &[u8],
            cow: Cow<'_, str>,
            cow_bytes: Cow<'_, [u8]>,
            owned: Vec<u8>,
            cows: Vec<Cow<'_, str>>,
        ) -> String {
            format!("{renamed} {type} {lent:?} {cow} {cow_bytes:?} {owned:?} {cows:?}")
        }
    }

    let written = [
        r#"{"r":1,"type":"t","lent":h'02',"cow":"c","cow_bytes":h'03',"owned":h'ff',"cows":["d"]}"#,
        r#"{"r":1,"type":"t","lent":[2],"cow":"c","cow_bytes":[3],"owned":[255],"cows":["d"]}"#,
    ];
    for (codec, written) in CODECS.into_iter().zip(written) {
        let (tap, sent) = Tap::new(MixedServer::new(Mixer));
        let mixed: MixedClient = ClientBuilder::in_process(tap).codec(codec).build();
        let mixture = mixed.mix(
            1,
            "t",
            &[2],
            "c".into(),
            vec![3].into(),
            vec![255],
            vec!["d".into()],
        );
        assert_eq!(mixture.await.unwrap(), r#"1 t [2] c [3] [255] ["d"]"#);
        assert_eq!(sent.take(), written, "{codec}");
    }
}
