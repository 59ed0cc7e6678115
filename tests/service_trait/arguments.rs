//! What arguments and results may be.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rpc_runtime::{ClientBuilder, Codec, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point<T> {
    x: T,
    y: Option<T>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UserId(u64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Marker;

/// A `Result` of this module, found through the type system.
type Result<T> = core::result::Result<T, String>;

#[service]
#[allow(elided_lifetimes_in_paths, clippy::type_complexity)]
trait Forms {
    async fn nothing(&self);
    async fn unit(&self, unit: (), marker: Marker) -> Marker;
    async fn newtype(&self, id: UserId, by: &UserId) -> UserId;
    async fn option(&self, some: Option<u8>, none: &Option<String>) -> Option<u8>;
    async fn tuple(&self, pair: (u8, String), one: &(u8,)) -> (u8, String);
    async fn array(&self, array: [u8; 3], nested: &[[i16; 2]; 2]) -> [u8; 3];
    async fn map(&self, map: HashMap<String, Vec<u8>>, by: &HashMap<u8, bool>) -> HashMap<String, Vec<u8>>;
    async fn nested(&self, points: Vec<Option<Point<HashMap<String, (u8, Point<f64>)>>>>) -> u64;
    async fn generic(&self, point: &Point<u8>, points: &[Point<String>]) -> Point<Vec<u8>>;
    async fn text(&self, lent: &str, cow: Cow<'_, str>, elided: Cow<str>, owned: String) -> String;
    async fn fixed(&self, cow: Cow<'static, str>) -> Cow<'static, str>;
    async fn cows(&self, cows: Vec<Cow<'_, str>>, option: Option<Cow<str>>) -> usize;
    async fn bytes(&self, lent: &[u8], cow: Cow<'_, [u8]>, owned: Vec<u8>, shared: Bytes) -> Bytes;
    async fn byte_vec(&self, bytes: Vec<u8>) -> Vec<u8>;
    async fn boxed(&self, boxed: Box<str>, slice: Box<[u8]>) -> Box<str>;
    async fn alias(&self, ok: bool) -> Result<u8>;
    async fn path(&self, ok: bool) -> std::result::Result<(), Marker>;
    #[allow(clippy::too_many_arguments)]
    async fn sixteen(
        &self,
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
        n: u8,
        o: u8,
        p: u8,
    ) -> u32;
}

struct Mirror;

impl Forms for Mirror {
    async fn nothing(&self) {}

    async fn unit(&self, (): (), marker: Marker) -> Marker {
        marker
    }

    async fn newtype(&self, id: UserId, by: &UserId) -> UserId {
        UserId(id.0 + by.0)
    }

    async fn option(&self, some: Option<u8>, none: &Option<String>) -> Option<u8> {
        some.filter(|_| none.is_none())
    }

    async fn tuple(&self, pair: (u8, String), one: &(u8,)) -> (u8, String) {
        (pair.0 + one.0, pair.1)
    }

    async fn array(&self, array: [u8; 3], nested: &[[i16; 2]; 2]) -> [u8; 3] {
        assert_eq!(nested, &[[1, 2], [3, 4]]);
        array
    }

    async fn map(&self, map: HashMap<String, Vec<u8>>, by: &HashMap<u8, bool>) -> HashMap<String, Vec<u8>> {
        assert!(by[&1]);
        map
    }

    #[allow(clippy::type_complexity)]
    async fn nested(&self, points: Vec<Option<Point<HashMap<String, (u8, Point<f64>)>>>>) -> u64 {
        points
            .into_iter()
            .flatten()
            .map(|point| u64::from(point.x["x"].0))
            .sum()
    }

    async fn generic(&self, point: &Point<u8>, points: &[Point<String>]) -> Point<Vec<u8>> {
        Point {
            x: vec![point.x],
            y: Some(points[0].x.clone().into_bytes()),
        }
    }

    async fn text(&self, lent: &str, cow: Cow<'_, str>, elided: Cow<'_, str>, owned: String) -> String {
        [lent, &cow, &elided, &owned].concat()
    }

    async fn fixed(&self, cow: Cow<'static, str>) -> Cow<'static, str> {
        cow
    }

    async fn cows(&self, cows: Vec<Cow<'_, str>>, option: Option<Cow<'_, str>>) -> usize {
        cows.len() + option.map_or(0, |text| text.len())
    }

    async fn bytes(&self, lent: &[u8], cow: Cow<'_, [u8]>, owned: Vec<u8>, shared: Bytes) -> Bytes {
        [lent, &cow, &owned, &shared].concat().into()
    }

    async fn byte_vec(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    async fn boxed(&self, boxed: Box<str>, slice: Box<[u8]>) -> Box<str> {
        assert_eq!(*slice, [1, 2]);
        boxed
    }

    async fn alias(&self, ok: bool) -> Result<u8> {
        ok.then_some(7).ok_or_else(|| "not ok".to_owned())
    }

    async fn path(&self, ok: bool) -> std::result::Result<(), Marker> {
        ok.then_some(()).ok_or(Marker)
    }

    async fn sixteen(
        &self,
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
        n: u8,
        o: u8,
        p: u8,
    ) -> u32 {
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
            .map(u32::from)
            .iter()
            .sum()
    }
}

#[tokio::test]
async fn every_form_travels_in_both_codecs() {
    for codec in [Codec::MessagePack, Codec::Json] {
        let forms: FormsClient = ClientBuilder::in_process(FormsServer::new(Arc::new(Mirror)))
            .codec(codec)
            .build();
        forms.nothing().await.unwrap();
        assert_eq!(forms.unit((), Marker).await.unwrap(), Marker);
        assert_eq!(forms.newtype(UserId(1), &UserId(2)).await.unwrap(), UserId(3));
        assert_eq!(forms.option(Some(1), &None).await.unwrap(), Some(1));
        assert_eq!(
            forms.tuple((1, "a".into()), &(2,)).await.unwrap(),
            (3, "a".into())
        );
        assert_eq!(
            forms.array([1, 2, 3], &[[1, 2], [3, 4]]).await.unwrap(),
            [1, 2, 3]
        );
        let map = HashMap::from([("a".to_owned(), vec![1])]);
        let by = HashMap::from([(1, true)]);
        assert_eq!(forms.map(map.clone(), &by).await.unwrap(), map);
        let inner = (5, Point { x: 0.5, y: None });
        let point = Point {
            x: HashMap::from([("x".to_owned(), inner)]),
            y: None,
        };
        assert_eq!(forms.nested(vec![None, Some(point)]).await.unwrap(), 5);
        let text = Point {
            x: "a".to_owned(),
            y: None,
        };
        assert_eq!(
            forms.generic(&Point { x: 1, y: None }, &[text]).await.unwrap(),
            Point {
                x: vec![1],
                y: Some(vec![b'a'])
            }
        );
        assert_eq!(
            forms
                .text("a\n", "b\n".into(), "c".into(), "d".into())
                .await
                .unwrap(),
            "a\nb\ncd"
        );
        assert_eq!(forms.fixed("a".into()).await.unwrap(), "a");
        assert_eq!(forms.cows(vec!["a".into()], Some("bc".into())).await.unwrap(), 3);
        assert_eq!(
            forms
                .bytes(&[0], vec![1].into(), vec![255], Bytes::from_static(&[3]))
                .await
                .unwrap(),
            [0, 1, 255, 3][..]
        );
        assert_eq!(forms.byte_vec(vec![0, 255]).await.unwrap(), [0, 255]);
        assert_eq!(&*forms.boxed("a".into(), [1, 2].into()).await.unwrap(), "a");
        assert_eq!(forms.alias(true).await.unwrap(), 7);
        assert_eq!(service_error(forms.alias(false).await), "not ok");
        forms.path(true).await.unwrap();
        assert_eq!(service_error(forms.path(false).await), Marker);
        let sum = forms.sixteen(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
        assert_eq!(sum.await.unwrap(), 136);
    }
}

/// Functions for any type that can be shown and parsed, as crates offer them: a reference to one is none.
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

#[track_caller]
fn service_error<T: std::fmt::Debug, E: std::fmt::Debug>(
    outcome: std::result::Result<T, rpc_runtime::CallError<E>>,
) -> E {
    match outcome {
        Err(rpc_runtime::CallError::Service(error)) => error,
        other => panic!("{other:?}"),
    }
}
