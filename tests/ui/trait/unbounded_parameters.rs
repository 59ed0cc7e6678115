//! Parameters of which nothing is known.
use rpc_runtime::service;

#[service]
trait Store<K, V, const N: usize> {
    async fn get(&self, key: &K) -> Option<V>;
    async fn put(&self, key: K, values: &[V]) -> Result<usize, K>;
}

struct Memory;

impl Store<u8, u8, 0> for Memory {
    async fn get(&self, _: &u8) -> Option<u8> {
        None
    }

    async fn put(&self, _: u8, _: &[u8]) -> Result<usize, u8> {
        Ok(0)
    }
}

fn main() {}
