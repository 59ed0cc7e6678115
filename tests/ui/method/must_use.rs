//! What a method says of being ignored, the client's says too.
#![deny(unused_must_use)]

use rpc_runtime::service;

#[service]
trait Counter {
    #[must_use = "counting takes time"]
    async fn count(&self) -> u8;
}

fn ignore(counter: &CounterClient) {
    counter.count();
}

fn main() {}
