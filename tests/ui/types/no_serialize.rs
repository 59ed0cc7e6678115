//! An argument that cannot be written.
use rpc_runtime::service;

#[derive(serde::Deserialize)]
struct Point;

#[service]
trait Drawing {
    async fn draw(&self, name: &str, point: Point);
}

fn main() {}
