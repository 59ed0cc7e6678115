//! Faults in the trait's parameters are the only ones shown.
use std::fmt::Debug;
use std::sync::Arc;

use rpc_runtime::{Broker, Server, service};

#[service]
trait Borrowing<'a, T: 'a + Debug + Send + Sync> {
    async fn find(&self, key: &'a str, value: T) -> Option<&'a str>;
}

#[service]
trait Unbounded<K, V> {
    async fn get(&self, key: K) -> Option<V>;
    async fn both(&self, one: K, _other: K) -> K {
        one
    }
}

#[service]
trait Comparable<T: PartialEq<Self> + Send + Sync + 'static>
where
    Self: Sized,
{
    async fn is(&self, value: T) -> bool;
}

#[service(queu = "store")]
trait Store<K: Send + Sync + 'static, const N: usize = 3> {
    async fn get(&self, key: K) -> [u8; N]
    where
        K: Clone;
}

#[derive(Clone, PartialEq)]
struct Memory;

impl<'a> Borrowing<'a, u8> for Memory {
    async fn find(&self, key: &'a str, _: u8) -> Option<&'a str> {
        Some(key)
    }
}

impl<K, V> Unbounded<K, V> for Memory {
    async fn get(&self, _: K) -> Option<V> {
        None
    }
}

impl Comparable<Memory> for Memory {
    async fn is(&self, value: Memory) -> bool {
        *self == value
    }
}

impl<const N: usize> Store<String, N> for Memory {
    async fn get(&self, _: String) -> [u8; N] {
        [0; N]
    }
}

async fn call(broker: &Broker) -> Result<(), Box<dyn std::error::Error>> {
    let _: Option<&str> = BorrowingClient::new(broker).find("a", 1).await?;
    let unbounded: UnboundedClient<u8, String> = UnboundedClient::new(broker);
    let _: Option<String> = unbounded.get(1).await?;
    ComparableClient::builder(broker).build().is(Memory).await?;
    let _: [u8; 3] = StoreClient::<String>::new(broker).get(String::new()).await?;
    StoreClient::<String, 4>::in_process(Memory).get(String::new()).await?;
    Ok(())
}

fn serve(server: Server) -> Server {
    server
        .serve(BorrowingServer::new(Memory))
        .serve(UnboundedServer::<u8, u8, _>::new(Memory))
        .serve(ComparableServer::<Memory, _>::new(Memory))
        .serve(StoreServer::<String, 4, _>::new(Arc::new(Memory)))
}

fn main() {}
