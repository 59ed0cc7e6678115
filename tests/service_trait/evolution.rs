//! One peer can be changed before the other.

use rpc_runtime::{Broker, ClientBuilder, Codec, RequestQueue, Server, ServiceClient, service};

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
