//! An argument that cannot be read.
use rpc_runtime::service;

#[derive(serde::Serialize)]
struct Point;

#[service]
trait Drawing {
    async fn draw(&self, name: &str, point: Point);
}

fn main() {}
