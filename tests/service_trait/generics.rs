//! Traits with type parameters, default bodies and supertraits.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use rpc_runtime::{Context, service};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
struct Memory(Mutex<HashMap<u8, String>>);

impl Store<u8> for Memory {
    async fn put(&self, key: u8, value: &String) -> Option<String> {
        self.0.lock().unwrap().insert(key, value.clone())
    }

    async fn all(&self, only: &[u8]) -> Result<HashMap<u8, String>, String> {
        let mut all = self.0.lock().unwrap().clone();
        all.retain(|key, _| only.contains(key));
        Ok(all)
    }
}

/// Not `Clone`, not `Debug`.
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Opaque;

#[tokio::test]
async fn a_generic_service_is_called() {
    let store = StoreClient::<u8>::in_process(Arc::new(Memory::default()));
    assert_eq!(store.put(1, &"a".to_owned()).await.unwrap(), None);
    assert_eq!(store.put(1, &"b".to_owned()).await.unwrap().as_deref(), Some("a"));
    let all = store.all(&[1]).await.unwrap();
    assert_eq!(all, HashMap::from([(1, "b".to_owned())]));
    assert!(store.all(&[]).await.unwrap().is_empty());
}

#[test]
fn its_client_asks_nothing_of_its_parameters() {
    fn assert<T: Clone + Debug + Send + Sync + Unpin>() {}
    assert::<StoreClient<Opaque, Opaque>>();
    assert::<StoreServer<Opaque, Opaque, ()>>();
}

#[service]
#[allow(non_snake_case)] // the argument is named like its type
trait Sized<const N: usize, T: Serialize + DeserializeOwned + Default + Send + 'static> {
    async fn size(&self) -> usize {
        N
    }

    async fn value(&self, #[serde(default)] T: T) -> T;
}

struct Any;

impl Sized<7, bool> for Any {
    async fn value(&self, value: bool) -> bool {
        value
    }
}

#[tokio::test]
async fn a_constant_is_a_parameter_too() {
    let sized = SizedClient::in_process(Any);
    assert_eq!(sized.size().await.unwrap(), 7);
    assert!(sized.value(true).await.unwrap());
}

trait Named: Send {
    fn name(&self) -> String;
}

#[service]
trait Greeter: Named + Debug {
    async fn greet(&self, name: &str, times: u8) -> Result<String, String> {
        if times == 0 {
            return Err(format!("not greeting {name}"));
        }
        let greeting = self.greeting(name.to_owned()).await?;
        Ok(vec![greeting; times.into()].join(" "))
    }

    async fn greeting(&self, name: String) -> Result<String, String> {
        Ok(format!("{} {name}", self.name()))
    }

    async fn method(&self, #[rpc(context)] cx: &Context) -> String {
        cx.method().to_owned()
    }

    #[rpc(oneway)]
    async fn ignore(&self, event: String) {}
}

#[derive(Debug)]
struct English;

impl Named for English {
    fn name(&self) -> String {
        "hello".to_owned()
    }
}

impl Greeter for English {}

#[derive(Debug)]
struct French;

impl Named for French {
    fn name(&self) -> String {
        String::new()
    }
}

impl Greeter for French {
    async fn greeting(&self, name: String) -> Result<String, String> {
        Ok(format!("salut {name}"))
    }
}

#[tokio::test]
async fn a_method_with_a_body_may_be_left_out() {
    let english = GreeterClient::in_process(English);
    assert_eq!(english.greet("a", 2).await.unwrap(), "hello a hello a");
    let refused = english.greet("a", 0).await.unwrap_err();
    assert!(matches!(refused, rpc_runtime::CallError::Service(reason) if reason == "not greeting a"));
    assert_eq!(english.method().await.unwrap(), "method");
    english.ignore("event".into()).await.unwrap();

    let french = GreeterClient::in_process(French);
    assert_eq!(french.greet("a", 1).await.unwrap(), "salut a");
}
