//! Options that do not exist, or not there.
use rpc_runtime::service;

#[service(que = "a")]
trait Misspelt {
    #[rpc(idempotnt)]
    async fn f(&self);
    #[rpc(queue = "a")]
    async fn g(&self);
    #[rpc]
    async fn h(&self, #[rpc(default)] a: u8);
}

fn main() {}
