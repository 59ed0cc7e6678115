//! Options that do not go together.
use rpc_runtime::{Context, service};

#[service]
trait Contradictions {
    #[rpc(default, name = "a")]
    async fn f(&self);
    #[rpc(default, name = "a")]
    async fn g(&self);
    #[rpc(oneway, idempotent)]
    async fn h(&self) -> u8;
    #[rpc(broadcast, idempotent)]
    async fn j(&self);
    async fn i(&self, #[rpc(context)] a: &Context, #[rpc(context)] b: &Context);
    async fn new(&self);
}

fn main() {}
