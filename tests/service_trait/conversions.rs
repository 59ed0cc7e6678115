//! `#[serde(with = "..")]` and its like: the functions of the user see the type that is declared.

use std::borrow::Cow;

use rpc_runtime::{ClientBuilder, Codec, service};
use serde::Serialize;

struct Mirror;

/// Functions for any type that can be shown and parsed, as crates offer them: a reference to one is
/// none.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display + FromStr, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }

    pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
        *value == T::default()
    }
}

/// Functions for one type, by the name of the type that the method takes.
mod reversed {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::ptr_arg)] // as declared
    pub(super) fn serialize<S: Serializer>(text: &Cow<'_, str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&text.chars().rev().collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Cow<'static, str>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.chars().rev().collect::<String>().into())
    }
}

#[service]
trait Converted {
    async fn owned(&self, #[serde(with = "as_text")] number: u32) -> u32;
    async fn lent(&self, #[serde(with = "as_text")] r#type: &u32, also: Vec<u8>) -> u32;
    async fn one_way_each(
        &self,
        #[serde(
            serialize_with = "as_text::serialize",
            deserialize_with = "as_text::deserialize"
        )]
        number: &u32,
        #[serde(default, skip_serializing_if = "as_text::is_default")] skipped: &u32,
        #[serde(default, skip_serializing_if = "as_text::is_default")] skipped_too: u32,
    ) -> u32;
    async fn cow(
        &self,
        #[serde(with = "reversed")] cow: Cow<'_, str>,
        #[serde(default)] bytes: Cow<'_, [u8]>,
    ) -> String;
}

/// Asks for what `as_text` asks for.
#[service]
trait GenericallyConverted<S, const N: usize = 0>
where
    S: std::fmt::Display
        + std::str::FromStr<Err: std::fmt::Display>
        + Serialize
        + serde::de::DeserializeOwned,
    S: Send + Sync + 'static,
{
    async fn lent(&self, #[serde(with = "as_text")] value: &S, #[serde(with = "as_text")] owned: S)
    -> String;
}

impl Converted for Mirror {
    async fn owned(&self, number: u32) -> u32 {
        number
    }

    async fn lent(&self, r#type: &u32, also: Vec<u8>) -> u32 {
        r#type + u32::from(also[0])
    }

    async fn one_way_each(&self, number: &u32, skipped: &u32, skipped_too: u32) -> u32 {
        number + skipped + skipped_too
    }

    async fn cow(&self, cow: Cow<'_, str>, bytes: Cow<'_, [u8]>) -> String {
        format!("{cow} {bytes:?}")
    }
}

impl GenericallyConverted<f32> for Mirror {
    async fn lent(&self, value: &f32, owned: f32) -> String {
        format!("{value} {owned}")
    }
}

#[tokio::test]
async fn functions_of_the_user_see_the_type_that_is_declared() {
    for codec in [Codec::MessagePack, Codec::Json] {
        let converted: ConvertedClient = ClientBuilder::in_process(ConvertedServer::new(Mirror))
            .codec(codec)
            .build();
        assert_eq!(converted.owned(7).await.unwrap(), 7);
        assert_eq!(converted.lent(&7, vec![1]).await.unwrap(), 8);
        assert_eq!(converted.one_way_each(&7, &0, 1).await.unwrap(), 8);
        let text = converted.cow("abc".into(), vec![1].into()).await.unwrap();
        assert_eq!(text, "abc [1]");
        let generic: GenericallyConvertedClient<f32> =
            ClientBuilder::in_process(GenericallyConvertedServer::new(Mirror))
                .codec(codec)
                .build();
        assert_eq!(generic.lent(&0.5, 1.5).await.unwrap(), "0.5 1.5");
    }
}
