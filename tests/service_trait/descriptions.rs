//! What a trait says of itself, as data.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use rpc_runtime::describe::{MethodDescription, ServiceDescription};
use rpc_runtime::{Context, ServiceClient, service};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, Serialize, Deserialize)]
struct User;

mod refusal {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    pub(super) struct Refused;

    pub(super) type Result<T> = std::result::Result<T, Refused>;
}

/// Looks users up.
///
/// In a directory.
#[service(queue = "users")]
trait Directory {
    /// All that match.
    #[rpc(default, idempotent, timeout = "2s", name = "users.find")]
    async fn find(
        &self,
        #[rpc(context)] cx: &Context,
        #[serde(rename = "query", alias = "text", alias = "q")] words: &str,
        #[serde(default)] limit: u32,
        like: Option<User>,
    ) -> Result<Vec<Option<User>>, refusal::Refused>;

    async fn add(
        &self,
        users: &[User],
        photo: Cow<'_, [u8]>,
        by_name: &HashMap<String, Vec<u8>>,
    ) -> refusal::Result<()>;

    #[rpc(oneway)]
    async fn seen(&self, user: &Option<User>, r#type: [u8; 2]);
}

#[test]
fn all_that_the_trait_says() {
    let expected = json!({
        "name": "Directory",
        "queue": "users",
        "docs": "Looks users up.\n\nIn a directory.",
        "methods": [
            {
                "name": "users.find",
                "docs": "All that match.",
                "arguments": [
                    {"name": "query", "type": "&str", "aliases": ["text", "q"]},
                    {"name": "limit", "type": "u32", "optional": true},
                    {"name": "like", "type": "Option<User>", "optional": true},
                ],
                "returns": "Vec<Option<User>>",
                "error": "refusal::Refused",
                "default": true,
                "idempotent": true,
                "timeout_ms": 2000,
            },
            {
                "name": "add",
                "arguments": [
                    {"name": "users", "type": "&[User]"},
                    {"name": "photo", "type": "Cow<'_, [u8]>"},
                    {"name": "by_name", "type": "&HashMap<String, Vec<u8>>"},
                ],
                "returns": "refusal::Result<()>::Ok",
                "error": "refusal::Result<()>::Err",
            },
            {
                "name": "seen",
                "arguments": [
                    {"name": "user", "type": "&Option<User>", "optional": true},
                    {"name": "type", "type": "[u8; 2]"},
                ],
                "returns": "()",
                "oneway": true,
            },
        ],
    });
    let description = DirectoryClient::SERVICE.description();
    assert_eq!(serde_json::to_value(&description).unwrap(), expected);
    assert_eq!(
        serde_json::from_value::<ServiceDescription>(expected).unwrap(),
        description
    );
}

#[test]
fn signatures() {
    let description = DirectoryClient::SERVICE.description();
    let signatures: Vec<_> = description
        .methods
        .iter()
        .map(MethodDescription::signature)
        .collect();
    assert_eq!(
        signatures,
        [
            "users.find(query: &str, limit: u32, like: Option<User>) -> Result<Vec<Option<User>>, refusal::Refused>",
            "add(users: &[User], photo: Cow<'_, [u8]>, by_name: &HashMap<String, Vec<u8>>) -> refusal::Result<()>",
            "seen(user: &Option<User>, type: [u8; 2])",
        ]
    );
}

/// An argument that is said to be optional can be left out, and any other cannot.
#[tokio::test]
async fn arguments_with_defaults_are_optional() {
    use rpc_runtime::{CallError, ClientBuilder, FaultCode};

    mod callee {
        #[rpc_runtime::service]
        pub(super) trait Search {
            async fn option(&self, limit: Option<u8>) -> u8;
            async fn lent(&self, limit: &Option<u8>) -> u8;
            async fn lent_beside_a_default(&self, limit: &Option<u8>, #[serde(default)] page: u8) -> u8;
            async fn defaulted(&self, #[serde(default)] limit: u8) -> u8;
            async fn read_by_hand(&self, #[serde(deserialize_with = "by_hand")] limit: Option<u8>) -> u8;
            async fn required(&self, limit: u8) -> u8;
        }

        fn by_hand<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
            serde::Deserialize::deserialize(deserializer)
        }
    }

    mod caller {
        #[rpc_runtime::service]
        pub(super) trait Search {
            async fn option(&self) -> u8;
            async fn lent(&self) -> u8;
            async fn lent_beside_a_default(&self) -> u8;
            async fn defaulted(&self) -> u8;
            async fn read_by_hand(&self) -> u8;
            async fn required(&self) -> u8;
        }
    }

    struct Counted;

    impl callee::Search for Counted {
        async fn option(&self, limit: Option<u8>) -> u8 {
            limit.unwrap_or_default()
        }

        async fn lent(&self, limit: &Option<u8>) -> u8 {
            limit.unwrap_or_default()
        }

        async fn lent_beside_a_default(&self, limit: &Option<u8>, page: u8) -> u8 {
            limit.unwrap_or(page)
        }

        async fn defaulted(&self, limit: u8) -> u8 {
            limit
        }

        async fn read_by_hand(&self, limit: Option<u8>) -> u8 {
            limit.unwrap_or_default()
        }

        async fn required(&self, limit: u8) -> u8 {
            limit
        }
    }

    let client: caller::SearchClient = ClientBuilder::in_process(callee::SearchServer::new(Counted)).build();
    let service = callee::SearchClient::SERVICE.description();
    for (method, call) in [
        ("option", client.option()),
        ("lent", client.lent()),
        ("lent_beside_a_default", client.lent_beside_a_default()),
        ("defaulted", client.defaulted()),
        ("read_by_hand", client.read_by_hand()),
        ("required", client.required()),
    ] {
        let answer = call.timeout(Duration::from_secs(10)).await;
        match service.method(method).unwrap().arguments[0].is_optional {
            true => assert_eq!(answer.unwrap(), 0, "{method}"),
            false => assert!(
                matches!(&answer, Err(CallError::Fault(fault)) if fault.code == FaultCode::BadRequest),
                "{method}: {answer:?}"
            ),
        }
    }
}

#[test]
fn types_that_a_macro_was_given() {
    macro_rules! store {
        ($name:ident, $value:ty) => {
            #[service]
            trait $name {
                async fn put(&self, all: Vec<$value>, one: &$value) -> Result<$value, Option<$value>>;
            }
        };
    }
    store!(Words, Option<String>);

    let description = WordsClient::SERVICE.description();
    assert_eq!(
        description.methods[0].signature(),
        "put(all: Vec<Option<String>>, one: &Option<String>) -> Result<Option<String>, Option<Option<String>>>"
    );
}

/// The wire does not tell what a service's parameters are, and neither does its description.
#[test]
fn parameters_go_by_their_names() {
    #[service]
    trait Store<K: Serialize + DeserializeOwned + Send + Sync + 'static, const N: usize> {
        async fn get(&self, key: &K) -> [Option<K>; 2];
    }

    let description = StoreClient::<u8, 7>::SERVICE.description();
    assert_eq!(
        description.methods[0].signature(),
        "get(key: &K) -> [Option<K>; 2]"
    );
}
