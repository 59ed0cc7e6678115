//! Traits with types and constants as parameters.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use rpc_runtime::{Broker, ClientBuilder, Server, service};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::wire::Tap;

/// A store of anything.
#[service]
trait Store<K: Serialize + DeserializeOwned + Hash + Eq + Send + Sync + 'static, V = String>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    async fn put(&self, key: K, value: &V) -> Option<V>;
    async fn all(&self, #[serde(default)] only: &[K]) -> Result<HashMap<K, V>, String>;
}

#[derive(Default)]
struct Memory<V>(Mutex<HashMap<u8, V>>);

impl<V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Store<u8, V> for Memory<V> {
    async fn put(&self, key: u8, value: &V) -> Option<V> {
        self.0.lock().unwrap().insert(key, value.clone())
    }

    async fn all(&self, only: &[u8]) -> Result<HashMap<u8, V>, String> {
        let mut all = self.0.lock().unwrap().clone();
        all.retain(|key, _| only.contains(key));
        Ok(all)
    }
}

#[tokio::test]
async fn types_are_parameters() {
    let (tap, sent) = Tap::new(StoreServer::new(Memory::<Vec<bool>>::default()));
    let store: StoreClient<u8, Vec<bool>> = ClientBuilder::in_process(tap).build();
    assert_eq!(store.put(1, &vec![true]).await.unwrap(), None);
    assert_eq!(sent.take(), r#"{"key":1,"value":[true]}"#);
    assert_eq!(store.put(1, &vec![]).await.unwrap(), Some(vec![true]));
}

#[tokio::test]
async fn a_parameter_may_have_a_default() {
    let store = StoreClient::<u8>::in_process(Memory::<String>::default());
    let none: Option<String> = store.put(1, &"a".to_owned()).await.unwrap();
    assert_eq!(none, None);
    assert_eq!(store.put(1, &"b".to_owned()).await.unwrap().as_deref(), Some("a"));
}

#[tokio::test]
async fn serde_attributes_go_with_parameters() {
    let (tap, sent) = Tap::new(StoreServer::new(Memory::<String>::default()));
    let store: StoreClient<u8> = ClientBuilder::in_process(tap).build();
    store.put(1, &"a".to_owned()).await.unwrap();
    let all = store.all(&[1]).await.unwrap();
    assert_eq!(all, HashMap::from([(1, "a".to_owned())]));
    assert_eq!(sent.take(), r#"{"only":[1]}"#);
    assert!(store.all(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn over_a_broker() {
    let broker = Broker::in_process();
    let server = Server::new(&broker)
        .serve(StoreServer::new(Memory::<String>::default()))
        .start()
        .await
        .unwrap();
    let store = StoreClient::<u8>::new(&broker);
    store.put(7, &"a".to_owned()).await.unwrap();
    assert_eq!(store.all(&[7]).await.unwrap()[&7], "a");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_arc_of_an_implementation_is_one() {
    let memory = Arc::new(Memory::<String>::default());
    let store = StoreClient::<u8>::in_process(Arc::clone(&memory));
    store.put(1, &"a".to_owned()).await.unwrap();
    assert_eq!(memory.0.lock().unwrap()[&1], "a");
}

/// Not `Clone`, not `Debug`.
#[derive(PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Opaque;

#[test]
fn client_and_server_ask_nothing_of_their_parameters() {
    fn assert<T: Clone + Debug + Send + Sync + Unpin>() {}
    assert::<StoreClient<Opaque, Opaque>>();
    assert::<StoreServer<Opaque, Opaque, ()>>();
}

#[tokio::test]
async fn a_constant_is_a_parameter_too() {
    #[service]
    trait Buffer<const N: usize, const ROUND: bool = true> {
        async fn size(&self, #[serde(default)] offset: usize) -> usize;
    }

    struct Ring;

    impl<const N: usize> Buffer<N> for Ring {
        async fn size(&self, offset: usize) -> usize {
            N + offset
        }
    }

    assert_eq!(BufferClient::<7>::in_process(Ring).size(1).await.unwrap(), 8);
    assert_eq!(BufferClient::<9>::in_process(Ring).size(1).await.unwrap(), 10);
}

/// Where a name is a type and an argument, and the trait that of the prelude.
#[tokio::test]
async fn arguments_may_be_named_like_parameters() {
    #[service]
    #[allow(non_snake_case)]
    trait Sized<const N: usize, T: Serialize + DeserializeOwned + Default + Send + 'static> {
        async fn derived(&self, #[serde(default)] T: T) -> T;
        async fn plain(&self, T: T) -> T;
    }

    struct Any;

    impl Sized<7, bool> for Any {
        async fn derived(&self, value: bool) -> bool {
            value
        }

        async fn plain(&self, value: bool) -> bool {
            value
        }
    }

    let sized = SizedClient::<7, bool>::in_process(Any);
    assert!(sized.derived(true).await.unwrap());
    assert!(sized.plain(true).await.unwrap());
}

#[tokio::test]
async fn parameters_within_other_types() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Page<T> {
        items: Vec<T>,
    }

    #[service]
    trait Pages<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
        async fn turn(&self, page: &Page<T>, rest: &[Option<T>]) -> Result<Page<T>, (T, u8)>;
    }

    struct Book;

    impl Pages<char> for Book {
        async fn turn(&self, page: &Page<char>, rest: &[Option<char>]) -> Result<Page<char>, (char, u8)> {
            let items: Vec<_> = page
                .items
                .iter()
                .copied()
                .chain(rest.iter().copied().flatten())
                .collect();
            if items.len() > 2 {
                Err((items[2], 3))
            } else {
                Ok(Page { items })
            }
        }
    }

    let pages = PagesClient::<char>::in_process(Book);
    let page = Page { items: vec!['a'] };
    let turned = pages.turn(&page, &[None, Some('b')]).await.unwrap();
    assert_eq!(turned.items, ['a', 'b']);
    let error = pages.turn(&page, &[Some('b'), Some('c')]).await.unwrap_err();
    assert!(matches!(error, rpc_runtime::CallError::Service(('c', 3))));
}
