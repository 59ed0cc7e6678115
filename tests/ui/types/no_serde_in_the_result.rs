//! A result, and an error, that cannot be sent back.
use rpc_runtime::service;

struct Point;

#[service]
trait Drawing {
    async fn first(&self) -> Point;
    async fn second(&self) -> Result<u8, Point>;
}

fn main() {}
