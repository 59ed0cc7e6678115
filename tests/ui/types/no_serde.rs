//! An argument and a result's error that know nothing of serde.
use rpc_runtime::service;

struct Point;

struct Error;

#[service]
trait Drawing {
    async fn draw(&self, name: &str, points: &[Point]);
    async fn clear(&self) -> Result<(), Error>;
}

fn main() {}
