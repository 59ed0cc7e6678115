//! `#[serde(..)]` on arguments: one peer can be changed before the other.

use rpc_runtime::{Broker, ClientBuilder, Codec, RequestQueue, Server, ServiceClient, service};
use std::borrow::Cow;
use std::time::Duration;

mod old {
    use super::service;

    #[service]
    pub(super) trait Search {
        async fn find(&self, text: &str) -> String;
        async fn store(&self, key: String) -> String;
    }

    pub(super) struct Library;

    impl Search for Library {
        async fn find(&self, text: &str) -> String {
            text.to_owned()
        }

        async fn store(&self, key: String) -> String {
            key
        }
    }
}

mod new {
    use super::service;

    #[service]
    pub(super) trait Search {
        async fn find(
            &self,
            text: &str,
            #[serde(default)] limit: u32,
            #[serde(default = "every_shelf")] shelves: &[String],
        ) -> String;
        async fn store(&self, #[serde(rename = "name", alias = "key")] key: String) -> String;
    }

    fn every_shelf() -> Vec<String> {
        vec!["all".to_owned()]
    }

    pub(super) struct Library;

    impl Search for Library {
        async fn find(&self, text: &str, limit: u32, shelves: &[String]) -> String {
            format!("{text} {limit} {}", shelves.join(","))
        }

        async fn store(&self, key: String) -> String {
            key
        }
    }
}

/// Makes a call with the client of one version to the server of the other.
async fn across<C: ServiceClient, T>(
    service: impl rpc_runtime::Service,
    codec: Codec,
    call: impl AsyncFnOnce(C) -> T,
) -> T {
    let broker = Broker::in_process();
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new("search"), service)
        .start()
        .await
        .unwrap();
    let client = ClientBuilder::<C>::new(&broker)
        .queue("search")
        .codec(codec)
        .build();
    let outcome = call(client).await;
    server.stop().await.unwrap();
    outcome
}

#[tokio::test]
async fn an_old_caller_calls_a_new_worker() {
    for codec in [Codec::MessagePack, Codec::Json] {
        let call = async |search: old::SearchClient| {
            assert_eq!(search.find("a").await.unwrap(), "a 0 all");
            assert_eq!(search.store("k".into()).await.unwrap(), "k");
        };
        across(new::SearchServer::new(new::Library), codec, call).await;
    }
}

#[tokio::test]
async fn a_new_caller_calls_an_old_worker() {
    for codec in [Codec::MessagePack, Codec::Json] {
        let call = async |search: new::SearchClient| {
            let found = search.find("a", 3, &["b".to_owned()]).await;
            assert_eq!(found.unwrap(), "a");
        };
        across(old::SearchServer::new(old::Library), codec, call).await;
    }
}

#[tokio::test]
async fn new_peers_understand_each_other() {
    for codec in [Codec::MessagePack, Codec::Json] {
        let call = async |search: new::SearchClient| {
            let shelves = ["b".to_owned(), "c".to_owned()];
            assert_eq!(search.find("a", 3, &shelves).await.unwrap(), "a 3 b,c");
            assert_eq!(search.store("k".into()).await.unwrap(), "k");
        };
        across(new::SearchServer::new(new::Library), codec, call).await;
    }
}

#[test]
fn the_description_has_the_names_of_the_wire() {
    let service = new::SearchClient::SERVICE;
    assert_eq!(
        service.method("find").unwrap().arguments,
        ["text", "limit", "shelves"]
    );
    assert_eq!(service.method("store").unwrap().arguments, ["name"]);
}

mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// Every shape of argument beside one with an attribute, which makes serde derive them all.
#[service]
trait Derived {
    async fn text(
        &self,
        #[serde(rename = "t")] lent: &str,
        cow: Cow<'_, str>,
        cows: Vec<Cow<'_, str>>,
    ) -> String;
    async fn bytes(&self, #[serde(default)] lent: &[u8], cow: Cow<'_, [u8]>, owned: Vec<u8>) -> Vec<u8>;
    async fn duration(
        &self,
        #[serde(with = "seconds")] owned: Duration,
        #[serde(with = "seconds")] lent: &Duration,
    ) -> u64;
    async fn option(
        &self,
        #[serde(skip_serializing_if = "Option::is_none")] some: Option<u8>,
        r#type: u8,
    ) -> u8;
    async fn plain(&self, #[serde(rename = "body")] text: &str) -> String;
}

struct Mirror;

impl Derived for Mirror {
    async fn text(&self, lent: &str, cow: Cow<'_, str>, cows: Vec<Cow<'_, str>>) -> String {
        [lent, &cow, &cows.concat()].concat()
    }

    async fn bytes(&self, lent: &[u8], cow: Cow<'_, [u8]>, owned: Vec<u8>) -> Vec<u8> {
        [lent, &cow, &owned].concat()
    }

    async fn duration(&self, owned: Duration, lent: &Duration) -> u64 {
        (owned + *lent).as_secs()
    }

    async fn option(&self, some: Option<u8>, r#type: u8) -> u8 {
        some.unwrap_or(r#type)
    }

    async fn plain(&self, text: &str) -> String {
        text.to_owned()
    }
}

#[tokio::test]
async fn derived_arguments_travel_like_others() {
    for codec in [Codec::MessagePack, Codec::Json] {
        let derived: DerivedClient = ClientBuilder::in_process(DerivedServer::new(Mirror))
            .codec(codec)
            .build();
        assert_eq!(
            derived.text("a", "b".into(), vec!["c".into()]).await.unwrap(),
            "abc"
        );
        assert_eq!(
            derived.bytes(&[0], vec![255].into(), vec![7]).await.unwrap(),
            [0, 255, 7]
        );
        let (owned, lent) = (Duration::from_secs(2), Duration::from_secs(3));
        assert_eq!(derived.duration(owned, &lent).await.unwrap(), 5);
        assert_eq!(derived.option(None, 4).await.unwrap(), 4);
    }
    let derived: DerivedClient = ClientBuilder::in_process(DerivedServer::new(Mirror))
        .codec(Codec::Text)
        .build();
    assert_eq!(derived.plain("user:1").await.unwrap(), "user:1");
}
