//! What is no trait, or more than one.
use rpc_runtime::service;

#[service]
struct NoTrait;

#[service]
impl Real for NoTrait {}

#[service]
unsafe trait Dangerous {
    async fn f(&self);
}

#[service]
trait Associated {
    const LIMIT: usize;
    type Item;
}

trait Real {}

fn main() {}
