//! Options in an item that is no trait are not reported beside the reason.
use rpc_runtime::service;

#[service]
trait Clock {
    async fn now(&self) -> u64;
}

struct Wall;

#[service]
impl Clock for Wall {
    #[rpc(idempotent)]
    async fn now(&self) -> u64 {
        7
    }
}

fn main() {}
