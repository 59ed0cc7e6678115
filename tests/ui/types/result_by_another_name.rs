//! A `Result` that the attribute cannot see.
use rpc_runtime::service;

type Reply<T> = Result<T, String>;

#[service]
trait Aliased {
    async fn f(&self) -> Reply<u8>;
    async fn g(&self) -> u8;
}

#[service]
trait Generic<K: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> {
    async fn f(&self, key: &K) -> Reply<u8>;
}

#[service]
trait Misnamed {
    async fn f(&self) -> misnamed::Result;
    #[rpc(oneway, idempotent)]
    async fn g(&self) -> number::Result;
}

macro_rules! reply {
    () => { Result<u8, String> };
}

#[service]
trait FromMacro {
    async fn f(&self) -> reply!();
}

mod misnamed {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Result;
}

mod number {
    pub type Result = u8;
}

fn main() {}
