//! The argument that resumes a stream has the type of its items.

use futures_util::Stream;
use rpc_runtime::service;

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("x")]
struct Closed;

#[service]
trait Ledger {
    #[rpc(idempotent)]
    fn entries(&self, #[rpc(resume)] after: Option<u32>) -> impl Stream<Item = u64>;
    #[rpc(idempotent)]
    fn pages(&self, #[rpc(resume)] after: Option<u64>) -> impl Stream<Item = Result<String, Closed>>;
}

fn main() {}
