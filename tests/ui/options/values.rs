//! Values that options cannot have.
use rpc_runtime::service;

#[service(queue = "amq.mine", crate = "rpc")]
trait Values {
    #[rpc(timeout = "2")]
    async fn f(&self);
    #[rpc(timeout = "0s", name = "")]
    async fn g(&self);
    #[rpc(timeout = 2, idempotent = true)]
    async fn h(&self);
    #[rpc(name = "rpc.describe")]
    async fn i(&self);
}

fn main() {}
